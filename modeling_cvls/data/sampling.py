"""Which frames of a video a training clip shows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch


@dataclass(frozen=True)
class FrameSampling:
    """A way to draw the frames of a clip; of a video that is not longer than the clip, all frames are taken.

    Args:
        mode: "consecutive": frames that are `stride` apart, uniformly among the choices that show an annotated frame.
            "sparse": as for Refer-YouTube-VOS in ReferFormer (Wu et al., CVPR 2022): a frame of every `clip_length`th,
            one frame 1 to 3 before it and one 1 to 3 after it, and the others from the rest of the video. "nearby": as
            for MeViS in LMPM (Ding et al., ICCV 2023): an annotated frame, and the others from those that are at most
            `reach` frames away. Frames are always in the order of the video.
        stride: frames from one frame of a "consecutive" clip to the next; less where the video is too short for it.
        reach: frames, of "nearby".

    Raises:
        ValueError: a mode that does not exist, or a number below 1.
    """

    mode: Literal["consecutive", "sparse", "nearby"] = "consecutive"
    stride: int = 1
    reach: int = 10

    def __post_init__(self):
        if self.mode not in ("consecutive", "sparse", "nearby"):
            raise ValueError(f"sampling must be one of consecutive, sparse, nearby, got {self.mode!r}")
        if self.stride < 1 or self.reach < 1:
            raise ValueError(f"stride and reach must be at least 1, got {self.stride} and {self.reach}")

    def __call__(
        self,
        num_frames: int,
        annotated_frames: Sequence[int],
        clip_length: int,
        generator: torch.Generator | None = None,
    ) -> list[int]:
        """Draws the frames of a clip.

        Args:
            num_frames: frames of the video.
            annotated_frames: their numbers, 0-based.
            clip_length: frames of the clip.
            generator: where the randomness comes from; torch's global one if None.

        Returns:
            `min(clip_length, num_frames)` different frame numbers in ascending order, an annotated one among them.

        Raises:
            ValueError: an empty clip, or a video without an annotated frame.
        """
        length = min(clip_length, num_frames)
        if length < 1:
            raise ValueError(
                f"a clip needs at least one frame, got clip_length={clip_length} and num_frames={num_frames}"
            )
        annotated = sorted(frame for frame in set(annotated_frames) if 0 <= frame < num_frames)
        if not annotated:
            raise ValueError(
                f"no annotated frame among the {num_frames} frames: annotated_frames={list(annotated_frames)}"
            )
        if self.mode == "consecutive":
            return self._consecutive(num_frames, annotated, length, generator)
        if length == num_frames:
            return list(range(num_frames))
        if self.mode == "sparse":
            return _sparse(num_frames, annotated, length, generator)
        return self._nearby(num_frames, annotated, length, generator)

    def _consecutive(self, num_frames, annotated, length, generator) -> list[int]:
        stride = min(self.stride, (num_frames - 1) // (length - 1)) if length > 1 else 1
        span = (length - 1) * stride
        windows = (range(start, start + span + 1, stride) for start in range(num_frames - span))
        shown = [window for window in windows if any(frame in window for frame in annotated)]
        return list(shown[_draw(len(shown), generator)])

    def _nearby(self, num_frames, annotated, length, generator) -> list[int]:
        anchor = annotated[_draw(len(annotated), generator)]
        reach = max(self.reach, length - 1)  # a reach that holds enough frames also at the ends of the video
        around = range(max(0, anchor - reach), min(num_frames, anchor + reach + 1))
        others = [frame for frame in around if frame != anchor]
        return sorted([anchor, *_choose(others, length - 1, generator)])


def _sparse(num_frames: int, annotated: list[int], length: int, generator: torch.Generator | None) -> list[int]:
    anchors = range(0, num_frames, length)
    anchor = anchors[_draw(len(anchors), generator)]
    if anchor not in annotated:
        anchor = min(annotated, key=lambda frame: abs(frame - anchor))
    chosen = [anchor]
    for side in (-1, 1):
        frame = anchor + side * (1 + _draw(3, generator))
        if len(chosen) < length and 0 <= frame < num_frames:
            chosen.append(frame)
    others = [frame for frame in range(num_frames) if frame not in chosen]
    return sorted(chosen + _choose(others, length - len(chosen), generator))


def _draw(number: int, generator: torch.Generator | None) -> int:
    return int(torch.randint(number, (), generator=generator))


def _choose(items: list[int], number: int, generator: torch.Generator | None) -> list[int]:
    return [items[index] for index in torch.randperm(len(items), generator=generator)[:number].tolist()]
