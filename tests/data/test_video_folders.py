"""Converts trees of Refer-YouTube-VOS and Ref-DAVIS17 with the originals' quirks, and looks at every mask."""

import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from trees import (
    HEIGHT,
    JUNK,
    REAL,
    WIDTH,
    convert,
    decode,
    edit_json,
    left_out,
    some_indices,
    write_frames,
    write_indices,
    write_json,
)

from modeling_cvls.conversion import mevis, ref_davis17, refer_youtube_vos
from modeling_cvls.data import FEATURES, read_frames, read_masks

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


@pytest.mark.slow
def test_two_processes_write_the_same(tree, tmp_path):
    one = convert(refer_youtube_vos, tree, tmp_path / "one")
    two = convert(refer_youtube_vos, tree, tmp_path / "two", "--num-proc", "2")
    assert {split: list(rows) for split, rows in one.items()} == {split: list(rows) for split, rows in two.items()}


@pytest.mark.slow
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


@pytest.mark.slow
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
