"""Composites against a painter that goes pixel by pixel, against the source's own files, and against their words."""

import json
import runpy
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from datasets import load_dataset
from PIL import Image

from cvls import main
from factories import ROOT, catalog_of, folders_of, on_sources
from modeling_cvls.composites import (
    make_composite,
    possible_referents,
    read_catalog,
    render_composite,
    rows,
    write_composites,
)
from modeling_cvls.composites.catalog import read_footage
from modeling_cvls.composites.compositing import filling_box
from modeling_cvls.data import FEATURES, read_frames, read_masks


@on_sources("flat", "several", "davis")
def test_render_is_the_painters_algorithm(source):
    composite, _ = make_composite(catalog_of(source), "train", 3, height=40, width=64, num_frames=4)
    frames, masks = render_composite(composite)
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


def test_a_single_picture_shows_nothing_that_moves(flat):
    catalog = catalog_of(flat)
    for index in range(40):
        composite, sentences = make_composite(catalog, "train", index, height=48, width=64, num_frames=1)
        assert {obj.motion for obj in composite.objects} == {"still"}
        assert "temporal" not in {sentence.kind for sentence in sentences}


def test_cut_outs_and_backgrounds_are_those_of_the_source(davis):
    catalog, folder = catalog_of(davis), davis[0] / "valid"
    for index in range(6):
        composite, _ = make_composite(catalog, "train", index)
        for obj in composite.objects:
            for name, patch in list(zip(obj.frames, obj.patches, strict=True))[::3]:
                mask = np.asarray(Image.open(folder / "Annotations" / obj.source / f"{name}.png")) == int(obj.object_id)
                rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
                box = Image.fromarray(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
                expected = np.asarray(box.resize(patch.shape[1::-1], Image.Resampling.NEAREST))
                ious = [
                    (shown & (patch[..., 3] >= 128)).sum() / (shown | (patch[..., 3] >= 128)).sum()
                    for shown in (expected, expected[:, ::-1])
                ]
                assert max(ious) > 0.8
        for name, frame in list(zip(composite.background_frames, composite.background, strict=True))[::3]:
            picture = Image.open(folder / "JPEGImages" / composite.source / f"{name}.jpg")
            side = picture.height * 160 / 96
            box = ((picture.width - side) / 2, 0, (picture.width + side) / 2, picture.height)
            assert np.abs(np.asarray(picture.resize((160, 96), box=box)).astype(int) - frame).mean() < 6


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("data/*.parquet"))}


@pytest.fixture(scope="module")
def written(flat, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("written") / "dataset"
    splits = {"train": 6, "validation": 2, "test": 3, "heldout": 2}
    write_composites(folders_of(flat), folder, splits, height=48, width=64, num_frames=5)
    return folder


def test_a_stopped_run_goes_on(written, flat, tmp_path, monkeypatch, capsys):
    splits = {"train": 6, "validation": 2, "test": 3, "heldout": 2}
    made = []

    def stopping(catalog, split, index, *arguments):
        if len(made) == 5:
            raise ValueError("stopped")
        made.append((split, index))
        return make_composite(catalog, split, index, *arguments)

    monkeypatch.setattr(rows, "SHARD_BYTES", 1)  # one clip in each
    monkeypatch.setattr(rows, "make_composite", stopping)
    arguments = {"height": 48, "width": 64, "num_frames": 5}
    with pytest.raises(ValueError, match="stopped"):
        write_composites(folders_of(flat), tmp_path / "out", splits, **arguments)
    assert not (tmp_path / "out").exists()
    made.clear()
    monkeypatch.setattr(rows, "make_composite", lambda *of: made.append(of[1:3]) or make_composite(*of))
    write_composites(folders_of(flat), tmp_path / "out", splits, **arguments)
    assert len(made) == 13 - 3 and "Going on" in capsys.readouterr().out
    for split, expected in load_dataset(str(written)).items():
        assert load_dataset(str(tmp_path / "out"), split=split).to_list() == expected.to_list()


@pytest.mark.slow
def test_a_filling_box_is_inside_at_all_sizes():
    shapes = [(240, 427), (480, 854), (360, 640), (320, 240), (427, 320), (1080, 1920), (101, 33), (270, 640)]
    for of_height, of_width in shapes:
        picture = Image.new("L", (of_width, of_height))
        for height in range(32, 513, 7):
            for width in range(32, 513, 7):
                for share, at in ((1.0, (0.5, 0.5)), (0.83, (1.0, 0.0))):
                    left, top, right, bottom = filling_box(of_height, of_width, height, width, share, at)
                    assert 0 <= left < right <= of_width and 0 <= top < bottom <= of_height
                    assert (right - left) / (bottom - top) == pytest.approx(width / height)
                    full = (right - left) / of_width, (bottom - top) / of_height
                    assert max(full) == pytest.approx(share)
                picture.resize((1, 1), Image.Resampling.NEAREST, (left, top, right, bottom))


def test_stills_join_the_sources(flat, stills):
    catalog = read_catalog(folders_of(flat, stills=stills, divide="source"))
    shown = {"train": set(), "test": set()}
    colors, moved, panned = set(), 0, 0
    for split in shown:
        for index in range(25):
            composite, sentences = make_composite(catalog, split, index, height=48, width=80, num_frames=4)
            shown[split] |= {composite.source, *(obj.source for obj in composite.objects)}
            for obj in composite.objects:
                if obj.source.startswith("picture"):
                    # the second one is white, and so is what surrounds the first, which is red
                    colors |= set() if obj.tinted else {(obj.object_id, obj.color)}
                    moved += any(a.shape != b.shape for a, b in zip(obj.patches, obj.patches[1:], strict=False))
            panned += bool((composite.background[0] != composite.background[-1]).any())
            for sentence in sentences:
                # the box without a breed may be of any, so no sentence on a breed is sure to leave it out
                breeds = [word for word in sentence.text.split() if word.startswith("breed")]
                pets = [obj for obj in composite.objects if obj.object_id == "2" and obj.source.startswith("picture")]
                for breed in breeds if sentence.instances else ():
                    named = {"noun": breed, **{k: v for k, v in sentence.predicate.items() if k != "noun"}}
                    assert possible_referents(composite, named) == list(sentence.instances)
                    assert all(breed not in obj.nouns for obj in pets)
    assert colors == {("1", "red"), ("2", "white")}
    assert moved and panned
    held_out = {"picture07", "picture15"}
    assert shown["test"] <= held_out and not shown["train"] & held_out
    assert not shown["test"] & shown["train"]


def test_stills_and_links_stay_in_their_folders(flat, stills, tmp_path, capsys):
    shutil.copytree(stills, tmp_path / "stills")
    content = json.loads((stills / "objects.json").read_text())
    named = {**content, "../x": next(iter(content.values()))}
    (tmp_path / "stills" / "objects.json").write_text(json.dumps(named))
    with pytest.raises(ValueError, match=r"objects.json: the id of a picture is '../x', but it must be a plain name"):
        read_catalog(folders_of(flat, stills=tmp_path / "stills"))
    (tmp_path / "stills" / "objects.json").unlink()
    (tmp_path / "stills" / "objects.json").symlink_to(stills / "objects.json")
    (tmp_path / "names.json").write_text(json.dumps(flat[1]))
    with pytest.raises(SystemExit):
        main(["compose", "--source", str(flat[0]), "--names", str(tmp_path / "names.json"), "--stills",
              str(tmp_path / "stills"), "--output", str(tmp_path / "out")])  # fmt: skip
    assert "objects.json is a link to" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_single_name_may_stand_for_others(flat, stills):
    catalog = read_catalog(folders_of(flat, stills=stills))
    assert catalog.possible_nouns["picture05"]["2"] == {"pet2", "breed2", "breed5", "breed8", "breed11", "breed14"}
    assert catalog.possible_nouns["picture05"]["1"] == {"pet2", "breed5"}
    assert catalog.possible_nouns["video1"]["1"] == {"crate"}


def test_halves_never_mix(written):
    dataset = load_dataset(str(written))
    counts = {"train": 6, "validation": 2, "test": 3, "heldout": 2, "real_train": 4, "real": 4}
    assert {split: len(of_split) for split, of_split in dataset.items()} == counts
    for split, of_split in dataset.items():
        for row in of_split:
            indices = range(row["num_frames"])
            frames, (masks, _, _) = read_frames(row, indices), read_masks(row, indices)
            # Both grays of the first half are dark and both of the second are light; tints are neither.
            light, dark = (frames > 200).all(axis=3), (frames < 110).all(axis=3)
            surely = light if split in ("train", "validation", "real_train") else dark
            assert not surely.any()
            assert (~masks.any(axis=1) & (dark if surely is light else light)).mean() > 0.3


@pytest.mark.slow
def test_what_is_around_is_no_background_for_the_same(flat):
    catalog = catalog_of(flat)
    backgrounds = {"parcel": set(), "box": set()}
    for index in range(40):
        composite, sentences = make_composite(catalog, "test", index, height=32, width=48, num_frames=3)
        for noun in {obj.nouns[0] for obj in composite.objects} & backgrounds.keys():
            backgrounds[noun].add(composite.source)
        # The first two videos show parcels and bags that are not marked.
        assert composite.source not in ("video0", "video1") or not any(
            word in sentence.text for word in ("parcel", "bag") for sentence in sentences
        )
    assert backgrounds == {"parcel": {"video2"}, "box": {"video1", "video2", "video3"}}


def test_large_frames_are_read_smaller(flat):
    source = catalog_of(flat).sources["video0"]
    footage = [read_footage(source, 0, 3, shortest) for shortest in (60, 20)]
    frames = [np.stack([of.picture(t) for t in range(3)]) for of in footage]
    labels = [np.stack([of.labels(t) for t in range(3)]) for of in footage]
    assert frames[1].shape == (3, 20, 34, 3) and labels[1].shape == (3, 20, 34)
    expected = frames[0][:, :, :99].reshape(3, 20, 3, 33, 3, 3).mean(axis=(2, 4))
    assert np.abs(frames[1][:, :, :33] - expected).max() <= 1
    most = labels[0][:, :, :99].reshape(3, 20, 3, 33, 3).mean(axis=(2, 4)) > 0.5
    assert (labels[1][:, :, :33] == most).all()
    for of, shown in zip(footage, labels, strict=True):
        assert of.areas.tolist() == [shown.sum(axis=(1, 2)).tolist()]
        for t, (top, bottom, left, right) in enumerate(of.boxes[0]):
            rows, columns = np.nonzero(shown[t])
            assert (top, bottom, left, right) == (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1)


def test_masks_of_void_alone_are_refused(flat, tmp_path):
    source = catalog_of(flat).sources["video0"]
    for level, mask in enumerate(source.masks[:2]):
        Image.fromarray(np.where(np.asarray(Image.open(mask)) > 0, 255 - level, 0).astype(np.uint8)).save(
            tmp_path / f"{level}.png"
        )
    masks = [tmp_path / "0.png", tmp_path / "1.png"]
    with pytest.raises(ValueError, match="0.png: the masks hold only 0 and 255, and 255 is void"):
        read_footage(replace(source, masks=(masks[0],), frames=source.frames[:1]), 0, 1, 60)
    assert read_footage(replace(source, masks=tuple(masks), frames=source.frames[:2]), 0, 2, 60).ids == ("254",)


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


@pytest.mark.slow
def test_same_seed_same_bytes(written, flat, tmp_path):
    splits = {"train": 6, "validation": 2, "test": 3, "heldout": 2}
    size = {"height": 48, "width": 64, "num_frames": 5, "num_proc": 2}
    for folder, seed in (("again", 0), ("other", 1)):
        write_composites(folders_of(flat[0] / "train", flat[1]), tmp_path / folder, splits, seed, **size)
    again, other = shards(tmp_path / "again"), shards(tmp_path / "other")
    assert again == shards(written)
    assert other.keys() == again.keys()
    assert all((other[name] == again[name]) == name.startswith("real") for name in again)


def run_script(monkeypatch, *arguments) -> None:
    monkeypatch.setattr(sys, "argv", ["make_composites.py", *map(str, arguments)])
    runpy.run_path(str(ROOT / "scripts" / "make_composites.py"), run_name="__main__")


@pytest.mark.slow
def test_script_on_real_videos(davis, monkeypatch, tmp_path, capsys):
    arguments = ["--train", 4, "--validation", 1, "--test", 2, "--heldout", 0, "--num-proc", 1]
    run_script(
        monkeypatch,
        "--source",
        davis[0],
        "--names",
        ROOT / "configs" / "ref_davis_names.json",
        "--output",
        tmp_path / "out",
        *arguments,
    )
    assert "clips per second" in capsys.readouterr().out
    dataset = load_dataset(str(tmp_path / "out"))
    assert dataset["train"].features == FEATURES and len(dataset["real"]) == len(davis[1])
    for row in dataset["train"]:
        composite, sentences = make_composite(catalog_of(davis), "train", int(row["video_id"][-6:]))
        frames, masks = render_composite(composite)
        assert (read_masks(row, range(8))[0] == masks).all()
        assert np.abs(read_frames(row, range(8)).astype(int) - frames).mean() < 4
        assert [sentence["text"] for sentence in row["sentences"]] == [sentence.text for sentence in sentences]
        assert len(row["instance_ids"]) == masks.shape[1] == len(composite.objects) + 1


def test_wrong_inputs_are_named(flat, tmp_path):
    root, names = flat
    splits = {"train": 1}

    def write(source, names, match, error=ValueError, splits=splits, **arguments):
        with pytest.raises(error, match=match):
            write_composites(folders_of(source, names), tmp_path / "out", splits, **arguments)
        assert not (tmp_path / "out").exists()

    lacking = {video: objects for video, objects in names.items() if video != "video2"}
    write(root, lacking, r"'video2'.*object 1 is called.*the gray chest")
    write(root, names | {"video1": {"1": 3}}, "not json of the form")
    write(root, names, "unknown split 'tset'", splits={"tset": 1})
    write(root, names, "num_frames must be at least 2", num_frames=1)
    write(tmp_path, names, "meta_expressions.json", FileNotFoundError)
    write(root, names | {"video1": {"1": ["crate", " "]}}, r"'video1'.*object 1 is called")
    write(root, {video: {"1": "box"} for video in names}, "whose own objects have other names")
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
