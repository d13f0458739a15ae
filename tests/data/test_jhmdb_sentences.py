"""Converts J-HMDB Sentences trees, written here with every quirk of the original, and looks at every mask."""

import csv
import io
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from datasets import load_dataset
from PIL import Image
from pycocotools import mask as coco_mask

from factories import SHARED
from modeling_cvls.cli import convert as command
from modeling_cvls.data import FEATURES, read_frames, read_masks
from modeling_cvls.synthetic import make_scene, render, write_jhmdb_sentences

REAL = SHARED / "real_data" / "annotations"
HEIGHT, WIDTH = 30, 44


# video -> action, frames, frames with a mask, sentence
VIDEOS = {
    "old_man_waves": ("wave", 7, 5, "an old man waving, slowly"),  # masks are fewer than frames
    "a_girl_claps": ("clap", 4, 4, "a girl is clapping"),
    "a_boy_waves": ("wave", 2, 1, "boy in red"),  # one mask: MATLAB drops the third dimension
}


def frame(name, t):
    return np.random.default_rng([len(name), t]).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def mask(name, t):
    # The person leaves the third frame: a mask is there, and empty.
    return (np.random.default_rng([len(name), t, 7]).random((HEIGHT, WIDTH)) > 0.7) & (t != 2)


def write_csv(path, rows):
    with open(path, "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "raw"
    for name, (action, frames, masks, _) in VIDEOS.items():
        images = root / "Rename_Images" / action / name
        images.mkdir(parents=True)
        for t in range(frames):
            Image.fromarray(frame(name, t)).save(images / f"{t + 1:05d}.png")
        (images / "._00001.png").write_bytes(b"left by a Mac")
        puppet = root / "puppet_mask" / action / name
        puppet.mkdir(parents=True)
        part_mask = np.stack([mask(name, t) for t in range(masks)], axis=2).astype(np.uint8)
        scipy.io.savemat(puppet / "puppet_mask.mat", {"part_mask": part_mask[:, :, 0] if masks == 1 else part_mask})
    (root / "Rename_Images" / "wave" / "undescribed").mkdir()
    write_csv(root / "jhmdb_annotation.txt", [("video_id", "query"), *((n, v[3]) for n, v in VIDEOS.items())])
    return root


def write_samples_metadata(path, evaluated):
    rows = []
    for name, numbers in evaluated.items():
        action, _, masks, sentence = VIDEOS[name]
        folder = f"./jhmdb_sentences/Rename_Images/{action}/{name}"
        mat = f"./jhmdb_sentences/puppet_mask/{action}/{name}/puppet_mask.mat"
        rows += [[name, f"{folder}/{number:05d}.png", mat, masks, sentence] for number in numbers]
    path.write_text(json.dumps(rows))
    return path


def convert(source, output, *arguments):
    command.main(
        ["jhmdb_sentences", "--source", str(source), "--output", str(output), "--num-proc", "1", *map(str, arguments)]
    )
    splits = load_dataset(str(output), cache_dir=str(output.parent / "cache"))
    assert list(splits) == ["test"]
    return splits["test"]


def left_out(output):
    return [json.loads(line) for line in (output / "left_out.jsonl").read_text().splitlines()]


def test_rows_frames_and_every_mask(tree, tmp_path, capsys):
    rows = convert(tree, tmp_path / "out")
    assert rows.features == FEATURES
    assert rows["video_id"] == list(VIDEOS)  # the order of the sentences, without the undescribed one
    for row in rows:
        name = row["video_id"]
        action, frames, masks, sentence = VIDEOS[name]
        assert (row["num_frames"], row["height"], row["width"], row["fps"]) == (frames, HEIGHT, WIDTH, None)
        assert row["video"] is None
        for t, cell in enumerate(row["frames"]):
            path = tree / "Rename_Images" / action / name / f"{t + 1:05d}.png"
            assert cell == {"bytes": path.read_bytes(), "path": path.name}
        np.testing.assert_array_equal(read_frames(row, range(frames)), [frame(name, t) for t in range(frames)])
        # Frames beyond the masks are not annotated.
        assert row["annotated_frames"] == list(range(masks))
        assert row["instance_ids"] == ["1"]
        for t, (counts,) in enumerate(row["masks"]):
            decoded = coco_mask.decode({"size": [HEIGHT, WIDTH], "counts": counts})
            np.testing.assert_array_equal(decoded, mask(name, t))
        _, annotated, _ = read_masks(row, range(frames))
        assert annotated.tolist() == [t < masks for t in range(frames)]
        assert row["sentences"] == [{"sentence_id": f"{name}/0", "text": sentence, "instances": [0], "kind": None}]
    assert rows["evaluation_frames"] == [None] * 3
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| test | 3 | 3 | 3 | 10 | 0 |" in card and "jhuang2013towards" in card and "## License" in card
    for text in (card, capsys.readouterr().out):
        assert "three evenly spaced frames" in text and "not comparable" in text


def test_samples_metadata(tree, tmp_path, capsys):
    evaluated = {"old_man_waves": [5, 1, 2], "a_girl_claps": [1, 2, 4], "a_boy_waves": [1]}
    metadata = write_samples_metadata(tmp_path / "samples.json", evaluated)
    rows = convert(tree, tmp_path / "out", "--samples-metadata", metadata)
    assert rows["evaluation_frames"] == [[0, 1, 4], [0, 1, 3], [0]]
    for text in ((tmp_path / "out" / "README.md").read_text(), capsys.readouterr().out):
        assert "published results are measured" in text and "evenly" not in text


def images(name):
    return Path("Rename_Images", VIDEOS[name][0], name)


def puppet(name):
    return Path("puppet_mask", VIDEOS[name][0], name, "puppet_mask.mat")


def save_mask(path, part_mask):
    scipy.io.savemat(path, {"part_mask": part_mask.astype(np.uint8)})


def small_png():
    buffer = io.BytesIO()
    Image.new("RGB", (9, 9)).save(buffer, "png")
    return buffer.getvalue()


def cut_in_half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


GIRL = "a_girl_claps"
# What is done to the tree, the file that the message names, what it says.
WRONG = {
    "no frames": (lambda r: shutil.rmtree(r / images(GIRL)), "jhmdb_annotation.txt, line 3", "no folder"),
    "no masks": (lambda r: (r / puppet(GIRL)).unlink(), "jhmdb_annotation.txt, line 3", "puppet_mask.mat do not exist"),
    "a gap": (lambda r: (r / images(GIRL) / "00002.png").unlink(), GIRL, "without a gap, found 3, 00001.png to 00004"),
    "empty folder": (lambda r: [p.unlink() for p in (r / images(GIRL)).iterdir()], GIRL, "found 0"),
    "broken frame": (lambda r: cut_in_half(r / images(GIRL) / "00003.png"), "00003.png", "cannot be decoded"),
    "other size": (
        lambda r: (r / images(GIRL) / "00003.png").write_bytes(small_png()),
        "00003.png",
        "9 x 9 pixels (height x width), but 00001.png has 30 x 44",
    ),
    "masks of another size": (
        lambda r: save_mask(r / puppet(GIRL), np.ones((WIDTH, HEIGHT, 4))),
        "puppet_mask.mat",
        "shape (44, 30, 4), expected (30, 44, number of frames)",
    ),
    "too many masks": (
        lambda r: save_mask(r / puppet(GIRL), np.ones((HEIGHT, WIDTH, 5))),
        "puppet_mask.mat",
        "5 masks for 4 frames",
    ),
    "broken masks": (lambda r: cut_in_half(r / puppet(GIRL)), "puppet_mask.mat", "cannot read 'part_mask'"),
    "not mat": (lambda r: (r / puppet(GIRL)).write_text("x"), "puppet_mask.mat", "cannot read 'part_mask'"),
    "no part_mask": (
        lambda r: scipy.io.savemat(r / puppet(GIRL), {"masks": np.ones(3)}),
        "puppet_mask.mat",
        "cannot read 'part_mask'",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_video_stops_the_conversion_or_is_left_out(tree, tmp_path, case, capsys):
    change, where, why = WRONG[case]
    change(tree)
    with pytest.raises(ValueError, match=f"{re.escape(where)}.*{re.escape(why)}"):
        convert(tree, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    rows = convert(tree, tmp_path / "out", "--skip-invalid")
    assert rows["video_id"] == ["old_man_waves", "a_boy_waves"]
    (entry,) = left_out(tmp_path / "out")
    assert entry["split"] == "test"
    assert where in entry["where"] + entry["why"] and why in entry["why"]
    assert why in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("a_girl_claps,a girl, clapping\n", "3 fields, expected 2"),
        ("a_girl_claps\n", "1 fields, expected 2"),
        ("a_girl_claps, \n", "the sentence is empty"),
    ],
)
def test_a_wrong_row(tree, tmp_path, line, why):
    path = tree / "jhmdb_annotation.txt"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:2], line, *lines[3:]]))
    with pytest.raises(ValueError, match=rf"jhmdb_annotation.txt, line 3: {why}"):
        convert(tree, tmp_path / "out")
    rows = convert(tree, tmp_path / "out", "--skip-invalid")
    assert rows["video_id"] == ["old_man_waves", "a_boy_waves"]
    assert [(entry["split"], why in entry["why"]) for entry in left_out(tmp_path / "out")] == [("test", True)]


@pytest.mark.parametrize(
    ("evaluated", "why", "left"),
    [
        ({"old_man_waves": [1, 2, 6]}, "masks of the first 5 frames, but frame 6 is to be evaluated", "old_man_waves"),
        ({"old_man_waves": [0, 1, 2]}, "frames count from 1", "old_man_waves"),
        ({"a_boy_waves": []}, "the video 'a_boy_waves' is not in", "a_boy_waves"),
    ],
)
def test_wrong_samples_metadata(tree, tmp_path, evaluated, why, left):
    right = {"old_man_waves": [1, 2, 3], "a_girl_claps": [1], "a_boy_waves": [1]}
    metadata = write_samples_metadata(tmp_path / "samples.json", right | evaluated)
    with pytest.raises(ValueError, match=why):
        convert(tree, tmp_path / "out", "--samples-metadata", metadata)
    rows = convert(tree, tmp_path / "out", "--samples-metadata", metadata, "--skip-invalid")
    assert rows["video_id"] == [name for name in VIDEOS if name != left]


def test_a_video_that_only_the_samples_metadata_knows(tree, tmp_path):
    metadata = write_samples_metadata(tmp_path / "samples.json", {name: [1] for name in VIDEOS})
    path = tree / "jhmdb_annotation.txt"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:3]))
    with pytest.raises(ValueError, match="samples.json: the video 'a_boy_waves' is not in .*jhmdb_annotation.txt"):
        convert(tree, tmp_path / "out", "--samples-metadata", metadata)
    assert len(convert(tree, tmp_path / "out", "--samples-metadata", metadata, "--skip-invalid")) == 2


@pytest.mark.parametrize("content", ["{", '[["a", "b"]]', '[["a", "x.png", "m", 3, "s"]]', "7"])
def test_a_file_that_is_no_samples_metadata(tree, tmp_path, content):
    (tmp_path / "samples.json").write_text(content)
    with pytest.raises(ValueError, match="samples.json: not a samples metadata json"):
        convert(tree, tmp_path / "out", "--samples-metadata", tmp_path / "samples.json", "--skip-invalid")


@pytest.mark.parametrize("part", ["jhmdb_annotation.txt", "Rename_Images", "puppet_mask"])
def test_a_missing_part(tree, tmp_path, part):
    (tree / part).rename(tree / "elsewhere")
    with pytest.raises(FileNotFoundError, match=f"{part} does not exist; --source"):
        convert(tree, tmp_path / "out", "--skip-invalid")


def test_another_header(tree, tmp_path):
    write_csv(tree / "jhmdb_annotation.txt", [("id", "text")])
    with pytest.raises(ValueError, match="line 1: the header is 'id,text', expected 'video_id,query'"):
        convert(tree, tmp_path / "out", "--skip-invalid")


def test_synthetic_tree_gives_back_what_was_drawn(tmp_path):
    write_jhmdb_sentences(tmp_path / "raw", {"train": 3, "heldout": 2}, seed=5)
    rows = convert(tmp_path / "raw", tmp_path / "out")
    expected = [("train", 0), ("train", 1), ("train", 2), ("heldout", 0), ("heldout", 1)]
    for row, (split, index) in zip(rows, expected, strict=True):
        scene, sentences = make_scene(split, index, seed=5)
        frames, masks = render(scene)
        np.testing.assert_array_equal(read_frames(row, range(8)), frames)
        read, annotated, _ = read_masks(row, range(8))
        assert annotated.all()
        np.testing.assert_array_equal(read[:, 0], masks[:, sentences[0].instances[0]])
        assert [sentence["text"] for sentence in row["sentences"]] == [sentences[0].text]


@pytest.mark.slow
@pytest.mark.skipif(not REAL.exists(), reason="the real annotation files are not here")
def test_all_928_sentences_on_tiny_videos(tmp_path):
    metadata = REAL / "jhmdb_sentences_samples_metadata.json"
    samples = json.loads(metadata.read_text())
    root = tmp_path / "raw"
    root.mkdir()
    shutil.copy(REAL / "jhmdb_annotation.txt", root / "jhmdb_annotation.txt")
    picture = tmp_path / "frame.png"
    Image.new("RGB", (4, 3)).save(picture)
    last = {}  # the last frame that is evaluated
    for _, image, mat, _, _ in samples:
        key = (Path(image).parent, Path(mat))
        last[key] = max(last.get(key, 0), int(Path(image).stem))
    for (folder, mat), number in last.items():
        folder, mat = (root / path.relative_to("jhmdb_sentences") for path in (folder, mat))
        folder.mkdir(parents=True)
        mat.parent.mkdir(parents=True)
        for t in range(number + 1):
            os.link(picture, folder / f"{t + 1:05d}.png")
        scipy.io.savemat(mat, {"part_mask": np.ones((3, 4, number), np.uint8)})

    rows = convert(root, tmp_path / "out", "--samples-metadata", metadata)
    assert len(rows) == 928
    assert len({sentence["sentence_id"] for row in rows["sentences"] for sentence in row}) == 928
    pairs = zip(rows["video_id"], rows["evaluation_frames"], strict=True)
    evaluated = {(video, frame + 1) for video, frames in pairs for frame in frames}
    assert evaluated == {(video, int(Path(image).stem)) for video, image, *_ in samples}
    assert len(evaluated) == 2784
    texts = [(video, s[0]["text"]) for video, s in zip(rows["video_id"], rows["sentences"], strict=True)]
    assert sorted(texts) == sorted({(video, text.strip()) for video, _, _, _, text in samples})
