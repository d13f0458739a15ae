"""Each format of a result is read back by the library or the importer that it is for."""

import csv
import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from modeling_cvls import CVLSPipeline, FrameReader
from modeling_cvls.conversion.cvat import mots_mask, read_mots, read_task
from modeling_cvls.results import VideoResult, segment
from numbered_videos import add_tone, drawn_number, loudness, write_numbered

SENTENCES = ["the red circle", "a square, on the left", "nothing"]
HEIGHT, WIDTH, FRAMES = 24, 36, 4


def encode(mask):
    return coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"].decode()


@pytest.fixture
def masks():
    """Two boxes that move and overlap; the second one leaves in the third frame and comes back."""
    masks = np.zeros((3, FRAMES, HEIGHT, WIDTH), bool)
    for frame in range(FRAMES):
        masks[0, frame, 3:14, 4 + frame : 16 + frame] = True
        masks[1, frame, 9:20, 8 : 20 + frame] = frame != 2
    return masks


@pytest.fixture
def result(masks):
    frames = np.random.default_rng(0).integers(0, 255, (FRAMES, HEIGHT, WIDTH, 3), dtype=np.uint8)
    scores = [[0.9, 0.2, 0.9, 0.9], [0.5, 0.6, 0.0, 0.95], [0.0] * 4]
    return VideoResult(
        "clip", SENTENCES, [0.9, 0.8, 0.1], list(range(FRAMES)), [f"{n:05d}" for n in range(FRAMES)], scores,
        [[encode(mask) for mask in of_sentence] for of_sentence in masks], HEIGHT, WIDTH, 8.0, FrameReader(frames, 8),
    )  # fmt: skip


def expected_labels(masks, result, frame):
    order = np.argsort([scores[frame] for scores in result.frame_scores], kind="stable")
    picture = np.zeros((HEIGHT, WIDTH), int)
    for number in order:
        picture[masks[number, frame]] = number + 1
    return picture


def test_coco_is_read_by_the_coco_api(result, masks, tmp_path):
    result.save(tmp_path / "masks.json")
    api = COCO(str(tmp_path / "masks.json"))
    assert [image["file_name"] for image in api.dataset["images"]] == [f"clip/{n:05d}.jpg" for n in range(FRAMES)]
    assert {c["id"]: c["name"] for c in api.dataset["categories"]} == dict(enumerate(SENTENCES, start=1))
    seen = np.zeros_like(masks)
    for annotation in api.dataset["annotations"]:
        mask = api.annToMask(annotation).astype(bool)
        seen[annotation["category_id"] - 1, annotation["image_id"] - 1] = mask
        assert annotation["area"] == mask.sum()
        x, y, width, height = map(int, annotation["bbox"])
        assert mask[y : y + height, x : x + width].sum() == mask.sum()
    np.testing.assert_array_equal(seen, masks)
    found = api.loadRes([{"image_id": 1, "category_id": 1, "segmentation": api.anns[1]["segmentation"],
                          "score": 0.5}])  # fmt: skip
    assert len(found.anns) == 1


def test_youtube_vis_has_one_segmentation_per_track_and_frame(result, masks, tmp_path):
    result.save(tmp_path / "masks.json", "youtube_vis")
    content = json.loads((tmp_path / "masks.json").read_text())
    (video,) = content["videos"]
    assert (video["length"], video["height"], video["width"], len(video["file_names"])) == (
        FRAMES,
        HEIGHT,
        WIDTH,
        FRAMES,
    )
    assert [one["category_id"] for one in content["annotations"]] == [1, 2, 3]
    for number, annotation in enumerate(content["annotations"]):
        lists = (annotation["segmentations"], annotation["areas"], annotation["bboxes"], masks[number])
        for rle, area, box, mask in zip(*lists, strict=True):
            if not mask.any():
                assert rle is area is box is None
            else:
                np.testing.assert_array_equal(coco_mask.decode(rle), mask)
                assert area == mask.sum() and len(box) == 4


def test_supervision(result, masks):
    supervision = pytest.importorskip("supervision")
    detections = result.to_supervision()
    assert len(detections) == FRAMES and all(isinstance(one, supervision.Detections) for one in detections)
    for frame, found in enumerate(detections):
        present = np.flatnonzero(masks[:, frame].any((1, 2)))
        assert found.tracker_id.tolist() == present.tolist() == found.class_id.tolist()
        np.testing.assert_array_equal(found.mask, masks[present, frame])
        assert found.confidence.tolist() == [result.frame_scores[number][frame] for number in present]
        assert found.data["class_name"].tolist() == [SENTENCES[number] for number in present]
        for box, mask in zip(found.xyxy, found.mask, strict=True):
            ys, xs = np.nonzero(mask)
            assert box.tolist() == [xs.min(), ys.min(), xs.max(), ys.max()]
    empty = result.__class__(**{**vars(result), "counts": [[encode(np.zeros((HEIGHT, WIDTH)))] * FRAMES] * 3})
    assert all(len(found) == 0 for found in empty.to_supervision())


def test_cvat_is_read_by_its_importer_and_says_when_an_object_leaves(result, masks, tmp_path):
    result.save(tmp_path / "masks.xml")
    seen = np.zeros_like(masks)
    task = read_task(tmp_path / "masks.xml")
    for track in task.tracks:
        ((frame, shape),) = track.shapes  # CVAT reads one mask of a track
        seen[SENTENCES.index(track.label), frame] = shape(HEIGHT, WIDTH)
    np.testing.assert_array_equal(seen, masks)
    assert task.size == (HEIGHT, WIDTH)
    root = ElementTree.parse(tmp_path / "masks.xml").getroot()
    second = [track for track in root.findall("track") if track.get("label") == SENTENCES[1]]
    assert [[mask.get("frame") for mask in track] for track in second] == [["0", "1"], ["1", "2"], ["3"]]
    assert [[mask.get("outside") for mask in track] for track in second] == [["0", "1"], ["0", "1"], ["0"]]
    assert [name.text for name in root.findall("meta/task/labels/label/name")] == SENTENCES
    assert len({track.get("id") for track in root.findall("track")}) == len(task.tracks) == masks.any((2, 3)).sum()


def test_palette_tree_and_its_sentences(result, masks, tmp_path):
    result.save(tmp_path / "out")
    for frame in range(FRAMES):
        with Image.open(tmp_path / "out" / "Annotations" / "clip" / f"{frame:05d}.png") as image:
            assert image.mode == "P"
            np.testing.assert_array_equal(np.asarray(image), expected_labels(masks, result, frame))
    rows = list(csv.reader((tmp_path / "out" / "sentences.csv").read_text().splitlines()))
    numbers = ["1", "2", ""]  # no pixel is left of the third sentence
    assert rows == [["video", "object", "sentence"], *(["clip", n, s] for n, s in zip(numbers, SENTENCES, strict=True))]


def test_competition_tree(result, masks, tmp_path):
    result.save(tmp_path / "out", "competition")
    assert len(list((tmp_path / "out").rglob("*.png"))) == 3 * FRAMES
    for number in range(3):
        for frame in range(FRAMES):
            with Image.open(tmp_path / "out" / "Annotations" / "clip" / str(number) / f"{frame:05d}.png") as image:
                np.testing.assert_array_equal(np.asarray(image), masks[number, frame] * 255)


def test_mots(result, masks, tmp_path):
    result.save(tmp_path / "out", "mots")
    frames = [tmp_path / f"{frame:05d}.jpg" for frame in range(FRAMES)]
    seen = np.zeros((FRAMES, HEIGHT, WIDTH), int)
    for frame, name, shape in read_mots(tmp_path / "out" / "instances", frames):
        assert shape.func is mots_mask
        seen[frame][shape(HEIGHT, WIDTH)] = int(name) - 1000
    np.testing.assert_array_equal(seen, [expected_labels(masks, result, frame) for frame in range(FRAMES)])


def test_overlay(result, tmp_path):
    result.save(tmp_path / "out.mp4")
    reader = FrameReader(tmp_path / "out.mp4")
    assert len(reader) == FRAMES and reader.fps == 8 and reader.width >= 480


def test_the_overlay_has_the_times_of_its_source(make_model, processor, tmp_path):
    """Whatever the frames that were asked for, and their order: each at its own time."""
    times = [0, 0.5, 0.54, 0.58, 1.7, 1.74]
    silent = write_numbered(tmp_path / "silent.mp4", 6, times=times, display=((1, 0, 0, 1), 2))
    path = add_tone(silent, tmp_path / "in.mp4", "stereo")
    segmenter = CVLSPipeline(model=make_model(), processor=processor)
    for options, kept, end in (({}, range(6), None), ({"frame_indices": [4, 1, 2]}, [1, 2, 4], 1.74)):
        result = segment(segmenter, path, "the red circle", **options)
        result.save(tmp_path / "out.mp4")
        written = FrameReader(tmp_path / "out.mp4")
        height = written.width * 48 // 64  # the legend is below
        assert [drawn_number(frame[:height]) for frame in written.frames(range(len(kept)))] == [*kept]
        np.testing.assert_allclose(written.times, np.array(times)[kept] - times[kept[0]], atol=1e-3)
        end = FrameReader(path).end if end is None else end
        assert written.end == pytest.approx(end - times[kept[0]], abs=2e-3) and written.sample_aspect_ratio == 2
        assert loudness(tmp_path / "out.mp4")[1] > 0.9


def test_overlay_is_in_the_order_of_time(result, tmp_path):
    order = [2, 0, 3, 0]
    shuffled = replace(
        result,
        frame_indices=order,
        frame_names=[result.frame_names[t] for t in order],
        frame_scores=[[scores[t] for t in order] for scores in result.frame_scores],
        counts=[[counts[t] for t in order] for counts in result.counts],
    )
    sorted_ = replace(
        result,
        frame_indices=[0, 2, 3],
        frame_names=[result.frame_names[t] for t in (0, 2, 3)],
        frame_scores=[[scores[t] for t in (0, 2, 3)] for scores in result.frame_scores],
        counts=[[counts[t] for t in (0, 2, 3)] for counts in result.counts],
    )
    videos = []
    for name, one in (("shuffled", shuffled), ("sorted", sorted_)):
        one.save(tmp_path / f"{name}.mp4")
        videos.append(FrameReader(tmp_path / f"{name}.mp4").read(range(3)))
    np.testing.assert_array_equal(*videos)


def test_more_sentences_than_labels(result, tmp_path):
    many = replace(
        result,
        sentences=["it"] * 255,
        scores=[0.5] * 255,
        frame_scores=[[0.5] * FRAMES] * 255,
        counts=[result.counts[0]] * 255,
    )
    with pytest.raises(ValueError, match="holds at most 254 sentences, not 255"):
        many.save(tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_saved(result, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="out.txt: format is None; there are overlay, coco, youtube_vis"):
        result.save(tmp_path / "out.txt")
    with pytest.raises(ValueError, match="format is 'gif'"):
        result.save(tmp_path / "out", "gif")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    with pytest.raises(FileExistsError, match="full exists and is not empty"):
        result.save(tmp_path / "full")

    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="no space left"):
        result.save(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_what_a_killed_run_left_is_replaced(result, tmp_path):
    (tmp_path / ".out.partial" / "Annotations" / "clip").mkdir(parents=True)
    (tmp_path / ".out.partial" / "Annotations" / "clip" / "old.png").touch()
    result.save(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert len(list((tmp_path / "out" / "Annotations" / "clip").iterdir())) == FRAMES


def test_segment_gives_what_the_pipeline_gives(make_model, processor, tmp_path):
    model = make_model()
    model.mask_bias.data.fill_(0.05)
    folder = tmp_path / "walk"
    folder.mkdir()
    for number in (3, 7, 11):
        picture = np.random.default_rng(number).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(picture).save(folder / f"{number:05d}.png")
    segmenter = CVLSPipeline(model=model, processor=processor)
    run = partial(segment, segmenter, folder, ["the red circle", "a square"], 8, presence_threshold=0)
    result, expected = run(), segmenter(folder, ["the red circle", "a square"], video_fps=8, presence_threshold=0)
    assert result.name == "walk" and list(result.frame_names) == ["00003", "00007", "00011"]
    assert result.to_coco()["images"][1]["file_name"] == "walk/00007.png"
    for frame in range(3):
        np.testing.assert_array_equal(result.masks(frame), [one["masks"][frame] for one in expected])
    assert result.scores == pytest.approx([one["score"] for one in expected])
    with pytest.raises(ValueError, match="the video's name is '../x'"):
        run(name="../x")
    assert SimpleNamespace(**vars(result)).fps == 8
