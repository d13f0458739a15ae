"""Videos of noise with two rectangles, and how they are measured."""

import io

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image
from pycocotools import mask as rle_ops

from factories import ROOT
from modeling_cvls.data import FEATURES
from modeling_cvls.evaluation import evaluate_segmenter

PROGRAMS = ROOT / "tests" / "distributed" / "programs"
SENTENCES = ["the red circle", "the small blue square", "a circle moving left", "the green square on the right"]


def counts(mask):
    return rle_ops.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"].decode()


def make_row(video_id, num_frames, size, referents, annotated=None, seed=0, **changes):
    """A video of noise with two rectangles; `referents`: the instances of each sentence."""
    rng = np.random.default_rng(seed)
    height, width = size
    frames, masks = [], []
    for number in range(num_frames):
        picture = rng.integers(0, 120, (height, width, 3), dtype=np.uint8)
        instances = np.zeros((2, height, width), bool)
        instances[0, 5 : height // 2, number + 3 : number + width // 2] = True
        instances[1, height // 2 :, width // 3 : width - number] = True
        picture[instances[0]] //= 4
        picture[instances[1]] += 100
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "png")
        frames.append({"bytes": buffer.getvalue(), "path": f"{5 * number:05d}.png"})
        masks.append([counts(mask) for mask in instances])
    annotated = list(range(num_frames)) if annotated is None else annotated
    return {
        "video_id": video_id,
        "video": None,
        "frames": frames,
        "num_frames": num_frames,
        "height": height,
        "width": width,
        "fps": None,
        "annotated_frames": annotated,
        "evaluation_frames": None,
        "instance_ids": ["1", "2"],
        "masks": [masks[frame] for frame in annotated],
        "sentences": [
            {"sentence_id": f"{video_id}/{i}", "text": SENTENCES[i % 4], "instances": instances, "kind": None}
            for i, instances in enumerate(referents)
        ],
        **changes,
    }


def make_set(*rows):
    return Dataset.from_list(list(rows), features=FEATURES)


def measured(model, processor, rows, **arguments):
    return evaluate_segmenter(model, processor, make_set(*rows), 0.0, progress=False, **arguments)


def close(results, others):
    results, others = dict(results), dict(others)
    for name in ("per_kind", "per_group"):
        parts, other_parts = results.pop(name, {}), others.pop(name, {})
        assert parts.keys() == other_parts.keys()
        assert all(parts[part] == pytest.approx(other_parts[part], abs=1e-6) for part in parts)
    assert results == pytest.approx(others, abs=1e-6)
