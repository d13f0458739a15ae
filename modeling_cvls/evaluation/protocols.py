"""How the benchmarks measure, and how a data set of one's own is measured."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from datasets import Dataset


@dataclass(frozen=True)
class Protocol:
    """How a benchmark measures.

    Attributes:
        name: what `evaluate_segmenter` and `cvls eval` call it.
        metric: a folder of `modeling_cvls/metrics`. "video_language_segmentation": precision@X, mAP, overall and mean
            IoU over the pairs of a sentence and a frame in which all its referents are annotated.
            "region_and_boundary": J&F of every sentence over its frames; an instance that is not annotated in a frame
            counts as absent, as in the benchmarks' own code.
        split: the split that results are published on.
        presence_threshold: a sentence's masks are empty where its presence probability is below this; 0 where every
            sentence of the benchmark has a referent.
        num_frames: how many evenly spaced annotated frames of a video are measured where the set names no
            `evaluation_frames`; None: all annotated frames.
        by_annotator: the n-th sentence on an object, in the order of the row, is annotator n's. Where masks of an
            annotator's objects overlap, the most probable one keeps the pixel; each object is measured by the mask that
            fits it best, one to one (DAVIS's unsupervised protocol); results are averaged over the annotators.
        archive_root: the folder, beside those of the videos, with which the names in submission.zip begin; empty where
            they begin with the videos.
    """

    name: str
    metric: str
    split: str
    presence_threshold: float = 0.0
    num_frames: int | None = None
    by_annotator: bool = False
    archive_root: str = "Annotations"

    def evaluated_frames(self, row: Mapping[str, Any]) -> list[int]:
        """The frames (0-based) of a row that are measured."""
        annotated, number = row["annotated_frames"], self.num_frames
        if row["evaluation_frames"]:
            return row["evaluation_frames"]
        if number is not None and len(annotated) > number:
            return [annotated[(2 * i + 1) * len(annotated) // (2 * number)] for i in range(number)]
        return annotated

    def note_on_frames(self, dataset: Dataset) -> str:
        """One line on which frames of a data set are measured."""
        rows = len(dataset)
        named = sum(bool(frames) for frames in dataset.select_columns("evaluation_frames")["evaluation_frames"])
        rest = "every annotated frame"
        if self.num_frames is not None:
            rest = f"{self.num_frames} evenly spaced annotated frames per video, not the published choice"
        parts = ["the frames that the set names"] if named else []
        parts += [rest] if named < rows else []
        counts = f" ({named} and {rows - named} videos)" if 0 < named < rows else ""
        return f"evaluated on {' and on '.join(parts)}{counts}"


#: "custom" is for data of one's own, where a sentence may have no referent.
PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("custom", "video_language_segmentation", "test", presence_threshold=0.5),
        Protocol("a2d", "video_language_segmentation", "test"),
        # published results measure three frames per video
        Protocol("jhmdb", "video_language_segmentation", "test", num_frames=3),
        Protocol("ref_davis17", "region_and_boundary", "valid", by_annotator=True),
        Protocol("refer_youtube_vos", "region_and_boundary", "valid"),
        # the server takes the folders of the videos without one around them (its README, as of 2025)
        Protocol("mevis", "region_and_boundary", "valid_u", archive_root=""),
    )
}


def protocol_named(protocol: str | Protocol) -> Protocol:
    """The protocol of that name; a protocol itself stays what it is.

    Raises:
        ValueError: there is no such protocol.
    """
    if isinstance(protocol, Protocol):
        return protocol
    if protocol not in PROTOCOLS:
        raise ValueError(f"unknown protocol {protocol!r}; there are {', '.join(PROTOCOLS)}")
    return PROTOCOLS[protocol]
