"""Random access to the frames of a video, whatever form it comes in."""

import io
import re
import tempfile
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import torch
from huggingface_hub import get_session
from huggingface_hub.errors import HTTPError  # of the HTTP library that get_session uses
from PIL import Image

#: What the files of a folder of frames end in, in lower case.
IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
TIMEOUT = 30  # seconds without an answer from a server


class FrameReader:
    """Reads chosen frames of a video without decoding the rest into memory.

    Args:
        video: the path or the URL (http, https) of an encoded video, the bytes of one, a folder of frames, a uint8
            array or tensor (T, H, W, 3) or (T, 3, H, W) in RGB, or a list of the frames as PIL images or as encoded
            images (bytes or paths: png, jpeg ...). The frames of a folder are its image files, in the order of the
            numbers in their names (9 before 10). What a URL gives is kept in a temporary file while the reader lives.
        fps: frames a second; default: as the container says.

    Attributes:
        fps: frames a second; None where neither `fps` nor a container says it.
        height, width: size of the frames in pixels.

    Raises:
        FileNotFoundError: a path does not exist.
        OSError: a URL cannot be read.
        TypeError: `video` is none of the above.
        ValueError: the video cannot be decoded, has no frames, the array is not uint8 (T, H, W, 3), or `fps` is not
            above 0.
    """

    def __init__(self, video: str | Path | bytes | np.ndarray | torch.Tensor | list, fps: float | None = None):
        if fps is not None and not fps > 0:
            raise ValueError(f"the frames a second of a video are a number above 0, not {fps}")
        self.fps: float | None = None
        if isinstance(video, str) and video.startswith(("http://", "https://")):
            self._name = video
            self._file = _download(video)  # deleted together with the reader
            self._source = self._file.name
            self._frames = self._open_encoded(self._source)
        elif isinstance(video, str | Path):
            path = Path(video)
            self._name = str(path)
            if path.is_dir():
                self._frames = frame_files(path)
                if not self._frames:
                    raise ValueError(f"the folder {path} holds no frames: no file ends in {', '.join(IMAGE_SUFFIXES)}")
            elif path.is_file():
                self._source = self._name
                self._frames = self._open_encoded(self._source)
            else:
                raise FileNotFoundError(f"no video file at {path}, nor a folder of frames")
        elif isinstance(video, bytes):
            self._name = "the video given as bytes"
            self._source = video
            self._frames = self._open_encoded(io.BytesIO(video))
        elif isinstance(video, np.ndarray | torch.Tensor):
            self._name = "the video given as an array"
            array = video.numpy(force=True) if isinstance(video, torch.Tensor) else video
            if array.ndim == 4 and array.shape[-1] != 3 and array.shape[1] == 3:
                array = array.transpose(0, 2, 3, 1)
            if array.dtype != np.uint8 or array.ndim != 4 or array.shape[-1] != 3:
                raise ValueError(
                    f"{self._name} must be uint8 RGB frames of shape (T, H, W, 3), not {array.dtype} "
                    f"{tuple(video.shape)}"
                )
            self._frames = array
        elif isinstance(video, list | tuple):
            self._name = "the video given as a list of frames"
            self._frames = list(video)
        else:
            raise TypeError(
                "a video is a path, a URL, the bytes of an encoded video, a folder of frames, a uint8 array "
                "(T, H, W, 3) or a list of PIL images or of encoded images (bytes or paths), not "
                f"{type(video).__name__}"
            )
        self.fps = self.fps if fps is None else float(fps)
        if len(self) == 0:
            raise ValueError(f"{self._name} has no frames")

    @cached_property
    def _size(self) -> tuple[int, int]:
        # Of a decoded frame: what the container says ignores a crop or rotation that the decoder may apply.
        first = self._decode_image(0) if isinstance(self._frames, list) else self.read([0])[0]
        return first.shape[:2]

    @property
    def height(self) -> int:
        return self._size[0]

    @property
    def width(self) -> int:
        return self._size[1]

    def _open_encoded(self, source: str | io.BytesIO):
        decord = _decord()
        try:
            reader = decord.VideoReader(source, ctx=decord.cpu(0), num_threads=1)
            self.fps = float(reader.get_avg_fps())
        except (decord.DECORDError, RuntimeError, UnicodeDecodeError) as error:
            raise ValueError(
                f"{self._name} cannot be decoded as a video; an encoded video such as H.264 in mp4 was expected"
            ) from error
        return reader

    def _read_encoded(self, indices: list[int]) -> np.ndarray:
        decord = _decord()
        try:
            return self._frames.get_batch(indices).asnumpy()
        except (decord.DECORDError, RuntimeError) as error:
            raise ValueError(
                f"frames {indices[0]} to {indices[-1]} of {self._name} cannot be decoded; the file is damaged or "
                f"shorter than the {len(self)} frames its header promises, or it is one of the few that decord cannot "
                "read: exactly 16, 24, 48 or 72 pixels wide (scale those)"
            ) from error

    def _decode_image(self, index: int) -> np.ndarray:
        image = self._frames[index]
        if isinstance(image, bytes | str | Path):
            try:
                image = Image.open(io.BytesIO(image) if isinstance(image, bytes) else image).convert("RGB")
            except FileNotFoundError as error:
                raise FileNotFoundError(f"no image file at {image}, frame {index} of {self._name}") from error
            except (OSError, SyntaxError) as error:  # Pillow raises SyntaxError for some broken png files
                source = "bytes" if isinstance(image, bytes) else image
                raise ValueError(
                    f"frame {index} of {self._name} ({source}) cannot be decoded; an encoded image such as png or jpeg "
                    "was expected"
                ) from error
        elif not isinstance(image, Image.Image):
            raise TypeError(
                f"frame {index} of {self._name} must be a PIL image or an encoded image (bytes or a path), not "
                f"{type(image).__name__}"
            )
        return np.asarray(image.convert("RGB"))

    def _read_images(self, indices: list[int]) -> np.ndarray:
        frames = [self._decode_image(index) for index in indices]
        for index, frame in zip(indices, frames, strict=True):
            if frame.shape[:2] != (self.height, self.width):
                raise ValueError(
                    f"frame {index} of {self._name} is {frame.shape[0]} x {frame.shape[1]} pixels (height x width), "
                    f"frame 0 {self.height} x {self.width}; all frames of a video must be of one size"
                )
        return np.stack(frames)

    def __len__(self) -> int:
        return len(self._frames)

    def read(self, indices: Iterable[int]) -> np.ndarray:
        """Decodes the frames `indices` (0-based, in any order, repeats allowed).

        Returns:
            uint8 array (len(indices), H, W, 3), RGB, in the order of `indices`.

        Raises:
            IndexError: an index is outside the video.
            ValueError: `indices` is empty or a frame cannot be decoded.
        """
        indices = [int(index) for index in indices]
        if not indices:
            raise ValueError(f"no frame indices to read from {self._name}")
        for index in indices:
            if not 0 <= index < len(self):
                raise IndexError(f"frame {index} of {self._name}: its frames are 0 to {len(self) - 1}")
        if isinstance(self._frames, np.ndarray):
            return self._frames[indices]
        return self._read_images(indices) if isinstance(self._frames, list) else self._read_encoded(indices)

    def frames(self, indices: Iterable[int]) -> Iterator[np.ndarray]:
        """Decodes the frames `indices` (0-based, increasing) one by one, in one pass, what lies between them too.

        For long videos: what `read` decodes with goes on in the background without bound (dmlc/decord issue 208).

        Returns:
            An iterator over uint8 arrays (H, W, 3), RGB; those of `read` but for the rounding of colors.

        Raises:
            ValueError: a frame cannot be decoded.
        """
        if isinstance(self._frames, np.ndarray | list):
            for index in indices:
                yield self.read([index])[0]
            return
        av = _av()
        index = 0
        try:
            source = io.BytesIO(self._source) if isinstance(self._source, bytes) else self._source
            with av.open(source) as container:
                container.streams.video[0].thread_type = "AUTO"
                decoded = enumerate(container.decode(video=0))
                for index in indices:
                    frame = next((frame for number, frame in decoded if number == index), None)
                    if frame is None:
                        raise ValueError(
                            f"frame {index} of {self._name} cannot be decoded; the file is damaged or shorter than the "
                            f"{len(self)} frames its header promises"
                        )
                    yield np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
        except av.FFmpegError as error:
            raise ValueError(f"frame {index} of {self._name} cannot be decoded; the file is damaged") from error


def frame_files(folder: str | Path) -> list[Path]:
    """The image files of a folder in the order of the numbers in their names: 9.png before 10.png."""
    files = [path for path in Path(folder).iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and path.name[0] != "."]
    parts = {path: re.split(r"(\d+)", path.name) for path in files}
    return sorted(files, key=lambda path: [int(part) if part.isdecimal() else part for part in parts[path]])


def _decord():
    # Imported when needed, and in a `try`, where code from the Hub is not searched for what it demands: arrays and
    # images can be read where decord has no wheel.
    try:
        import decord
    except ImportError as error:
        raise ImportError("encoded videos are read with decord, which is not here: pip install decord") from error
    return decord


def _av():
    try:
        import av
    except ImportError as error:
        raise ImportError("encoded videos are gone through with PyAV, which is not here: pip install av") from error
    return av


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
