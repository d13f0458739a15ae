"""What is explained: one window of a video, and sentences about it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..frame_reader_cvls import FrameReader


@dataclass
class Clip:
    """A video, the frame to show, and sentences about it; nothing is known of its objects.

    Attributes:
        title: the name of the video.
        sentences: K sentences.
        num_shown: how many of them are drawn, from the first on; the others count in the overlap of channels only.
        num_frames: the number of frames of the video.
        frame: the frame to show, from 0.
        read: a function from T frame numbers to uint8 (T, H, W, 3), RGB.
    """

    title: str
    sentences: list[str]
    num_shown: int
    num_frames: int
    frame: int
    read: Callable[[Sequence[int]], np.ndarray] = field(repr=False)

    def masks(self, indices: Sequence[int]) -> np.ndarray | None:
        """bool (T, M, H, W): the objects in these frames; None where none is known."""
        return None

    def referents(self, sentence: int) -> list[int]:
        """Which of the objects a sentence refers to; only where objects are known."""
        raise ValueError(f"the objects in {self.title} are not known")

    def truth(self, sentence: int) -> np.ndarray | None:
        """bool (H, W): the referents of a sentence in the frame that is shown; None where they are not known."""
        return None

    def has_no_referent(self, sentence: int) -> bool:
        """Whether it is known that the sentence refers to nothing in the video."""
        return False


def clip_of_video(video: str, sentences: list[str], frame: int | None) -> Clip:
    """The clip of a video file; without `frame`, its middle frame. Raises what `FrameReader` raises."""
    reader = FrameReader(video)
    frame = len(reader) // 2 if frame is None else frame
    return Clip(Path(video).name, sentences, len(sentences), len(reader), frame, reader.read)
