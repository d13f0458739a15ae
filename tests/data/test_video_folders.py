"""Converts trees of Refer-YouTube-VOS, Ref-DAVIS17 and MeViS with the originals' quirks, and looks at every mask."""

import io
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
from pycocotools import mask as coco_mask

from factories import ROOT, SHARED
from modeling_cvls.cli import convert as command
from modeling_cvls.conversion import json_values, mevis, ref_davis17, refer_youtube_vos
from modeling_cvls.data import FEATURES, read_frames, read_masks
from modeling_cvls.synthetic import make_scene, render, write_mevis, write_ref_davis17, write_refer_youtube_vos
from modeling_cvls.synthetic.sentences import describe_by_annotators, describe_together, referents

REAL = SHARED / "real_data"
HEIGHT, WIDTH = 30, 44
JUNK = b"left by a Mac"


def convert(source_module, source, output, *arguments):
    name = source_module.__name__.split(".")[-1]
    command.main([name, "--source", str(source), "--output", str(output), "--num-proc", "1", *arguments])
    return load_dataset(str(output), cache_dir=str(output.parent / "cache"))


def left_out(output):
    return [json.loads(line) for line in (output / "left_out.jsonl").read_text().splitlines()]


def decode(row):
    """Masks of the annotated frames, (A, M, H, W), by pycocotools alone."""
    size = [row["height"], row["width"]]
    return np.array(
        [[coco_mask.decode({"size": size, "counts": counts}) for counts in frame] for frame in row["masks"]]
    )


def write_frames(folder, names, height=HEIGHT, width=WIDTH):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        picture = np.random.default_rng(int(name)).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(picture).save(folder / f"{name}.jpg", quality=95)


def write_indices(path, indices, palette=True):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(indices)
    if palette:
        image.putpalette(np.random.default_rng(0).integers(0, 256, 768).tolist())
    image.save(path)


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def edit_json(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def some_indices(seed, values):
    return np.random.default_rng(seed).choice(np.array([0, *values], dtype=np.uint8), (HEIGHT, WIDTH))


# Refer-YouTube-VOS and Ref-DAVIS17 ------------------------------------------------------------------------------------

# Annotated frames of "walk" and what they show: object 12 comes later, 2 is never spoken of, 255 is void.
WALK = {"00005": [1, 2, 255], "00020": [1, 12], "00030": [12, 2]}
META = Path("meta_expressions", "train", "meta_expressions.json")


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "raw"
    train = root / "train"
    # The json lists fewer frames than there are, with gaps; one, beside every fifth, has no mask.
    write_frames(train / "JPEGImages" / "walk", ["00000", "00005", "00012", "00015", "00020", "00030"])
    for seed, (name, values) in enumerate(WALK.items()):
        write_indices(train / "Annotations" / "walk" / f"{name}.png", some_indices(seed, values))
    write_indices(train / "Annotations" / "walk" / "00015.png", some_indices(9, [1, 2, 3]))  # not listed
    # The json lists no frames; images of grays instead of a palette; an annotated frame that shows nothing.
    write_frames(train / "JPEGImages" / "jump", ["00003", "00001"])
    write_indices(train / "Annotations" / "jump" / "00001.png", some_indices(5, [1]), palette=False)
    write_indices(train / "Annotations" / "jump" / "00003.png", some_indices(5, []), palette=False)
    for folder in ("JPEGImages/jump/._00001.jpg", "Annotations/jump/._00001.png"):
        (train / folder).write_bytes(JUNK)
    write_json(
        root / META,
        {
            "videos": {
                "walk": {
                    "expressions": {
                        "0": {"exp": " a man, walking ", "obj_id": "12"},
                        "1": {"exp": "the dog", "obj_id": "1"},
                        "10": {"exp": "the man in front", "obj_id": "12"},
                    },
                    "frames": ["00005", "00012", "00020", "00030"],
                },
                "jump": {"expressions": {"0": {"exp": "a cat jumps", "obj_id": 1}}},
                "unsaid": {"expressions": {}, "frames": ["00000"]},
            }
        },
    )
    # Published without masks; the json of valid also lists what belongs to test.
    write_frames(root / "valid" / "JPEGImages" / "run", ["00000", "00005"])
    write_frames(root / "test" / "JPEGImages" / "swim", ["00000"])
    run = {"expressions": {"0": {"exp": "a horse"}}, "frames": ["00000", "00005"]}
    swim = {"expressions": {"0": {"exp": "a fish"}, "1": {"exp": "a crab"}}, "frames": ["00000"]}
    write_json(root / "meta_expressions" / "valid" / "meta_expressions.json", {"videos": {"swim": swim, "run": run}})
    write_json(root / "meta_expressions" / "test" / "meta_expressions.json", {"videos": {"swim": swim}})
    return root


@pytest.mark.parametrize("script", [refer_youtube_vos, ref_davis17])
def test_rows_frames_and_every_mask(tree, tmp_path, script):
    splits = convert(script, tree, tmp_path / "out", "--split", "train")
    assert list(splits) == ["train"] and splits["train"].features == FEATURES
    assert splits["train"]["video_id"] == ["walk", "jump"]
    walk, jump = splits["train"]

    assert (walk["num_frames"], walk["height"], walk["width"], walk["fps"]) == (4, HEIGHT, WIDTH, None)
    assert [cell["path"] for cell in walk["frames"]] == ["00005.jpg", "00012.jpg", "00020.jpg", "00030.jpg"]
    for row in (walk, jump):
        folder = tree / "train" / "JPEGImages" / row["video_id"]
        assert all(cell["bytes"] == (folder / cell["path"]).read_bytes() for cell in row["frames"])
        pictures = [np.asarray(Image.open(folder / cell["path"])) for cell in row["frames"]]
        np.testing.assert_array_equal(read_frames(row, range(row["num_frames"])), pictures)

    assert walk["annotated_frames"] == [0, 2, 3] and walk["evaluation_frames"] is None
    assert walk["instance_ids"] == ["1", "2", "12"]  # also what no sentence speaks of, but neither background nor void
    masks = decode(walk)
    for a, (seed, values) in enumerate(enumerate(WALK.values())):
        for m, index in enumerate((1, 2, 12)):
            np.testing.assert_array_equal(masks[a, m], some_indices(seed, values) == index)
    # What a frame does not show is absent there, which is known: empty, not null.
    _, annotated_frames, annotated = read_masks(walk, range(4))
    assert annotated_frames.tolist() == [True, False, True, True]
    assert annotated.all(axis=1).tolist() == annotated.any(axis=1).tolist() == [True, False, True, True]
    assert walk["sentences"] == [
        {"sentence_id": "walk/0", "text": "a man, walking", "instances": [2], "kind": None},
        {"sentence_id": "walk/1", "text": "the dog", "instances": [0], "kind": None},
        {"sentence_id": "walk/10", "text": "the man in front", "instances": [2], "kind": None},
    ]

    assert [cell["path"] for cell in jump["frames"]] == ["00001.jpg", "00003.jpg"]
    assert jump["annotated_frames"] == [0, 1] and jump["instance_ids"] == ["1"]
    np.testing.assert_array_equal(decode(jump)[0, 0], some_indices(5, [1]) == 1)
    assert not decode(jump)[1].any()
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| train | 2 | 4 | 4 | 5 | 0 |" in card and "## License" in card
    assert {refer_youtube_vos: "seo2020urvos", ref_davis17: "khoreva2018video"}[script] in card


@pytest.mark.parametrize("listed", [None, [str(number) for number in (3, 11, 10, 0, 2)]])
def test_the_order_of_frames_is_that_of_the_json_or_of_their_numbers(tmp_path, listed):
    """Names without leading zeros: 2 comes before 10."""
    train, numbers = tmp_path / "raw/train", list(range(12))
    write_frames(train / "JPEGImages/walk", map(str, numbers))
    for number in numbers:
        write_indices(train / f"Annotations/walk/{number}.png", some_indices(number, [1]))
    video = {"expressions": {"0": {"exp": "a man", "obj_id": "1"}}, **({"frames": listed} if listed else {})}
    write_json(tmp_path / "raw" / META, {"videos": {"walk": video}})
    (row,) = convert(refer_youtube_vos, tmp_path / "raw", tmp_path / "out", "--split", "train")["train"]
    order = [int(name) for name in listed or map(str, numbers)]
    assert [cell["path"] for cell in row["frames"]] == [f"{number}.jpg" for number in order]
    for masks, number in zip(decode(row), order, strict=True):
        np.testing.assert_array_equal(masks[0], some_indices(number, [1]) == 1)


def test_masks_of_0_and_255_are_explained(tmp_path):
    train = tmp_path / "raw/train"
    for name in ("00000", "00001"):
        write_frames(train / "JPEGImages/walk", [name])
        write_indices(train / f"Annotations/walk/{name}.png", some_indices(int(name), [255]), palette=False)
    video = {"expressions": {"0": {"exp": "a man", "obj_id": "1"}}, "frames": ["00000", "00001"]}
    write_json(tmp_path / "raw" / META, {"videos": {"walk": video}})
    with pytest.raises((ValueError, SystemExit)) as error:
        convert(refer_youtube_vos, tmp_path / "raw", tmp_path / "out", "--split", "train")
    assert "the masks hold only 0 and 255, and 255 is void" in str(error.value)
    assert "write the pixels of object number n as n, from 1 on" in str(error.value)


def test_splits_without_masks(tree, tmp_path):
    splits = convert(refer_youtube_vos, tree, tmp_path / "out")
    assert set(splits) == {"train", "valid", "test"}
    # What the test split lists is left to it.
    assert splits["valid"]["video_id"] == ["run"] and splits["test"]["video_id"] == ["swim"]
    (row,) = splits["valid"]
    assert row["num_frames"] == 2
    assert row["annotated_frames"] == row["instance_ids"] == row["masks"] == []
    assert row["sentences"] == [{"sentence_id": "run/0", "text": "a horse", "instances": [], "kind": None}]
    # Without the test split's json nobody knows; then its videos count, and lack their frames.
    shutil.rmtree(tree / "meta_expressions" / "test")
    with pytest.raises(ValueError, match="valid.*'swim': the folder .* does not exist"):
        convert(refer_youtube_vos, tree, tmp_path / "again", "--split", "valid")


def frames_of(root, video="jump"):
    return root / "train" / "JPEGImages" / video


def masks_of(root, video="jump"):
    return root / "train" / "Annotations" / video


def edit_train(change):
    return lambda root: edit_json(root / META, lambda content: change(content["videos"]))


def cut_in_half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(folder):
    for path in folder.iterdir():
        path.unlink()


# What is done to the tree, what the message says, and the sentences and annotated frames of "jump" that are left.
WRONG = {
    "no frames": (lambda r: shutil.rmtree(frames_of(r)), "'jump': the folder .* with its frames does not exist", 0, 0),
    "empty frames": (lambda r: empty(frames_of(r)), "'jump': .* holds no frame", 0, 0),
    "no masks": (lambda r: shutil.rmtree(masks_of(r)), "'jump': the folder .* with its masks does not exist", 0, 0),
    "empty masks": (lambda r: empty(masks_of(r)), "'jump': no frame has masks", 0, 0),
    "listed frame missing": (
        edit_train(lambda v: v["jump"].update(frames=["00001", "00002", "00003"])),
        "jump/00002.jpg: this frame does not exist",
        0,
        0,
    ),
    "broken frame": (lambda r: cut_in_half(frames_of(r) / "00003.jpg"), "00003.jpg: cannot be decoded", 0, 0),
    "frame of another size": (
        lambda r: write_frames(frames_of(r), ["00003"], 16, 20),
        r"00003.jpg: 16 x 20 pixels \(height x width\), but 00001.jpg has 30 x 44",
        0,
        0,
    ),
    "mask of another size": (
        lambda r: write_indices(masks_of(r) / "00003.png", np.zeros((WIDTH, HEIGHT), np.uint8)),
        "00003.png: .*44 x 30 pixels .*expected .* 30 x 44",
        1,
        1,
    ),
    "mask of colors": (
        lambda r: Image.new("RGB", (WIDTH, HEIGHT)).save(masks_of(r) / "00003.png"),
        r"00003.png: an image of mode RGB .*expected a palette image \(mode P\)",
        1,
        1,
    ),
    "broken mask": (
        lambda r: (masks_of(r) / "00003.png").write_bytes(JUNK),
        "00003.png: cannot be decoded; a palette image",
        1,
        1,
    ),
    "mask without frame": (
        lambda r: write_indices(masks_of(r) / "00007.png", some_indices(5, [1])),
        "00007.png: there is no frame 00007.jpg in",
        1,
        2,
    ),
    "no exp": (edit_train(lambda v: v["jump"]["expressions"].update({"1": {"obj_id": "1"}})), "'1': has no sent", 1, 2),
    "blank exp": (
        edit_train(lambda v: v["jump"]["expressions"].update({"1": {"exp": " ", "obj_id": "1"}})),
        "'jump', expression '1': has no sentence: 'exp' is ' '",
        1,
        2,
    ),
    "no obj_id": (
        edit_train(lambda v: v["jump"]["expressions"].update({"1": {"exp": "a dog"}})),
        "'jump', expression '1': 'obj_id' is None, expected an id",
        1,
        2,
    ),
    "obj_id in no mask": (
        edit_train(lambda v: v["jump"]["expressions"].update({"1": {"exp": "a dog", "obj_id": "4"}})),
        "'jump', expression '1': no masks of its referents 4",
        1,
        2,
    ),
    "all obj_id in no mask": (
        edit_train(lambda v: v["jump"]["expressions"]["0"].update(obj_id="4")),
        "'jump', expression '0': no masks of its referents 4",
        0,
        0,
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_stops_the_conversion_or_is_left_out(tree, tmp_path, case):
    change, why, sentences, annotated = WRONG[case]
    change(tree)
    with pytest.raises(ValueError, match=why):
        convert(refer_youtube_vos, tree, tmp_path / "out", "--split", "train")
    assert not (tmp_path / "out").exists()
    rows = list(convert(refer_youtube_vos, tree, tmp_path / "out", "--split", "train", "--skip-invalid")["train"])
    assert [row["video_id"] for row in rows] == ["walk", "jump"][: 1 + (sentences > 0)]
    assert len(rows[0]["sentences"]) == 3
    if sentences:
        assert (len(rows[1]["sentences"]), len(rows[1]["annotated_frames"])) == (sentences, annotated)
        assert len(rows[1]["masks"]) == annotated
    (entry,) = left_out(tmp_path / "out")
    assert entry["split"] == "train"
    assert re.search(why, f"{entry['where']}: {entry['why']}")


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '{"videos": 3}', '{"videos": {"a": {}}}']
    + [f'{{"videos": {{"a": {{"expressions": {expressions}}}}}}}' for expressions in ('["a"]', '{"0": "a dog"}')],
)
def test_a_file_that_holds_no_expressions(tree, tmp_path, content):
    (tree / META).write_text(content)
    with pytest.raises(ValueError, match="meta_expressions.json: not json, or not"):
        convert(refer_youtube_vos, tree, tmp_path / "out", "--skip-invalid")


@pytest.mark.parametrize("part", ["train/JPEGImages", "train/Annotations"])
def test_a_missing_folder(tree, tmp_path, part):
    (tree / part).rename(tree / "elsewhere")
    with pytest.raises(FileNotFoundError, match=f"{part} .*does not exist, but"):
        convert(ref_davis17, tree, tmp_path / "out", "--skip-invalid")


@pytest.mark.parametrize("script", [refer_youtube_vos, ref_davis17, mevis])
def test_missing_splits(tree, tmp_path, script):
    with pytest.raises(FileNotFoundError, match="heldout.*meta_expressions.json does not exist; --source"):
        convert(script, tree, tmp_path / "out", "--split", "train", "heldout")
    with pytest.raises(FileNotFoundError, match="train.* or .*test.* does not exist; --source"):
        convert(script, tmp_path, tmp_path / "out")


def test_two_processes_write_the_same(tree, tmp_path):
    one = convert(refer_youtube_vos, tree, tmp_path / "one")
    two = convert(refer_youtube_vos, tree, tmp_path / "two", "--num-proc", "2")
    assert {split: list(rows) for split, rows in one.items()} == {split: list(rows) for split, rows in two.items()}


@pytest.mark.skipif(not REAL.exists(), reason="the real annotation files are not here")
def test_all_2096_sentences_of_refer_youtube_vos_on_tiny_videos(tmp_path):
    source = tmp_path / "raw"
    meta = source / "meta_expressions" / "valid" / "meta_expressions.json"
    meta.parent.mkdir(parents=True)
    shutil.copy(REAL / "annotations" / "refer_youtube_vos_meta_expressions_valid.json", meta)
    videos = json.loads(meta.read_text())["videos"]
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6)).save(buffer, "jpeg")
    for name, video in videos.items():
        folder = source / "valid" / "JPEGImages" / name
        folder.mkdir(parents=True)
        for frame in video["frames"]:
            (folder / f"{frame}.jpg").write_bytes(buffer.getvalue())
    rows = convert(refer_youtube_vos, source, tmp_path / "out")["valid"]
    assert len(rows) == 507 and sum(map(len, rows["sentences"])) == 2096 and sum(rows["num_frames"]) == 13710
    for row in rows:
        video = videos[row["video_id"]]
        said = {s["sentence_id"]: s["text"] for s in row["sentences"]}
        assert said == {f"{row['video_id']}/{key}": e["exp"].strip() for key, e in video["expressions"].items()}
        assert [cell["path"] for cell in row["frames"]] == [f"{name}.jpg" for name in sorted(video["frames"])]


@pytest.mark.skipif(not REAL.exists(), reason="the real videos are not here")
def test_real_davis_videos(tmp_path):
    source = REAL / "ref_davis"
    rows = convert(ref_davis17, source, tmp_path / "out")["valid"]
    assert len(rows) == 12
    for row in rows:
        assert (row["height"], row["instance_ids"], len(row["sentences"])) == (240, ["1"], 2)
        assert row["annotated_frames"] == list(range(row["num_frames"]))
        assert all(sentence["instances"] == [0] for sentence in row["sentences"])
        paths = sorted((source / "valid" / "Annotations" / row["video_id"]).glob("*.png"))
        assert [Path(cell["path"]).stem for cell in row["frames"]] == [path.stem for path in paths]
        np.testing.assert_array_equal(decode(row)[:, 0], [np.asarray(Image.open(path)) for path in paths])


# MeViS ----------------------------------------------------------------------------------------------------------------

# anno_id -> in each frame the seed of its mask, None where the object is absent; 7 is absent everywhere.
FLOCK = {"3": [1, None, 2], "15": [3, 4, 5], "7": [None, None, None]}
ALONE = {"0": [6, None]}


def random_mask(seed):
    if seed is None:
        return np.zeros((HEIGHT, WIDTH), bool)
    return np.random.default_rng(seed).random((HEIGHT, WIDTH)) > 0.5


def encode(seed):
    if seed is None:
        return None
    rle = coco_mask.encode(np.asfortranarray(random_mask(seed), dtype=np.uint8))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


@pytest.fixture
def mevis_tree(tmp_path):
    root = tmp_path / "raw"
    for split, name, frames in (
        ("valid_u", "flock", ["00000", "00001", "00004"]),
        ("valid_u", "alone", ["00000", "00001"]),
        ("valid", "hidden", ["00000"]),
    ):
        write_frames(root / split / "JPEGImages" / name, frames)
    flock = {
        "0": {"exp": "two birds flying away", "obj_id": [0, 1], "anno_id": [15, 3]},
        "1": {"exp": "the bird that stays", "obj_id": [0], "anno_id": [3]},
        "2": {"exp": "a bird that falls", "obj_id": [], "anno_id": []},
        "3": {"exp": "the bird that hides", "obj_id": [2], "anno_id": [7]},
    }
    alone = {"0": {"exp": "a cat turning around", "obj_id": [0], "anno_id": [0]}}
    write_json(
        root / "valid_u" / "meta_expressions.json",
        {
            "videos": {
                "flock": {"expressions": flock, "frames": ["00000", "00001", "00004"], "vid_id": 0},
                "alone": {"expressions": alone, "frames": ["00000", "00001"], "vid_id": 1},
            }
        },
    )
    masks = {name: [encode(seed) for seed in seeds] for name, seeds in (ALONE | FLOCK).items()}
    write_json(root / "valid_u" / "mask_dict.json", masks | {"99": []})  # of an object that nobody speaks of
    write_json(
        root / "valid" / "meta_expressions.json",
        {"videos": {"hidden": {"expressions": {"0": {"exp": "a fish"}}, "frames": ["00000"]}}},
    )
    return root


def test_mevis_rows_and_every_mask(mevis_tree, tmp_path):
    splits = convert(mevis, mevis_tree, tmp_path / "out")
    assert set(splits) == {"valid_u", "valid"} and splits["valid_u"].features == FEATURES
    flock, alone = splits["valid_u"]
    for row, lists, names in ((flock, FLOCK, ["3", "7", "15"]), (alone, ALONE, ["0"])):
        frames = list(range(row["num_frames"]))
        assert row["annotated_frames"] == frames and row["instance_ids"] == names
        masks, _, annotated = read_masks(row, frames)
        np.testing.assert_array_equal(decode(row), masks)
        assert annotated.all()  # null in the source: the object is absent, which is known
        for m, name in enumerate(names):
            np.testing.assert_array_equal(masks[:, m], [random_mask(seed) for seed in lists[name]])
    assert [cell["path"] for cell in flock["frames"]] == ["00000.jpg", "00001.jpg", "00004.jpg"]
    assert flock["sentences"] == [
        {"sentence_id": "flock/0", "text": "two birds flying away", "instances": [2, 0], "kind": None},
        {"sentence_id": "flock/1", "text": "the bird that stays", "instances": [0], "kind": None},
        {"sentence_id": "flock/2", "text": "a bird that falls", "instances": [], "kind": None},
        {"sentence_id": "flock/3", "text": "the bird that hides", "instances": [1], "kind": None},
    ]
    (hidden,) = splits["valid"]
    assert hidden["annotated_frames"] == hidden["instance_ids"] == hidden["masks"] == []
    assert [sentence["instances"] for sentence in hidden["sentences"]] == [[]]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| valid_u | 2 | 5 | 4 | 5 | 0 |" in card and "ding2023mevis" in card and "## License" in card


def edit_masks(change):
    return lambda root: edit_json(root / "valid_u" / "mask_dict.json", change)


def edit_alone(**fields):
    def change(content):
        content["videos"]["alone"]["expressions"]["0"].update(fields)

    return lambda root: edit_json(root / "valid_u" / "meta_expressions.json", change)


MEVIS_WRONG = {
    "anno_id without masks": (edit_alone(anno_id=[0, 50]), ["'alone', expression '0': no masks of its referents 50"]),
    "no list of anno_ids": (edit_alone(anno_id=None), ["'alone', expression '0': 'anno_id' is None, expected"]),
    "no exp": (edit_alone(exp=3), ["'alone', expression '0': has no sentence: 'exp' is 3"]),
    "too few masks": (
        edit_masks(lambda m: m["0"].pop()),
        ["anno_id 0: 1 masks, expected one .* each of 2 frames .*'alone'", "no masks of its referents 0"],
    ),
    "no list": (edit_masks(lambda m: m.update({"0": None})), ["anno_id 0: no list of masks", "referents 0"]),
    "another size": (
        edit_masks(lambda m: m["0"][0].update(size=[WIDTH, HEIGHT])),
        [r"anno_id 0: the mask of frame 0 has the size \[44, 30\] .* expected .*\[30, 44\]", "referents 0"],
    ),
    "runs that end early": (
        edit_masks(lambda m: m["0"][0].update(counts=m["0"][0]["counts"][:-3])),
        [r"the mask of frame 0 has the size \[30, 44\] and \d+ pixels, expected .* 1320", "referents 0"],
    ),
    "no compressed RLE": (
        edit_masks(lambda m: m["0"][0].update(counts=[3, 4])),
        ["the mask of frame 0 is not a compressed COCO RLE", "referents 0"],
    ),
    "no RLE": (edit_masks(lambda m: m["0"].__setitem__(1, "x")), ["the mask of frame 1 is not a comp", "referents 0"]),
    "no frames": (
        lambda root: shutil.rmtree(root / "valid_u" / "JPEGImages" / "alone"),
        ["'alone': the folder .* with its frames does not exist"],
    ),
}


@pytest.mark.parametrize("case", MEVIS_WRONG)
def test_what_is_wrong_in_mevis_stops_the_conversion_or_is_left_out(mevis_tree, tmp_path, case):
    change, why = MEVIS_WRONG[case]
    change(mevis_tree)
    with pytest.raises(ValueError, match=why[0]):
        convert(mevis, mevis_tree, tmp_path / "out")
    rows = convert(mevis, mevis_tree, tmp_path / "out", "--skip-invalid")["valid_u"]
    assert rows["video_id"] == ["flock"] and len(rows[0]["sentences"]) == 4
    entries = left_out(tmp_path / "out")
    assert len(entries) == len(why)
    for entry, text in zip(entries, why, strict=True):
        assert entry["split"] == "valid_u" and re.search(text, f"{entry['where']}: {entry['why']}")


def test_mevis_frames_keep_the_order_in_which_their_masks_are_listed(tmp_path):
    """Names without leading zeros."""
    folder, names = tmp_path / "raw/valid_u", [str(number) for number in range(12)]
    write_frames(folder / "JPEGImages/walk", names)
    expressions = {"0": {"exp": "a man", "obj_id": [0], "anno_id": [0]}}
    write_json(folder / "meta_expressions.json", {"videos": {"walk": {"expressions": expressions, "frames": names}}})
    write_json(folder / "mask_dict.json", {"0": [encode(number) for number in range(12)]})
    (row,) = convert(mevis, tmp_path / "raw", tmp_path / "out", "--split", "valid_u")["valid_u"]
    assert [cell["path"] for cell in row["frames"]] == [f"{name}.jpg" for name in names]
    for number, masks in enumerate(decode(row)):
        np.testing.assert_array_equal(masks[0], random_mask(number))


def test_mevis_without_its_masks(mevis_tree, tmp_path):
    (mevis_tree / "valid_u" / "mask_dict.json").unlink()
    with pytest.raises(FileNotFoundError, match="mask_dict.json with the masks does not exist, but"):
        convert(mevis, mevis_tree, tmp_path / "out", "--skip-invalid")


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_values_are_found_in_a_file_that_is_read_in_pieces(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(json_values, "CHUNK", chunk)
    content = {"0": [None, {"size": [1, 2], "counts": '[]\\"{}:,'}], "a b": [], "7": None, 'k"': {"x": [[]]}}
    for text in (json.dumps(content), json.dumps(content, indent=3), json.dumps(content, separators=(",", ":"))):
        (tmp_path / "masks.json").write_text(text)
        found = {
            key: text[start : start + length] for key, start, length in json_values.find_values(tmp_path / "masks.json")
        }
        assert {key: json.loads(value) for key, value in found.items()} == content
    (tmp_path / "masks.json").write_text(" {} ")
    assert list(json_values.find_values(tmp_path / "masks.json")) == []


@pytest.mark.parametrize("text", ["", "[]", '{"a": [', '{"a"}', '{"a": [],', "{3: []}", '{"a": [] "b"', '{"ä": []}'])
@pytest.mark.parametrize("chunk", [1, 1 << 20])
def test_a_file_that_is_no_json_object(tmp_path, monkeypatch, text, chunk):
    monkeypatch.setattr(json_values, "CHUNK", chunk)
    (tmp_path / "masks.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="masks.json: not (a )?json"):
        list(json_values.find_values(tmp_path / "masks.json"))


# Synthetic sets -------------------------------------------------------------------------------------------------------

SPLITS = {"train": 2, "validation": 1, "heldout": 1}


@pytest.mark.parametrize(
    ("script", "write", "valid", "every"),
    [
        (refer_youtube_vos, write_refer_youtube_vos, "valid", 2),
        (ref_davis17, write_ref_davis17, "valid", 1),
        (mevis, write_mevis, "valid_u", 1),
    ],
)
def test_synthetic_trees_give_back_what_was_drawn(tmp_path, script, write, valid, every):
    written = write(tmp_path / "raw", SPLITS, seed=3)
    splits = convert(script, tmp_path / "raw", tmp_path / "out")
    assert set(splits) == {"train", valid, "heldout"}
    assert written == {
        "videos": sum(map(len, splits.values())),
        "sentences": sum(len(row["sentences"]) for rows in splits.values() for row in rows),
    }
    for split, count in SPLITS.items():
        rows = splits[valid if split == "validation" else split]
        assert len(rows) == count
        for index, row in enumerate(rows):
            assert row["video_id"] == f"{split}_{index:06d}"
            scene, sentences = make_scene(split, index, seed=3)
            frames, masks = render(scene)
            difference = np.abs(read_frames(row, range(8)).astype(int) - frames)
            assert difference.mean() < 2 and difference.max() < 20
            read, annotated, _ = read_masks(row, range(8))
            assert annotated.tolist() == [t % every == 0 for t in range(8)]
            # MeViS: only what a sentence refers to; ids count from 1 in palette images, through the split in MeViS.
            first = 1 if script is not mevis else min(map(int, row["instance_ids"]))
            objects = [int(name) - first for name in row["instance_ids"]]
            if script is not mevis:
                assert objects == sorted(set(np.flatnonzero(masks[::every].any(axis=(0, 2, 3)))))
            else:
                shift = next(  # the first object may not be spoken of
                    s for s in range(len(scene.objects)) if np.array_equal(read[:, 0], masks[:, s])
                )
                objects = [number + shift for number in objects]
            np.testing.assert_array_equal(read[annotated], masks[annotated][:, objects])
            said = [(s["text"], tuple(objects[m] for m in s["instances"])) for s in row["sentences"]]
            true = [(s.text, s.instances) for s in sentences]
            if script is refer_youtube_vos:
                assert said == [pair for pair in true if pair[1]]
            elif script is mevis:
                assert said[: len(true)] == true and all(len(instances) > 1 for _, instances in said[len(true) :])


def test_annotators_describe_each_object_four_times(tmp_path):
    write_ref_davis17(tmp_path / "raw", {"test": 3}, seed=1)
    for row in convert(ref_davis17, tmp_path / "raw", tmp_path / "out")["test"]:
        referred = [m for sentence in row["sentences"] for m in sentence["instances"]]
        assert len(referred) >= 4 and referred == [m for m in sorted(set(referred)) for _ in range(4)]
        assert [sentence["sentence_id"].split("/")[1] for sentence in row["sentences"]] == [
            str(n) for n in range(len(referred))
        ]
    wordings = []
    for index in range(20):
        scene, _ = make_scene("train", index)
        sentences = describe_by_annotators(scene, np.random.default_rng(index))
        assert all(referents(scene, s.predicate) == list(s.instances) for s in sentences)
        wordings += [len({s.text for s in sentences[n : n + 4]}) for n in range(0, len(sentences), 4)]
    assert np.mean(wordings) > 3.5


def test_sentences_with_several_referents_are_true_of_all_of_them_and_of_no_other():
    words = {"circles": "circle", "squares": "square", "triangles": "triangle", "crosses": "cross"}
    texts = set()
    for index in range(150):
        scene, _ = make_scene("train", index)
        for sentence in describe_together(scene, np.random.default_rng(index)):
            texts.add(sentence.text)
            value = sentence.text.removeprefix("all ").removesuffix(" objects").split()[-1]
            value = {"place": "still"}.get(value, words.get(value, value))
            value = "still" if "standing" in sentence.text else "circling" if "circles" == value else value
            value = "circling" if sentence.text.endswith("in circles") else value
            fitting = [m for m, o in enumerate(scene.objects) if value in (o.size, o.color, o.shape, o.motion)]
            assert list(sentence.instances) == fitting and len(fitting) > 1
    assert len(texts) == 18  # one for each value of each attribute


def test_synthetic_trees_are_the_same_for_the_same_seed(tmp_path):
    for write in (write_refer_youtube_vos, write_ref_davis17, write_mevis):
        trees = []
        for number, num_proc in enumerate((1, 2)):
            root = tmp_path / f"{write.__name__}_{number}"
            write(root, {"train": 2, "test": 1}, seed=4, num_proc=num_proc)
            trees.append({path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()})
        assert trees[0] == trees[1]


@pytest.mark.parametrize("write", [write_refer_youtube_vos, write_ref_davis17, write_mevis])
def test_bad_arguments_say_what_is_wrong(tmp_path, write):
    with pytest.raises(ValueError, match="unknown split 'valid'"):
        write(tmp_path / "a", {"valid": 1})
    with pytest.raises(ValueError, match="nothing to write"):
        write(tmp_path / "a", {"train": 0})
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").touch()
    with pytest.raises(FileExistsError, match="not an empty folder"):
        write(tmp_path / "a", {"train": 1})
    if write is write_refer_youtube_vos:
        with pytest.raises(ValueError, match="annotate_every must be at least 1, got 0"):
            write(tmp_path / "b", {"train": 1}, annotate_every=0)


@pytest.mark.parametrize(
    ("layout", "path"),
    [
        ("jhmdb", "puppet_mask/*/validation_000000/puppet_mask.mat"),
        ("refer_youtube_vos", "valid/Annotations/validation_000000/00006.png"),
        ("ref_davis17", "valid/Annotations/validation_000000/00007.png"),
        ("mevis", "valid_u/mask_dict.json"),
    ],
)
def test_make_synthetic(tmp_path, monkeypatch, capsys, layout, path):
    arguments = ["--output", str(tmp_path), "--layout", layout, "--validation", "1", "--num-proc", "1"]
    monkeypatch.setattr(sys, "argv", ["make_synthetic.py", *arguments])
    runpy.run_path(str(ROOT / "scripts" / "make_synthetic.py"), run_name="__main__")
    assert "Wrote 1 videos (1 validation)" in capsys.readouterr().out
    assert len(list(tmp_path.glob(path))) == 1
