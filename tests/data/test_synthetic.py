import collections
import csv
import filecmp
import runpy
import subprocess
import sys
from pathlib import Path

import decord
import h5py
import numpy as np
import pytest
import scipy.io
from PIL import Image

from factories import ROOT, fitting, parse
from modeling_cvls.synthetic import (
    make_scene,
    render,
    sample_scene,
    write_a2d_sentences,
    write_jhmdb_sentences,
)
from modeling_cvls.synthetic.layouts import write_a2d_masks
from modeling_cvls.synthetic.scenes import HELD_OUT_COLOR_SHAPE, HELD_OUT_SHAPE_MOTION, Scene, SceneObject


@pytest.fixture(scope="module")
def train():
    return [make_scene("train", i, seed=3) for i in range(500)]


@pytest.fixture(scope="module")
def heldout():
    return [make_scene("heldout", i, seed=3) for i in range(120)]


def files_under(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def assert_same_bytes(first: Path, second: Path) -> None:
    names = files_under(first)
    assert names == files_under(second)
    _, different, unreadable = filecmp.cmpfiles(first, second, names, shallow=False)
    assert not different and not unreadable


@pytest.mark.slow
def test_sentences_are_true_of_their_referent_alone_and_none_of_them_can_be_shortened(train, heldout):
    texts = 0
    for scene, sentences in train + heldout:
        for sentence in sentences:
            meaning = parse(sentence.text)
            assert meaning == sentence.predicate, sentence
            if sentence.kind == "none":
                assert sentence.instances == ()
                meaning.pop("position", None)
                assert meaning and fitting(scene, meaning) == [], sentence
                continue
            texts += 1
            (referent,) = sentence.instances
            assert fitting(scene, meaning) == [referent], sentence
            for name in meaning:
                rest = {key: value for key, value in meaning.items() if key != name}
                if "position" in rest:  # "on the left" of more objects: another one, or none clearly
                    assert fitting(scene, rest) != [referent], (sentence, name)
                else:
                    assert len(fitting(scene, rest)) > 1, (sentence, name)
    assert texts > 2000


def test_kinds_state_what_they_are_named_after(train):
    for _, sentences in train:
        for sentence in sentences:
            stated = set(parse(sentence.text))
            if sentence.kind == "appearance":
                assert stated <= {"size", "color", "shape"}
            elif sentence.kind == "spatial":
                assert {"position"} <= stated <= {"position", "shape"}
            elif sentence.kind == "temporal":
                assert {"motion"} <= stated <= {"motion", "shape"}
            elif sentence.kind == "several":
                assert stated & {"size", "color"} and len(stated & {"motion", "position"}) == 1


def test_kinds_are_about_equally_frequent(train):
    counts = collections.Counter(sentence.kind for _, sentences in train for sentence in sentences)
    with_referent = sum(counts.values()) - counts["none"]
    for kind in ("appearance", "spatial", "temporal", "several"):
        assert 0.18 < counts[kind] / with_referent < 0.32, counts
    assert 0.4 < counts["none"] / len(train) < 0.6
    assert all(sum(sentence.kind != "none" for sentence in sentences) <= 6 for _, sentences in train)
    # One sentence per object and kind.
    for _, sentences in train:
        pairs = [(sentence.kind, sentence.instances) for sentence in sentences]
        assert len(pairs) == len(set(pairs))


def test_wording_varies_within_a_small_vocabulary(train):
    texts = [sentence.text for _, sentences in train for sentence in sentences]
    assert 40 < len({word for text in texts for word in text.split()}) < 75
    assert len(set(texts)) > 600
    assert not any(text.startswith(("a object", "an shape", "an thing")) for text in texts)


def attributes(obj):
    return {"size": obj.size, "color": obj.color, "shape": obj.shape, "motion": obj.motion}


def test_scenes_are_look_alikes(train):
    for scene, _ in train:
        objects = [attributes(obj) for obj in scene.objects]
        assert 3 <= len(objects) <= 5
        for i, first in enumerate(objects):
            differences = [
                sum(first[name] != second[name] for name in first) for j, second in enumerate(objects) if i != j
            ]
            assert min(differences) == 1


def holds_held_out(meaning):
    return (meaning.get("color"), meaning.get("shape")) in HELD_OUT_COLOR_SHAPE or (
        meaning.get("shape"),
        meaning.get("motion"),
    ) in HELD_OUT_SHAPE_MOTION


def test_held_out_combinations_stand_in_the_heldout_split_only(train, heldout):
    others = [make_scene(split, i, seed=3) for split in ("validation", "test") for i in range(50)]
    for scene, sentences in train + others:
        assert not any(holds_held_out(attributes(obj)) for obj in scene.objects)
        assert not any(holds_held_out(sentence.predicate) for sentence in sentences)
    for scene, sentences in heldout:
        referred = [scene.objects[i] for sentence in sentences for i in sentence.instances]
        assert any(holds_held_out(attributes(obj)) for obj in referred)
    # A flipped training clip must not show what is held out.
    assert not {motion for _, motion in HELD_OUT_SHAPE_MOTION} & {"left", "right"}
    # Every single value is seen in training.
    seen = {(name, value) for scene, _ in train for obj in scene.objects for name, value in attributes(obj).items()}
    assert len(seen) == 4 + 6 + 2 + 6


@pytest.mark.parametrize(("size", "num_frames"), [(64, 8), (96, 5), (64, 40)])
def test_objects_move_as_they_are_named_and_stay_in_the_picture(size, num_frames):
    for seed in range(40):
        scene = sample_scene(np.random.default_rng(seed), size, size, num_frames)
        for obj in scene.objects:
            assert obj.trajectory.shape == (num_frames, 2)
            assert obj.trajectory.min() >= 0.5 * obj.radius and obj.trajectory.max() <= size - 0.5 * obj.radius
            steps = np.diff(obj.trajectory, axis=0)
            if obj.motion == "still":
                assert not steps.any()
            elif obj.motion == "circling":
                # Always the same turn from one step to the next, and far enough to see in 4 frames.
                turns = np.diff(np.unwrap(np.arctan2(steps[:, 1], steps[:, 0])))
                assert np.allclose(turns, turns[0]) and 49 < abs(np.degrees(turns[0])) < 81
                assert np.ptp(obj.trajectory[:4], axis=0).max() > 5 * size / 64
            else:
                direction = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}[obj.motion]
                speed = np.linalg.norm(steps, axis=1)
                assert np.allclose(steps / speed[:, None], direction)
                assert speed.min() >= (2 if num_frames <= 8 else 0.8) * size / 64


def test_masks_are_the_visible_parts(train):
    for scene, _ in train[:60]:
        frames, masks = render(scene)
        assert frames.shape == (8, 64, 64, 3) and frames.dtype == np.uint8
        assert masks.shape == (8, len(scene.objects), 64, 64) and masks.dtype == bool
        assert masks.sum(axis=1).max() == 1
        for m, obj in enumerate(scene.objects):
            area = {
                "circle": np.pi,
                "square": 4 * 0.89**2,
                "triangle": 3 * np.sqrt(3) * 0.66**2,
                "cross": 4 * (2 * 1.1 * 0.4 - 0.4**2),
            }[obj.shape] * obj.radius**2
            # At least 0.4 of what is in the picture, of which at most a part lies outside.
            assert masks[:, m].sum(axis=(1, 2)).min() > 0.4 * 0.6 * area
            assert masks[:, m].sum(axis=(1, 2)).max() < 1.05 * area + 3 * obj.radius


def still(shape, color, radius, center, size="large"):
    rgb = {"red": (220, 40, 40), "blue": (40, 90, 230)}[color]
    trajectory = np.tile(np.array(center, dtype=float), (2, 1))
    return SceneObject(size, color, shape, "still", radius, np.array(rgb, dtype=float), trajectory)


def test_nearer_objects_hide_further_ones_in_mask_and_picture():
    further, nearer = still("circle", "red", 10, (30, 32)), still("circle", "blue", 10, (38, 32))
    for objects in ((further, nearer), (nearer, further)):
        frames, masks = render(Scene(64, 64, 2, 0, objects))
        column, row = np.meshgrid(np.arange(64) + 0.5, np.arange(64) + 0.5)
        discs = [np.hypot(column - x, row - y) <= 10 for x, y in (obj.trajectory[0] for obj in objects)]
        assert (masks[0, 1] == discs[1]).all()
        assert (masks[0, 0] == discs[0] & ~discs[1]).all()
        channel = {"red": 0, "blue": 2}
        for m, obj in enumerate(objects):
            dominant = frames[0].argmax(axis=-1)[masks[0, m]]
            assert (dominant == channel[obj.color]).mean() > 0.97


def test_shapes_look_like_their_names():
    for shape, corners, middle in (("square", 1, 1), ("triangle", 0, 1), ("cross", 0, 1), ("circle", 0, 1)):
        _, masks = render(Scene(64, 64, 2, 0, (still(shape, "red", 10, (32, 32)),)))
        mask = masks[0, 0]
        assert mask[32, 32] == middle
        assert mask[24, 24] == corners  # 8 up and 8 left of the center
        assert (mask == mask[:, ::-1]).all()  # a flipped clip shows the same shapes
        assert (mask == mask[::-1]).all() == (shape != "triangle")


def test_a2d_layout(tmp_path):
    root = tmp_path / "raw"
    splits = {"train": 6, "validation": 2, "test": 3, "heldout": 2}
    written = write_a2d_sentences(root, splits, seed=5)
    with open(root / "Release" / "videoset.csv", newline="") as file:
        videos = list(csv.reader(file))
    assert written["videos"] == len(videos) == 13
    assert [(row[0].split("_")[0], row[8]) for row in videos[5:8]] == [
        ("train", "0"),
        ("validation", "2"),
        ("validation", "2"),
    ]
    assert {row[0].split("_")[0]: row[8] for row in videos} == {
        "train": "0",
        "test": "1",
        "validation": "2",
        "heldout": "3",
    }
    with open(root / "text_annotations" / "a2d_annotation.txt", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["video_id", "instance_id", "query", "kind"]
    assert written["sentences"] == len(rows)
    assert (root / "text_annotations" / "a2d_missed_videos.txt").read_text() == ""

    for video_id, _, _, _, height, width, num_frames, num_annotated, _ in videos:
        assert (height, width, num_frames, num_annotated) == ("64", "64", "8", "4")
        split, index = video_id.split("_")
        scene, sentences = make_scene(split, int(index), seed=5)
        frames, masks = render(scene)
        expected = [("" if s.kind == "none" else str(s.instances[0]), s.text, s.kind) for s in sentences]
        assert [tuple(row.values())[1:] for row in rows if row["video_id"] == video_id] == expected
        reader = decord.VideoReader(str(root / "Release" / "clips320H" / f"{video_id}.mp4"), num_threads=1)
        assert len(reader) == 8 and reader.get_avg_fps() == 8
        decoded = reader.get_batch(range(8)).asnumpy()
        # Color at half resolution costs the edges; the frames must still be these, in this order.
        errors = [[np.abs(decoded[i].astype(int) - frames[j]).mean() for j in range(8)] for i in range(8)]
        assert np.diag(errors).max() < 8 and (np.argmin(errors, axis=1) == range(8)).all()
        folder = root / "text_annotations" / "a2d_annotation_with_instances" / video_id
        assert files_under(folder) == ["00001.h5", "00003.h5", "00005.h5", "00007.h5"]
        for path in folder.iterdir():
            with h5py.File(path) as file:
                assert list(file["instance"]) == list(range(len(scene.objects)))
                assert file["reMask"].shape == (len(scene.objects), 64, 64)
                t = int(path.stem) - 1
                assert (file["reMask"][:].transpose(0, 2, 1) == masks[t]).all()
                for (x1, y1, x2, y2), mask in zip(file["reBBox"], masks[t], strict=True):
                    box = np.zeros_like(mask)
                    box[int(y1) : int(y2) + 1, int(x1) : int(x2) + 1] = True
                    assert not (mask & ~box).any()
                    assert mask[int(y1)].any() and mask[int(y2)].any()
                    assert mask[:, int(x1)].any() and mask[:, int(x2)].any()


def test_a2d_mask_file_of_a_hidden_and_of_a_single_instance(tmp_path):
    masks = np.zeros((3, 6, 10), dtype=bool)
    masks[0, 1:3, 4:9] = True
    masks[2, 5, 0] = True
    write_a2d_masks(tmp_path / "two.h5", masks, np.array([4, 5, 6]))
    with h5py.File(tmp_path / "two.h5") as file:
        assert list(file["instance"]) == [0, 2] and list(file["id"]) == [4, 6]
        assert file["reMask"].shape == (2, 10, 6)
    write_a2d_masks(tmp_path / "one.h5", masks[:2], np.array([4, 5]))
    with h5py.File(tmp_path / "one.h5") as file:
        assert list(file["instance"]) == [0]
        assert file["reMask"].shape == (10, 6)
        assert (file["reMask"][:].T == masks[0]).all()
        assert file["reBBox"][:].tolist() == [[4, 1, 8, 2]]


@pytest.mark.slow
def test_same_seed_writes_the_same_bytes(tmp_path):
    splits = {"train": 20, "test": 3}
    write_a2d_sentences(tmp_path / "a", splits, seed=1)
    write_a2d_sentences(tmp_path / "b", splits, seed=1, num_proc=2)
    assert_same_bytes(tmp_path / "a", tmp_path / "b")
    # More videos in one split change none of another split or before them.
    write_a2d_sentences(tmp_path / "c", {"train": 2, "test": 4}, seed=1)
    for name in ("train_000001.mp4", "test_000002.mp4"):
        assert filecmp.cmp(*(tmp_path / x / "Release/clips320H" / name for x in "ac"), shallow=False)
    write_a2d_sentences(tmp_path / "d", {"train": 2}, seed=2)
    name = "Release/clips320H/train_000000.mp4"
    assert (tmp_path / "a" / name).read_bytes() != (tmp_path / "d" / name).read_bytes()

    write_jhmdb_sentences(tmp_path / "e", splits, seed=1)
    write_jhmdb_sentences(tmp_path / "f", splits, seed=1)
    assert_same_bytes(tmp_path / "e", tmp_path / "f")


def test_splits_share_no_scene():
    scenes = [make_scene(split, i)[0] for split in ("train", "test", "validation") for i in range(60)]
    assert len({scene.seed for scene in scenes}) == len(scenes)
    first = [tuple(scene.objects[0].trajectory.ravel()) for scene in scenes]
    assert len(set(first)) == len(scenes)


def test_jhmdb_layout(tmp_path):
    root = tmp_path / "raw"
    written = write_jhmdb_sentences(root, {"test": 4, "heldout": 2}, seed=2, num_frames=5)
    assert written == {"videos": 6, "sentences": 6}
    with open(root / "jhmdb_annotation.txt", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["video_id", "query"]
    heldout = ["heldout_000000", "heldout_000001"]
    assert [row["video_id"] for row in rows] == [f"test_{i:06d}" for i in range(4)] + heldout
    for row in rows:
        split, index = row["video_id"].split("_")
        scene, sentences = make_scene(split, int(index), seed=2, num_frames=5)
        frames, masks = render(scene)
        sentence = next(sentence for sentence in sentences if sentence.text == row["query"])
        (referent,) = sentence.instances
        (folder,) = root.glob(f"Rename_Images/*/{row['video_id']}")
        assert files_under(folder) == [f"{t:05d}.png" for t in range(1, 6)]
        for t in range(5):
            assert (np.array(Image.open(folder / f"{t + 1:05d}.png")) == frames[t]).all()
        mat = root / "puppet_mask" / folder.parent.name / row["video_id"] / "puppet_mask.mat"
        assert (scipy.io.loadmat(mat)["part_mask"].transpose(2, 0, 1) == masks[:, referent]).all()


def test_bad_arguments_say_what_is_wrong(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").write_text("mine")
    for write in (write_a2d_sentences, write_jhmdb_sentences):
        with pytest.raises(FileExistsError, match="full exists and is not an empty folder"):
            write(tmp_path / "full", {"train": 1})
        with pytest.raises(ValueError, match="unknown split 'dev', splits are train, test, validation, heldout"):
            write(tmp_path / "new", {"dev": 1})
        with pytest.raises(ValueError, match="every split has 0 videos"):
            write(tmp_path / "new", {"train": 0})
        with pytest.raises(ValueError, match="'test' must have 0 or more videos, got -1"):
            write(tmp_path / "new", {"train": 2, "test": -1})
        with pytest.raises(ValueError, match="size must be even"):
            write(tmp_path / "new", {"train": 1}, size=65)
        with pytest.raises(ValueError, match="at least 32 pixels"):
            write(tmp_path / "new", {"train": 1}, size=16)
        with pytest.raises(ValueError, match="num_frames must be at least 2"):
            write(tmp_path / "new", {"train": 1}, num_frames=1)
        with pytest.raises(ValueError, match="num_proc must be at least 1"):
            write(tmp_path / "new", {"train": 1}, num_proc=0)
        assert not (tmp_path / "new").exists()
    with pytest.raises(ValueError, match="decord cannot read videos exactly 48 or 72 pixels wide"):
        write_a2d_sentences(tmp_path / "new", {"train": 1}, size=48)
    with pytest.raises(ValueError, match="annotate_every must be at least 1"):
        write_a2d_sentences(tmp_path / "new", {"train": 1}, annotate_every=0)


@pytest.mark.slow
def test_script(tmp_path, monkeypatch, capsys):
    command = [sys.executable, "scripts/make_synthetic.py", "--output", str(tmp_path / "raw"), "--num-proc", "1"]
    command += ["--train", "3", "--heldout", "1", "--frames", "4", "--size", "32"]
    environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
    first = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith("Wrote 4 videos (3 train, 1 heldout) with ") and first.stdout.count("\n") == 1
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", command[1:])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path("scripts/make_synthetic.py", run_name="__main__")
    assert stopped.value.code == 2 and "is not an empty folder" in capsys.readouterr().err
