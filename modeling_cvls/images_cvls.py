"""Encoded images as frames of a video: 8-bit RGB, upright."""

import io
import re
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

#: What the files of a folder of frames end in, in lower case.
IMAGE_SUFFIXES = (
    ".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp", ".avif", ".jfif", ".jp2", ".jpe", ".pgm", ".ppm", ".tga",
)  # fmt: skip


def natural_order(name: str) -> list[int | str]:
    """A key to sort names by the numbers in them: 9.png before 10.png."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def frame_files(folder: str | Path) -> list[Path]:
    """The image files of a folder in the order of the numbers in their names."""
    files = [path for path in Path(folder).iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and path.name[0] != "."]
    return sorted(files, key=lambda path: natural_order(path.name))


def open_image(image: bytes | str | Path) -> Image.Image:
    """Opens an encoded image (its bytes, or the path of a file) without decoding it, as `PIL.Image.open`.

    Raises:
        OSError: it cannot be read. The message does not name a place in memory, as that of Pillow does for bytes.
    """
    try:
        return Image.open(io.BytesIO(image) if isinstance(image, bytes) else image)
    except UnidentifiedImageError as error:
        raise UnidentifiedImageError("not an image of a known format") from error


def decode_image(image: bytes | str | Path) -> Image.Image:
    """Opens an encoded image (its bytes, or the path of a file) as viewers show it, turned by its EXIF orientation.

    Raises:
        OSError: it cannot be decoded; FileNotFoundError where there is no file.
        ValueError: its pixels cannot be converted, see [`to_rgb`].
    """
    if not isinstance(image, bytes) and Path(image).exists() and not Path(image).is_file():
        raise OSError(f"{image} is no regular file")  # reading a pipe or a device might never end
    try:
        with open_image(image) as opened:
            return to_rgb(ImageOps.exif_transpose(opened))
    except SyntaxError as error:  # Pillow raises it for some broken png files
        raise OSError(str(error)) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Converts an image to 8-bit RGB.

    16-bit gray values are scaled by the largest value of their type, 65,535, so that all frames of a video are scaled
    alike. Transparency is left out.

    Raises:
        ValueError: the pixels are floating-point numbers or 32-bit integers, whose range is not known.
    """
    if image.mode.startswith("I;16") or image.mode == "I":
        gray = np.asarray(image)
        if gray.min() < 0 or gray.max() > 65535:
            raise ValueError(
                f"its pixels are 32-bit integers from {gray.min()} to {gray.max()}; scale them to 8 or 16 bits first"
            )
        image = Image.fromarray(((gray.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8))
    elif image.mode in ("F", "LAB"):
        kind = "floating-point numbers" if image.mode == "F" else "in the LAB color space"
        raise ValueError(f"its pixels are {kind}; convert them to 8-bit gray or RGB first")
    return image.convert("RGB")
