"""COCO's compressed run-length encoding of masks (`rleToString` and `rleFrString` in cocoapi's maskApi.c)."""

import numpy as np


def encode_masks(masks: np.ndarray) -> list[str]:
    """Masks (N, H, W), true or not 0 inside -> the counts of N COCO compressed RLEs of size [H, W]."""
    encoded = _pycocotools().encode(np.asfortranarray((masks != 0).transpose(1, 2, 0), dtype=np.uint8))
    return [rle["counts"].decode("ascii") for rle in encoded]


def decode_mask(counts: str, height: int, width: int) -> np.ndarray:
    """The counts of a COCO compressed RLE -> bool (height, width).

    Raises:
        ValueError: `counts` is not such a code, or not one of height x width pixels.
    """
    # pycocotools leaves memory uninitialized where the runs end too early, so the size is checked here.
    pixels = count_pixels(counts)
    if pixels != height * width:
        raise ValueError(
            f"the mask has {pixels} pixels, but the height x width of its frame is {height} x {width} = "
            f"{height * width}; masks must have the size of the frames"
        )
    return _pycocotools().decode({"size": [height, width], "counts": counts}).astype(bool)


def count_pixels(counts: str) -> int:
    """The number of pixels, inside and outside, of the mask of a COCO compressed RLE.

    Raises:
        ValueError: `counts` is not such a code.
    """
    runs = run_lengths(counts)
    if (runs < 0).any():
        raise ValueError("the mask is not the counts of a COCO compressed RLE: it has a run of negative length")
    return int(runs.sum())


def run_lengths(counts: str) -> np.ndarray:
    """The lengths in pixels of the runs of a COCO compressed RLE, int64 (N,), the first one outside the mask.

    A run is stored as characters of five bits with a continuation bit, least significant first, in two's complement;
    from the fourth run on, it is the difference to the run before the previous one.

    Raises:
        ValueError: `counts` is not such a code.
    """
    code = np.frombuffer(counts.encode(), np.uint8).astype(np.int64) - 48
    if not code.size:
        return code
    ends = np.flatnonzero(code & 32 == 0)
    lengths = np.diff(ends, prepend=-1)
    # Pixels are numbers of at most 32 bits, which seven characters hold.
    if code.min() < 0 or code.max() > 63 or code[-1] & 32 or lengths.max() > 7:
        raise ValueError("the mask is not the counts of a COCO compressed RLE")
    starts = ends - lengths + 1
    shifts = 5 * (np.arange(code.size) - np.repeat(starts, lengths))
    runs = np.add.reduceat((code & 31) << shifts, starts)
    runs -= np.where(code[ends] & 16, 1 << 5 * lengths, 0)
    for first in (1, 2):
        runs[first::2] = np.cumsum(runs[first::2])
    return runs


def _pycocotools():
    # Imported when needed and in a `try`, where transformers does not look for what a checkpoint's code demands.
    try:
        from pycocotools import mask
    except ImportError as error:
        raise ImportError("masks as COCO RLE need pycocotools, which is not here: pip install pycocotools") from error
    return mask


__all__ = ["count_pixels", "decode_mask", "encode_masks", "run_lengths"]
