"""Scenes as rows of a data set of video sentences."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from ..rle_cvls import encode_masks
from ..synthetic import Scene, Sentence, render
from .rows import frames_row, sentence_cell


def scene_row(video_id: str, scene: Scene, sentences: Sequence[Sentence]) -> dict[str, Any]:
    """A row with the columns of `FEATURES`: every frame is annotated, and stored without loss."""
    frames, masks = render(scene)
    return frames_row(
        video_id,
        [{"bytes": _encode_png(frame), "path": f"{t:05d}.png"} for t, frame in enumerate(frames)],
        scene.height,
        scene.width,
        annotated_frames=list(range(scene.num_frames)),
        instance_ids=[str(m) for m in range(len(scene.objects))],
        masks=[encode_masks(of_frame) for of_frame in masks],
        sentences=[
            sentence_cell(video_id, number, sentence.text, sentence.instances, sentence.kind)
            for number, sentence in enumerate(sentences)
        ],
    )


def _encode_png(frame: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "PNG")
    return buffer.getvalue()


__all__ = ["scene_row"]
