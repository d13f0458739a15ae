"""Annotations of one's own: YouTube-VIS and Label Studio, as the tools document them; wrong files are errors."""

import csv
import json

import numpy as np
import pytest
from boxes import (
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
        (
            lambda c: (
                c["videos"][0].update(id="../1", file_names=["0.jpg"] * FRAMES),
                [one.update(video_id="../1") for one in c["annotations"]],
            ),
            "the video's id is '../1'",
        ),
        (lambda c: c["videos"][0]["file_names"].__setitem__(0, "walk/9.jpg"), "9.jpg: this frame does not exist"),
        (lambda c: c.pop("videos"), "not of the form"),
        (lambda c: c["annotations"][1].update(id=1), "two entries of kind annotation have the id 1"),
        (lambda c: c["videos"].append(c["videos"][0]), "two entries of kind video have the id 1"),
        (lambda c: c["videos"][0].update(height=48), "annotated on frames of 36 x 48 pixels"),
    ],
)
def test_wrong_youtube_vis(youtube_vis, tmp_path, change, why):
    edit(youtube_vis / "instances.json", change)
    with pytest.raises(ValueError, match=why):
        convert("youtube_vis", youtube_vis, tmp_path / "out")


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
    "place",
    [
        "/data/local-files/?d=frames/walk/{}",  # local storage
        "s3://bucket/walk/{}",
        "/data/upload/7/5c0a1b2d-{}",  # an upload, in the folder of the project
        "http://localhost:8080/data/upload/7/5c0a1b2d-{}",
    ],
)
def test_places_of_images(label_studio, tmp_path, place):
    def change(tasks):
        for task in tasks:
            task["data"]["image"] = place.format(task["data"]["image"].rsplit("/", 1)[1])

    write_frames(label_studio / "images" / "run" / "inner")  # not frames of a video of their own
    edit(label_studio / "annotations.json", change)
    (row,) = convert("label_studio", label_studio, tmp_path / "out")["train"]
    assert row["video_id"] == "walk" and row["annotated_frames"] == list(range(FRAMES - 1))


def test_an_upload_of_which_two_videos_have_the_name(label_studio, tmp_path):
    write_frames(label_studio / "images" / "run")
    assert convert("label_studio", label_studio, tmp_path / "out")["train"]["video_id"] == ["walk"]
    edit(label_studio / "annotations.json", lambda tasks: tasks[0]["data"].update(image="/data/upload/7/00000.jpg"))
    with pytest.raises(ValueError, match="task 0: there is no frame .*7/00000.jpg for its image"):
        convert("label_studio", label_studio, tmp_path / "again")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda tasks: tasks[1].update(data=tasks[0]["data"]), "task 1: another task has the same frame, 00000.jpg of"),
        (lambda tasks: tasks[0]["data"].update(image="/x/walk/9.jpg"), "task 0: there is no frame .*walk/9.jpg"),
        (
            lambda tasks: tasks[0]["annotations"][1]["result"][0].update(original_width=50),
            "was drawn on 50 x 24 pixels",
        ),
        (lambda tasks: tasks[0].pop("data"), "annotations.json: not of the form"),
        (
            lambda tasks: tasks[0]["annotations"][1]["result"][0].update(original_width="wide"),
            "annotations.json: not of the form .*invalid literal",
        ),
        (
            lambda tasks: tasks[0]["annotations"][1]["result"][0].update(original_width=float("inf")),
            "annotations.json: not of the form .*infinity",
        ),
        (
            lambda tasks: tasks[0]["annotations"][1]["result"][0]["value"].update(points=None),
            "object 'box_1': a polygon has points .x, y. in percent, not None",
        ),
        (lambda tasks: tasks[0]["annotations"][1]["result"][1]["value"].update(rle="x"), "a brush is a list of bytes"),
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
