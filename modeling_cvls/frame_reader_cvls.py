"""Random access to the frames of a video, whatever form it comes in."""

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import numpy as np
import torch
from huggingface_hub import get_session
from huggingface_hub.errors import HTTPError  # of the HTTP library that get_session uses
from PIL import Image

from .images_cvls import IMAGE_SUFFIXES, decode_image, frame_files, to_rgb
from .video_decoder_cvls import EncodedVideo
from .video_index_cvls import named_gaps

TIMEOUT = 30  # seconds without an answer from a server


class _BrokenImageError(ValueError):
    """An encoded image cannot be decoded."""


class FrameReader:
    """Reads chosen frames of a video without decoding the rest into memory.

    Frame i of an encoded video is the i-th frame that a player shows (see [`VideoIndex`]): length, size, times, `read`
    and `frames` all speak of the same frames.

    Args:
        video: the path or the URL (http, https) of an encoded video, the bytes of one, a folder of frames, a uint8
            array or tensor (T, H, W, 3) or (T, 3, H, W) in RGB, or a list of the frames as PIL images, as such arrays
            without the T or as encoded images (bytes or paths: png, jpeg ...). The frames of a folder are its image
            files, in the order of the numbers in their names (9 before 10). Encoded images are turned upright by their
            EXIF orientation, and 16-bit gray values are divided by 257. What a URL gives is kept in a temporary file
            while the reader lives.
        fps: frames per second; by default as the container says. With it, frame i is at the time i / fps.
        on_damage: what to do with a video of which some frames cannot be decoded. "error" refuses it, at opening or
            when such a frame is reached; "keep" gives the others and lists these in `missing_frames`.

    Attributes:
        fps: frames per second, the mean over the video; None where neither `fps` nor a container says it.
        height, width: size of the frames as shown, in pixels.
        times: float array (T,), the presentation time of each frame in seconds, the first at 0; None where `fps` is.
        end: the time in seconds at which the last frame ends; None where `fps` is.
        source: the path or the bytes of the encoded video whose own times these are; None for other videos.
        start: the first frame's time in seconds on the clock of `source`, which its sound shares.
        sample_aspect_ratio: the width of a pixel divided by its height, a `Fraction`.
        missing_frames: the numbers of the frames that were found to be missing so far, sorted. Those that the header
            promises beyond the end of the file are numbered from `len(reader)` on.
        partial_frames: the numbers of the frames that were found to be damaged so far, but are given, sorted.
        gaps: (time in seconds, number of frames) for each place at which MPEG-TS says that something was lost on its
            way. These frames have no numbers; how many they are is counted at the usual rate of the video. The
            frames after them, up to the next key frame, may be damaged.

    Raises:
        FileNotFoundError: a path does not exist.
        OSError: a URL cannot be read.
        TypeError: `video` is none of the above.
        ValueError: the video cannot be decoded, has no frames, is damaged and `on_damage` is "error", the array is not
            uint8 (T, H, W, 3), or `fps` is not above 0.
    """

    def __init__(
        self,
        video: str | Path | bytes | np.ndarray | torch.Tensor | list,
        fps: float | None = None,
        on_damage: Literal["error", "keep"] = "error",
    ):
        if fps is not None and not fps > 0:
            raise ValueError(f"the frames per second of a video are a number above 0, not {fps}")
        if on_damage not in ("error", "keep"):
            raise ValueError(f"on_damage is 'error' or 'keep', not {on_damage!r}")
        self._frames: np.ndarray | list | EncodedVideo
        self._on_damage = on_damage
        self._broken_images: set[int] = set()  # the numbers of those that were found
        if isinstance(video, str) and video.startswith(("http://", "https://")):
            self._name = video
            self._file = _download(video)  # deleted together with the reader
            self._frames = EncodedVideo(self._file.name, video, on_damage)
        elif isinstance(video, str | Path):
            path = Path(video)
            self._name = str(path)
            if path.is_dir():
                self._frames = frame_files(path)
                if not self._frames:
                    raise ValueError(f"the folder {path} holds no frames: no file ends in {', '.join(IMAGE_SUFFIXES)}")
            elif path.is_file():
                self._frames = EncodedVideo(str(path), self._name, on_damage)
            else:
                raise FileNotFoundError(f"no video file at {path}, nor a folder of frames")
        elif isinstance(video, bytes):
            self._name = "the video given as bytes"
            self._frames = EncodedVideo(video, self._name, on_damage)
        elif isinstance(video, np.ndarray | torch.Tensor):
            self._name = "the video given as an array"
            self._frames = self._checked_array(video)
        elif isinstance(video, list | tuple):
            self._name = "the video given as a list of frames"
            self._frames = list(video)
        else:
            raise TypeError(
                "a video is a path, a URL, the bytes of an encoded video, a folder of frames, a uint8 array "
                "(T, H, W, 3) or a list of PIL images or of encoded images (bytes or paths), not "
                f"{type(video).__name__}"
            )
        if len(self) == 0:
            raise ValueError(f"{self._name} has no frames")
        self._set_times(fps)
        if isinstance(self._frames, EncodedVideo) and self._frames.index.is_picture:
            # As in a folder of frames: PyAV does not give the mirrors of EXIF, and gives wrong colors of some TIFFs.
            with suppress(OSError, ValueError):  # what Pillow cannot decode stays with PyAV
                self._frames = [decode_image(self._frames.source)]

    def _checked_array(self, video: np.ndarray | torch.Tensor) -> np.ndarray:
        array = video.numpy(force=True) if isinstance(video, torch.Tensor) else video
        if array.ndim == 4 and array.shape[-1] != 3 and array.shape[1] == 3:
            array = array.transpose(0, 2, 3, 1)
        if array.dtype != np.uint8 or array.ndim != 4 or array.shape[-1] != 3:
            raise ValueError(
                f"{self._name} must be uint8 RGB frames of shape (T, H, W, 3), not {array.dtype} {tuple(video.shape)}"
            )
        return array

    def _set_times(self, fps: float | None) -> None:
        self.fps: float | None = None
        self.times: np.ndarray | None = None
        self.end: float | None = None
        self.source: str | bytes | None = None
        self.start = 0.0
        self.sample_aspect_ratio = Fraction(1)
        if isinstance(self._frames, EncodedVideo):
            index = self._frames.index
            self.fps, self.times, self.end = index.fps, index.times, index.end
            self.source, self.start = self._frames.source, index.start
            self.sample_aspect_ratio = index.sample_aspect_ratio
        if fps is not None:
            self.source, self.start = None, 0.0
            self.fps, self.times, self.end = float(fps), np.arange(len(self)) / fps, len(self) / fps

    @cached_property
    def _size(self) -> tuple[int, int]:
        if isinstance(self._frames, EncodedVideo):
            return self._frames.index.height, self._frames.index.width
        if isinstance(self._frames, np.ndarray):
            return self._frames.shape[1:3]
        last = len(self) - 1 if self._on_damage == "keep" else 0
        for index in range(last):
            with suppress(_BrokenImageError):
                return self._decode_image(index).shape[:2]
        return self._decode_image(last).shape[:2]

    @property
    def height(self) -> int:
        return self._size[0]

    @property
    def width(self) -> int:
        return self._size[1]

    @property
    def missing_frames(self) -> list[int]:
        if not isinstance(self._frames, EncodedVideo):
            return sorted(self._broken_images)
        return [*sorted(self._frames.missing), *range(len(self), len(self) + self._frames.index.num_missing)]

    @property
    def partial_frames(self) -> list[int]:
        return sorted(self._frames.partial) if isinstance(self._frames, EncodedVideo) else []

    @property
    def gaps(self) -> list[tuple[float, int]]:
        return self._frames.index.gaps if isinstance(self._frames, EncodedVideo) else []

    def is_missing(self, frame: int) -> bool:
        """Whether a frame was found to be missing."""
        return frame in (self._frames.missing if isinstance(self._frames, EncodedVideo) else self._broken_images)

    @property
    def damage(self) -> str | None:
        """A sentence that names the frames that were found to be missing, lost or partial; None where there is none."""
        parts = []
        missing = self.missing_frames
        if missing:
            parts.append(f"{len(missing)} of its frames cannot be decoded and are left out ({_spans(missing)})")
        if self.partial_frames:
            spans = _spans(self.partial_frames)
            parts.append(f"{len(self.partial_frames)} are decoded only in part ({spans})")
        if self.gaps:
            parts.append(named_gaps(self.gaps))
        return f"{self._name} is damaged or was cut off: {'; '.join(parts)}" if parts else None

    def __len__(self) -> int:
        return len(self._frames.index if isinstance(self._frames, EncodedVideo) else self._frames)

    def _decode_image(self, index: int) -> np.ndarray:
        image = self._frames[index]
        if isinstance(image, np.ndarray | torch.Tensor):
            return self._checked_array(image[None])[0]
        if isinstance(image, bytes | str | Path):
            source = "bytes" if isinstance(image, bytes) else image
            try:
                return np.asarray(decode_image(image))
            except FileNotFoundError as error:
                raise FileNotFoundError(f"no image file at {image}, frame {index} of {self._name}") from error
            except OSError as error:
                kind = _BrokenImageError if error.errno is None else ValueError  # where the disk is at fault
                raise kind(
                    f"frame {index} of {self._name} ({source}) cannot be decoded; an encoded image such as png or jpeg "
                    "was expected"
                ) from error
            except ValueError as error:
                raise ValueError(f"frame {index} of {self._name} ({source}) cannot be read: {error}") from error
        if not isinstance(image, Image.Image):
            raise TypeError(
                f"frame {index} of {self._name} must be a PIL image or an encoded image (bytes or a path), not "
                f"{type(image).__name__}"
            )
        try:
            return np.asarray(to_rgb(image))
        except ValueError as error:
            raise ValueError(f"frame {index} of {self._name} cannot be read: {error}") from error

    def _read_images(self, indices: list[int]) -> np.ndarray:
        frames = [self._decode_image(index) for index in indices]
        for index, frame in zip(indices, frames, strict=True):
            if frame.shape[:2] != (self.height, self.width):
                raise ValueError(
                    f"frame {index} of {self._name} is {frame.shape[0]} x {frame.shape[1]} pixels (height x width), "
                    f"frame 0 {self.height} x {self.width}; all frames of a video must be of one size"
                )
        return np.stack(frames)

    def read(self, indices: Iterable[int]) -> np.ndarray:
        """Decodes the frames `indices` (0-based, in any order, repeats allowed).

        Returns:
            uint8 array (len(indices), H, W, 3), RGB, in the order of `indices`.

        Raises:
            IndexError: an index is outside the video.
            ValueError: `indices` is empty or a frame cannot be decoded, whatever `on_damage` is.
        """
        indices = [int(index) for index in indices]
        if not indices:
            raise ValueError(f"no frame indices to read from {self._name}")
        for index in indices:
            if not 0 <= index < len(self):
                raise IndexError(f"frame {index} of {self._name}: its frames are 0 to {len(self) - 1}")
        if isinstance(self._frames, np.ndarray):
            return self._frames[indices]
        return self._read_images(indices) if isinstance(self._frames, list) else self._frames.read(indices)

    def frames(self, indices: Iterable[int]) -> Iterator[np.ndarray | None]:
        """Decodes the frames `indices` (0-based, increasing) one by one, in one pass: memory does not grow.

        Returns:
            An iterator over uint8 arrays (H, W, 3), RGB, those of `read`; None for a frame that is missing, where
            `on_damage` is "keep".

        Raises:
            ValueError: a frame cannot be decoded, or is of another size than the first one.
        """
        if isinstance(self._frames, EncodedVideo):
            return self._frames.frames(map(int, indices))
        return self._images_one_by_one(indices)

    def _images_one_by_one(self, indices: Iterable[int]) -> Iterator[np.ndarray | None]:
        for index in map(int, indices):
            try:
                picture = self.read([index])[0]
            except _BrokenImageError:
                self._broken_images.add(index)
                if self._on_damage == "error":
                    raise
                picture = None
            yield picture


def _spans(numbers: list[int]) -> str:
    """Sorted numbers as text: "3, 7 to 9"."""
    array = np.array(numbers)
    breaks = np.flatnonzero(np.diff(array) > 1)
    starts, stops = array[[0, *(breaks + 1)]], array[[*breaks, -1]]
    return ", ".join(f"{a}" if a == b else f"{a} to {b}" for a, b in zip(starts, stops, strict=True))


def _download(url: str) -> tempfile._TemporaryFileWrapper:
    file = tempfile.NamedTemporaryFile(suffix=Path(urlsplit(url).path).suffix)
    try:
        with get_session().stream("GET", url, timeout=TIMEOUT) as response:
            if response.status_code != 200:
                raise OSError(f"no video at {url}: the server answers {response.status_code} {response.reason_phrase}")
            for part in response.iter_bytes():
                file.write(part)
    except HTTPError as error:
        raise OSError(f"{url} cannot be read: {error}") from error
    file.flush()
    return file
