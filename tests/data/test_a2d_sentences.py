"""Converts a tiny A2D Sentences tree, written here with every quirk of the original, and looks at every mask."""

import csv
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections import Counter

import av
import h5py
import numpy as np
import pytest
from datasets import load_dataset
from pycocotools import mask as coco_mask

from factories import ROOT, SHARED
from modeling_cvls.cli import convert as command
from modeling_cvls.conversion import Problems
from modeling_cvls.conversion import a2d_sentences as a2d
from modeling_cvls.data import FEATURES, check_dataset, read_frames, read_masks

REAL_ANNOTATIONS = SHARED / "real_data" / "annotations" / "a2d_annotation.txt"
HEIGHT, WIDTH = 36, 52


def load_script(name, folder):
    spec = importlib.util.spec_from_file_location(name, ROOT / folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # worker processes find the functions of the script by its name
    spec.loader.exec_module(module)
    return module


def write_video(path, num_frames, height=HEIGHT, width=WIDTH, fps=8, container_options=None):
    """Frame t is gray, of the brightness 20 + 20 t on the left half and 220 - 20 t on the right half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "1"})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for t in range(num_frames):
            picture = np.full((height, width, 3), (20 + 20 * t) % 256, np.uint8)
            picture[:, width // 2 :] = (220 - 20 * t) % 256
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def write_masks(path, masks, squeeze=True):
    """`masks`: id -> (H, W). As in the original: transposed, and without the first axis where there is one mask."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stacked = np.stack([mask.T for mask in masks.values()]).astype(np.uint8)
    with h5py.File(path, "w") as file:
        file["instance"] = np.array(list(masks), dtype=np.int64)
        file["reMask"] = stacked[0] if squeeze and len(masks) == 1 else stacked
        file["id"] = np.zeros(len(masks))
        file["reBBox"] = np.zeros((4, len(masks)))


def random_mask(seed):
    return np.random.default_rng(seed).random((HEIGHT, WIDTH)) > 0.6


# video -> h5 number (from 1) -> instance -> seed of its mask
MASKS = {
    "both": {2: {0: 1, 3: 2}, 5: {3: 3}},  # instance 0 is absent from frame 5, which has one instance
    "alone": {1: {0: 4}, 6: {0: 5}},
    "tested": {3: {7: 6, 2: 7}},  # ids that are not sorted
    "none": {4: {0: 8, 1: 9}},
}
ROWS = [
    ("both", "3", "the red bird on the left"),
    ("alone", "0", " a man, with a hat "),
    ("both", "0", "the blue bird"),
    ("tested", "7", "a dog"),
    ("alone", "1 (copy)", "a mistake"),
    ("missed", "0", "a sentence on a video that is left out"),
    ("none", "", "the green cat"),
]
SUBSETS = {"both": 0, "unsaid": 0, "alone": 0, "missed": 0, "tested": 1, "none": 3}


def write_tree(root, kind=False, clips="clips320H"):
    annotations = root / "text_annotations"
    annotations.mkdir(parents=True)
    for number, (name, frames) in enumerate(MASKS.items()):
        write_video(root / "Release" / clips / f"{name}.mp4", 6 + number)
        for frame, masks in frames.items():
            path = annotations / "a2d_annotation_with_instances" / name / f"{frame:05d}.h5"
            write_masks(path, {instance: random_mask(seed) for instance, seed in masks.items()})
    with open(root / "Release" / "videoset.csv", "w", newline="") as file:
        for name, subset in SUBSETS.items():
            csv.writer(file).writerow([name, 11, "0:00:01", "0:00:02", 99, 99, 99, len(MASKS.get(name, ())), subset])
    with open(annotations / "a2d_annotation.txt", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["video_id", "instance_id", "query"] + ["kind"] * kind)
        writer.writerows([[*row, "temporal" if row[1] else ""] if kind else row for row in ROWS])
    (annotations / "a2d_missed_videos.txt").write_text("missed\n")
    return root


@pytest.fixture
def tree(tmp_path):
    return write_tree(tmp_path / "raw")


def convert(source, output, *arguments):
    command.main(["a2d_sentences", "--source", str(source), "--output", str(output), "--num-proc", "1", *arguments])
    return load_dataset(str(output), cache_dir=str(output.parent / "cache"))


def test_rows_and_every_mask(tree, tmp_path):
    splits = convert(tree, tmp_path / "out")
    assert {name: [row["video_id"] for row in split] for name, split in splits.items()} == {
        "train": ["both", "alone"],  # without the video that nobody describes and the missed one
        "test": ["tested"],
        "heldout": ["none"],
    }
    assert splits["train"].features == FEATURES
    check_dataset(splits["train"], "train")
    rows = {row["video_id"]: row for split in splits.values() for row in split}

    for number, (name, frames) in enumerate(MASKS.items()):
        row = rows[name]
        assert (row["num_frames"], row["height"], row["width"], row["fps"]) == (6 + number, HEIGHT, WIDTH, 8.0)
        assert row["annotated_frames"] == [frame - 1 for frame in sorted(frames)]
        assert row["evaluation_frames"] is None and row["frames"] is None
        instances = sorted({instance for masks in frames.values() for instance in masks})
        assert row["instance_ids"] == [str(instance) for instance in instances]
        for a, frame in enumerate(sorted(frames)):
            for m, instance in enumerate(instances):
                counts = row["masks"][a][m]
                if instance not in frames[frame]:
                    assert counts is None
                else:
                    decoded = coco_mask.decode({"size": [HEIGHT, WIDTH], "counts": counts})
                    np.testing.assert_array_equal(decoded, random_mask(frames[frame][instance]))

        assert row["video"]["bytes"] == (tree / "Release" / "clips320H" / f"{name}.mp4").read_bytes()
        pictures = read_frames(row, [5, 1])
        assert pictures.shape == (2, HEIGHT, WIDTH, 3)
        for picture, t in zip(pictures, [5, 1], strict=True):
            assert abs(picture[:, :20].mean() - (20 + 20 * t)) < 3
            assert abs(picture[:, -20:].mean() - (220 - 20 * t)) < 3

    masks, annotated_frames, annotated_instances = read_masks(rows["both"], [0, 1, 2, 3, 4])
    assert annotated_frames.tolist() == [False, True, False, False, True]
    assert annotated_instances.tolist() == [[False] * 2, [True] * 2, [False] * 2, [False] * 2, [False, True]]
    np.testing.assert_array_equal(masks[1], [random_mask(1), random_mask(2)])
    np.testing.assert_array_equal(masks[4], [np.zeros((HEIGHT, WIDTH), bool), random_mask(3)])

    said = [(s["text"], s["instances"], s["kind"]) for name in rows for s in rows[name]["sentences"]]
    assert said == [
        ("the red bird on the left", [1], None),
        ("the blue bird", [0], None),
        ("a man, with a hat", [0], None),
        ("a dog", [1], None),
        ("the green cat", [], None),
    ]
    ids = [s["sentence_id"] for row in rows.values() for s in row["sentences"]]
    assert len(set(ids)) == len(ids)


@pytest.mark.slow
def test_kind_column_other_folder_two_processes_and_chosen_split(tmp_path):
    tree = write_tree(tmp_path / "raw", kind=True, clips="CLIPS320")
    splits = convert(tree, tmp_path / "out", "--num-proc", "2", "--split", "train", "heldout")
    assert list(splits) == ["train", "heldout"]
    assert [s["kind"] for row in splits["train"] for s in row["sentences"]] == ["temporal"] * 3
    assert [s["kind"] for row in splits["heldout"] for s in row["sentences"]] == [None]
    assert splits["train"]["video_id"] == ["both", "alone"]
    assert sorted(path.name for path in (tmp_path / "out" / "data").iterdir()) == [
        "heldout-00000-of-00001.parquet",
        "train-00000-of-00001.parquet",
    ]


def test_streaming_gives_the_same_rows(tree, tmp_path):
    loaded = convert(tree, tmp_path / "out")
    for split in loaded:
        streamed = load_dataset(str(tmp_path / "out"), split=split, streaming=True)
        assert streamed.features == FEATURES
        assert list(streamed) == list(loaded[split])


def test_card(tree, tmp_path):
    convert(tree, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| train | 2 | 3 | 3 | 4 | 0 |" in card
    assert "gavrilyuk2018actor" in card and "## License" in card


def test_one_instance_may_also_keep_its_axis(tmp_path):
    write_masks(tmp_path / "00001.h5", {4: random_mask(1)}, squeeze=False)
    (counts,) = a2d.read_instance_masks(tmp_path / "00001.h5", HEIGHT, WIDTH).values()
    np.testing.assert_array_equal(coco_mask.decode({"size": [HEIGHT, WIDTH], "counts": counts}), random_mask(1))


def replace(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def short_csv_row(tree):
    replace(tree / "Release" / "videoset.csv", "both,11,", "both,")


def unknown_subset(tree):
    replace(tree / "Release" / "videoset.csv", ",99,1,3", ",99,1,8")


def short_annotation(tree):
    replace(tree / "text_annotations" / "a2d_annotation.txt", "both,0,the blue bird", "both,the blue bird")


def unquoted_comma(tree):
    replace(tree / "text_annotations" / "a2d_annotation.txt", "the blue bird", "the blue, small bird")


def instance_not_a_number(tree):
    replace(tree / "text_annotations" / "a2d_annotation.txt", "both,0,", "both,zero,")


def empty_sentence(tree):
    replace(tree / "text_annotations" / "a2d_annotation.txt", "the blue bird", " ")


def unknown_video(tree):
    replace(tree / "text_annotations" / "a2d_annotation.txt", "both,0,", "nobody,0,")


def missing_clip(tree):
    (tree / "Release" / "clips320H" / "both.mp4").unlink()


def missing_clips(tree):
    (tree / "Release" / "clips320H").rename(tree / "Release" / "clips")


def missing_mask_folder(tree):
    folder = tree / "text_annotations" / "a2d_annotation_with_instances" / "both"
    folder.rename(tree / "elsewhere")


def missing_h5(tree):
    for path in (tree / "text_annotations" / "a2d_annotation_with_instances" / "both").iterdir():
        path.unlink()


def broken_h5(tree):
    (tree / "text_annotations" / "a2d_annotation_with_instances" / "both" / "00005.h5").write_bytes(b"no h5")


def h5_without_masks(tree):
    with h5py.File(tree / "text_annotations" / "a2d_annotation_with_instances" / "both" / "00005.h5", "a") as file:
        del file["reMask"]


def frame_after_the_end(tree):
    folder = tree / "text_annotations" / "a2d_annotation_with_instances" / "both"
    (folder / "00005.h5").rename(folder / "00007.h5")


def mask_of_another_size(tree):
    path = tree / "text_annotations" / "a2d_annotation_with_instances" / "both" / "00005.h5"
    write_masks(path, {3: random_mask(3)[:-2]})


def mask_not_transposed(tree):
    path = tree / "text_annotations" / "a2d_annotation_with_instances" / "both" / "00005.h5"
    write_masks(path, {3: random_mask(3).T})


def undecodable(tree):
    (tree / "Release" / "clips320H" / "both.mp4").write_bytes(b"not a video")


def cut_off(tree):
    """With its header first, a file opens although most of it is missing."""
    path = tree / "Release" / "clips320H" / "both.mp4"
    write_video(path, 40, container_options={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    folder = tree / "text_annotations" / "a2d_annotation_with_instances" / "both"
    (folder / "00005.h5").rename(folder / "00039.h5")


def not_in_videoset(tree):
    replace(tree / "Release" / "videoset.csv", "both,11,", "another,11,")


def instance_in_no_h5(tree):
    replace(tree / "text_annotations" / "a2d_annotation.txt", "both,0,", "both,9,")


LINES = {"both": (2, 4), "alone": (3,), "tested": (5,), "none": (8,)}
VIDEO = [2, 4]  # the lines of both sentences on the video `both`
SENTENCE = [4]

# What is wrong, what the message says, and the lines of a2d_annotation.txt that --skip-invalid leaves out.
WRONG = [
    (short_csv_row, "videoset.csv, line 1: 8 fields, expected 9", VIDEO),
    (unknown_subset, "videoset.csv, line 6: the subset is '8', expected one of 0, 1, 2, 3", [8]),
    (short_annotation, "a2d_annotation.txt, line 4: 2 fields, expected 3", SENTENCE),
    (unquoted_comma, "a2d_annotation.txt, line 4: 4 fields, expected 3", SENTENCE),
    (instance_not_a_number, "a2d_annotation.txt, line 4: the instance id 'zero' is not an integer", SENTENCE),
    (empty_sentence, "a2d_annotation.txt, line 4: the sentence is empty", SENTENCE),
    (unknown_video, "a2d_annotation.txt, line 4: the video 'nobody' is not in .*videoset.csv", SENTENCE),
    (not_in_videoset, "a2d_annotation.txt, line 2: the video 'both' is not in .*videoset.csv", VIDEO),
    (instance_in_no_h5, "a2d_annotation.txt, line 4: no h5 file in .*/both has the instance 9, .* 0, 3", SENTENCE),
    (missing_clip, "a2d_annotation.txt, line 2: the video .*both.mp4 does not exist", VIDEO),
    (missing_mask_folder, "a2d_annotation.txt, line 2: the folder .*with_instances/both with the masks", VIDEO),
    (missing_h5, "a2d_annotation.txt, line 2: .*with_instances/both holds no h5 file", VIDEO),
    (broken_h5, "a2d_annotation.txt, line 2: .*both/00005.h5: cannot read 'instance' and 'reMask'", VIDEO),
    (h5_without_masks, "line 2: .*both/00005.h5: cannot read 'instance' and 'reMask'.*reMask", VIDEO),
    (frame_after_the_end, "line 2: .*both/00007.h5: .* the number of a frame of .*both.mp4, 1 to 6", VIDEO),
    (mask_of_another_size, r"both/00005.h5: .* \(1, 52, 34\), expected \(1, 52, 36\).* 36 x 52", VIDEO),
    (mask_not_transposed, r"both/00005.h5: .* \(1, 36, 52\), expected \(1, 52, 36\)", VIDEO),
    (undecodable, "a2d_annotation.txt, line 2: .*both.mp4 cannot be decoded", VIDEO),
    (cut_off, "a2d_annotation.txt, line 2: .*both.mp4 is damaged or was cut off", VIDEO),
]


@pytest.mark.parametrize(("spoil", "message", "lines"), WRONG, ids=[wrong[0].__name__ for wrong in WRONG])
def test_what_is_wrong_stops_or_is_left_out(tree, tmp_path, capsys, spoil, message, lines):
    spoil(tree)
    with pytest.raises(ValueError, match=message):
        convert(tree, tmp_path / "folder" / "out")
    # Nothing half-written stays behind.
    assert not (tmp_path / "folder").exists() or not list((tmp_path / "folder").iterdir())

    capsys.readouterr()
    splits = convert(tree, tmp_path / "folder" / "out", "--skip-invalid")
    expected = {"train": {"both": 2, "alone": 1}, "test": {"tested": 1}, "heldout": {"none": 1}}
    for videos in expected.values():
        for name in list(videos):
            videos[name] -= sum(line in LINES[name] for line in lines)
            if not videos[name]:
                del videos[name]
    found = {split: {row["video_id"]: len(row["sentences"]) for row in rows} for split, rows in splits.items()}
    assert found == {split: videos for split, videos in expected.items() if videos}

    left_out = [json.loads(line) for line in (tmp_path / "folder" / "out" / "left_out.jsonl").read_text().splitlines()]
    said = [f"{entry['where']}: {entry['why']}" for entry in left_out]
    assert re.search(message, said[0])
    numbers = [re.search(r"a2d_annotation.txt, line (\d+)$", entry["where"]) for entry in left_out]
    assert [int(number.group(1)) for number in numbers if number] == lines
    printed = capsys.readouterr().out
    assert f"Left out {len(said)}, all listed in" in printed and all(f"  {text}\n" in printed for text in said)


def test_nothing_is_left_out_of_what_is_right(tree, tmp_path, capsys):
    right = convert(tree, tmp_path / "out")
    skipping = convert(tree, tmp_path / "skipping", "--skip-invalid")
    assert {split: list(rows) for split, rows in right.items()} == {s: list(rows) for s, rows in skipping.items()}
    assert not (tmp_path / "skipping" / "left_out.jsonl").exists()
    assert "Left out" not in capsys.readouterr().out


def test_parts_of_the_layout_cannot_be_left_out(tree, tmp_path):
    missing_clips(tree)
    for arguments in ([], ["--skip-invalid"]):
        with pytest.raises(FileNotFoundError, match="Release has no folder clips320H or CLIPS320"):
            convert(tree, tmp_path / "out", *arguments)


def test_bad_header(tree, tmp_path):
    path = tree / "text_annotations" / "a2d_annotation.txt"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(ValueError, match="a2d_annotation.txt, line 1: the header is .* expected 'video_id,instance_id"):
        convert(tree, tmp_path / "out")


def test_bad_arguments(tree, tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match="videoset.csv does not exist; --source must be"):
        convert(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(ValueError, match="--split validation: .* has no video"):
        convert(tree, tmp_path / "out", "--split", "validation")
    for arguments in (["--split", "trian"], ["--num-proc", "0"]):
        with pytest.raises(SystemExit):
            convert(tree, tmp_path / "out", *arguments)
        assert arguments[1] in capsys.readouterr().err
    (tmp_path / "out").mkdir()
    with pytest.raises(FileExistsError, match="out exists already"):
        convert(tree, tmp_path / "out")


@pytest.mark.skipif(not REAL_ANNOTATIONS.exists(), reason=f"{REAL_ANNOTATIONS} is not there")
def test_real_annotations():
    sentences = list(a2d.read_sentences(REAL_ANNOTATIONS, Problems()))
    lines = REAL_ANNOTATIONS.read_text(encoding="utf-8").splitlines()[1:]
    assert len(sentences) == len(lines) - 1 == 6654
    assert len({sentence.video_id for sentence in sentences}) == 3754
    assert not any(sentence.instance is None or sentence.kind for sentence in sentences)
    per_video = Counter(line.split(",")[0] for line in lines if ",1 (copy)," not in line)
    assert Counter(sentence.video_id for sentence in sentences) == per_video
    assert (sentences[1].instance, sentences[1].text) == (0, "player in blue shirt passing a basketball on left")


@pytest.mark.slow
@pytest.mark.skipif(not REAL_ANNOTATIONS.exists(), reason=f"{REAL_ANNOTATIONS} is not there")
def test_a_tree_around_the_real_annotations(tmp_path):
    """All of it, with tiny videos, by the script that also measures it."""
    benchmark = load_script("conversion", "benchmarks")
    rows = benchmark.read_rows(REAL_ANNOTATIONS)
    assert len(rows) == 6655
    videos = benchmark.write_source(tmp_path / "raw", rows)
    assert videos == {"train": 3017, "test": 737}
    splits = convert(tmp_path / "raw", tmp_path / "out", "--num-proc", "2")
    assert {name: len(split) for name, split in splits.items()} == videos
    texts = [
        (row["video_id"], row["instance_ids"][sentence["instances"][0]], sentence["text"])
        for split in splits.values()
        for row in split.select_columns(["video_id", "instance_ids", "sentences"])
        for sentence in row["sentences"]
    ]
    assert Counter(texts) == Counter(
        (video, instance, text.strip()) for video, instance, text in rows if instance != "1 (copy)"
    )


def test_one_missing_h5_stops_or_is_noted(tree, tmp_path):
    """Fewer h5 files than videoset.csv states: with --skip-invalid the frames that are there stay."""
    (tree / "text_annotations" / "a2d_annotation_with_instances" / "both" / "00005.h5").unlink()
    message = "with_instances/both: 1 h5 files, but videoset.csv states 2 annotated frames"
    with pytest.raises(ValueError, match=message):
        convert(tree, tmp_path / "out")
    splits = convert(tree, tmp_path / "out", "--skip-invalid")
    assert {row["video_id"]: row["annotated_frames"] for row in splits["train"]} == {"both": [1], "alone": [0, 5]}
    (entry,) = [json.loads(line) for line in (tmp_path / "out" / "left_out.jsonl").read_text().splitlines()]
    assert re.search(message, f"{entry['where']}: {entry['why']}")


@pytest.mark.slow
def test_import_and_conversion_need_nothing_of_posix(tree, tmp_path):
    """As on Windows: no fcntl, no fork; worker processes are spawned and find the conversion's functions."""
    convert(tree, tmp_path / "here")
    program = ROOT / "tests" / "data" / "programs" / "convert_without_posix.py"
    arguments, environment = [program, tree, tmp_path / "there"], {**os.environ, "PYTHONPATH": str(ROOT)}
    started = [sys.executable, *arguments]
    result = subprocess.run(started, env=environment, capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stderr[-3000:]
    here, there = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (tmp_path / "here", tmp_path / "there")
    )
    assert here == there
