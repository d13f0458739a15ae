"""What a segmenter saw: the numbers behind the pictures of scripts/explain.py."""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import hypergeom

from .modeling_cvls import CVLSModel
from .processing_cvls import CVLSProcessor

#: Words that tell nothing of an object, among them the nouns that fit any.
STOP_WORDS = frozenset(
    "a an and are as at by for from in into is it its of off on onto or that the there this to which who with "
    "object one shape thing".split()
)


@dataclass
class Explanation:
    """What a model makes of K sentences in one window of T frames.

    Args:
        masks: bool (K, T, H, W), at the frames' own size; empty where the presence is below its threshold.
        presence: float (K,), the probability that the window contains a referent.
        similarity: float (K, T, H, W) in [-1, 1], of each pixel to the sentence; None for a model without contrast.
        channels: bool (K, D), which channels the filter leaves to the contrast of each sentence, as it stands out from
            the others of these K; None for a model without contrast or without filter.
    """

    masks: np.ndarray
    presence: np.ndarray
    similarity: np.ndarray | None
    channels: np.ndarray | None


def window_around(frame: int, num_frames: int, length: int) -> list[int]:
    """The `length` consecutive frames of a video (all, if it has fewer) in whose middle `frame` is, or nearly."""
    if not 0 <= frame < num_frames:
        raise ValueError(f"there is no frame {frame}: the video's frames are 0 to {num_frames - 1}")
    length = min(length, num_frames)
    start = min(max(0, frame - length // 2), num_frames - length)
    return list(range(start, start + length))


@torch.no_grad()
def explain(
    model: CVLSModel,
    processor: CVLSProcessor,
    frames: np.ndarray,
    sentences: Sequence[str],
    threshold: float = 0.5,
    presence_threshold: float = 0.5,
) -> Explanation:
    """Runs a model on one window and keeps what leads to its masks.

    Args:
        model: in evaluation mode.
        processor: its processor.
        frames: uint8 (T, H, W, 3), RGB.
        sentences: K sentences.
        threshold, presence_threshold: as for `CVLSProcessor.post_process_masks`.
    """
    inputs = processor(videos=frames, text=list(sentences)).to(model.device)
    outputs = model(**inputs)
    channels = None
    if model.config.contrast_weight > 0 and model.config.alignment_weight > 0:
        _, sentence = model.read(inputs["input_ids"], inputs["attention_mask"])
        _, channels = model.alignment.filter(sentence, inputs["sentence_mask"])
    size = frames.shape[1:3]
    (result,) = processor.post_process_masks(outputs, inputs["frame_sizes"], [size], threshold, presence_threshold)
    similarity = outputs.similarity
    if similarity is not None:  # on the masks' way to the size of the frames
        similarity = F.interpolate(similarity[0].float(), scale_factor=4, mode="bilinear")
        similarity = F.interpolate(similarity, size, mode="bilinear").cpu().numpy()
    return Explanation(
        masks=result["masks"].cpu().numpy(),
        presence=result["scores"].cpu().numpy(),
        similarity=similarity,
        channels=None if channels is None else channels[0].cpu().numpy() > 0,
    )


def similarity_in_instances(similarity: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """The mean similarity inside each instance.

    Args:
        similarity: float (K, T, H, W).
        masks: bool (T, M, H, W).

    Returns:
        float (K, T, M); not a number where an instance has no pixel in a frame.
    """
    pixels = masks.sum(axis=(2, 3))
    sums = np.einsum("kthw,tmhw->ktm", similarity.astype(np.float64), masks.astype(np.float64))
    return np.where(pixels > 0, sums / np.maximum(pixels, 1), np.nan)


def content_words(sentence: str) -> set[str]:
    """The words of a sentence but for `STOP_WORDS`, in lower case; "moving" and "moves" are two words."""
    return set(re.findall(r"[^\W_]+", sentence.lower())) - STOP_WORDS


def channel_overlap(channels: np.ndarray, sentences: Sequence[str]) -> dict[str, Any]:
    """How far sentences keep the same channels: the Jaccard index (shared by both / kept by either), over pairs.

    Args:
        channels: bool (K, D), which channels each sentence keeps, the same number for each.
        sentences: K sentences.

    Returns:
        "sharing": mean over the pairs with a content word in common, "other": over the pairs without, None where there
        is no such pair; "num_sharing", "num_other": how many pairs; "chance": what two sentences would have in the mean
        that kept as many channels at random.
    """
    words = [content_words(sentence) for sentence in sentences]
    overlaps: dict[bool, list[float]] = {True: [], False: []}
    for a, b in itertools.combinations(range(len(channels)), 2):
        overlap = (channels[a] & channels[b]).sum() / (channels[a] | channels[b]).sum()
        overlaps[bool(words[a] & words[b])].append(float(overlap))
    size, kept = channels.shape[1], int(channels[0].sum())
    chance = hypergeom(size, kept, kept).expect(lambda shared: shared / (2 * kept - shared))
    return {
        "sharing": float(np.mean(overlaps[True])) if overlaps[True] else None,
        "other": float(np.mean(overlaps[False])) if overlaps[False] else None,
        "num_sharing": len(overlaps[True]),
        "num_other": len(overlaps[False]),
        "chance": float(chance),
    }


def mask_iou(mask: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union of two masks (H, W); 1 if both are empty."""
    either = (mask | truth).sum()
    return float((mask & truth).sum() / either) if either else 1.0


def first_of_look_alikes(dataset) -> int:
    """The row to show when none is named: the first with at least four instances and with sentences both of the kind
    "appearance" and of the kind "temporal"; in a set without such a row the first with an annotated frame and a
    sentence. It depends on the data alone, so that no model's result can choose it.

    Raises:
        ValueError: no row has both an annotated frame and a sentence.
    """
    usable = None
    for index, row in enumerate(dataset.select_columns(["instance_ids", "annotated_frames", "sentences"])):
        if not (row["annotated_frames"] and row["sentences"]):
            continue
        usable = index if usable is None else usable
        kinds = {sentence["kind"] for sentence in row["sentences"]}
        if len(row["instance_ids"]) >= 4 and {"appearance", "temporal"} <= kinds:
            return index
    if usable is None:
        raise ValueError("no video of the split has both an annotated frame and a sentence")
    return usable
