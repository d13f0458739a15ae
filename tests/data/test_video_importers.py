"""Annotations of one's own: YouTube-VIS, CVAT and Label Studio, as the tools document them; wrong files are errors."""

import csv
import json
import xml.etree.ElementTree as ElementTree

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

from modeling_cvls.conversion.shapes import brush, polygons
from modeling_cvls.data import read_masks

# YouTube-VIS ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def youtube_vis(tmp_path):
    source = tmp_path / "raw"
    write_frames(source / "JPEGImages" / "walk")
    content = {
        "videos": [
            {"id": 1, "file_names": [f"walk/{n:05d}.jpg" for n in range(FRAMES)], "height": HEIGHT, "width": WIDTH,
             "length": FRAMES}
        ],
        "annotations": [
            {"id": 1, "video_id": 1, "category_id": 1, "segmentations": [rle(box_mask("1", n)) for n in range(FRAMES)]},
            {"id": 2, "video_id": 1, "category_id": 1,
             "segmentations": [[box_polygon("2", 0)], None, [box_polygon("2", 2)]]},
            {"id": 3, "video_id": 1, "category_id": 1, "segmentations": [None] * FRAMES},
        ],
        "categories": [{"id": 1, "name": "box"}],
    }  # fmt: skip
    (source / "instances.json").write_text(json.dumps(content))
    write_csv(source / "sentences.csv", [("object", "sentence"), ("1", "the left box"), ("2", "it"), ("3", "gone")])
    return source


def test_youtube_vis(youtube_vis, tmp_path):
    (row,) = convert("youtube_vis", youtube_vis, tmp_path / "out")["train"]
    assert row["video_id"] == "walk" and row["instance_ids"] == ["1", "2", "3"]
    masks, annotated, instances = read_masks(row, range(FRAMES))
    assert annotated.all() and instances.all()  # null: absent, which is known
    for n in range(FRAMES):
        np.testing.assert_array_equal(masks[n, 0], box_mask("1", n))
        np.testing.assert_array_equal(masks[n, 1], box_mask("2", n) if n != 1 else np.zeros((HEIGHT, WIDTH)))
    assert not masks[:, 2].any()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda c: c["annotations"][0]["segmentations"].pop(), "annotation 1 has 2 segmentations for 3 frames"),
        (lambda c: c["annotations"][0].update(video_id=9), "different videos|no such video"),
        (lambda c: c["videos"][0]["file_names"].__setitem__(0, "../x.jpg"), "must be a plain name"),
        (lambda c: c["videos"][0]["file_names"].__setitem__(0, "walk/9.jpg"), "9.jpg: this frame does not exist"),
        (lambda c: c.pop("videos"), "not of the form"),
    ],
)
def test_wrong_youtube_vis(youtube_vis, tmp_path, change, why):
    edit(youtube_vis / "instances.json", change)
    with pytest.raises(ValueError, match=why):
        convert("youtube_vis", youtube_vis, tmp_path / "out")


# CVAT -----------------------------------------------------------------------------------------------------------------


def cvat_xml():
    """As "CVAT for video 1.1" documents it: a track of polygons, and one of masks, rows of a box as run lengths."""
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    first, second = (ElementTree.SubElement(root, "track", id=name, label="box") for name in ("1", "2"))
    for frame in range(FRAMES):
        points = np.array(box_polygon("1", frame), float).reshape(-1, 2)
        text = ";".join(f"{x:.2f},{y:.2f}" for x, y in points)
        common = {"frame": str(frame), "outside": "0", "occluded": "0", "keyframe": "1"}
        ElementTree.SubElement(first, "polygon", points=text, z_order="0", **common)
        left, top, right, bottom = BOXES["2"]
        size = {"left": left + frame - 1, "top": top - 2, "width": right - left + 1, "height": bottom - top + 2}
        inner = box_mask("2", frame)[top - 2 : bottom, left + frame - 1 : right + frame].reshape(-1)
        ends = [*(np.flatnonzero(np.diff(inner.astype(int))) + 1).tolist(), len(inner)]
        runs = ", ".join(map(str, np.diff([0, *ends])))
        ElementTree.SubElement(second, "mask", rle=runs, **{k: str(v) for k, v in size.items()}, **common)
    ElementTree.SubElement(second, "mask", frame="1", outside="1", rle="1", left="0", top="0", width="1", height="1")
    return ElementTree.tostring(root, encoding="unicode")


@pytest.fixture
def cvat(tmp_path):
    source = tmp_path / "my_task"
    write_frames(source / "images")
    (source / "annotations.xml").write_text(cvat_xml())
    write_csv(source / "sentences.csv", [("object", "sentence"), ("1", "the left box"), ("2", "the low box")])
    return source


def test_cvat(cvat, tmp_path):
    (row,) = convert("cvat", cvat, tmp_path / "out")["train"]
    assert row["video_id"] == "my_task"
    check(row)


def test_cvat_mots(cvat, tmp_path):
    (cvat / "annotations.xml").unlink()
    (cvat / "instances").mkdir()
    for frame in range(FRAMES):
        values = sum((1000 + int(name)) * box_mask(name, frame) for name in BOXES).astype(np.uint16)
        Image.fromarray(values).save(cvat / "instances" / f"{frame:05d}.png")
    write_csv(cvat / "sentences.csv", [("object", "sentence"), ("1001", "the left box")])
    (row,) = convert("cvat", cvat, tmp_path / "out")["train"]
    check(row, ("1001", "1002"))
    (cvat / "instances" / "00001.png").unlink()
    with pytest.raises(ValueError, match="00001.png with the masks of 00001.jpg does not exist"):
        convert("cvat", cvat, tmp_path / "again")


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("<annotations>", "<!DOCTYPE a [<!ENTITY b 'c'>]><annotations>", "has a document type or entities"),
        ("</annotations>", "", "annotations.xml: cannot be decoded"),
        ("annotations>", "project>", "its root is <project>, expected <annotations>"),
        ('frame="2"', 'frame="7"', "track 1: a polygon is on frame 7, but there are 3 frames"),
        ('"2.00,3.00;', '"2.00;', "object '1': a polygon has at least three points"),
        ('"2.00,3.00;', '"-90,3.00;', "object '1': a polygon reaches from"),
        ('left="19"', 'left="99"', "object '2': a mask's box of .* is outside the frame"),
        ('rle="', 'rle="7, ', "the runs of a mask are"),
    ],
)
def test_wrong_cvat(cvat, tmp_path, old, new, why):
    path = cvat / "annotations.xml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ValueError, match=why):
        convert("cvat", cvat, tmp_path / "out")


# Label Studio ---------------------------------------------------------------------------------------------------------


def encode_brush(mask, repeat):
    """thi.ng/rle-pack, written from its description: words of 8 bits, lengths of 3, 4, 8 and 16 bits."""
    alpha = np.repeat(mask.reshape(-1).astype(int) * 255, 4)
    sizes = (3, 4, 8, 16)
    bits = f"{len(alpha):032b}{8 - 1:05b}" + "".join(f"{size - 1:04b}" for size in sizes)
    position = 0
    while position < len(alpha):
        end = position + 1
        while end < len(alpha) and end - position < 65536 and (alpha[end] == alpha[position]) == repeat:
            end += 1
        count = end - position - 1
        kind = next(kind for kind, size in enumerate(sizes) if count < 1 << size)
        bits += f"{int(repeat)}{kind:02b}{count:0{sizes[kind]}b}"
        values = alpha[position : position + 1] if repeat else alpha[position:end]
        bits += "".join(f"{value:08b}" for value in values)
        position = end
    bits += "0" * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


@pytest.mark.parametrize("repeat", [True, False])
def test_brush(repeat):
    mask = np.random.default_rng(0).random((HEIGHT, WIDTH)) > 0.7
    np.testing.assert_array_equal(brush(encode_brush(mask, repeat), HEIGHT, WIDTH), mask)
    code = encode_brush(mask, repeat)
    for wrong, why in (
        (code[: len(code) // 2], "ends too early"),
        (code[:3], "ends too early"),
        (["x"], "list of bytes"),
    ):
        with pytest.raises(ValueError, match=why):
            brush(wrong, HEIGHT, WIDTH)
    with pytest.raises(ValueError, match="a brush of 864 pixels on a frame of"):
        brush(code, HEIGHT, WIDTH + 1)


def test_polygons_are_a_union():
    both = polygons([box_polygon("1", 0), box_polygon("2", 0)], HEIGHT, WIDTH)
    np.testing.assert_array_equal(both, box_mask("1", 0) | box_mask("2", 0))
    assert not polygons([], HEIGHT, WIDTH).any()


@pytest.fixture
def label_studio(tmp_path):
    source = tmp_path / "raw"
    write_frames(source / "images" / "walk")
    tasks = []
    for frame in range(FRAMES - 1):  # the last frame is not annotated
        size = {"original_width": WIDTH, "original_height": HEIGHT}
        points = np.array(box_polygon("1", frame), float).reshape(-1, 2) / [WIDTH, HEIGHT] * 100
        code = encode_brush(box_mask("2", frame), True)
        result = [
            {"type": "polygonlabels", "value": {"points": points.tolist(), "polygonlabels": ["box 1"]}, **size},
            {"type": "brushlabels", "value": {"format": "rle", "rle": code, "brushlabels": ["box 2"]}, **size},
            {"type": "choices", "value": {"choices": ["done"]}},
        ]
        image = f"/data/upload/walk/{frame:05d}.jpg"
        tasks.append({"id": frame, "data": {"image": image}, "annotations": [{"result": []}, {"result": result}]})
    (source / "annotations.json").write_text(json.dumps(tasks))
    rows = [("walk", "box_1", "the left box"), ("walk", "box_2", "the low box"), ("walk", "", "a dog")]
    write_csv(source / "sentences.csv", [("video", "object", "sentence"), *rows])
    return source


def test_label_studio(label_studio, tmp_path):
    (row,) = convert("label_studio", label_studio, tmp_path / "out")["train"]
    assert row["video_id"] == "walk" and row["num_frames"] == FRAMES
    check(row, ("box_1", "box_2"), range(FRAMES - 1))
    assert [s["instances"] for s in row["sentences"]] == [[0], [1], []]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda tasks: tasks[0]["data"].update(image="/x/walk/9.jpg"), "task 0: there is no frame .*walk/9.jpg"),
        (
            lambda tasks: tasks[0]["annotations"][1]["result"][0].update(original_width=50),
            "was drawn on 50 x 24 pixels",
        ),
        (lambda tasks: tasks[0].pop("data"), "annotations.json: not of the form"),
    ],
)
def test_wrong_label_studio(label_studio, tmp_path, change, why):
    edit(label_studio / "annotations.json", change)
    with pytest.raises(ValueError, match=why):
        convert("label_studio", label_studio, tmp_path / "out")


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (("walk", "cat", "a cat"), "line 5: there is no object 'cat'; there are box_1, box_2"),
        (("run", "", "a cat"), "line 5: .* has no annotated frame of a video 'run'"),
    ],
)
def test_wrong_label_studio_sentences(label_studio, tmp_path, row, why):
    path = label_studio / "sentences.csv"
    write_csv(path, [*csv.reader(path.read_text().splitlines()), row])
    with pytest.raises(ValueError, match=why):
        convert("label_studio", label_studio, tmp_path / "out")
