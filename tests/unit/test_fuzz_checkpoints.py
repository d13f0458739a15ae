"""Seeded damages to checkpoints and to files of trainings: each ends in one clear line that names the file, or in what
the undamaged file gives."""

import json
import random
import re
import shutil

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

import cvls
from factories import FILE_DAMAGES, NOISE, SENTENCES, cut, flip, overwrite, tiny_sections
from modeling_cvls import FrameReader
from modeling_cvls.cli import train as train_command
from modeling_cvls.training import training_options
from modeling_cvls.training.checkpoints import SUMS, checkpoint_to_resume
from modeling_cvls.visualization import write_video

STEPS = 3


def one_line(capsys, command: str) -> str:
    """The only line on stderr that is an error, without what the command and the bars say before."""
    lines = capsys.readouterr().err.splitlines()
    assert not any("Traceback" in line for line in lines)
    (line,) = [line for line in lines if line.startswith(f"cvls {command}: error: ")]
    message = line.removeprefix(f"cvls {command}: error: ")
    assert len(message) <= 300
    return message


def run(*arguments) -> int:
    """The exit status of a command; what is no fault of a file is an exception."""
    try:
        cvls.main(list(map(str, arguments)))
    except SystemExit as stopped:
        return stopped.code or 0
    return 0


def change_value(path, rng):
    """Another value for one of those in a json file; other files are cut off."""
    if path.suffix != ".json":
        cut(path, rng)
        return
    content = json.loads(path.read_text())
    places = []

    def collect(part):
        for key, value in part.items() if isinstance(part, dict) else enumerate(part):
            places.append((part, key))
            if isinstance(value, dict | list):
                collect(value)

    collect(content)
    part, key = rng.choice(places)
    part[key] = rng.choice([None, -1, 0, 1.5, "x", [], {}, True])
    path.write_text(json.dumps(content))


# Checkpoints that a model is loaded from ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_video(path, NOISE[:4], 4)
    return path


def segment(checkpoint, clip, output) -> int:
    return run("segment", clip, *SENTENCES, "--model", checkpoint, "--output", output, "--masks", "--device", "cpu",
               "--presence-threshold", 0)  # fmt: skip


def pixels(output) -> list[np.ndarray]:
    videos = sorted(output.parent.rglob("*.mp4"))
    assert len(videos) == 1 + len(SENTENCES)
    return [FrameReader(path).read(range(4)) for path in videos]


@pytest.fixture
def checkpoint(segmenter, tmp_path):
    segmenter.save_pretrained(tmp_path / "whole")
    return tmp_path / "whole"


@pytest.fixture
def whole(checkpoint, clip, tmp_path):
    """A checkpoint, and the pixels that it writes."""
    assert segment(checkpoint, clip, tmp_path / "truth" / "out.mp4") == 0
    return checkpoint, pixels(tmp_path / "truth" / "out.mp4")


def damage_and_segment(seed, whole, clip, folder, capsys):
    checkpoint, truth = whole
    rng = random.Random(f"model {seed}")
    shutil.copytree(checkpoint, folder / "model")
    kinds = ("*.json", "*.safetensors")  # the code beside them is not loaded from a folder
    path = rng.choice(sorted(found for kind in kinds for found in (folder / "model").glob(kind)))
    damage = rng.choice((*FILE_DAMAGES, change_value, change_value))
    damage(path, rng)
    what = f"seed {seed}: {damage.__name__} {path.name}"
    capsys.readouterr()
    status = segment(folder / "model", clip, folder / "out" / "out.mp4")
    if status:
        message = one_line(capsys, "segment")
        assert status == 2 and str(folder / "model")[:60] in message, f"{what}: {message}"
        assert path.name in message or not path.exists(), f"{what}: {message}"
        assert not (folder / "out" / "out.mp4").exists()
    elif damage not in (flip, overwrite, change_value):  # no one can tell another word or weight from the right one
        for found, expected in zip(pixels(folder / "out" / "out.mp4"), truth, strict=True):
            np.testing.assert_array_equal(found, expected, err_msg=what)


@pytest.mark.parametrize("seed", range(4))
def test_damages_to_models(seed, whole, clip, tmp_path, capsys):
    (tmp_path / "damaged").mkdir()
    damage_and_segment(seed, whole, clip, tmp_path / "damaged", capsys)


@pytest.mark.slow
def test_many_damages_to_models(whole, clip, tmp_path, capsys):
    for seed in range(100, 140):
        folder = tmp_path / str(seed)
        folder.mkdir()
        damage_and_segment(seed, whole, clip, folder, capsys)
        shutil.rmtree(folder)


COMMANDS = {
    "eval": ["--dataset", "nowhere"],
    "explain": ["{clip}", "a circle", "--output", "{folder}/out.png"],
    "export": ["--format", "torch_export", "--output", "{folder}/out.pt2"],
    "push": ["--repo-id", "someone/something"],
    "report": ["--dataset", "nowhere", "--metrics", "{folder}/metrics.json", "--output", "{folder}/out"],
    "check": ["nowhere"],
    "demo": [],
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "demo" else name for name in COMMANDS]
)
@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_every_command_names_a_damaged_file(checkpoint, clip, tmp_path, capsys, name, file):
    if name == "demo":
        pytest.importorskip("gradio")
    path = checkpoint / file
    path.write_bytes(path.read_bytes()[:-20])
    arguments = [one.format(clip=clip, folder=tmp_path) for one in COMMANDS[name]]
    capsys.readouterr()
    status = run(name, *arguments, "--model", checkpoint)
    message = one_line(capsys, name)
    assert status == 2 and f"--model {path} is damaged" in message
    assert not list(tmp_path.glob("out*"))


def test_weights_that_are_not_there_are_no_random_ones(checkpoint, clip, tmp_path, capsys):
    """A name of a weight that was changed leaves the model without it."""
    path = checkpoint / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content.replace(b"mask_bias", b"mask_bibs"))
    assert segment(checkpoint, clip, tmp_path / "out.mp4") == 2
    message = one_line(capsys, "segment")
    assert f"--model {checkpoint}: its weights (model.safetensors) lack 1 of the model's, such as mask_bias" in message


# Checkpoints that a training goes on from -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(trainer_into, tmp_path_factory):
    """A trainer, the folder of its checkpoints, and the weights after the last step."""
    folder = tmp_path_factory.mktemp("whole")
    trainer = trainer_into(folder, max_steps=STEPS, ema_decay=0.5, save_strategy="steps", save_steps=1)
    trainer.train()
    return trainer, folder, load_file(folder / f"checkpoint-{STEPS}" / "model.safetensors")


def damage_and_resume(seed, trained, make_trainer, tmp_path):
    trainer, whole, truth = trained
    rng = random.Random(f"resume {seed}")
    folder = tmp_path / "damaged" / f"checkpoint-{STEPS - 1}"
    shutil.copytree(whole / folder.name, folder)
    has_sums = rng.random() < 0.7  # checkpoints of older versions have none
    if not has_sums:
        (folder / SUMS).unlink()
    path = rng.choice(sorted(path for path in folder.iterdir() if has_sums or path.suffix != ".py"))
    damage = rng.choice(FILE_DAMAGES)
    before = path.read_bytes()
    damage(path, rng)
    what = f"seed {seed}: {damage.__name__} {path.name}, {'with' if has_sums else 'without'} sums"
    trainer.args.resume_from_checkpoint = str(folder)
    try:
        resumed = checkpoint_to_resume(trainer.args)
    except ValueError as error:
        message = str(error)
        assert path.name in message or path.name == SUMS, f"{what}: {message}"
        assert str(folder) in message and "\n" not in message and len(message) - len(str(folder)) < 240, message
        return
    assert not has_sums or path.name == SUMS or (path.exists() and path.read_bytes() == before), what
    if path.suffix in (".json", ".py") or (not has_sums and damage in (flip, overwrite)):
        return  # as above
    again = make_trainer(max_steps=STEPS, ema_decay=0.5, save_strategy="steps", save_steps=1)
    again.train(resume_from_checkpoint=resumed)
    found = load_file(tmp_path / "out" / f"checkpoint-{STEPS}" / "model.safetensors")
    assert all(torch.equal(found[name], value) for name, value in truth.items()), what


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_damages_to_resumed_checkpoints(seed, trained, make_trainer, tmp_path):
    damage_and_resume(seed, trained, make_trainer, tmp_path)


@pytest.mark.slow
def test_many_damages_to_resumed_checkpoints(trained, make_trainer, tmp_path):
    for seed in range(100, 140):
        damage_and_resume(seed, trained, make_trainer, tmp_path)
        for name in ("damaged", "out"):
            shutil.rmtree(tmp_path / name, ignore_errors=True)


# Files of trainings ---------------------------------------------------------------------------------------------------

NASTY = {
    "a key twice": "training:\n  max_steps: 3\n  max_steps: 4\n",
    "deep": "model: " + "[" * 3000 + "]" * 3000,
    "aliases": "data:\n  dataset: &a [x, x, x, x, x, x, x, x]\n" + "".join(
        f"  k{n}: &{chr(98 + n)} [*{chr(97 + n)}, *{chr(97 + n)}, *{chr(97 + n)}, *{chr(97 + n)}]\n" for n in range(15)
    ),
    "tag": "model: !!python/object/apply:os.system [echo]\n",
    "tab": "model:\n\tconfig: 1\n",
    "nul": "model: \0\n",
    "a list": "- model\n- data\n",
    "text": "model",
    "section": "model: 3\n",
    "null": "model:\ndata:\ntraining:\n",
    "long": "training: {output_dir: [" + "x" * 100_000 + "]}\n",
    "number": "training: {max_steps: " + "9" * 5000 + "}\n",
    "infinite": "training: {learning_rate: .nan, max_steps: .inf}\n",
    "unknown": "training: {" + "y" * 5000 + ": 1}\n",
}  # fmt: skip


def read_training(path, capsys, monkeypatch, what) -> bool:
    """Whether `cvls train` comes to the training itself."""

    class Stop(BaseException):
        pass

    def stop(*sections):
        raise Stop

    monkeypatch.setattr(train_command, "train", stop)
    capsys.readouterr()
    try:
        status = run("train", path)
    except Stop:
        keys = {option.key for option in training_options()}
        for section, content in yaml.load(path.read_bytes(), yaml.BaseLoader).items():
            for key in content or ():
                assert f"{section}.{key}" in keys or (section, key) == ("model", "config"), what
        return True
    message = one_line(capsys, "train")
    assert status == 2 and (str(path) in message or re.search(r"`\w+\.\w+`", message)), f"{what}: {message}"
    return False


def damage_and_read(seed, folder, capsys, monkeypatch):
    rng = random.Random(f"config {seed}")
    path = folder / "a.yaml"
    path.write_text(yaml.safe_dump(tiny_sections(folder / "dataset", report_to="none")))
    damage = rng.choice(FILE_DAMAGES)
    damage(path, rng)
    read_training(path, capsys, monkeypatch, f"seed {seed}: {damage.__name__}")


@pytest.mark.parametrize("seed", range(4))
def test_damages_to_files_of_trainings(seed, tmp_path, capsys, monkeypatch):
    damage_and_read(seed, tmp_path, capsys, monkeypatch)


@pytest.mark.slow
def test_many_damages_to_files_of_trainings(tmp_path, capsys, monkeypatch):
    for seed in range(100, 120):
        damage_and_read(seed, tmp_path, capsys, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("name", NASTY)
def test_hostile_files_of_trainings(name, tmp_path, capsys, monkeypatch):
    path = tmp_path / "a.yaml"
    path.write_text(NASTY[name])
    assert not read_training(path, capsys, monkeypatch, name)
