"""Annotations of one's own: frames with palette images, COCO's json, and RefCOCO; wrong files are clear errors."""

import csv
import json
import pickle

import numpy as np
import pytest
from boxes import (
    BOXES,
    FRAMES,
    HEIGHT,
    WIDTH,
    box_mask,
    box_polygon,
    check,
    convert,
    edit,
    rle,
    write_csv,
    write_frames,
)
from PIL import Image
from pycocotools.coco import COCO

from modeling_cvls.data import FEATURES, read_masks

# Frames with palette images -------------------------------------------------------------------------------------------


@pytest.fixture(params=["jpg", "png"])
def frames(tmp_path, request):
    source = tmp_path / "raw"
    write_frames(source / "JPEGImages" / "walk", request.param)
    (source / "Annotations" / "walk").mkdir(parents=True)
    for frame in range(FRAMES):
        indices = sum(int(name) * box_mask(name, frame) for name in BOXES).astype(np.uint8)
        image = Image.fromarray(indices, mode="P")
        image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
        image.save(source / "Annotations" / "walk" / f"{frame:05d}.png")
    rows = [("walk", "1", "the left box"), ("walk", "2 1", "both, boxes"), ("walk", "", "a dog")]
    write_csv(source / "sentences.csv", [("video", "object", "sentence"), *rows])
    return source


def test_frames(frames, tmp_path):
    splits = convert("frames", frames, tmp_path / "out", "--title", "My boxes", "--license", "cc-by-4.0")
    assert splits["train"].features == FEATURES
    (row,) = splits["train"]
    check(row)
    assert [(s["text"], s["instances"]) for s in row["sentences"]] == [
        ("the left box", [0]),
        ("both, boxes", [1, 0]),
        ("a dog", []),
    ]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "# My boxes" in card and "license: cc-by-4.0" in card and "YouTube" not in card and "bibtex" not in card


def test_frames_of_another_split(frames, tmp_path):
    assert list(convert("frames", frames, tmp_path / "out", "--split", "validation")) == ["validation"]


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (("run", "1", "a box"), "line 5: the folder .*JPEGImages/run does not exist"),
        (("walk", "7", "a box"), "expression '3': no masks of its referents 7"),
        (("walk", "1", " "), "line 5: the sentence is empty"),
        (("../walk", "1", "a box"), "line 5: the video is '../walk', but it must be a plain name"),
        (("walk", "a box"), "line 5: 2 fields, expected 3"),
    ],
)
def test_wrong_frames(frames, tmp_path, row, why):
    path = frames / "sentences.csv"
    write_csv(path, [*csv.reader(path.read_text().splitlines()), row])
    with pytest.raises(ValueError, match=why):
        convert("frames", frames, tmp_path / "out")
    assert len(convert("frames", frames, tmp_path / "out", "--skip-invalid")["train"]) == 1


def test_frames_whose_files_are_not_what_is_expected(frames, tmp_path):
    for path in (frames / "Annotations" / "walk").iterdir():
        path.rename(path.with_suffix(".gif"))
    with pytest.raises(ValueError, match=r"'walk': no frame has masks \(palette images are <frame>.png\)"):
        convert("frames", frames, tmp_path / "out")
    for path in (frames / "JPEGImages" / "walk").iterdir():
        path.rename(path.with_suffix(".txt"))
    with pytest.raises(ValueError, match="JPEGImages/walk holds no frames, expected jpg or png alone"):
        convert("frames", frames, tmp_path / "out")


def test_frames_that_are_no_images(frames, tmp_path):
    """The message has no place in memory in it, and does not say the path twice."""
    for path in (next(frames.glob("JPEGImages/walk/00001.*")), frames / "Annotations/walk/00001.png"):
        content = path.read_bytes()
        path.write_text("hello")
        with pytest.raises(ValueError, match=rf"{path}: cannot .* \(not an image of a known format\)"):
            convert("frames", frames, tmp_path / "out")
        path.write_bytes(content)
    path = next(frames.glob("JPEGImages/walk/00001.*"))
    Image.fromarray(np.zeros((8, 9), np.float32)).save(path, "tiff")
    with pytest.raises(ValueError, match=rf"{path}: cannot .* \(its pixels are floating-point numbers; convert them"):
        convert("frames", frames, tmp_path / "out")


def test_frames_without_their_parts(frames, tmp_path):
    (frames / "sentences.csv").rename(frames / "other.csv")
    with pytest.raises(FileNotFoundError, match=r"sentences\.csv"):
        convert("frames", frames, tmp_path / "out")
    assert convert("frames", frames, tmp_path / "out", "--sentences", frames / "other.csv")
    (frames / "Annotations").rename(frames / "elsewhere")
    with pytest.raises(FileNotFoundError, match="Annotations does not exist; `cvls convert frames --help`"):
        convert("frames", frames, tmp_path / "again", "--sentences", frames / "other.csv")


# COCO and RefCOCO -----------------------------------------------------------------------------------------------------


def coco_content(file_names):
    """Each kind of segmentation that COCO has: polygons, compressed and uncompressed run lengths; and a crowd."""
    images = [{"id": 10 + n, "file_name": name, "height": HEIGHT, "width": WIDTH} for n, name in enumerate(file_names)]
    annotations = []
    for n in range(len(images)):
        runs = np.flatnonzero(np.diff(np.concatenate([[0], box_mask("2", n).T.reshape(-1), [0]]))) if n else None
        lengths = rle(box_mask("2", n))
        if runs is not None:
            lengths = {"size": [HEIGHT, WIDTH], "counts": np.diff([0, *runs.tolist(), HEIGHT * WIDTH]).tolist()}
        common = {"image_id": 10 + n, "category_id": 1, "iscrowd": 0, "bbox": [0, 0, 1, 1], "area": 1}
        annotations += [
            {**common, "id": 100 * n + 1, "segmentation": [box_polygon("1", n)]},
            {**common, "id": 100 * n + 2, "segmentation": lengths},
            {**common, "id": 100 * n + 3, "segmentation": rle(box_mask("1", n)), "iscrowd": 1},
        ]
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "box"}]}


@pytest.fixture
def coco(tmp_path):
    source = tmp_path / "raw"
    write_frames(source / "images")
    content = coco_content([f"{n:05d}.jpg" for n in range(FRAMES)])
    (source / "instances.json").write_text(json.dumps(content))
    write_csv(source / "sentences.csv", [("object", "sentence"), ("1", "the left one"), ("2", "a box"), ("102", "it")])
    return source


def test_coco_gives_the_masks_that_the_coco_api_gives(coco, tmp_path):
    api = COCO(str(coco / "instances.json"))
    rows = convert("coco", coco, tmp_path / "out")["train"]
    assert rows["video_id"] == ["00000", "00001"]  # nothing is said of the third
    for n, row in enumerate(rows):
        names = [str(100 * n + 1), str(100 * n + 2)]
        masks, annotated, _ = read_masks(row, [0])
        assert annotated.all() and row["instance_ids"] == names
        for m, name in enumerate(names):
            np.testing.assert_array_equal(masks[0, m], api.annToMask(api.anns[int(name)]))
            np.testing.assert_array_equal(masks[0, m], box_mask(name[-1], n))
    assert [(s["text"], s["instances"]) for s in rows[0]["sentences"]] == [("the left one", [0]), ("a box", [1])]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda c: c["annotations"][0].update(segmentation=[[1, 1, 90, 1, 9, 9]]), "object '1': a polygon reaches"),
        (lambda c: c["annotations"][0].update(segmentation=[[1, 1, 2]]), "a polygon has at least three points"),
        (lambda c: c["annotations"][0].update(segmentation=[1, 1, 2, 1, 2, 2]), "at least three points x, y, not 1"),
        (lambda c: c["annotations"][0].update(segmentation=[["a"] * 6]), "at least three points x, y, not .'a'"),
        (lambda c: c["annotations"][0].update(segmentation=[{}]), "at least three points x, y, not {}"),
        (lambda c: c["annotations"][0].update(segmentation=[[0.1, 0.1, 0.9, 0.1, 0.9, 1]]), "not in shares of the fr"),
        (lambda c: c["annotations"][0].update(segmentation=None), r"object '1': the mask has the size None"),
        (
            lambda c: c["annotations"][1]["segmentation"].update(size=[4, 4]),
            r"object '2': the mask has the size \[4, 4\]",
        ),
        (lambda c: c["annotations"][1]["segmentation"].update(counts="11"), "object '2': the mask has 2 pixels"),
        (lambda c: c["annotations"][4]["segmentation"].update(counts=[5, 5]), "the runs of a mask are"),
        (lambda c: c["annotations"][0].update(image_id=99), "the image_id 99, but no image has it"),
        (lambda c: c["images"][0].update(file_name="../secret.jpg"), "leads out of the folder"),
        (lambda c: c["images"][0].update(file_name="/etc/secret.jpg"), "leads out of the folder.*must be a plain name"),
        (lambda c: c["images"][0].update(file_name="a/\0.jpg"), "must be a plain name"),
        (lambda c: c["images"][0].update(file_name=""), "must be a plain name"),
        (lambda c: c["images"][0].update(file_name="missing.jpg"), "missing.jpg: this frame does not exist"),
        (lambda c: c.pop("images"), "instances.json: not of the form"),
        (lambda c: c["annotations"][1].update(id=1), "two entries of kind annotation have the id 1; each needs"),
        (lambda c: c["annotations"][1].update(id="1"), "two entries of kind annotation have the id 1; each needs"),
        (lambda c: c["images"][1].update(id=10), "two entries of kind image have the id 10; each needs"),
        (lambda c: c["images"][0].update(width=72), "annotated on frames of 72 x 24 pixels .* the frames are 36 x 24"),
        (lambda c: c["images"][0].update(width="36"), "instances.json: not of the form.*height and width are"),
        (lambda c: c["images"][0].update(width=float("nan")), "instances.json: not of the form.*height and width are"),
    ],
)
def test_wrong_coco(coco, tmp_path, change, why):
    edit(coco / "instances.json", change)
    with pytest.raises(ValueError, match=why):
        convert("coco", coco, tmp_path / "out")


def test_coco_whose_pictures_lie_in_folders(coco, tmp_path):
    """As many tools write the frames of several videos."""
    for folder in ("first", "second"):
        (coco / "images" / folder).mkdir()
    for name, place in (("00000.jpg", "first/0.jpg"), ("00001.jpg", "second/0.jpg"), ("00002.jpg", "second/1.jpg")):
        (coco / "images" / name).rename(coco / "images" / place)
        edit(coco / "instances.json", lambda c, n=int(name[4]), place=place: c["images"][n].update(file_name=place))
    write_csv(coco / "sentences.csv", [("object", "sentence"), ("1", "it"), ("101", "it"), ("201", "it")])
    rows = convert("coco", coco, tmp_path / "out")["train"]
    assert rows["video_id"] == ["first_0", "second_0", "1"]


def test_coco_that_states_no_sizes(coco, tmp_path):
    edit(coco / "instances.json", lambda c: [image.pop("height") for image in c["images"]])
    assert len(convert("coco", coco, tmp_path / "out")["train"]) == 2


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfobject,sentence\r\n1,the left one\r\n",  # as Excel writes it
        'object,sentence\n1,"größe, 犬 👋"\n'.encode(),
        b'object,sentence\n 1 ,"  it  "\n',
    ],
)
def test_files_of_sentences_as_programs_write_them(coco, tmp_path, content):
    (coco / "sentences.csv").write_bytes(content)
    (row,) = convert("coco", coco, tmp_path / "out")["train"]
    (sentence,) = row["sentences"]
    assert sentence["instances"] == [0] and sentence["text"] in ("the left one", "größe, 犬 👋", "it")


def test_blank_lines_say_nothing(coco, tmp_path):
    (coco / "sentences.csv").write_text("object,sentence\n\n1,it\n\n\n")
    (row,) = convert("coco", coco, tmp_path / "out")["train"]
    assert [one["text"] for one in row["sentences"]] == ["it"]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("instances.json", "instances.json with the annotations does not exist; --annotations names another file"),
        ("sentences.csv", "sentences.csv does not exist; it is a csv file with the header object,sentence, and --sent"),
    ],
)
def test_coco_without_its_parts(coco, tmp_path, name, why):
    (coco / name).unlink()
    with pytest.raises(FileNotFoundError, match=why):
        convert("coco", coco, tmp_path / "out")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"object,sentence\n1,it", "line 2: the last line has no line break at its end: .*; add one where it is whole"),
        (b"", "sentences.csv, line 1: the header is '', expected 'object,sentence'"),
        (b"object,sentence\n", "sentences.csv: no sentence is about a video of"),
        (b"object;sentence\n1;it\n", "the header is 'object;sentence', expected .*fields are separated by commas"),
        (b"object\tsentence\n1\tit\n", "expected 'object,sentence'; fields are separated by commas"),
        (b"object,sentence\n1,gr\xf6\xdfe\n", "sentences.csv, line 2: not UTF-8 text"),
        (b"\xff\xfeo\x00b\x00", "sentences.csv, line 1: not UTF-8 text"),
    ],
)
def test_wrong_files_of_sentences(coco, tmp_path, content, why):
    (coco / "sentences.csv").write_bytes(content)
    with pytest.raises(ValueError, match=why):
        convert("coco", coco, tmp_path / "out")


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (("55", "it"), "line 5: there is no object '55'; there are 1, 2, 101, 102, 201, ..."),
        (("", "it"), "line 5: the sentence has no object"),
        (("1 101", "it"), "line 5: its objects are of different pictures"),
    ],
)
def test_wrong_sentences(coco, tmp_path, row, why):
    path = coco / "sentences.csv"
    write_csv(path, [*csv.reader(path.read_text().splitlines()), row])
    with pytest.raises(ValueError, match=why):
        convert("coco", coco, tmp_path / "out")
    assert len(convert("coco", coco, tmp_path / "out", "--skip-invalid")["train"]) == 2


REFS = [
    {"ref_id": 0, "ann_id": 1, "image_id": 10, "split": "train", "category_id": 1, "file_name": "COCO_x_1.jpg",
     "sent_ids": [0, 1], "sentences": [{"sent_id": 0, "sent": "left box", "raw": "Left!", "tokens": ["left", "box"]},
                                       {"sent_id": 1, "sent": "the box", "raw": "the box", "tokens": ["the", "box"]}]},
    {"ref_id": 1, "ann_id": 2, "image_id": 10, "split": "train", "sentences": [{"sent_id": 2, "sent": "right box"}]},
    {"ref_id": 2, "ann_id": 102, "image_id": 11, "split": "val", "sentences": [{"sent_id": 3, "sent": "low box"}]},
    {"ref_id": 3, "ann_id": 202, "image_id": 12, "split": "testA", "sentences": [{"sent_id": 4, "sent": "box"}]},
]  # fmt: skip


@pytest.fixture
def refcoco(tmp_path):
    source = tmp_path / "raw"
    write_frames(source / "images" / "mscoco" / "images" / "train2014")
    (source / "refcoco+").mkdir()
    content = coco_content([f"{n:05d}.jpg" for n in range(FRAMES)])
    (source / "refcoco+" / "instances.json").write_text(json.dumps(content))
    (source / "refcoco+" / "refs(unc).p").write_bytes(pickle.dumps(REFS, protocol=2))
    return source


def test_refcoco(refcoco, tmp_path):
    splits = convert("refcoco", refcoco, tmp_path / "out", "--dataset", "refcoco+")
    assert {split: rows["video_id"] for split, rows in splits.items()} == {
        "train": ["10"],
        "validation": ["11"],
        "testA": ["12"],
    }
    (row,) = splits["train"]
    assert row["num_frames"] == 1
    check(row, frames=[0])
    assert [(s["text"], s["instances"]) for s in row["sentences"]] == [
        ("left box", [0]),
        ("the box", [0]),
        ("right box", [1]),
    ]
    assert "# RefCOCO+" in (tmp_path / "out" / "README.md").read_text()


class Evil:
    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize("content", [pickle.dumps(Evil()), pickle.dumps(REFS)[:-9], b"x", pickle.dumps([{"a": 1}])])
def test_pickles_that_are_no_refs_run_nothing(refcoco, tmp_path, content, capsys):
    (refcoco / "refcoco+" / "refs(unc).p").write_bytes(content)
    with pytest.raises(ValueError, match=r"refs\(unc\).p: cannot be decoded; a pickle of refs, of plain types"):
        convert("refcoco", refcoco, tmp_path / "out", "--dataset", "refcoco+")
    assert "run" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda refs: refs[1].update(ann_id=9), "ref 1: instances.json has no annotation 9 of the image 10"),
        (lambda refs: refs[1].update(image_id="../10"), "ref 1: instances.json has no annotation 2 of the image"),
        (lambda refs: refs[1].update(split="dev"), "ref 1: the split is 'dev', expected one of train, validation"),
    ],
)
def test_wrong_refs(refcoco, tmp_path, change, why):
    refs = json.loads(json.dumps(REFS))
    change(refs)
    (refcoco / "refcoco+" / "refs(unc).p").write_bytes(pickle.dumps(refs))
    with pytest.raises(ValueError, match=why):
        convert("refcoco", refcoco, tmp_path / "out", "--dataset", "refcoco+")
    splits = convert("refcoco", refcoco, tmp_path / "out", "--dataset", "refcoco+", "--skip-invalid")
    assert len(splits["train"][0]["sentences"]) == 2


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (
            lambda image: image.update(file_name="../secret.jpg"),
            "the file_name '../secret.jpg' leads out of the folder",
        ),
        (lambda image: image.update(id="../10"), r"the image_id is '../10', but it must be a plain name"),
    ],
)
def test_refcoco_stays_in_its_folders(refcoco, tmp_path, change, why):
    content = json.loads((refcoco / "refcoco+" / "instances.json").read_text())
    image = next(one for one in content["images"] if one["id"] == 10)
    change(image)
    for one in content["annotations"]:
        one["image_id"] = image["id"] if one["image_id"] == 10 else one["image_id"]
    refs = [{**ref, "image_id": image["id"] if ref["image_id"] == 10 else ref["image_id"]} for ref in REFS]
    (refcoco / "refcoco+" / "instances.json").write_text(json.dumps(content))
    (refcoco / "refcoco+" / "refs(unc).p").write_bytes(pickle.dumps(refs))
    with pytest.raises(ValueError, match=why):
        convert("refcoco", refcoco, tmp_path / "out", "--dataset", "refcoco+")
    splits = convert("refcoco", refcoco, tmp_path / "out", "--dataset", "refcoco+", "--skip-invalid")
    assert splits.keys() == {"validation", "testA"}


def test_refcoco_without_pictures(refcoco, tmp_path):
    (refcoco / "images").rename(tmp_path / "images")
    with pytest.raises(FileNotFoundError, match="with COCO's pictures does not exist; give --images"):
        convert("refcoco", refcoco, tmp_path / "out", "--dataset", "refcoco+")
