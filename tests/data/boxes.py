"""Two boxes that move through three frames: what the tests of importers and of results annotate and draw."""

import csv
import json

import numpy as np
from datasets import load_dataset
from PIL import Image
from pycocotools import mask as coco_mask

from modeling_cvls.cli import convert as command
from modeling_cvls.data import read_masks

HEIGHT, WIDTH, FRAMES = 24, 36, 3
BOXES = {"1": (2, 3, 12, 9), "2": (20, 10, 30, 20)}  # left, top, right, bottom in frame 0; one pixel right per frame


def box_mask(name, frame):
    left, top, right, bottom = BOXES[name]
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top:bottom, left + frame : right + frame] = True
    return mask


def box_polygon(name, frame):
    left, top, right, bottom = BOXES[name]
    left, right = left + frame, right + frame
    return [left, top, right, top, right, bottom, left, bottom]


def rle(mask):
    encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [HEIGHT, WIDTH], "counts": encoded["counts"].decode()}


def write_frames(folder, suffix="jpg"):
    folder.mkdir(parents=True)
    for frame in range(FRAMES):
        picture = np.full((HEIGHT, WIDTH, 3), 40 * frame, np.uint8)
        Image.fromarray(picture).save(folder / f"{frame:05d}.{suffix}")


def write_csv(path, rows):
    with open(path, "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def convert(name, source, output, *arguments):
    command.main([name, "--source", str(source), "--output", str(output), "--num-proc", "1", *map(str, arguments)])
    return load_dataset(str(output), cache_dir=str(output.parent / "cache"))


def check(row, names=("1", "2"), frames=range(FRAMES)):
    """Every mask of a row is the box that was drawn."""
    masks, annotated, _ = read_masks(row, range(row["num_frames"]))
    assert np.flatnonzero(annotated).tolist() == list(frames)
    assert row["instance_ids"] == list(names)
    for frame in frames:
        for m, name in enumerate(names):
            np.testing.assert_array_equal(masks[frame, m], box_mask(name[-1], frame), f"frame {frame}, object {name}")


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
