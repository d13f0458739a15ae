"""README and docs/: links lead somewhere, examples run as they are printed, and the reference is that of the code."""

import importlib.util
import re
import shlex
import shutil
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import pytest
import yaml
from PIL import Image
from transformers import BertConfig, BertModel, ResNetConfig, ResNetModel

import cvls
from factories import ROOT, WORDS, tiny_config, tiny_tokenizer

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
#: The reference's commands have stand-ins for names, and the model card is a template.
RUNNABLE = [page for page in PAGES if page.parent.name != "reference" and page.name != "model_card.md"]
#: What makes a training and a graph as small as they can be; commands are otherwise run as the pages print them.
SMALL = {
    "train": "--training.max_steps 2 --training.num_train_epochs 1 --data.shortest_edge 64 --data.longest_edge 64 "
    "--data.eval_videos 1 --training.use_cpu true --training.disable_tqdm true --training.logging_steps 1 "
    "--training.per_device_train_batch_size 2 --training.warmup_steps 0 --training.overwrite_output_dir true",
    "export": "--size 64 64",
}


class Block(NamedTuple):
    """A fenced block of a page. `<!-- not run: WHY -->` before it says that it is not to run."""

    language: str
    text: str
    runs: bool
    file: str | None  # "Save it as `NAME.py`:" before it


def blocks(page: Path) -> list[Block]:
    found = re.finditer(
        r"(?:Save it as `(\w+\.py)`:\s*)?(<!-- not run:[^>]*-->\s*)?^```(\w+)\n(.*?)^```",
        page.read_text(),
        re.DOTALL | re.MULTILINE,
    )
    return [Block(match[3], match[4], match[2] is None, match[1]) for match in found]


def commands(text: str) -> list[list[str]]:
    """The arguments of each `cvls` in a shell block."""
    lines = text.replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("cvls ")]


def anchors(page: Path) -> set[str]:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?:|mailto:", link):
            continue
        target, _, anchor = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), f"{page.relative_to(ROOT)} links to {link}"
        assert not anchor or anchor in anchors(path), f"{page.relative_to(ROOT)} links to {link}"


def test_the_site_has_every_page_once():
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    named = re.findall(r"[\w/]+\.md", str(nav))
    there = {str(page.relative_to(ROOT / "docs")) for page in PAGES if page.is_relative_to(ROOT / "docs")}
    assert len(named) == len(set(named))
    assert there == set(named)


def test_the_readme_is_one_screen():
    text = (ROOT / "README.md").read_bytes()
    assert len(text) <= 10_000 and text.count(b"\n") <= 200


def test_the_reference_is_that_of_the_code():
    spec = importlib.util.spec_from_file_location("generate_reference", ROOT / "docs" / "generate_reference.py")
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    for name, write in generator.PAGES.items():
        page = ROOT / "docs" / "reference" / name
        assert page.read_text(encoding="utf-8") == write(), f"{name} is not current: python docs/generate_reference.py"


def write_clip(path: Path) -> None:
    """Ten frames of a red circle that moves."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows, columns = np.mgrid[:64, :64]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 64
        for index in range(10):
            frame = np.full((64, 64, 3), 90, np.uint8)
            frame[(rows - 30) ** 2 + (columns - 10 - 4 * index) ** 2 < 64] = (220, 30, 30)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(stream.encode())


def write_frames(folder: Path) -> None:
    """Five videos of three frames with a square each, their masks as palette images, and a sentence about each."""
    lines = ["video,object,sentence"]
    for video in "abcde":
        for index in range(3):
            mask = np.zeros((64, 64), np.uint8)
            mask[10:30, 10 + 5 * index : 30 + 5 * index] = 1
            palette = Image.fromarray(mask, mode="P")
            palette.putpalette([0, 0, 0, 255, 0, 0])
            for name, picture in (("JPEGImages", Image.fromarray(200 * mask)), ("Annotations", palette)):
                path = folder / name / video / f"{index:05d}{'.jpg' if name == 'JPEGImages' else '.png'}"
                path.parent.mkdir(parents=True, exist_ok=True)
                (picture.convert("RGB") if name == "JPEGImages" else picture).save(path)
        lines.append(f"{video},1,the square moving right")
    (folder / "sentences.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with what the pages speak of: clips, the demo's checkpoint, a data set, pretrained parts by name."""
    folder = tmp_path_factory.mktemp("world")
    for name in ("clip.mp4", "videos/a.mp4", "videos/b.mp4"):
        write_clip(folder / name)
    shutil.copytree(ROOT / "tests" / "checkpoint_0_1", folder / "outputs" / "demo" / "checkpoint")
    backbone = {name: value for name, value in tiny_config().backbone_config.to_dict().items() if name in (
        "layer_type", "embedding_size", "hidden_sizes", "depths")}  # fmt: skip
    ResNetModel(ResNetConfig(**backbone)).save_pretrained(folder / "microsoft" / "resnet-50")
    text = {"vocab_size": len(WORDS) + 2, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    text = BertConfig(**text, num_attention_heads=2, max_position_embeddings=16)
    for name in ("FacebookAI/roberta-base", "sentence-transformers/all-MiniLM-L6-v2"):
        BertModel(text).save_pretrained(folder / name)
        tiny_tokenizer().save_pretrained(folder / name)
    write_frames(folder / "my_videos")
    cvls.main(["synthesize", "--output", str(folder / "raw"), *shlex.split("--train 4 --validation 2 --test 2")])
    for name in ("my_dataset", "outputs/demo/dataset"):
        cvls.main(["convert", "a2d_sentences", "--source", str(folder / "raw"), "--output", str(folder / name)])
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: str(page.relative_to(ROOT)))
def test_examples_run(page, world, tmp_path, monkeypatch):
    wanted = [block for block in blocks(page) if block.runs]
    if not any(block.language == "python" or commands(block.text) for block in wanted if block.language != "yaml"):
        pytest.skip("no example to run")
    folder = tmp_path / "world"
    shutil.copytree(world, folder)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    names: dict = {}
    for block in wanted:
        if block.file:
            Path(block.file).write_text(block.text)
        elif block.language == "python":
            exec(compile(block.text, str(page), "exec"), names)
        elif block.language == "yaml" and {"data", "training"} <= set(yaml.safe_load(block.text) or {}):
            Path("my.yaml").write_text(block.text)
            run("train", ["my.yaml"])
        elif block.language in ("bash", "shell", "sh"):
            for name, *rest in commands(block.text):
                run(name, rest)


def run(name: str, arguments: list[str]) -> None:
    if name == "convert":  # the pages' data sets are there already, for examples that come before it
        shutil.rmtree(arguments[arguments.index("--output") + 1], ignore_errors=True)
    small = [f"--{option}".split() for option in SMALL.get(name, "").split("--")[1:]]
    given = {argument for argument in arguments if argument.startswith("--")}
    if "--training.resume_from_checkpoint" in given:
        given.add("--training.overwrite_output_dir")
    added = [word for flag, *values in small if flag not in given for word in (flag, *values)]
    try:
        cvls.main([name, *arguments, *added, *(["--debug"] if name else [])])
    except SystemExit as stop:
        assert not stop.code, f"cvls {name} {shlex.join(arguments)} ended with {stop.code}"
