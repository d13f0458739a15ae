"""Composites against a painter that goes pixel by pixel, against the source's own files, and against their words."""

import colorsys
import json
import re
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from datasets import load_dataset
from PIL import Image

from factories import ROOT, SHARED
from modeling_cvls.data import FEATURES, read_frames, read_masks
from modeling_cvls.synthetic import (
    composites,
    make_composite,
    read_catalog,
    write_composites,
    write_refer_youtube_vos,
)

REAL_DAVIS = SHARED / "real_data" / "ref_davis"
NAMES = ROOT / "configs" / "ref_davis_names.json"
# Of the halves of the flat source: what surrounds the object, and the object itself.
GRAYS = {"first": (20, 90), "second": (255, 225)}


@pytest.fixture(scope="module")
def flat(tmp_path_factory) -> tuple[Path, dict]:
    """Four videos of 12 frames, every second one annotated: a gray box on gray, another gray in the second half."""
    root = tmp_path_factory.mktemp("flat")
    videos, names = {}, {}
    for number, noun in enumerate(["box", "crate", "chest", "parcel"]):
        video = f"video{number}"
        (root / "train" / "JPEGImages" / video).mkdir(parents=True)
        (root / "train" / "Annotations" / video).mkdir(parents=True)
        for t in range(12):
            around, inside = GRAYS["first" if t < 6 else "second"]
            mask = np.zeros((60, 100), dtype=np.uint8)
            mask[15:45, 20 + 2 * t : 40 + 10 * number + 2 * t] = 1
            picture = np.where(mask, inside, around).astype(np.uint8)
            Image.fromarray(picture).convert("RGB").save(
                root / "train" / "JPEGImages" / video / f"{t:05d}.jpg", quality=98
            )
            if t % 2 == 0:
                image = Image.fromarray(mask)
                image.putpalette([0, 0, 0, 255, 0, 0])
                image.save(root / "train" / "Annotations" / video / f"{t:05d}.png")
        expressions = {"0": {"exp": f"the gray {noun}", "obj_id": "1"}}
        videos[video] = {"expressions": expressions, "frames": [f"{t:05d}" for t in range(12)]}
        names[video] = {"1": noun, "*": ["bag", "parcel"] if number < 2 else []}
    meta = root / "meta_expressions" / "train"
    meta.mkdir(parents=True)
    (meta / "meta_expressions.json").write_text(json.dumps({"videos": videos}))
    return root, names


@pytest.fixture(scope="module")
def several(tmp_path_factory) -> tuple[Path, dict]:
    """Synthetic scenes with several objects a video, each with a name of its own."""
    root = tmp_path_factory.mktemp("several") / "raw"
    write_refer_youtube_vos(root, {"train": 5}, seed=1, num_frames=12)
    names = {f"train_{number:06d}": {str(obj): f"thing{number}{obj}" for obj in range(1, 10)} for number in range(5)}
    return root, names


@pytest.fixture(scope="module")
def davis() -> tuple[Path, dict]:
    if not REAL_DAVIS.is_dir():
        pytest.skip(f"{REAL_DAVIS} is absent")
    return REAL_DAVIS, json.loads(NAMES.read_text())


def catalog_of(source):
    return read_catalog(source[0], json.dumps(source[1], sort_keys=True))


def sources(*names):
    return pytest.mark.parametrize("source", names, indirect=True)


@pytest.fixture
def source(request):
    return request.getfixturevalue(request.param)


def whole_mask(obj, t, height, width) -> np.ndarray:
    """Where an object would show were it alone, in a picture with a wide margin around it."""
    margin = 200
    alone = np.zeros((height + 2 * margin, width + 2 * margin), dtype=bool)
    (x, y), patch = obj.corners[t] + margin, obj.patches[t]
    alone[y : y + patch.shape[0], x : x + patch.shape[1]] = patch[..., 3] >= 128
    return alone


@sources("flat", "several", "davis")
def test_render_is_the_painters_algorithm(source):
    composite, _ = make_composite(catalog_of(source), "train", 3, height=40, width=64, num_frames=4)
    frames, masks = composites.render(composite)
    for t, y, x in np.ndindex(4, 40, 64):
        color, owner = composite.background[t, y, x].astype(float), None
        for number, obj in enumerate(composite.objects):
            column, row = x - obj.corners[t][0], y - obj.corners[t][1]
            height, width = obj.patches[t].shape[:2]
            if 0 <= row < height and 0 <= column < width:
                *rgb, cover = obj.patches[t][row, column].tolist()
                color += cover / 255 * (rgb - color)
                owner = number if cover >= 128 else owner
        assert np.abs(frames[t, y, x] - color).max() <= 0.51
        assert masks[t, : len(composite.objects), y, x].tolist() == [m == owner for m in range(len(composite.objects))]
        behind = composite.background_masks[t, :, y, x] & (owner is None)
        assert masks[t, len(composite.objects) :, y, x].tolist() == behind.tolist()


def test_cut_outs_and_backgrounds_are_those_of_the_source(davis):
    catalog, folder = catalog_of(davis), davis[0] / "valid"
    for index in range(6):
        composite, _ = make_composite(catalog, "train", index)
        for obj in composite.objects:
            for name, patch in list(zip(obj.frames, obj.patches, strict=True))[::3]:
                mask = np.asarray(Image.open(folder / "Annotations" / obj.video / f"{name}.png")) == int(obj.object_id)
                rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
                box = Image.fromarray(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
                expected = np.asarray(box.resize(patch.shape[1::-1], Image.Resampling.NEAREST))
                ious = [
                    (shown & (patch[..., 3] >= 128)).sum() / (shown | (patch[..., 3] >= 128)).sum()
                    for shown in (expected, expected[:, ::-1])
                ]
                assert max(ious) > 0.8
        for name, frame in list(zip(composite.background_frames, composite.background, strict=True))[::3]:
            picture = Image.open(folder / "JPEGImages" / composite.video / f"{name}.jpg")
            side = picture.height * 160 / 96
            box = ((picture.width - side) / 2, 0, (picture.width + side) / 2, picture.height)
            assert np.abs(np.asarray(picture.resize((160, 96), box=box)).astype(int) - frame).mean() < 6


NEAREST = {"red": 0, "yellow": 50, "green": 126, "blue": 225, "purple": 285}  # degrees of hue
SIZES = {"small": "small", "smaller": "small", "smallest": "small"} | dict.fromkeys(
    ("large", "larger", "largest", "big", "bigger"), "large"
)


def parse(text: str, nouns: set[str]) -> dict[str, str]:
    """What a sentence states, from its words alone."""
    stated = {}
    words = text.split()
    if re.search(r"mov|going|heading|stay", text):
        direction = re.search(r"left|right|up|down", text)
        stated["motion"] = direction[0] if direction else "still"
    elif side := re.search(r"left|right", text):
        stated["position"] = side[0]
    for word in words:
        if word in SIZES:
            stated["size"] = SIZES[word]
        if word in NEAREST:
            stated["color"] = word
        if word in nouns:
            stated["noun"] = word
    return stated


def seen(obj) -> dict:
    """What can be measured of an object as it was placed."""
    masks = [whole_mask(obj, t, 96, 160) for t in range(len(obj.patches))]
    centers = np.array([np.argwhere(mask).mean(axis=0) for mask in masks])
    shift = centers[-1] - centers[0]
    axis = int(np.abs(shift).argmax())
    steps = np.diff(centers[:, axis])
    if np.abs(shift).max() < 3:
        motion = "still"
    else:
        assert (np.sign(shift[axis]) * steps > 0.2).all()  # all the time
        assert np.abs(shift[1 - axis]) < 3  # and nowhere else
        motion = (("up", "down"), ("left", "right"))[axis][int(shift[axis] > 0)]
    pixels = np.concatenate([patch[patch[..., 3] >= 250][:, :3] for patch in obj.patches])
    hue = 360 * colorsys.rgb_to_hsv(*(pixels.mean(axis=0) / 255).tolist())[0]
    nearest = min(NEAREST, key=lambda name: min(abs(hue - NEAREST[name]), 360 - abs(hue - NEAREST[name])))
    color = nearest if obj.color else None
    return {"motion": motion, "color": color, "x": centers[:, 1], "areas": np.array([m.sum() for m in masks])}


def fits(stated: dict, measured: list[dict], nouns: list) -> list[int]:
    """The objects that a sentence may mean."""
    fitting = [
        m
        for m, properties in enumerate(measured)
        if stated["noun"] in nouns[m]
        and properties["motion"] == stated.get("motion", properties["motion"])
        and (properties["color"] is None or properties["color"] == stated.get("color", properties["color"]))
    ]
    if len(fitting) > 1 and "size" in stated:
        sign = 1 if stated["size"] == "small" else -1
        return [fitting[np.argmin([sign * measured[m]["areas"].mean() for m in fitting])]]
    if len(fitting) > 1 and "position" in stated:
        sign = 1 if stated["position"] == "left" else -1
        return [fitting[np.argmin([sign * measured[m]["x"].mean() for m in fitting])]]
    return fitting


@sources("several", "davis")
@pytest.mark.parametrize("split", ["train", "heldout"])
def test_every_sentence_fits_its_referent_and_nothing_else(source, split):
    catalog = catalog_of(source)
    all_nouns = {noun for objects in catalog.nouns.values() for nouns in objects.values() for noun in nouns}
    kinds = set()
    for index in range(15):
        composite, sentences = make_composite(catalog, split, index)
        nouns = [catalog.nouns[obj.video][obj.object_id] for obj in composite.objects]
        named = source[1][composite.video].values()
        of_background = {noun for own in named for noun in ([own] if isinstance(own, str) else own)}
        measured = [seen(obj) for obj in composite.objects]
        for properties, obj in zip(measured, composite.objects, strict=True):
            pairs = {(noun, value) for noun in obj.nouns for value in (obj.color, obj.motion)} & catalog.held_out
            assert not pairs or split == "heldout"
            assert (properties["motion"], properties["color"]) == (obj.motion, obj.color)
        for number, sentence in enumerate(sentences):
            stated = parse(sentence.text, all_nouns)
            assert fits(stated, measured, nouns) == list(sentence.instances), (index, sentence.text)
            assert stated["noun"] not in of_background
            kinds.add(sentence.kind)
            pairs = {(stated["noun"], stated.get(name)) for name in ("color", "motion")} & catalog.held_out
            assert not pairs or split == "heldout"
            if number == 0:  # tells the look-alikes apart, by what is held out where something is
                first, second, difference = composite.pair
                assert sentence.instances[0] in (first, second) and difference in stated
                assert fits({"noun": stated["noun"]}, measured, nouns) != list(sentence.instances)
                owner = composite.objects[sentence.instances[0]]
                held_out = {(noun, getattr(owner, difference, None)) for noun in owner.nouns} & catalog.held_out
                assert bool(held_out) == (split == "heldout")
    assert kinds >= {"appearance", "spatial", "temporal", "none"}


@sources("several", "davis")
def test_look_alikes_differ_in_one_thing(source):
    catalog = catalog_of(source)
    differences = set()
    for index in range(12):
        composite, _ = make_composite(catalog, "train", index)
        one, other = (composite.objects[m] for m in composite.pair[:2])
        differences.add(composite.pair[2])
        assert (one.video, one.object_id, one.frames) == (other.video, other.object_id, other.frames)
        same = {
            "size": one.areas.max() < 1.5 * other.areas.min()
            and other.areas.max() < 1.5 * one.areas.min()
            or (one.areas == other.areas).all(),
            "color": one.color == other.color,
            "motion": one.motion == other.motion,
        }
        assert [name for name in same if not same[name]] == [name for name in same if name == composite.pair[2]]
        if composite.pair[2] in ("motion", "position"):
            assert all((a == b).all() for a, b in zip(one.patches, other.patches, strict=True))
        assert composite.video not in {obj.video for obj in composite.objects}
    assert len(differences) > 2


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("data/*.parquet"))}


@pytest.fixture(scope="module")
def written(flat, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("written") / "dataset"
    splits = {"train": 6, "validation": 2, "test": 3, "heldout": 2}
    write_composites(*(flat[0], folder, flat[1], splits), height=48, width=64, num_frames=5)
    return folder


def test_halves_never_mix(written):
    dataset = load_dataset(str(written))
    counts = {"train": 6, "validation": 2, "test": 3, "heldout": 2, "real_train": 4, "real": 4}
    assert {split: len(rows) for split, rows in dataset.items()} == counts
    for split, rows in dataset.items():
        for row in rows:
            indices = range(row["num_frames"])
            frames, (masks, _, _) = read_frames(row, indices), read_masks(row, indices)
            # Both grays of the first half are dark and both of the second are light; tints are neither.
            light, dark = (frames > 200).all(axis=3), (frames < 110).all(axis=3)
            surely = light if split in ("train", "validation", "real_train") else dark
            assert not surely.any()
            assert (~masks.any(axis=1) & (dark if surely is light else light)).mean() > 0.3


def test_what_is_around_is_no_background_for_the_same(flat):
    catalog = catalog_of(flat)
    backgrounds = {"parcel": set(), "box": set()}
    for index in range(40):
        composite, sentences = make_composite(catalog, "test", index, height=32, width=48, num_frames=3)
        for noun in {obj.nouns[0] for obj in composite.objects} & backgrounds.keys():
            backgrounds[noun].add(composite.video)
        # The first two videos show parcels and bags that are not marked.
        assert composite.video not in ("video0", "video1") or not any(
            word in sentence.text for word in ("parcel", "bag") for sentence in sentences
        )
    assert backgrounds == {"parcel": {"video2"}, "box": {"video1", "video2", "video3"}}


def test_large_frames_are_read_smaller(flat):
    video = catalog_of(flat).videos["video0"]
    large, small = (composites._read_half(video, False, shortest) for shortest in (60, 20))
    assert small.frames.shape == (3, 20, 34, 3) and small.labels.shape == (3, 20, 34)
    expected = large.frames[:, :, :99].reshape(3, 20, 3, 33, 3, 3).mean(axis=(2, 4))
    assert np.abs(small.frames[:, :, :33] - expected).max() <= 1
    most = large.labels[:, :, :99].reshape(3, 20, 3, 33, 3).mean(axis=(2, 4)) > 0.5
    assert (small.labels[:, :, :33] == most).all()


def test_real_splits_are_the_untouched_halves(written, flat):
    dataset = load_dataset(str(written))
    for split, names in {"real_train": ("00000", "00002", "00004"), "real": ("00006", "00008", "00010")}.items():
        for row in dataset[split]:
            folder = flat[0] / "train" / "JPEGImages" / row["video_id"]
            assert [frame["bytes"] for frame in row["frames"]] == [
                (folder / f"{name}.jpg").read_bytes() for name in names
            ]
            masks, annotated, _ = read_masks(row, range(3))
            assert row["num_frames"] == 3 and annotated.all()
            for mask, name in zip(masks, names, strict=True):
                image = Image.open(flat[0] / "train" / "Annotations" / row["video_id"] / f"{name}.png")
                assert (mask[0] == (np.asarray(image) == 1)).all()
            noun = flat[1][row["video_id"]]["1"]
            assert [(sentence["text"], sentence["kind"], sentence["instances"]) for sentence in row["sentences"]] == [
                (f"the gray {noun}", "expression", [0]),
                (f"the {noun}", "noun", [0]),
            ]


def test_same_seed_same_bytes(written, flat, tmp_path):
    splits = {"train": 6, "validation": 2, "test": 3, "heldout": 2}
    size = {"height": 48, "width": 64, "num_frames": 5, "num_proc": 2}
    for folder, seed in (("again", 0), ("other", 1)):
        write_composites(flat[0] / "train", tmp_path / folder, flat[1], splits, seed, **size)
    again, other = shards(tmp_path / "again"), shards(tmp_path / "other")
    assert again == shards(written)
    assert other.keys() == again.keys()
    assert all((other[name] == again[name]) == name.startswith("real") for name in again)


def run_script(monkeypatch, *arguments) -> None:
    monkeypatch.setattr(sys, "argv", ["make_composites.py", *map(str, arguments)])
    runpy.run_path(str(ROOT / "scripts" / "make_composites.py"), run_name="__main__")


def test_script_on_real_videos(davis, monkeypatch, tmp_path, capsys):
    arguments = ["--train", 4, "--validation", 1, "--test", 2, "--heldout", 0, "--num-proc", 1]
    run_script(monkeypatch, "--source", davis[0], "--names", NAMES, "--output", tmp_path / "out", *arguments)
    assert "clips a second" in capsys.readouterr().out
    dataset = load_dataset(str(tmp_path / "out"))
    assert dataset["train"].features == FEATURES and len(dataset["real"]) == len(davis[1])
    for row in dataset["train"]:
        composite, sentences = make_composite(catalog_of(davis), "train", int(row["video_id"][-6:]))
        frames, masks = composites.render(composite)
        assert (read_masks(row, range(8))[0] == masks).all()
        assert np.abs(read_frames(row, range(8)).astype(int) - frames).mean() < 4
        assert [sentence["text"] for sentence in row["sentences"]] == [sentence.text for sentence in sentences]
        assert len(row["instance_ids"]) == masks.shape[1] == len(composite.objects) + 1


def test_wrong_inputs_are_named(flat, tmp_path):
    root, names = flat
    splits = {"train": 1}

    def write(source, names, match, error=ValueError, splits=splits, **arguments):
        with pytest.raises(error, match=match):
            write_composites(source, tmp_path / "out", names, splits, **arguments)
        assert not (tmp_path / "out").exists()

    lacking = {video: objects for video, objects in names.items() if video != "video2"}
    write(root, lacking, r"'video2'.*object 1 is called.*the gray chest")
    write(root, names | {"video1": {"1": 3}}, "not json of the form")
    write(root, names, "unknown split 'tset'", splits={"tset": 1})
    write(root, names, "num_frames must be at least 2", num_frames=1)
    write(tmp_path, names, "meta_expressions.json", FileNotFoundError)
    write(root, names | {"video1": {"1": ["crate", " "]}}, r"'video1'.*object 1 is called")
    write(root, {video: {"1": "box"} for video in names}, "another video whose own objects have other names")
    # An object that no sentence speaks of must have a name as well: a sentence on another one must not fit it.
    shutil.copytree(root, tmp_path / "more")
    for path in (tmp_path / "more" / "train" / "Annotations").rglob("*.png"):
        image = Image.open(path)
        image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
        image.putpixel((0, 0), 2)
        image.save(path)
    write(tmp_path / "more", names, "object 2 has a mask but no name")
    paths = [tmp_path / "more" / "train" / "JPEGImages" / video / "00000.jpg" for video in names]
    paths[2].write_bytes(paths[2].read_bytes()[:200])
    write(tmp_path / "more", {video: {"1": noun["1"], "2": "dot"} for video, noun in names.items()}, str(paths[2]))
