"""Logits of frames to their masks at the video's own size, and to what the user gets of them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from .rle_cvls import encode_masks
from .windows_cvls import FrameLogits


@dataclass(frozen=True)
class MaskOptions:
    """How masks are made of logits; the fields are those of [`CVLSPipeline.__call__`] and its `stream`.

    Raises:
        ImportError: masks as RLE are asked for, and pycocotools is missing.
        ValueError: a field is outside what is possible.
    """

    threshold: float = 0.5
    presence_threshold: float = 0.5
    exclusive: Sequence[Sequence[int]] | None = None
    mask_format: str = "array"
    return_frames: bool = False

    def __post_init__(self):
        for name in ("threshold", "presence_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a probability, from 0 to 1, not {getattr(self, name)}")
        if self.mask_format not in ("array", "rle"):
            raise ValueError(f"mask_format is 'array' or 'rle', not {self.mask_format!r}")
        if self.mask_format == "rle":
            encode_masks(np.zeros((1, 1, 1), dtype=bool))  # a missing pycocotools is an error at once


@dataclass(frozen=True)
class FrameSizes:
    """(height, width) of a video's frames: as the model got them, and their own."""

    processed: tuple[int, int]
    own: tuple[int, int]


def frame_results(
    processor, logits: FrameLogits, sizes: FrameSizes, options: MaskOptions
) -> list[tuple[int, dict[str, Any]]]:
    """Logits, on any device, to what the user gets of each frame.

    Args:
        processor: a `CVLSProcessor`.

    Returns:
        The position of each frame, and a dict: "masks", "scores" and "frame_scores", as of [`CVLSPipeline.stream`].
    """
    mask_logits = logits.mask_logits
    thresholds = options.threshold, options.presence_threshold
    found = _post_process(processor, mask_logits, logits.presence_logits, sizes, *thresholds)
    masks = found["masks"]
    if options.exclusive:
        masks = _without_overlap(processor, masks, mask_logits, sizes, options.exclusive)
    masks = masks.cpu().numpy()  # masks are smaller to move than logits
    scores, frame_scores = found["scores"].tolist(), found["frame_scores"].tolist()
    results = []
    for index, position in enumerate(logits.positions):
        result = {
            "masks": masks[:, index],
            "scores": [of_sentence[index] for of_sentence in scores],
            "frame_scores": [of_sentence[index] for of_sentence in frame_scores],
        }
        if options.mask_format == "rle":
            size = list(masks.shape[2:])
            result["masks"] = [{"size": size, "counts": counts} for counts in encode_masks(result["masks"])]
        results.append((position, result))
    return results


def sentence_results(frames: Iterable[dict[str, Any]], sentences: Sequence[str], order: Sequence[int]) -> list[dict]:
    """Results of frames, in the order of time, to results of sentences.

    Args:
        frames: an iterable of dicts with "frame_index", "masks", "scores" and "frame_scores".
        sentences: their K sentences.
        order: the frames to return, in this order; the same one may come several times. Those that are not among
            `frames` are left out.

    Raises:
        ValueError: none of them is there.
    """
    masks = None
    number = len(set(order))
    scores, frame_scores = (np.zeros((len(sentences), number)) for _ in range(2))
    position_of = {}
    for position, result in enumerate(frames):
        if masks is None:
            arrays = isinstance(result["masks"], np.ndarray)
            shape = (len(sentences), number, *(result["masks"].shape[1:] if arrays else ()))
            masks = np.zeros(shape, dtype=bool if arrays else object)
        position_of[result["frame_index"]] = position
        masks[:, position] = result["masks"]
        scores[:, position], frame_scores[:, position] = result["scores"], result["frame_scores"]
    if masks is None:
        raise ValueError("none of the frames that were asked for can be decoded")
    order = [frame for frame in order if frame in position_of]
    at = [position_of[frame] for frame in order]
    if at != list(range(number)):  # else without a copy
        masks, frame_scores = masks[:, at], frame_scores[:, at]
    return [
        {
            "sentence": sentence,
            "score": float(scores[index].max()),
            "masks": masks[index].tolist() if masks.dtype == object else masks[index],
            "frame_indices": [int(frame) for frame in order],
            "frame_scores": frame_scores[index].tolist(),
        }
        for index, sentence in enumerate(sentences)
    ]


def _post_process(
    processor,
    mask_logits: torch.Tensor,
    presence_logits: torch.Tensor,
    sizes: FrameSizes,
    threshold: float = 0.5,
    presence_threshold: float = 0.0,
) -> dict[str, torch.Tensor]:
    """Logits as of `frame_results` -> "masks" (K, N, H, W), "scores" and "frame_scores" (K, N)."""
    outputs = SimpleNamespace(mask_logits=mask_logits[None], presence_logits=presence_logits[None])
    (result,) = processor.post_process_masks(outputs, [sizes.processed], [sizes.own], threshold, presence_threshold)
    return result


def _without_overlap(processor, masks, mask_logits, sizes, groups):
    """Masks (K, N, H, W) of which each group's share no pixel; `mask_logits` (K, N, h, w) say who keeps it."""
    kept = masks.clone()
    for first, second in (pair for group in groups for pair in combinations(group, 2)):
        both = masks[first] & masks[second]
        if both.any():
            # Resizing is linear: where the difference of logits is positive at the video's size, so is theirs.
            ahead = mask_logits[second, None] - mask_logits[first, None]
            ahead = _post_process(processor, ahead, ahead.new_zeros(1), sizes)["masks"][0]
            kept[first] &= ~(both & ahead)
            kept[second] &= ~(both & ~ahead)
    return kept


__all__ = ["FrameSizes", "MaskOptions", "frame_results", "sentence_results"]
