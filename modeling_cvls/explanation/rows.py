"""Clips from data sets, whose masks are the truth."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from datasets import Dataset

from ..data import check_dataset, read_frames, read_masks
from ..data.loading import load_rows
from .clips import Clip


@dataclass
class RowClip(Clip):
    """A clip that is a row of a data set.

    Attributes:
        row: that row.
    """

    row: dict[str, Any] = field(repr=False)

    def masks(self, indices: Sequence[int]) -> np.ndarray:
        return read_masks(self.row, indices)[0]

    def referents(self, sentence: int) -> list[int]:
        return self.row["sentences"][sentence]["instances"]

    def truth(self, sentence: int) -> np.ndarray | None:
        if self.frame not in self.row["annotated_frames"]:
            return None
        masks, _, annotated = read_masks(self.row, [self.frame])
        instances = self.referents(sentence)
        return masks[0, instances].any(axis=0) if annotated[0, instances].all() else None

    def has_no_referent(self, sentence: int) -> bool:
        return not self.referents(sentence)


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
    return RowClip(row["video_id"], sentences, shown, row["num_frames"], frame, partial(read_frames, row), row)


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
    dataset = load_rows(name, "--dataset", split)
    check_dataset(dataset, f"{name}, split {split}")
    if video_id is None:
        index = first_of_look_alikes(dataset)
    elif video_id in (ids := dataset["video_id"][:]):
        index = ids.index(video_id)
    else:
        raise ValueError(f"--video-id {video_id}: split {split} has no such video; its first is {ids[0]}")
    return clip_of_row(dataset[index], frame, num_shown)


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
