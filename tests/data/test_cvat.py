"""A task of CVAT, as its formats are documented and as its server writes them; wrong files are clear errors."""

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from boxes import BOXES, FRAMES, HEIGHT, WIDTH, box_mask, box_polygon, check, convert, write_csv, write_frames
from PIL import Image

from modeling_cvls.data import read_frames, read_masks
from modeling_cvls.visualization import write_video


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
        ('frame="2"', 'frame="7"', "track 1: a shape is on frame 7, but there are 3 frames"),
        ('frame="2"', f'frame="{10**20}"', f"track 1: a shape is on frame {10**20}, but there are 3 frames"),
        ('"2.00,3.00;', '"2.00;', "object '1': a polygon has at least three points"),
        ('"2.00,3.00;', '"-90,3.00;', "object '1': a polygon reaches from"),
        ('left="19"', 'left="99"', "object '2': a mask's box of .* is outside the frame"),
        ('left="19"', 'left="inf"', "track 2: a mask cannot be read: OverflowError"),
        ('rle="', 'rle="7, ', "the runs of a mask are"),
    ],
)
def test_wrong_cvat(cvat, tmp_path, old, new, why):
    path = cvat / "annotations.xml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ValueError, match=why):
        convert("cvat", cvat, tmp_path / "out")


# What CVAT's server writes: numbers of the video's own frames, one track per mask, no images unless asked for ---------


def rle_attributes(name, frame):
    """A mask of CVAT: runs through the rows of its box, zeros first."""
    left, top, right, bottom = BOXES[name]
    size = {"left": left + frame, "top": top, "width": right - left, "height": bottom - top}
    area = (right - left) * (bottom - top)
    return {"rle": f"0, {area}", **{key: str(value) for key, value in size.items()}}


def task_xml(numbers, masks=True, start=0, step=1, count=FRAMES, source=None, size=(HEIGHT, WIDTH)):
    """The two boxes at the positions 0, 1 ... of the task, whose frames have these numbers in the video.

    As masks, each is a track of its own, with the label of the box; else there are two tracks of polygons, of which the
    second one leaves in the last frame.
    """
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    meta = ElementTree.SubElement(root, "meta")
    task = ElementTree.SubElement(meta, "task")
    facts = {"size": count, "mode": "interpolation", "start_frame": start, "stop_frame": start + step * (count - 1)}
    for key, value in (*facts.items(), ("frame_filter", f"step={step}" if step > 1 else "")):
        ElementTree.SubElement(task, key).text = str(value)
    original = ElementTree.SubElement(task, "original_size")
    ElementTree.SubElement(original, "width").text = str(size[1])
    ElementTree.SubElement(original, "height").text = str(size[0])
    if source:
        ElementTree.SubElement(meta, "source").text = source
    common = {"occluded": "0", "z_order": "0"}
    count_of_tracks = 0
    for name in BOXES:
        track = None
        for position, number in enumerate(numbers):
            if track is None or masks:
                label = {"1": "left box", "2": "low box"}[name]
                track = ElementTree.SubElement(root, "track", id=str(count_of_tracks), label=label, source="manual")
                count_of_tracks += 1
            outside = str(int(not masks and name == "2" and position == len(numbers) - 1))
            attributes = {"frame": str(number), "keyframe": str(int(position == 0)), "outside": outside, **common}
            if masks:
                ElementTree.SubElement(track, "mask", **attributes, **rle_attributes(name, position))
                after = {**attributes, "frame": str(number + step), "outside": "1"}
                ElementTree.SubElement(track, "mask", **after, **rle_attributes(name, position))
            else:
                points = np.array(box_polygon(name, position), float).reshape(-1, 2)
                ElementTree.SubElement(
                    track, "polygon", points=";".join(f"{x:.2f},{y:.2f}" for x, y in points), **attributes
                )
    return ElementTree.tostring(root, encoding="unicode")


@pytest.fixture
def film(tmp_path):
    """A task of the frames 2, 4 and 6 of a video of nine, exported without images, the video beside it."""
    source = tmp_path / "film"
    frames = np.stack([np.full((HEIGHT, WIDTH, 3), 25 * t, np.uint8) for t in range(9)])
    write_video(source / "walk.mp4", frames, 10)
    (source / "annotations.xml").write_text(task_xml((2, 4, 6), False, start=2, step=2, source="walk.mp4"))
    write_csv(source / "sentences.csv", [("object", "sentence"), ("0", "the left box"), ("1 0", "both")])
    return source


def test_the_video_of_a_task(film, tmp_path):
    (row,) = convert("cvat", film, tmp_path / "out")["train"]
    assert row["frames"] is None and row["video"]["bytes"] == (film / "walk.mp4").read_bytes()
    assert (row["num_frames"], row["height"], row["width"], row["fps"]) == (9, HEIGHT, WIDTH, 10)
    assert row["annotated_frames"] == [2, 4, 6] and row["instance_ids"] == ["0", "1"]
    assert [one["instances"] for one in row["sentences"]] == [[0], [1, 0]]
    masks, _, known = read_masks(row, [2, 4, 6])
    assert known.all()
    for position in range(3):
        np.testing.assert_array_equal(masks[position, 0], box_mask("1", position))
        np.testing.assert_array_equal(masks[position, 1], box_mask("2", position) & (position < 2))
    np.testing.assert_allclose(read_frames(row, [4]).mean(), 100, atol=4)


def test_another_file_of_the_video(film, tmp_path):
    (film / "walk.mp4").rename(tmp_path / "other.mp4")
    with pytest.raises(FileNotFoundError, match="walk.mp4, the video of the task, does not exist.* give --video"):
        convert("cvat", film, tmp_path / "out")
    (row,) = convert("cvat", film, tmp_path / "out", "--video", tmp_path / "other.mp4")["train"]
    assert row["num_frames"] == 9


def test_frames_that_a_track_leaves_out_are_not_annotated(film, tmp_path):
    path = film / "annotations.xml"
    root = ElementTree.fromstring(path.read_text())
    first = root.find("track")
    first.remove(first[1])  # a frame that was deleted in CVAT
    path.write_text(ElementTree.tostring(root, encoding="unicode"))
    (row,) = convert("cvat", film, tmp_path / "out")["train"]
    assert row["annotated_frames"] == [2, 4, 6]
    assert [mask is None for mask in row["masks"][1]] == [True, False]
    second = root.findall("track")[1]
    second.remove(second[1])
    path.write_text(ElementTree.tostring(root, encoding="unicode"))
    (row,) = convert("cvat", film, tmp_path / "again")["train"]
    assert row["annotated_frames"] == [2, 6]


@pytest.mark.parametrize("names", ["frame_{:06d}", "picture{:02d}"])
def test_images_are_found_by_the_numbers_of_the_video(tmp_path, names):
    """CVAT calls the images of a video by their numbers in it; those of a task of images keep their names."""
    source = tmp_path / "task"
    write_frames(source / "images", "png")
    for position, path in enumerate(sorted((source / "images").iterdir())):
        path.rename(path.with_name(f"{names.format(5 + 10 * position)}.png"))
    (source / "annotations.xml").write_text(task_xml((5, 15, 25), False, start=5, step=10))
    write_csv(source / "sentences.csv", [("object", "sentence"), ("0", "the left box")])
    (row,) = convert("cvat", source, tmp_path / "out")["train"]
    masks, _, _ = read_masks(row, range(FRAMES))
    for position in range(FRAMES):
        np.testing.assert_array_equal(masks[position, 0], box_mask("1", position))


@pytest.fixture
def brushed(tmp_path):
    """A task in which each mask is a track of its own."""
    source = tmp_path / "brushed"
    write_frames(source / "images")
    (source / "annotations.xml").write_text(task_xml(range(FRAMES)))
    write_csv(source / "sentences.csv", [("object", "sentence"), ("left_box", "the left box"), ("low_box", "it")])
    return source


def test_objects_are_labels_where_masks_have_no_tracks(brushed, tmp_path):
    (row,) = convert("cvat", brushed, tmp_path / "out", "--objects", "labels")["train"]
    masks, annotated, known = read_masks(row, range(FRAMES))
    assert row["instance_ids"] == ["left_box", "low_box"] and annotated.all() and known.all()
    for position in range(FRAMES):
        for m, name in enumerate(BOXES):
            np.testing.assert_array_equal(masks[position, m], box_mask(name, position))
    path = brushed / "annotations.xml"
    root = ElementTree.fromstring(path.read_text())
    for track in root.findall("track"):
        if track[0].get("frame") == "1":  # nobody has drawn on this frame
            root.remove(track)
    path.with_name("sparse.xml").write_text(ElementTree.tostring(root, encoding="unicode"))
    sparse = ("--objects", "labels", "--annotations", path.with_name("sparse.xml"))
    (row,) = convert("cvat", brushed, tmp_path / "sparse", *sparse)["train"]
    assert row["num_frames"] == FRAMES and row["annotated_frames"] == [0, 2]
    with pytest.raises(
        ValueError, match="the 3 tracks with the label 'left box' have one shape each.*--objects labels"
    ):
        convert("cvat", brushed, tmp_path / "again")
    write_csv(brushed / "sentences.csv", [("object", "sentence"), ("1", "the left box")])
    (row,) = convert("cvat", brushed, tmp_path / "again", "--objects", "tracks")["train"]
    assert len(row["instance_ids"]) == 6


WRONG_TASKS = {
    "project": (lambda s: s.replace("task>", "project>"), "is the export of a project; export each of its tasks"),
    "images": (lambda s: s.replace("<meta>", "<image id='0'/><meta>"), "has the format CVAT for images, expected"),
    "number": (lambda s: s.replace("<size>3<", "<size>4<"), "holds 3 images, but the task of .* has 4 frames"),
    "size": (
        lambda s: s.replace("<width>36<", "<width>72<"),
        "annotated on frames of 72 x 24 pixels .*, but the frames are 36 x 24",
    ),
    "twice": (lambda s: s.replace('id="1"', 'id="0"'), "two tracks have the id 0"),
}


@pytest.mark.parametrize("case", WRONG_TASKS)
def test_wrong_tasks(brushed, tmp_path, case):
    change, why = WRONG_TASKS[case]
    path = brushed / "annotations.xml"
    path.write_text(change(path.read_text()))
    with pytest.raises(ValueError, match=why):
        convert("cvat", brushed, tmp_path / "out", "--objects", "labels")


def test_images_whose_order_is_not_clear(brushed, tmp_path):
    for position, path in enumerate(sorted((brushed / "images").iterdir())):
        path.rename(path.with_name(f"{9 + position}.jpg"))  # 9, 10, 11; as text 10, 11, 9
    with pytest.raises(ValueError, match="images: the order of '9.jpg' is not clear, .* with leading zeros"):
        convert("cvat", brushed, tmp_path / "out", "--objects", "labels")
