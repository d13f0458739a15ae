"""Trees of frames with a meta_expressions.json: writing, changing and converting them."""

import json

import numpy as np
from datasets import load_dataset
from PIL import Image
from pycocotools import mask as coco_mask

from factories import SHARED
from modeling_cvls.cli import convert as command

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
