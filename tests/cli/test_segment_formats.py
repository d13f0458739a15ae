"""`cvls segment --format`: each format is read back by the library, or by the importer, that it is for."""

import csv
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from datasets import load_dataset
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from squares import SENTENCES, moving_squares
from transformers import pipeline

from cvls import main
from modeling_cvls.cli import segment as command
from modeling_cvls.data import read_masks
from modeling_cvls.visualization import write_video
from numbered_videos import write_numbered

T, H, W = 6, 50, 64
LABELS = [sentence.replace(" ", "_") for sentence in SENTENCES]


@pytest.fixture
def clip(tmp_path):
    """A folder of frames whose names are neither numbers from 0 on nor of five digits, as png."""
    folder = tmp_path / "videos" / "clip"
    folder.mkdir(parents=True)
    for index, frame in enumerate(moving_squares(T)):
        Image.fromarray(frame).save(folder / f"f{3 * index:03d}.png")
    return folder


@pytest.fixture
def expected(clip, checkpoint):
    """What the pipeline gives: masks (K, T, H, W), and labels (T, H, W) in which the more certain mask is on top."""
    segmenter = pipeline("video-language-segmentation", model=str(checkpoint))
    results = segmenter(clip, SENTENCES, presence_threshold=0)
    masks = np.stack([result["masks"] for result in results])
    labels = np.zeros((T, H, W), int)
    for t in range(T):
        for k in np.argsort([result["frame_scores"][t] for result in results], kind="stable"):
            labels[t][masks[k, t]] = k + 1
    assert masks.any((1, 2, 3)).all() and (masks[0] & masks[1]).any()
    return masks, labels


def rows_of(name, folder, *options, source=".", sentences=()):
    """What `cvls convert` makes of a source in a folder, sorted by name."""
    if sentences:
        with open(folder / "said.csv", "w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(
                [("object", "sentence"), *((one, "it") for one in sentences)]
            )
        options = ("--sentences", folder / "said.csv", *options)
    arguments = ("--source", folder / source, "--output", folder / "dataset", "--num-proc", "1", *options)
    main(["convert", name, *map(str, arguments), "--debug"])
    return load_dataset(str(folder / "dataset"), split="train", cache_dir=str(folder / "cache")).sort("video_id")


def object_masks(row, names):
    masks, _, _ = read_masks(row, range(row["num_frames"]))
    return np.stack([masks[:, row["instance_ids"].index(name)] for name in names])


@pytest.mark.slow
def test_coco(segment, clip, expected, tmp_path):
    masks, _ = expected
    code, printed, error = segment(clip, tmp_path / "out.json", "--format", "coco")
    assert code == 0, error
    for sentence in SENTENCES:
        assert sentence in printed
    assert f"{T} frames written to {tmp_path}/out.json" in printed
    api, seen = COCO(str(tmp_path / "out.json")), np.zeros_like(masks)
    for one in api.loadAnns(api.getAnnIds()):
        seen[one["category_id"] - 1, one["image_id"] - 1] = api.annToMask(one)
    np.testing.assert_array_equal(seen, masks)
    assert all((clip.parent / image["file_name"]).is_file() for image in api.dataset["images"])
    options = ("--annotations", tmp_path / "out.json", "--images", clip.parent)
    names = [str(one) for one in api.getAnnIds(catIds=[2])]
    rows = rows_of("coco", tmp_path, *options, sentences=names)
    shown = np.flatnonzero(masks[1].any((1, 2)))
    assert rows["video_id"] == [f"f{3 * t:03d}" for t in shown]
    for t, row, name in zip(shown, rows, names, strict=True):
        np.testing.assert_array_equal(object_masks(row, [name])[0, 0], masks[1, t])


def test_youtube_vis(segment, clip, expected, tmp_path):
    masks, _ = expected
    assert segment(clip, tmp_path / "out.json", "--format", "youtube_vis")[0] == 0
    content = json.loads((tmp_path / "out.json").read_text())
    assert [one["length"] for one in content["videos"]] == [T]
    for one, of_sentence in zip(content["annotations"], masks, strict=True):
        for rle, mask in zip(one["segmentations"], of_sentence, strict=True):
            np.testing.assert_array_equal(np.zeros((H, W)) if rle is None else coco_mask.decode(rle), mask)
    options = ("--annotations", tmp_path / "out.json", "--images", clip.parent)
    (row,) = rows_of("youtube_vis", tmp_path, *options, sentences=["1", "2"])
    np.testing.assert_array_equal(object_masks(row, ["1", "2"]), masks)


def test_cvat(segment, clip, expected, tmp_path):
    masks, _ = expected
    assert segment(clip, tmp_path / "out.xml", "--format", "cvat")[0] == 0
    options = ("--annotations", tmp_path / "out.xml", "--objects", "labels")
    (row,) = rows_of("cvat", tmp_path, *options, "--images", clip, sentences=LABELS)
    np.testing.assert_array_equal(object_masks(row, LABELS), masks)


def test_cvat_of_a_part_of_a_video_fits_the_whole_one(segment, checkpoint, tmp_path):
    """A task in CVAT has all frames of the video."""
    write_video(tmp_path / "clip.mp4", moving_squares(T), 10)
    code, _, error = segment(
        tmp_path / "clip.mp4", tmp_path / "out.xml", "--format", "cvat", "--start", 0.1, "--fps", 5
    )
    assert code == 0, error
    segmenter = pipeline("video-language-segmentation", model=str(checkpoint))
    results = segmenter(tmp_path / "clip.mp4", SENTENCES, presence_threshold=0, start=0.1, fps=5)
    options = ("--annotations", tmp_path / "out.xml", "--objects", "labels", "--video", tmp_path / "clip.mp4")
    (row,) = rows_of("cvat", tmp_path, *options, sentences=LABELS)
    found = object_masks(row, LABELS)
    assert row["num_frames"] == T and results[0]["frame_indices"] == [1, 3, 5]
    np.testing.assert_array_equal(found[:, [1, 3, 5]], [result["masks"] for result in results])
    assert not found[:, [0, 2, 4]].any()


def test_mots(segment, clip, expected, tmp_path):
    _, labels = expected
    assert segment(clip, tmp_path / "out", "--format", "mots")[0] == 0
    (row,) = rows_of("cvat", tmp_path, "--images", clip, source="out", sentences=["1001", "1002"])
    np.testing.assert_array_equal(object_masks(row, ["1001", "1002"]), [labels == 1, labels == 2])


def test_palette(segment, clip, expected, tmp_path):
    _, labels = expected
    code, _, error = segment(clip, tmp_path / "out", "--format", "palette")
    assert code == 0, error
    shutil.copytree(clip, tmp_path / "out" / "JPEGImages" / "clip")
    (row,) = rows_of("frames", tmp_path, source="out")
    np.testing.assert_array_equal(object_masks(row, ["1", "2"]), [labels == 1, labels == 2])
    assert [one["text"] for one in row["sentences"]] == SENTENCES
    code, _, error = segment(clip, tmp_path / "out", "--format", "palette")
    assert code == 2 and "out exists and is not empty" in error


def test_competition(segment, clip, expected, tmp_path):
    masks, _ = expected
    assert segment(clip, tmp_path / "out", "--format", "competition")[0] == 0
    for k, of_sentence in enumerate(masks):
        paths = sorted((tmp_path / "out" / "Annotations" / "clip" / str(k)).iterdir())
        assert [path.name for path in paths] == [f"f{3 * t:03d}.png" for t in range(T)]
        for path, mask in zip(paths, of_sentence, strict=True):
            with Image.open(path) as image:
                np.testing.assert_array_equal(np.asarray(image), 255 * mask)


def test_a_folder_of_videos_is_resumed(segment, tmp_path):
    videos, output = tmp_path / "videos", tmp_path / "out"
    for seed, name in enumerate("ab"):
        write_video(videos / f"{name}.mp4", moving_squares(5, seed), 10)
    (videos / "c.mp4").write_bytes(b"broken")
    code, printed, error = segment(videos, output, "--format", "palette")
    assert code == 2 and "2 of 3 videos are in" in printed and "c.mp4 cannot be decoded as a video" in error
    assert {path.name for path in output.iterdir()} == {"a", "b", "settings.json"}
    (videos / "c.mp4").unlink()
    shutil.rmtree(output / "b")
    (output / ".b.partial" / "Annotations" / "b").mkdir(parents=True)  # as a killed run leaves it
    code, printed, error = segment(videos, output, "--format", "palette")
    assert code == 0 and "1 of 2 videos are done already" in printed, error
    assert {path.name for path in output.iterdir()} == {"a", "b", "settings.json"}
    code, _, error = segment(videos, output, "--format", "mots")
    assert code == 2 and "holds results of another format (see settings.json)" in error


def test_damage_is_said_or_refused(segment, tmp_path):
    options = {"g": "6", "sc_threshold": "0", "bf": "0"}
    whole = write_numbered(tmp_path / "whole.mp4", options=options, container_options={"movflags": "faststart"})
    content = whole.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) * 4 // 5])
    code, printed, error = segment(tmp_path / "cut.mp4", tmp_path / "out.json", "--format", "coco")
    number = len(json.loads((tmp_path / "out.json").read_text())["images"])
    assert code == 0 and f"{number} frames written" in printed and 5 < number < 30
    assert "cvls segment: warning: " in error and "cut.mp4 is damaged or was cut off" in error
    output = tmp_path / "strict.json"
    code, _, error = segment(tmp_path / "cut.mp4", output, "--format", "coco", "--on-damage", "error")
    assert code == 2 and "cut.mp4" in error and not output.exists()


@pytest.mark.parametrize("options", [[], ["--format", "palette"]])
def test_several_processes_do_not_write_one_video(segment, clip, tmp_path, monkeypatch, options):
    monkeypatch.setattr(command, "process_state", lambda: SimpleNamespace(num_processes=2))
    code, _, error = segment(clip, tmp_path / "out.mp4", *options)
    assert code == 2 and "start one process for a single video" in error and not (tmp_path / "out.mp4").exists()
