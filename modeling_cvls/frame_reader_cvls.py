"""Random access to the frames of a video, whatever form it comes in."""

import io
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image


class FrameReader:
    """Reads chosen frames of a video without decoding the rest into memory.

    Args:
        video: the path of an encoded video, the bytes of one, a uint8 array (T, H, W, 3) in RGB, or a list of the
            frames as PIL images or as encoded images (bytes or paths: png, jpeg ...).

    Attributes:
        fps: frames a second as the container says; None where the video is not an encoded file.
        height, width: size of the frames in pixels.

    Raises:
        FileNotFoundError: a path does not exist.
        TypeError: `video` is none of the above.
        ValueError: the video cannot be decoded, has no frames, or the array is not uint8 (T, H, W, 3).
    """

    def __init__(self, video: str | Path | bytes | np.ndarray | list):
        self.fps: float | None = None
        if isinstance(video, str | Path):
            path = Path(video)
            if not path.is_file():
                raise FileNotFoundError(f"no video file at {path}")
            self._name = str(path)
            self._frames = self._open_encoded(self._name)
        elif isinstance(video, bytes):
            self._name = "the video given as bytes"
            self._frames = self._open_encoded(io.BytesIO(video))
        elif isinstance(video, np.ndarray):
            self._name = "the video given as an array"
            if video.dtype != np.uint8 or video.ndim != 4 or video.shape[-1] != 3:
                raise ValueError(
                    f"{self._name} must be uint8 RGB frames of shape (T, H, W, 3), not {video.dtype} {video.shape}"
                )
            self._frames = video
        elif isinstance(video, list | tuple):
            self._name = "the video given as a list of frames"
            self._frames = list(video)
        else:
            raise TypeError(
                "a video is a path, the bytes of an encoded video, a uint8 array (T, H, W, 3) or a list of PIL images "
                f"or of encoded images (bytes or paths), not {type(video).__name__}"
            )
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
        # Imported here so that arrays and images can be read where decord has no wheel.
        import decord

        try:
            reader = decord.VideoReader(source, ctx=decord.cpu(0), num_threads=1)
            self.fps = float(reader.get_avg_fps())
        except (decord.DECORDError, RuntimeError, UnicodeDecodeError) as error:
            raise ValueError(
                f"{self._name} cannot be decoded as a video; an encoded video such as H.264 in mp4 was expected"
            ) from error
        return reader

    def _read_encoded(self, indices: list[int]) -> np.ndarray:
        import decord

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
