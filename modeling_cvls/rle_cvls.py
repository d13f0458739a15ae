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
    try:
        runs = run_lengths(counts)
    except UnicodeEncodeError as error:
        raise ValueError("the mask is not the counts of a COCO compressed RLE") from error
    if min(runs, default=0) < 0:
        raise ValueError("the mask is not the counts of a COCO compressed RLE: it has a run of negative length")
    pixels = sum(runs)
    if pixels != height * width:
        raise ValueError(
            f"the mask has {pixels} pixels, but the height x width of its frame is {height} x {width} = "
            f"{height * width}; masks must have the size of the frames"
        )
    return _pycocotools().decode({"size": [height, width], "counts": counts}).astype(bool)


def run_lengths(counts: str) -> list[int]:
    """The lengths in pixels of the runs of a COCO compressed RLE, the first one outside the mask.

    A run is stored as characters of five bits with a continuation bit, least significant first, in two's complement;
    from the fourth run on, it is the difference to the run before the previous one.

    Raises:
        UnicodeEncodeError: `counts` has a character outside ASCII.
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts.encode("ascii"):
        bits = character - 48
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            runs.append(value + runs[-2] if len(runs) > 2 else value)
            value = shift = 0
    return runs


def _pycocotools():
    # Imported when needed and in a `try`, where transformers does not look for what a checkpoint's code demands.
    try:
        from pycocotools import mask
    except ImportError as error:
        raise ImportError("masks as COCO RLE need pycocotools, which is not here: pip install pycocotools") from error
    return mask


__all__ = ["decode_mask", "encode_masks", "run_lengths"]
