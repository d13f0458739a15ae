"""Frames and masks of one row, decoding no more than what is asked for."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..frame_reader_cvls import FrameReader
from ..images_cvls import decode_image, open_image
from ..rle_cvls import decode_mask

# The EXIF tag of an image, and the values of it that exchange height and width.
ORIENTATION, TURNED = 0x0112, (5, 6, 7, 8)
# Modes of Pillow whose pixels are refused, or are where they are out of range.
UNSURE = ("F", "I", "LAB")
# One of these is in a PNG that states an orientation.
PNG_ORIENTATIONS = (b"eXIf", b"exif", b"xmp")


def video_of(row: Mapping[str, Any], allow_urls: bool = False) -> bytes | str | list[bytes | str]:
    """The row's video as `FrameReader` and the pipeline take it: the encoded file, or a list of encoded images; paths
    where files were not embedded.

    Args:
        row: a row with the columns of `FEATURES`.
        allow_urls: let a path be a URL, which is fetched when the video is read.

    Raises:
        ValueError: the row has neither, or a path is a URL.
    """

    def encoded(media: Mapping[str, Any]) -> bytes | str:
        if media["bytes"] is None and media["path"] is None:
            raise ValueError("neither bytes nor a path is given for its video or one of its frames")
        if media["bytes"] is None and "://" in media["path"] and not allow_urls:
            raise ValueError(
                f"its video or a frame is at {media['path'][:80]}; download it, or pass allow_urls (--allow-urls) to "
                "let rows name URLs"
            )
        return media["path"] if media["bytes"] is None else media["bytes"]

    if row["video"] is not None:
        return encoded(row["video"])
    if row["frames"] is not None:
        return [encoded(frame) for frame in row["frames"]]
    raise ValueError("the row has neither video nor frames; one of the two must be there")


def check_image(image: bytes | str) -> tuple[int, int]:
    """Height and width of an encoded image (its bytes, or the path of a file) as it is shown, after decoding all of it.

    Raises:
        what Pillow runs into: OSError, SyntaxError, struct.error, DecompressionBombError and others.
        ValueError: pixels of a type that cannot be read.
    """
    with open_image(image) as opened:
        if opened.mode in UNSURE:
            decoded = decode_image(image)
            return decoded.height, decoded.width
        size = _shown_size(opened)
        # Reads to the end of the file, but a JPEG at an eighth of its size: only whether it decodes is asked.
        opened.draft("RGB", (1, 1))
        opened.load()
    return size


def inspect_image(image: bytes | str) -> tuple[int, int]:
    """As `check_image`, some 50 times as fast: without decoding what shows to be whole in another way.

    A PNG is whole where all its checksums are right, a JPEG where its header can be read and its last two bytes are the
    marker that ends an image; damage between the two hardly ever keeps a JPEG from being decoded. Images of other
    formats, and those whose pixels have a type of which some cannot be read, are decoded.

    Raises:
        as `check_image`.
    """
    content = image if isinstance(image, bytes) else Path(image).read_bytes()
    with open_image(content) as opened:
        if opened.mode in UNSURE:
            return check_image(content)
        if opened.format == "JPEG" and content.endswith(b"\xff\xd9"):
            return _shown_size(opened)
        # Pillow decodes a PNG to find its orientation, which may stand at its end.
        if opened.format == "PNG" and not any(name in content for name in PNG_ORIENTATIONS):
            opened.verify()
            return opened.height, opened.width
    return check_image(content)


def _shown_size(image: Image.Image) -> tuple[int, int]:
    """Height and width of an opened image, turned by its EXIF orientation."""
    turned = image.getexif().get(ORIENTATION) in TURNED
    return image.size if turned else image.size[::-1]


def read_frames(row: Mapping[str, Any], indices: Sequence[int], allow_urls: bool = False) -> np.ndarray:
    """Decodes some frames of a row.

    Args:
        row: a row with the columns of `FEATURES`.
        indices: T frame numbers, 0-based.
        allow_urls: as for `video_of`.

    Returns:
        uint8 array (T, height, width, 3), RGB.

    Raises:
        ValueError: naming the row's video_id: neither video nor frames, something that cannot be decoded, an index
            outside the video, or frames whose size is not the row's height x width.
    """
    try:
        frames = FrameReader(video_of(row, allow_urls)).read(indices)
    except (ValueError, IndexError, OSError) as error:
        raise ValueError(f"video {row['video_id']!r}: {error}") from error
    if frames.shape[1:3] != (row["height"], row["width"]):
        raise ValueError(
            f"video {row['video_id']!r}: its frames are {frames.shape[1]} x {frames.shape[2]} pixels (height x width), "
            f"but the row's height x width is {row['height']} x {row['width']}; the two must be the same"
        )
    return frames


def read_referents(row: Mapping[str, Any], sentences: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Which of the row's M instances each of K of its sentences refers to: none, one or several.

    Returns:
        bool (K, M).

    Raises:
        ValueError: naming the row's video_id and the sentence: an instance that does not exist.
    """
    referents = np.zeros((len(sentences), len(row["instance_ids"])), dtype=bool)
    for k, sentence in enumerate(sentences):
        outside = [m for m in sentence["instances"] if not 0 <= m < referents.shape[1]]
        if outside:
            raise ValueError(
                f"video {row['video_id']!r}, sentence {sentence['sentence_id']!r}: instances {outside} do not exist, "
                f"they must be indices into its {referents.shape[1]} instance_ids"
            )
        referents[k, sentence["instances"]] = True
    return referents


def read_masks(row: Mapping[str, Any], indices: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Decodes the instance masks of some frames of a row. M is the number of the row's instances.

    Args:
        row: a row with the columns of `FEATURES`.
        indices: T frame numbers, 0-based.

    Returns:
        masks: bool (T, M, height, width), false where nothing is annotated;
        annotated_frames: bool (T,), the frames that carry annotations;
        annotated_instances: bool (T, M), which instance is annotated in which frame (its mask may still be empty).

    Raises:
        ValueError: naming the row's video_id: a mask whose size is not the row's height x width, or a list of masks
            that does not fit annotated_frames and instance_ids.
    """
    height, width, num_instances = row["height"], row["width"], len(row["instance_ids"])
    name = f"video {row['video_id']!r}"
    if len(row["masks"]) != len(row["annotated_frames"]):
        raise ValueError(
            f"{name}: masks of {len(row['masks'])} frames, but {len(row['annotated_frames'])} annotated frames"
        )
    position = {frame: number for number, frame in enumerate(row["annotated_frames"])}
    masks = np.zeros((len(indices), num_instances, height, width), dtype=bool)
    annotated_frames = np.array([index in position for index in indices], dtype=bool)
    annotated_instances = np.zeros((len(indices), num_instances), dtype=bool)
    for t in np.flatnonzero(annotated_frames):
        frame = indices[t]
        frame_masks = row["masks"][position[frame]]
        if len(frame_masks) != num_instances:
            raise ValueError(
                f"{name}, frame {frame}: {len(frame_masks)} masks, but {num_instances} instance_ids; "
                "an instance that is not annotated in a frame has null there"
            )
        for m, counts in enumerate(frame_masks):
            if counts is not None:
                try:
                    masks[t, m] = decode_mask(counts, height, width)
                except ValueError as error:
                    instance = row["instance_ids"][m]
                    raise ValueError(f"{name}, frame {frame}, instance {instance!r}: {error}") from error
                annotated_instances[t, m] = True
    return masks, annotated_frames, annotated_instances
