"""The masks of all sentences in a video: kept as run lengths, drawn, saved, and handed to other tools."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..frame_reader_cvls import FrameReader
from ..images_cvls import frame_files
from ..names import check_name, plain_name, repeated
from ..pipeline_cvls import CVLSPipeline, Video
from ..rle_cvls import decode_mask
from . import annotations, files

MOST_LABELS = 254


@dataclass(frozen=True)
class VideoResult:
    """What was found in a video.

    Attributes:
        name: what files call the video.
        sentences: K sentences.
        scores: K numbers: the largest presence probability of each sentence.
        frame_indices: T numbers of frames, 0-based.
        frame_names: T names of the frames, without their suffix.
        frame_scores: K lists of T numbers, 0 for an empty mask.
        counts: K lists of T counts of COCO compressed RLEs.
        height, width: size of the frames in pixels.
        fps: frames per second of the frames here; None where it is not known.
        reader: the video, to draw on its frames.
        frame_suffix: what the names of the frames' files end in.
    """

    name: str
    sentences: Sequence[str]
    scores: Sequence[float]
    frame_indices: Sequence[int]
    frame_names: Sequence[str]
    frame_scores: Sequence[Sequence[float]]
    counts: Sequence[Sequence[str]]
    height: int
    width: int
    fps: float | None
    reader: FrameReader = field(repr=False)
    frame_suffix: str = ".jpg"

    def masks(self, frame: int) -> np.ndarray:
        """bool (K, height, width): the masks of all sentences at position `frame`, 0 to T - 1."""
        return np.stack([decode_mask(of_sentence[frame], self.height, self.width) for of_sentence in self.counts])

    def labels(self, frame: int) -> np.ndarray:
        """uint8 (height, width): 0, or the number of a sentence, from 1 on. Where masks overlap, the one with the
        largest score in the frame keeps the pixel.

        Raises:
            ValueError: more sentences than there are numbers below 255, which stands for no object.
        """
        if len(self.counts) > MOST_LABELS:
            raise ValueError(f"a picture of labels holds at most {MOST_LABELS} sentences, not {len(self.counts)}")
        picture = np.zeros((self.height, self.width), dtype=np.uint8)
        masks = self.masks(frame)
        for number in sorted(range(len(masks)), key=lambda number: self.frame_scores[number][frame]):
            picture[masks[number]] = number + 1
        return picture

    def to_coco(self) -> dict[str, Any]:
        """COCO's json: one image per frame, one annotation with run lengths per mask that is not empty."""
        return annotations.to_coco(self)

    def to_youtube_vis(self) -> dict[str, Any]:
        """YouTube-VIS's json: one annotation per sentence, with one segmentation (run lengths or null) per frame."""
        return annotations.to_youtube_vis(self)

    def to_supervision(self) -> list:
        """One `supervision.Detections` per frame; `tracker_id` and `class_id` are the sentence's number, from 0 on.

        Raises:
            ImportError: supervision is not installed.
        """
        return annotations.to_supervision(self)

    def to_cvat(self) -> str:
        """XML in the format "CVAT for video 1.1": one track per mask, as CVAT reads a single mask of a track, with the
        sentence as its label."""
        return annotations.to_cvat(self)

    def save(self, path: str | Path, format: str | None = None) -> None:
        """Writes the result to a file or a folder, which appears when it is complete.

        Args:
            path: where to write.
            format: one of `FORMATS`; default: by the name, "overlay" for .mp4, "coco" for .json, "cvat" for .xml and
                "palette" for a folder.

        Raises:
            FileExistsError: a folder of that name has something in it.
            ValueError: an unknown format, or a name that says none.
        """
        path = Path(path)
        if format is None:
            format = {".mp4": "overlay", ".json": "coco", ".xml": "cvat", "": "palette"}.get(path.suffix.lower())
        if format not in FORMATS:
            raise ValueError(f"{path}: format is {format!r}; there are {', '.join(FORMATS)}")
        FORMATS[format](self, path)


#: The formats of `VideoResult.save`, each with the function that writes it.
FORMATS: dict[str, Callable[[VideoResult, Path], None]] = {
    "overlay": files.write_overlay,
    "coco": files.write_coco,
    "youtube_vis": files.write_youtube_vis,
    "cvat": files.write_cvat,
    "palette": files.write_palette,
    "competition": files.write_competition,
    "mots": files.write_mots,
}
#: What the names of files of these formats end in; the other formats are folders.
SUFFIXES = {"overlay": ".mp4", "coco": ".json", "youtube_vis": ".json", "cvat": ".xml"}


def segment(
    segmenter: CVLSPipeline,
    video: Video,
    sentences: str | Sequence[str],
    video_fps: float | None = None,
    name: str | None = None,
    on_damage: Literal["error", "keep"] = "keep",
    **options: Any,
) -> VideoResult:
    """Segments a video, as the pipeline does, into a result that can be saved and converted.

    Args:
        segmenter: the pipeline of a model.
        video, sentences, video_fps: as the pipeline takes them; one video.
        name: what files call the video; default: the name of its file or folder (its first 200 bytes), or "video".
        on_damage: as for `FrameReader`; with "keep", frames that cannot be decoded are not in the result.
        options: of the pipeline, such as `start`, `end`, `fps`, `threshold`.

    Raises:
        OSError, TypeError, ValueError: as the pipeline.
    """
    sentences = [sentences] if isinstance(sentences, str) else list(sentences)
    is_path = isinstance(video, Path) or (isinstance(video, str) and "://" not in video)
    path = Path(os.path.abspath(video)) if is_path else Path("video")
    default = path.stem if path.is_file() else path.name
    name = plain_name(default) if name is None else check_name(name, "the video's name")
    reader = video if isinstance(video, FrameReader) else FrameReader(video, video_fps, on_damage)
    found = segmenter(reader, sentences, mask_format="rle", **options)
    indices = found[0]["frame_indices"]
    if not indices:
        raise ValueError(f"none of the frames of {name} that were asked for can be decoded")
    frames = [Path(f"{index:05d}.jpg") for index in indices]
    if is_path and Path(video).is_dir():
        files_of_video = frame_files(video)
        frames = [files_of_video[index] for index in indices]
        twice = repeated(frame.stem for frame in frames)
        if twice:
            raise ValueError(f"several frames in {video} are called {twice[0]}, apart from their suffix; rename some")
    fps = reader.fps if options.get("fps") is None or reader.fps is None else min(options["fps"], reader.fps)
    return VideoResult(
        name,
        sentences,
        [one["score"] for one in found],
        indices,
        [frame.stem for frame in frames],
        [one["frame_scores"] for one in found],
        [[mask["counts"] for mask in one["masks"]] for one in found],
        reader.height,
        reader.width,
        fps,
        reader,
        frames[0].suffix,
    )
