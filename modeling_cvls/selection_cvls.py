"""Which frames of a video are gone through, and decoding them when their window comes."""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .frame_reader_cvls import FrameReader
from .windows_cvls import Window

ROUNDING = 1e-6  # seconds
MILLISECOND = 1e-3  # the clock of several containers (Matroska, WebM, FLV)


Video = str | Path | bytes | np.ndarray | torch.Tensor | list | FrameReader


def open_reader(video: Video, fps: float | None = None, on_damage: str = "keep") -> FrameReader:
    """A reader of the video; one that is a reader already and is given no `fps` is taken as it is."""
    return video if isinstance(video, FrameReader) and fps is None else FrameReader(video, fps, on_damage)


@dataclass(frozen=True)
class FrameSelection:
    """A choice among the frames of a video.

    Attributes:
        frames: (N,) int, the numbers (0-based) of the frames that are gone through, increasing; a frame's place among
            them is its position.
        wanted: (M,) int, the positions of those whose results are asked for, increasing.
        order: the frames to return, in this order; some may come several times.
        times: (N,) float, the time of each of `frames` in seconds; None where the video does not say it.
    """

    frames: np.ndarray
    wanted: np.ndarray
    order: list[int]
    times: np.ndarray | None = None

    def frame(self, position: int) -> dict[str, int | float | None]:
        """The part of a frame's result that says which one it is: "frame_index" and "time"."""
        time = None if self.times is None else float(self.times[position])
        return {"frame_index": int(self.frames[position]), "time": time}


def select_frames(
    reader: FrameReader,
    frame_indices: Sequence[int] | None = None,
    start: float | None = None,
    end: float | None = None,
    fps: float | None = None,
) -> FrameSelection:
    """The frames to go through; arguments as of [`CVLSPipeline.__call__`].

    Raises:
        ValueError: an argument is outside what is possible, or `frame_indices` is given together with times.
    """
    if frame_indices is None:
        frames = _frames_at_times(reader, start, end, fps)
        return FrameSelection(frames, np.arange(len(frames)), frames.tolist(), _times_of(reader, frames))
    if not (start is None and end is None and fps is None):
        raise ValueError("give either frame_indices or start, end and fps: both choose the frames")
    wanted = np.asarray(frame_indices)
    if wanted.ndim != 1 or wanted.dtype.kind not in "iu" or wanted.size == 0:
        raise ValueError(f"frame_indices must be a list of at least one frame number, not {frame_indices!r}")
    outside = wanted[(wanted < 0) | (wanted >= len(reader))]
    if outside.size:
        raise ValueError(f"frame_indices holds {outside[0]}, but the video's frames are 0 to {len(reader) - 1}")
    frames = np.arange(len(reader))
    return FrameSelection(frames, np.unique(wanted), wanted.tolist(), _times_of(reader, frames))


def _times_of(reader: FrameReader, frames: np.ndarray) -> np.ndarray | None:
    return None if reader.times is None else reader.times[frames]


def _frames_at_times(reader: FrameReader, start: float | None, end: float | None, fps: float | None) -> np.ndarray:
    """The frames at times in [start, end), or those that are shown at `fps` evenly spaced moments per second of it."""
    if start is None and end is None and fps is None:
        return np.arange(len(reader))
    if reader.fps is None:
        raise ValueError(
            "start, end and fps count in seconds, but the video does not say how many frames per second it has: give "
            "video_fps"
        )
    if fps is not None and not fps > 0:
        raise ValueError(f"fps is a number of frames per second above 0, not {fps}")
    start = 0 if start is None else start
    if not 0 <= start < reader.end or not (end is None or end > start):
        raise ValueError(
            f"start and end are seconds with 0 <= start < end, start within the {reader.end:.3f} seconds of the video, "
            f"not {start} and {end}"
        )
    # A frame at the very time is in, whatever the rounding.
    end = reader.end if end is None else min(end, reader.end)
    first, stop = np.searchsorted(reader.times, np.array([start, end]) - ROUNDING)
    frames = np.arange(first, stop)
    if fps is not None and frames.size > 1:
        times, rounding = _evened(reader.times[first:stop])
        if fps * np.diff(times).min() < 1:
            moments = np.arange(times[0], end - ROUNDING, 1 / fps)
            frames = frames[np.unique(np.searchsorted(times, moments + rounding, side="right") - 1)]
    if not frames.size:
        raise ValueError(
            f"no frame lies between {start} and {end} seconds; the video has {reader.fps:g} frames per second"
        )
    return frames


def _evened(times: np.ndarray) -> tuple[np.ndarray, float]:
    """Times (N,) without what a clock of milliseconds adds to a constant rate (33, 34, 33 ms ... are 30 per second),
    and by how much they may be off."""
    steps = np.diff(times)
    if ROUNDING < np.ptp(steps) < MILLISECOND + ROUNDING:
        return np.linspace(times[0], times[-1], len(times)), min(MILLISECOND, steps.min() / 2)
    return times, ROUNDING


def read_windows(
    reader: FrameReader, frames: np.ndarray, batches: Sequence[Sequence[Window]]
) -> Iterator[tuple[Sequence[Window], dict[int, np.ndarray]]]:
    """Each batch of windows with the frames, by position, that no earlier one had: uint8 (H, W, 3). Each frame that a
    window holds is decoded once, when its first window comes; `frames` as of [`FrameSelection`]."""
    needed = sorted({position for windows in batches for window in windows for position in window.positions})
    pictures, decoded = with_substitutes(reader, frames[needed]), 0
    for windows in batches:
        stop = windows[-1].stop
        new = {}
        while decoded < len(needed) and needed[decoded] < stop:
            new[needed[decoded]] = next(pictures)
            decoded += 1
        yield windows, new


def with_substitutes(reader: FrameReader, frames: Iterable[int]) -> Iterator[np.ndarray]:
    """Frames of a video, by increasing numbers, as uint8 (H, W, 3). In place of a frame that is missing stands the one
    before it, so that windows keep their length, or black."""
    latest = None
    for picture in reader.frames(frames):
        if picture is not None:
            latest = picture
        elif latest is None:
            latest = np.zeros((reader.height, reader.width, 3), dtype=np.uint8)
        yield latest


def without_missing(results: Iterable[dict[str, Any]], reader: FrameReader) -> Iterator[dict[str, Any]]:
    """The results of frames that are there; a warning at the end names those that are missing."""
    for result in results:
        if not reader.is_missing(result["frame_index"]):
            yield result
    if reader.damage is not None:
        warnings.warn(reader.damage, stacklevel=2)


__all__ = [
    "FrameSelection",
    "Video",
    "open_reader",
    "read_windows",
    "select_frames",
    "with_substitutes",
    "without_missing",
]
