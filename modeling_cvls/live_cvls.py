"""A live stream is segmented while it comes, in bounded memory."""

import sys
import threading
import time as clock
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.utils import logging

from .encoding_cvls import SentenceLogits, WindowEncoder
from .images_cvls import to_rgb
from .masks_cvls import MaskOptions, frame_results
from .video_index_cvls import orientation_of, turned
from .video_packets_cvls import import_av, open_container, video_stream
from .windows_cvls import FrameLogits, LiveWindows, Window

logger = logging.get_logger(__name__)

#: Streams of these protocols come at their own pace, as those of cameras do; a file by HTTP comes faster.
LIVE = ("rtsp", "rtp", "rtmp", "srt", "udp")

#: RTSP cameras send over UDP unless they are asked, and a lost packet damages frames.
OVER_TCP = {"rtsp_flags": "prefer_tcp"}

Picture = np.ndarray | torch.Tensor | Image.Image


@dataclass(frozen=True)
class LiveOptions:
    """How a stream is gone through.

    Args:
        fps: take this many frames per second, evenly spaced; None: all.
        window: frames of a window.
        overlap: frames that a window shares with the next one.
        look_ahead: the latency: the result of a frame comes when this many more frames have come, at the latest, from 0
            to `window` - 1. With `window` - 1 the results are those of a file. The smaller it is, the more windows are
            computed, and the less a result knows of what comes after the frame; 0 is causal and computes one window per
            frame.
        carries: whether sentences carry a state, of a model that has one.
    """

    fps: float | None
    window: int
    overlap: int
    look_ahead: int
    carries: bool = True

    def __post_init__(self):
        if self.fps is not None and not self.fps > 0:
            raise ValueError(f"fps is a number of frames per second above 0, not {self.fps}")


@dataclass
class _Waiting:
    """A frame whose result is not complete."""

    frame_index: int
    time: float | None
    picture: np.ndarray | None


class CVLSLive:
    """Segments frames as they come; [`CVLSPipeline.live`] makes it.

    Attributes:
        sentences: those of the last window.
        look_ahead: the latency in frames: the most frames that come after a frame before its result does.
        latency: the same in seconds, without the time that computing takes; None where `fps` is not given.
        num_pushed: frames that came.
        num_skipped: frames left out because more came than `fps` per second.
        num_dropped: frames of a camera or URL that were lost because they came faster than they could be segmented.
    """

    def __init__(self, model, processor, sentences: str | list[str], live: LiveOptions, options: MaskOptions):
        self._model, self._processor, self._live, self._options = model, processor, live, options
        self._windows = LiveWindows(live.window, live.overlap, live.look_ahead)
        self._encoder = WindowEncoder(model, processor)
        self._waiting: dict[int, _Waiting] = {}
        self._number = 0  # of the frames that were not skipped: the position of the next one
        self._start = self._last = None  # times of the first and of the last frame
        self._closed = False
        self.look_ahead = live.look_ahead
        self.num_pushed = self.num_skipped = self.num_dropped = 0
        self.ask(sentences)
        self.sentences, self._logits = self._asked

    @property
    def latency(self) -> float | None:
        return None if self._live.fps is None else self.look_ahead / self._live.fps

    def ask(self, sentences: str | list[str]) -> None:
        """Segments these sentences from the next window on: all frames whose results that window completes, and the
        later ones, are answered by them."""
        sentences = [sentences] if isinstance(sentences, str) else list(sentences)
        text = self._processor(text=sentences)
        self._asked = sentences, SentenceLogits(self._model, text, passes=int(self._live.carries))

    def push(self, image: Picture, time: float | None = None) -> list[dict[str, Any]]:
        """Takes one more frame.

        Args:
            image: uint8 RGB (H, W, 3), array or tensor, or a PIL image; all of one size.
            time: when it was taken, in seconds, not before the last one. Without it frames count as `fps` per second.

        Returns:
            The results that are complete now, often none: dicts as of [`CVLSPipeline.stream`], and "sentences", which
            their masks are of. "frame_index" counts the frames pushed, "time" is as given.

        Raises:
            ValueError: the image is none of these, or of another size than the first; `time` goes back.
        """
        if self._closed:
            raise ValueError("this stream is closed: open a new one")
        picture = _as_array(image)
        index, self.num_pushed = self.num_pushed, self.num_pushed + 1
        if time is None:
            time = None if self._live.fps is None else index / self._live.fps
        elif self._is_too_soon(time):
            self.num_skipped += 1
            return []
        self._encoder.add({self._number: picture})
        self._waiting[self._number] = _Waiting(index, time, picture if self._options.return_frames else None)
        self._number += 1
        return self._results(self._windows.push())

    def close(self) -> list[dict[str, Any]]:
        """No more frames come: the results of those that wait."""
        if self._closed:
            return []
        self._closed = True
        return self._results(self._windows.close()) + self._finished(self._logits.take(self._number))

    def run(self, source: int | str | Path | Iterable, buffer: int = 16) -> Iterator[dict[str, Any]]:
        """Segments a whole source, to its end.

        Args:
            source: the number of a camera; the URL of a stream (RTSP, HTTP ... whatever PyAV's FFmpeg opens) or the
                path of a file; or an iterable of frames, or of pairs of a frame and its time.
            buffer: this many frames of a camera or URL wait at most. When more come, the oldest one is dropped and
                counted. Frames of a file or of an iterable are never dropped, they wait to be taken.

        Returns:
            An iterator over results, as of `push`.

        Raises:
            OSError, ValueError: the source cannot be opened or read.
        """
        if isinstance(source, int | str | Path):
            with LiveSource(source, buffer) as frames:
                for picture, time in frames:
                    self.num_dropped = frames.num_dropped
                    yield from self.push(picture, time)
                self.num_dropped = frames.num_dropped
            if self.num_dropped:
                logger.warning("%d frames of %s came too fast and were dropped", self.num_dropped, source)
        else:
            for item in source:
                picture, time = item if isinstance(item, tuple) else (item, None)
                yield from self.push(picture, time)
        yield from self.close()

    def _is_too_soon(self, time: float) -> bool:
        if self._last is not None and time < self._last:
            raise ValueError(f"the time of a frame, {time}, is before that of the last one, {self._last}")
        self._last = time
        if self._live.fps is None:
            return False
        if self._start is None:
            self._start, self._slot = time, -1
        slot = int((time - self._start) * self._live.fps + 1e-6)
        too_soon, self._slot = slot <= self._slot, max(slot, self._slot)
        return too_soon

    def _results(self, window: Window | None) -> list[dict[str, Any]]:
        if window is None:
            return []
        self.sentences, self._logits = self._asked
        return self._finished(self._logits.add(self._encoder.encode([window])))

    def _finished(self, logits: FrameLogits | None) -> list[dict[str, Any]]:
        if logits is None:
            return []
        found = []
        for position, result in frame_results(self._processor, logits, self._encoder.sizes, self._options):
            frame = self._waiting.pop(position)
            found.append({"frame_index": frame.frame_index, "time": frame.time, "sentences": self.sentences, **result})
            if frame.picture is not None:
                found[-1]["frame"] = frame.picture
        return found


class LiveSource:
    """Decodes a camera or a stream in a thread, so that it goes on while frames are segmented; a context manager.

    A stream is played at its own pace, a file by HTTP too. The newest `buffer` frames wait; what is older is
    dropped and counted. A local file is not dropped from, it waits.

    Iterating gives pairs of a frame, uint8 (H, W, 3), RGB, and its time in seconds from the first one on.

    Raises:
        OSError: the source cannot be opened.
        ValueError: it cannot be decoded, or `buffer` is not above 0.
    """

    def __init__(self, source: int | str | Path, buffer: int = 16, timeout: float = 30.0):
        if buffer < 1:
            raise ValueError(f"buffer is a number of frames above 0, not {buffer}")
        self.num_dropped = 0
        self._name = f"camera {source}" if isinstance(source, int) else str(source)
        self._waits = not isinstance(source, int) and Path(source).is_file()
        self._is_live = isinstance(source, int) or str(source).startswith(LIVE)
        self._frames: deque = deque()
        self._buffer, self._ended, self._error = buffer, False, None
        self._changed = threading.Condition()
        self._container = self._open(source, timeout)
        self._stream = video_stream(self._container)
        if self._stream is None:
            self._container.close()
            raise ValueError(f"{self._name} cannot be decoded as a video: it holds no video stream")
        self._thread = threading.Thread(target=self._decode, daemon=True)
        self._thread.start()

    def _open(self, source: int | str | Path, timeout: float):
        self._av = import_av()
        try:
            if self._waits:
                return open_container(str(source))
            if not isinstance(source, int):
                options = OVER_TCP if str(source).startswith("rtsp") else {}
                return self._av.open(str(source), timeout=timeout, options=options)
            if sys.platform == "darwin":
                return self._av.open(str(source), format="avfoundation", options={"framerate": "30"})
            if sys.platform == "win32":
                raise ValueError(
                    "on Windows a camera is not opened by its number: give an iterable of frames, such as OpenCV's"
                )
            return self._av.open(f"/dev/video{source}", format="v4l2")
        except (self._av.FFmpegError, OSError) as error:
            raise OSError(f"{self._name} cannot be opened: {error}") from error

    def _decode(self) -> None:
        first, start = None, 0.0
        try:
            for frame in self._container.decode(self._stream):
                now = clock.monotonic()
                time = now if frame.time is None else frame.time
                if first is None:
                    first, start = time, now
                pause = start + (time - first) - now
                if not self._waits and not self._is_live and pause > 0:
                    with self._changed:
                        self._changed.wait_for(lambda: self._ended, timeout=pause)
                if not self._put(frame, time - first):
                    return
        except self._av.FFmpegError as error:
            self._error = ValueError(f"{self._name} cannot be decoded any further: {error}")
        finally:
            self._container.close()
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _put(self, frame, time: float) -> bool:
        """False: nobody waits for frames any more."""
        with self._changed:
            if self._waits:
                self._changed.wait_for(lambda: len(self._frames) < self._buffer or self._ended)
            elif len(self._frames) >= self._buffer:
                self._frames.popleft()
                self.num_dropped += 1
            self._frames.append((frame, time))
            self._changed.notify_all()
            return not self._ended

    def __iter__(self) -> Iterator[tuple[np.ndarray, float]]:
        latest = 0.0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._frames or self._ended)
                if not self._frames:
                    if self._error is not None:
                        raise self._error
                    return
                frame, time = self._frames.popleft()
                self._changed.notify_all()
            latest = max(latest, time)  # the clock of a stream may be set back
            yield turned(frame.to_ndarray(format="rgb24"), orientation_of(frame)), latest

    def close(self) -> None:
        """Ends the thread, which closes the source as soon as it does not wait for it any more."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        self._thread.join(timeout=1.0)

    def __enter__(self) -> "LiveSource":
        return self

    def __exit__(self, *exception) -> None:
        self.close()


def _as_array(image: Picture) -> np.ndarray:
    if isinstance(image, Image.Image):
        image = to_rgb(image)
    elif isinstance(image, torch.Tensor):
        image = image.numpy(force=True)
    picture = np.asarray(image)
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[-1] != 3:
        raise ValueError(f"a frame is uint8 RGB of shape (H, W, 3), not {picture.dtype} {picture.shape}")
    return picture


__all__ = ["CVLSLive", "LiveOptions", "LiveSource"]
