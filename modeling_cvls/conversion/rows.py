"""Rows with the columns of `FEATURES`, from videos as folders of frames or as files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..frame_reader_cvls import FrameReader


def frames_row(
    video_id: str, frames: Sequence[dict[str, Any]], height: int, width: int, **columns: Any
) -> dict[str, Any]:
    """A row of a video whose frames are images.

    Args:
        video_id: its name.
        frames: the cells of the column `frames`, as `read_frame_files` gives them, with height and width.
        columns: annotated_frames, instance_ids, masks, sentences, and perhaps evaluation_frames.
    """
    return {
        "video_id": video_id,
        "video": None,
        "frames": frames,
        "num_frames": len(frames),
        "height": height,
        "width": width,
        "fps": None,
        "evaluation_frames": None,
        **columns,
    }


def video_row(video_id: str, path: Path, reader: FrameReader, **columns: Any) -> dict[str, Any]:
    """A row of a video that is a file.

    Args:
        video_id: its name.
        path: the file.
        reader: of this file.
        columns: as for `frames_row`.
    """
    return {
        **frames_row(video_id, [], reader.height, reader.width, **columns),
        "video": {"bytes": path.read_bytes(), "path": path.name},
        "frames": None,
        "num_frames": len(reader),
        "fps": reader.fps,
    }


def sentence_cell(
    video_id: str, key: str | int, text: str, instances: Sequence[int], kind: str | None = None
) -> dict[str, Any]:
    """A sentence of the column `sentences`.

    Args:
        video_id: the name of its video.
        key: what tells it from the video's other sentences.
        text: the sentence.
        instances: indices of its referents in `instance_ids`.
        kind: of the sentence, where the source names one.
    """
    return {"sentence_id": f"{video_id}/{key}", "text": text, "instances": list(instances), "kind": kind}
