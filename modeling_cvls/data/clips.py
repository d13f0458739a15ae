"""Clips for training: frames around an annotation, some sentences, and a flip that keeps both true."""

import re
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from .augmentation import ClipAugmentation
from .reading import read_frames, read_masks, read_referents
from .sampling import FrameSampling

# Compounds with a hyphen (left-hand, right-handed) need no case of their own: a hyphen ends a word.
_SIDES = re.compile(r"\b(left|right)(?=(?:most|wards?)?\b)", re.IGNORECASE)


def flip_words(text: str) -> str:
    """Swaps left and right, also in leftmost, leftward(s) and left-hand, and keeps the case: what a mirror does."""

    def swap(match: re.Match) -> str:
        word = match.group()
        other = "right" if word.lower() == "left" else "left"
        if word.isupper():
            return other.upper()
        return other.capitalize() if word[0].isupper() else other

    return _SIDES.sub(swap, text)


class ClipSampler:
    """Draws a training clip from a row.

    What is drawn depends on the seed, `epoch` and the row's video_id, and on nothing else: not on the number of
    processes or workers, on what was drawn before, or on where a training was resumed.

    Args:
        clip_length: frames of a clip (T), at most.
        sentences_per_clip: sentences of a clip (K), at most; None: all. Where there are more, a random choice of them.
        flip_probability: how often a clip is mirrored left to right, together with the words of its sentences.
        seed: of all draws.
        sampling: which frames are drawn; default: consecutive ones.
        augmentation: what else is changed; default: nothing.
        allow_urls: let a row's video be at a URL.

    Attributes:
        epoch: 0 at first; with another number the same rows give other clips.
    """

    def __init__(
        self,
        clip_length: int,
        sentences_per_clip: int | None = None,
        flip_probability: float = 0.5,
        seed: int = 0,
        sampling: FrameSampling | None = None,
        augmentation: ClipAugmentation | None = None,
        allow_urls: bool = False,
    ):
        if clip_length < 1:
            raise ValueError(f"clip_length must be at least 1, got {clip_length}")
        if sentences_per_clip is not None and sentences_per_clip < 1:
            raise ValueError(f"sentences_per_clip must be at least 1, or None for all, got {sentences_per_clip}")
        if not 0 <= flip_probability <= 1:
            raise ValueError(f"flip_probability must be between 0 and 1, got {flip_probability}")
        self.clip_length = clip_length
        self.sentences_per_clip = sentences_per_clip
        self.flip_probability = flip_probability
        self.seed = seed
        self.sampling = sampling or FrameSampling()
        self.augmentation = augmentation or ClipAugmentation()
        self.allow_urls = allow_urls
        # in shared memory, so that loading processes that outlive an epoch see the next one's number
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    @property
    def epoch(self) -> int:
        return int(self._epoch)

    @epoch.setter
    def epoch(self, value: int) -> None:
        self._epoch.fill_(value)

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Reads a clip of a row with the columns of `FEATURES`, and perhaps a column `clip`: each number there gives
        another clip.

        Returns:
            frames: uint8 (T, H, W, 3), RGB;
            sentences: K strings;
            masks: bool (T, M, H, W); annotated_frames: bool (T,); annotated_instances: bool (T, M), as `read_masks`;
            referents: bool (K, M), which instances a sentence refers to: none, one or several.

        Raises:
            ValueError: naming the row's video_id: no annotated frame, no sentence, or what the readers refuse.
        """
        name = f"video {row['video_id']!r}"
        sentences = row["sentences"]
        if not sentences:
            raise ValueError(f"{name} has no sentences; leave such videos out of a training set")
        drawn = f"{self.seed} {self.epoch} {row['video_id']}"
        if row.get("clip"):  # a further clip of the video in the same epoch
            drawn += f" {row['clip']}"
        generator = torch.Generator().manual_seed(zlib.crc32(drawn.encode()))
        try:
            indices = self.sampling(row["num_frames"], row["annotated_frames"], self.clip_length, generator)
        except ValueError as error:
            raise ValueError(f"{name}: {error}; leave videos without annotations out of a training set") from error
        if self.sentences_per_clip is not None and len(sentences) > self.sentences_per_clip:
            chosen = (
                torch.randperm(len(sentences), generator=generator)[: self.sentences_per_clip].sort().values.tolist()
            )
            sentences = [sentences[number] for number in chosen]

        texts = [sentence["text"] for sentence in sentences]
        referents = read_referents(row, sentences)
        frames = read_frames(row, indices, self.allow_urls)
        masks, annotated_frames, annotated_instances = read_masks(row, indices)
        if torch.rand((), generator=generator) < self.flip_probability:
            frames = np.ascontiguousarray(frames[:, :, ::-1])
            masks = np.ascontiguousarray(masks[..., ::-1])
            texts = [flip_words(text) for text in texts]
        clip = {
            "frames": frames,
            "sentences": texts,
            "masks": masks,
            "annotated_frames": annotated_frames,
            "annotated_instances": annotated_instances,
            "referents": referents,
        }
        return self.augmentation(clip, generator)
