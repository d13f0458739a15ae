"""What is explained: one window of a video file, or of a row of a data set, whose masks are the truth."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, load_dataset

from ..data import check_dataset, read_frames, read_masks
from ..frame_reader_cvls import FrameReader


@dataclass
class Clip:
    """A video, the frame to show, and sentences about it.

    Attributes:
        title: the name of the video.
        sentences: K sentences.
        num_shown: how many of them are drawn, from the first on; the others count in the overlap of channels only.
        num_frames: the number of frames of the video.
        frame: the frame to show, from 0.
        read: a function from T frame numbers to uint8 (T, H, W, 3), RGB.
        row: the row of a data set that holds the video, or None.
    """

    title: str
    sentences: list[str]
    num_shown: int
    num_frames: int
    frame: int
    read: Callable[[Sequence[int]], np.ndarray] = field(repr=False)
    row: dict[str, Any] | None = field(default=None, repr=False)

    def masks(self, indices: Sequence[int]) -> np.ndarray | None:
        """bool (T, M, H, W): the objects in these frames; None where none is known."""
        return None if self.row is None else read_masks(self.row, indices)[0]

    def truth(self, sentence: int) -> np.ndarray | None:
        """bool (H, W): the referents of a sentence in the frame that is shown; None where they are not known."""
        if self.row is None or self.frame not in self.row["annotated_frames"]:
            return None
        instances = self.row["sentences"][sentence]["instances"]
        masks, _, annotated = read_masks(self.row, [self.frame])
        return masks[0, instances].any(axis=0) if annotated[0, instances].all() else None

    def has_no_referent(self, sentence: int) -> bool:
        """Whether the data set says that the sentence refers to nothing in the video."""
        return self.row is not None and not self.row["sentences"][sentence]["instances"]


def clip_of_row(row: dict[str, Any], frame: int | None, num_shown: int) -> Clip:
    """The clip of a data set's row; without `frame`, its middle annotated frame.

    Raises:
        ValueError: the row has no sentences.
    """
    annotated = row["annotated_frames"]
    if frame is None:
        frame = annotated[len(annotated) // 2] if annotated else row["num_frames"] // 2
    sentences = [sentence["text"] for sentence in row["sentences"]]
    if not sentences:
        raise ValueError(f"video {row['video_id']!r} has no sentences")
    shown = min(num_shown, len(sentences))
    return Clip(
        row["video_id"], sentences, shown, row["num_frames"], frame, lambda indices: read_frames(row, indices), row
    )


def clip_of_dataset(name: str, split: str, video_id: str | None, frame: int | None, num_shown: int) -> Clip:
    """The clip of a video in a data set.

    Args:
        name: folder or Hub name that load_dataset loads.
        split: of the data set.
        video_id: which video; without it, that of `first_of_look_alikes`.
        frame, num_shown: as for `Clip`.

    Raises:
        ValueError: there is no such split or video, or the data set is none of video sentences.
    """
    dataset = load_dataset(name, split=split)
    check_dataset(dataset, f"{name}, split {split}")
    if video_id is None:
        index = first_of_look_alikes(dataset)
    elif video_id in (ids := dataset["video_id"][:]):
        index = ids.index(video_id)
    else:
        raise ValueError(f"--video-id {video_id}: split {split} has no such video; its first is {ids[0]}")
    return clip_of_row(dataset[index], frame, num_shown)


def clip_of_video(video: str, sentences: list[str], frame: int | None) -> Clip:
    """The clip of a video file; without `frame`, its middle frame. Raises what `FrameReader` raises."""
    reader = FrameReader(video)
    frame = len(reader) // 2 if frame is None else frame
    return Clip(Path(video).name, sentences, len(sentences), len(reader), frame, reader.read)


def first_of_look_alikes(dataset: Dataset) -> int:
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
