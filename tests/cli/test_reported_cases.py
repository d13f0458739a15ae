"""Inputs that people have and that failed once, each tried with the command or the part that it failed in."""

import ast
import importlib.metadata
import re
import shutil
import sys
import tomllib
import warnings
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from datasets import load_dataset
from packaging.requirements import Requirement
from PIL import Image
from transformers import BertModel, ResNetBackbone

import cvls
from factories import ROOT, SENTENCES, SHARED, tiny_config, tiny_tokenizer
from modeling_cvls import FrameReader
from modeling_cvls.data.reading import read_frames
from modeling_cvls.rle_cvls import decode_mask
from modeling_cvls.video_packets_cvls import OLDEST_AV
from modeling_cvls.visualization import overlay
from numbered_videos import drawn_number

CASES = SHARED / "cases"
needs_cases = pytest.mark.skipif(not CASES.is_dir(), reason="../shared/cases is absent")


@needs_cases
def test_every_case_is_tried():
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    assert not [path.name for path in CASES.iterdir() if path.is_dir() and path.name not in tests]


@pytest.fixture
def run(capsys):
    """Runs a command in this process: exit code (0: none), what it printed, what it said of errors."""

    def run(*arguments):
        try:
            cvls.main(list(map(str, arguments)))
            code = 0
        except SystemExit as exit_:
            code = exit_.code
        return (code, *capsys.readouterr())

    return run


@pytest.fixture
def segment(run, segmenter, tmp_path):
    segmenter.save_pretrained(tmp_path / "checkpoint")

    def segment(video, output, *options):
        fixed = ["--model", tmp_path / "checkpoint", "--presence-threshold", 0]
        return run("segment", video, *SENTENCES, "--output", output, *fixed, *options)

    return segment


@pytest.mark.slow
@needs_cases
def test_times_and_pixels_of_the_source_are_kept(segment, tmp_path):
    assert segment(CASES / "variable_frame_rate/screenrec.mp4", tmp_path / "screen.mp4")[0] == 0
    assert FrameReader(tmp_path / "screen.mp4").end == pytest.approx(10.99, abs=0.04)
    assert segment(CASES / "non_square_pixels/sar.mp4", tmp_path / "wide.mp4", "--masks")[0] == 0
    for path in (tmp_path / "wide.mp4", *(tmp_path / "wide_masks").iterdir()):
        assert FrameReader(path).sample_aspect_ratio == Fraction(16, 9)


@needs_cases
def test_names(segment, tmp_path, monkeypatch):
    """The cases colon_in_relative_name and long_file_name."""
    monkeypatch.chdir(tmp_path)
    long = "y" * 251 + ".mp4"
    for name in ("12:30:05 meeting.mp4", long):
        shutil.copy(CASES / "long_file_name/one.mp4", name)
    for name, output in (("12:30:05 meeting.mp4", "12:30.mp4"), (long, "z" * 251 + ".mp4")):
        code, printed, error = segment(name, output)
        assert code == 0 and "1 frames written" in printed and Path(output).is_file(), error
    code, _, error = segment(long, "x" * 250 + ".json", "--format", "coco")
    assert code == 0 and Path("x" * 250 + ".json").is_file(), error


@needs_cases
@pytest.mark.parametrize(
    "options", [pytest.param([], marks=pytest.mark.slow, id="overlay"), pytest.param(["--format", "cvat"], id="cvat")]
)
def test_a_folder_of_formats_that_are_rarely_used(segment, tmp_path, options):
    code, printed, error = segment(CASES / "suffixes_left_out", tmp_path / "out", *options)
    assert code == 2 and "several videos" in error  # both are named old
    folder = tmp_path / "videos"
    folder.mkdir()
    for suffix in ("flv", "wmv"):
        shutil.copy(CASES / f"suffixes_left_out/old.{suffix}", folder / f"{suffix}.{suffix}")
    shutil.copy(CASES / "suffixes_left_out/README.md", folder)
    shutil.copy(CASES / "damaged/truncated.mp4", folder)
    (folder / "bad.mp4").write_text("no video")
    code, printed, error = segment(folder, tmp_path / "out", *options)
    assert code == 2 and "3 of 4 videos are in" in printed and "left out, as no video: README.md" in printed
    assert error.count("bad.mp4 cannot be decoded") == 1 and error.count("truncated.mp4 is damaged") == 1
    suffix = ".xml" if options else ".mp4"
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {f"flv{suffix}", f"wmv{suffix}", f"truncated{suffix}", "settings.json"}
    (folder / "bad.mp4").unlink()
    code, printed, _ = segment(folder, tmp_path / "out", *options)
    assert code == 0 and "3 of 3 videos are done already" in printed
    code, _, error = segment(folder, tmp_path / "strict", *options, "--on-damage", "error")
    assert code == 2 and "truncated.mp4" in error and not list((tmp_path / "strict").glob("truncated*"))
    assert len(list((tmp_path / "strict").glob(f"*{suffix}"))) == 2


def frames_and_masks(dataset, split):
    """Of the only video of a data set: the frames, and the masks of its only instance."""
    (row,) = load_dataset(str(dataset), split=split)
    masks = [decode_mask(counts, row["height"], row["width"]) for (counts,) in row["masks"]]
    return read_frames(row, range(row["num_frames"])), masks


@needs_cases
@pytest.mark.parametrize(
    ("layout", "folder", "split"),
    [("mevis", "mevis_unpadded", "valid_u"), ("refer_youtube_vos", "ytvos_unpadded", "train")],
)
def test_masks_stay_with_their_frames(run, tmp_path, layout, folder, split):
    """The masks cover the yellow box, which moves from frame to frame."""
    source = CASES / "names_not_padded" / folder
    code, _, error = run("convert", layout, "--source", source, "--output", tmp_path / "out")
    assert code == 0, error
    frames, masks = frames_and_masks(tmp_path / "out", split)
    assert len(frames) == len(masks) == 12
    boxes = [(frame.astype(int)[..., :2].min(-1) > 150) & (frame[..., 2] < 110) for frame in frames]
    for box, mask in zip(boxes, masks, strict=True):
        assert (box & mask).sum() > 0.9 * (box | mask).sum() > 0
    assert any((boxes[0] != box).any() for box in boxes)


@needs_cases
def test_masks_of_255_are_void(run, tmp_path):
    source = CASES / "binary_masks_0_255/L_0_255"
    code, printed, error = run("convert", "refer_youtube_vos", "--source", source, "--output", tmp_path / "out")
    assert code != 0 and "the masks hold only 0 and 255, and 255 is void" in printed + error
    assert "write the pixels of object number n as n, from 1 on" in printed + error


@needs_cases
def test_a_legend_stays_within_the_picture():
    """The picture shows what was drawn once: text that ends beyond the right edge."""
    once = np.asarray(Image.open(CASES / "legend_cjk/legend.png").convert("RGB"))
    height = 288  # of the frame in it
    sentences = ["the small red circle", "the small red circle" + "!" * 90, "x" * 120, "\u7ea2\u8272\u7684\u5706" * 20]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where no font of the system shows Chinese
        drawn = overlay(once[None, :height], np.zeros((4, 1, height, once.shape[1]), bool), sentences, [0.75] * 4)[0]
    ground = once[-1, 0]
    assert (once[height:, -3:] != ground).any() and (drawn[height:, -3:] == drawn[-1, 0]).all()
    np.testing.assert_array_equal(drawn[: height // 2], once[: height // 2])


@pytest.mark.slow
@needs_cases
def test_mirrors_and_colors():
    """Against the stored frames, turned by hand, and the color that was drawn."""
    for name, ways in (("hflip", np.s_[:, :, ::-1]), ("vflip", np.s_[:, ::-1])):
        path = CASES / f"mirrored_display_matrix/{name}.mp4"
        with av.open(str(path)) as container:
            stored = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        for frames in (FrameReader(path).read(range(120)), np.stack(list(FrameReader(path).frames(range(120))))):
            assert np.abs(frames.astype(int) - stored[ways]).mean() < 1
    frame = FrameReader(CASES / "old_pyav/bt709.mp4").read([0])[0].astype(int)
    assert np.abs(frame - [219, 30, 30]).max(-1).min() <= 3


@needs_cases
@pytest.mark.parametrize(
    "name", ["ts_off_by_one_gop/own.ts", "ts_off_by_one_gop/own.m2ts", "edit_list_trim/own_trim.mp4"]
)
def test_numbers_that_are_drawn(name):
    """Those that FFmpeg shows, in whatever way frames are asked for."""
    reader = FrameReader(CASES / name)
    with av.open(str(CASES / name)) as container:
        numbers = [drawn_number(frame.to_ndarray(format="rgb24"), bits=8) for frame in container.decode(video=0)]
    assert len(numbers) == len(reader) and numbers[:40] == list(range(numbers[0], numbers[0] + 40))
    assert [drawn_number(frame, bits=8) for frame in reader.frames(range(len(reader)))] == numbers
    assert [drawn_number(reader.read([index])[0], bits=8) for index in range(0, len(reader), 7)] == numbers[::7]


def train(run, tmp_path, configuration, rows, *options):
    (tmp_path / "ds").mkdir()
    shutil.copy(CASES / "text_limit" / rows, tmp_path / "ds/train.parquet")
    given = ["--data.dataset", tmp_path / "ds", "--training.output_dir", tmp_path / "run"]
    code, _, error = run("train", CASES / "text_limit" / configuration, *given, *options)
    assert not list(tmp_path.glob("run/checkpoint*"))
    return code, error


@needs_cases
def test_a_long_sentence_ends_a_training_before_its_first_step(run, tmp_path):
    code, error = train(run, tmp_path, "tiny.yaml", "long_train.parquet")
    assert code == 2 and re.search(r"video '.+': the sentence \".+ has 720 tokens", error), error


@needs_cases
def test_a_tokenizer_that_states_no_limit_has_the_encoders(run, tmp_path):
    config = tiny_config()
    BertModel(config.text_config).save_pretrained(tmp_path / "text")
    tiny_tokenizer(10**30).save_pretrained(tmp_path / "text")
    ResNetBackbone(config.backbone_config).save_pretrained(tmp_path / "vision")
    parts = ["--model.text", tmp_path / "text", "--model.vision", tmp_path / "vision"]
    code, error = train(run, tmp_path, "pre.yaml", "sixty_train.parquet", *parts)
    assert code == 2 and re.search(r"video '.+': the sentence \".+ has 60 tokens.* takes at most 16", error), error


def test_the_packages_that_a_checkpoint_needs_are_those_that_are_named():
    """The case hub_needs_av: what the code imports that travels with a checkpoint, less what transformers brings."""
    imported = set()
    for path in (ROOT / "modeling_cvls").glob("*_cvls.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {name.name.split(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(node.module.split(".")[0])
    brought = {Requirement(text).name for text in importlib.metadata.requires("transformers") if "extra ==" not in text}
    brought = {name.replace("-", "_") for name in brought}
    needed = {{"PIL": "pillow"}.get(name, name) for name in imported - set(sys.stdlib_module_names) - brought}
    assert needed == {"torch", "transformers", "pillow", "av", "decord", "pycocotools"}
    needed -= {"decord", "pycocotools"}  # named beside the list, as not all need them

    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    bounds = {Requirement(text).name: str(Requirement(text).specifier) for text in declared}
    assert needed | {"decord", "pycocotools"} <= bounds.keys() and bounds["av"] == f">={OLDEST_AV[0]}.{OLDEST_AV[1]}"
    lists = set()
    pages = [ROOT / "README.md", ROOT / "model_card.md", ROOT / "modeling_cvls/model_card.md"]
    for page in (*pages, *(ROOT / "docs").rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        lists |= {(page, found) for found in re.findall(r"pip install ([^`\n]*\btorch\b[^`\n]*)", text)}
    assert len(lists) == 4
    for name, found in lists:
        requirements = [Requirement(word.strip('"')) for word in found.split()]
        assert {one.name for one in requirements} == needed, name
        assert {str(one.specifier) for one in requirements if one.name == "av"} == {bounds["av"]}, name


def test_an_old_pyav_is_refused(monkeypatch, tmp_path):
    """The case old_pyav: before version 17 the colors of BT.709 are wrong, and 17.0 crashes at an RTSP stream."""
    (tmp_path / "clip.mp4").write_bytes(b"whatever")
    for version in ("16.1.0", "17.0.1"):
        monkeypatch.setattr(av, "__version__", version)
        with pytest.raises(ImportError, match=f'PyAV {version} is installed, .* wrong colors: pip install "av>=17.1"'):
            FrameReader(tmp_path / "clip.mp4")
    monkeypatch.setattr(av, "__version__", "18.0.0rc1")
    with pytest.raises(ValueError, match="cannot be decoded as a video"):
        FrameReader(tmp_path / "clip.mp4")
