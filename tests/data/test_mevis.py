"""Converts trees of MeViS with the original's quirks, and looks at every mask."""

import json
import re
import shutil

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from trees import HEIGHT, WIDTH, convert, decode, edit_json, left_out, write_frames, write_json

from modeling_cvls.conversion import json_values, mevis
from modeling_cvls.data import FEATURES, read_masks

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
