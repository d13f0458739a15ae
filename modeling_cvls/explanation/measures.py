"""The numbers that an explanation reports."""

import itertools
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

#: Words that say nothing about an object, among them the nouns that fit any object.
STOP_WORDS = frozenset(
    "a an and are as at by for from in into is it its of off on onto or that the there this to which who with "
    "object one shape thing".split()
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
    """The words of a sentence without `STOP_WORDS`, in lower case; "moving" and "moves" are two words."""
    return set(re.findall(r"[^\W_]+", sentence.lower())) - STOP_WORDS


def channel_overlap(channels: np.ndarray, sentences: Sequence[str]) -> dict[str, Any]:
    """How far sentences keep the same channels: the mean Jaccard index (channels that both keep, divided by channels
    that either keeps) over pairs of sentences.

    Args:
        channels: bool (K, D), the channels that each sentence keeps; every sentence keeps the same number.
        sentences: K sentences.

    Returns:
        "sharing": the mean over the pairs that share a content word, "other": the mean over the remaining pairs; None
        where there is no such pair. "num_sharing", "num_other": the numbers of pairs. "chance": the expected index of
        two sentences that keep as many channels at random (a hypergeometric distribution).
    """
    words = [content_words(sentence) for sentence in sentences]
    overlaps: dict[bool, list[float]] = {True: [], False: []}
    for a, b in itertools.combinations(range(len(channels)), 2):
        overlap = (channels[a] & channels[b]).sum() / (channels[a] | channels[b]).sum()
        overlaps[bool(words[a] & words[b])].append(float(overlap))
    size, kept = channels.shape[1], int(channels[0].sum())
    ways = [math.comb(kept, shared) * math.comb(size - kept, kept - shared) for shared in range(kept + 1)]
    chance = sum(way / sum(ways) * shared / (2 * kept - shared) for shared, way in enumerate(ways))
    return {
        "sharing": float(np.mean(overlaps[True])) if overlaps[True] else None,
        "other": float(np.mean(overlaps[False])) if overlaps[False] else None,
        "num_sharing": len(overlaps[True]),
        "num_other": len(overlaps[False]),
        "chance": chance,
    }


def mask_iou(mask: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union of two bool masks (H, W); 1 if both are empty."""
    either = (mask | truth).sum()
    return float((mask & truth).sum() / either) if either else 1.0
