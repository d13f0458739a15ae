"""Rows of noise, with frames that are stored without loss."""

import io

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask


def encode_mask(mask):
    return coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"].decode()


def encode_png(frame):
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, format="png")
    return buffer.getvalue()


def make_row(name="a", num_frames=6, height=40, width=64, instances=2, sentences=2, annotated=(1, 4), seed=0):
    """A row of png frames (lossless) of noise, with random masks; instance 1 is not annotated in the last frame."""
    generator = np.random.default_rng(seed)
    frames = generator.integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8)
    masks = [[encode_mask(generator.random((height, width)) > 0.5) for _ in range(instances)] for _ in annotated]
    if instances > 1 and annotated:
        masks[-1][1] = None
    row = {
        "video_id": name,
        "video": None,
        "frames": [{"bytes": encode_png(frame), "path": None} for frame in frames],
        "num_frames": num_frames,
        "height": height,
        "width": width,
        "fps": None,
        "annotated_frames": list(annotated),
        "evaluation_frames": None,
        "instance_ids": [str(m) for m in range(instances)],
        "masks": masks,
        "sentences": [
            {
                "sentence_id": f"{name}/{k}",
                "text": "the bird on the left " + "and right " * k,
                "instances": [k] if k < instances else [],
                "kind": None,
            }
            for k in range(sentences)
        ],
    }
    return row, frames


def decoded(counts, row):
    return coco_mask.decode({"size": [row["height"], row["width"]], "counts": counts}).astype(bool)
