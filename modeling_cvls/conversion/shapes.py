"""Masks as annotation tools write them -> bool arrays (height, width). Each function takes the frame's size last."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from ..rle_cvls import decode_mask
from .files import show


def polygons(parts: Sequence[Sequence[float]], height: int, width: int) -> np.ndarray:
    """The union of polygons, [x, y, x, y, ...] in pixels, as COCO draws them.

    Raises:
        ValueError: fewer than three points, a point outside the frame, or nothing beyond the first pixel.
    """
    for part in parts:
        try:
            points = np.asarray(part, dtype=float)
        except (TypeError, ValueError):
            points = np.empty(0)
        if points.ndim != 1 or len(points) < 6 or len(points) % 2 or not np.isfinite(points).all():
            raise ValueError(f"a polygon has at least three points x, y, not {show(part)}")
        x, y = points[::2], points[1::2]
        # tools write edges half a pixel, and rounded ones a whole pixel, beyond the frame
        if min(x.min(), y.min()) < -1 or x.max() > width + 1 or y.max() > height + 1:
            raise ValueError(
                f"a polygon reaches from ({x.min():g}, {y.min():g}) to ({x.max():g}, {y.max():g}), outside the "
                f"frame of {width} x {height} pixels (width x height)"
            )
    if not parts:
        return np.zeros((height, width), dtype=bool)
    if max(map(max, parts)) <= 1 < min(height, width):
        raise ValueError(f"a polygon is given in pixels, not in shares of the frame as {show(parts[0])}")
    runs = coco_mask.frPyObjects([list(map(float, part)) for part in parts], height, width)
    return coco_mask.decode(coco_mask.merge(runs)).astype(bool)


def coco_segmentation(segmentation: Any, height: int, width: int) -> np.ndarray:
    """COCO's `segmentation`: polygons, or run lengths, compressed or not.

    Raises:
        ValueError: it is neither, or of another size than the frame.
    """
    if isinstance(segmentation, list):
        return polygons(segmentation, height, width)
    if not isinstance(segmentation, dict) or segmentation.get("size") != [height, width]:
        size = segmentation.get("size") if isinstance(segmentation, dict) else segmentation
        raise ValueError(
            f"the mask has the size {show(size)}, expected [height, width] of the frame, [{height}, {width}]"
        )
    counts = segmentation.get("counts")
    if isinstance(counts, str):
        return decode_mask(counts, height, width)
    return runs(counts, height, width).T


def runs(lengths: Sequence[int], columns: int, rows: int) -> np.ndarray:
    """Lengths of runs, the first one outside the mask, through an array (rows, columns) row by row.

    Raises:
        ValueError: they are no lengths, or do not fill the array.
    """
    whole = isinstance(lengths, list | tuple) and all(isinstance(n, int) and n >= 0 for n in lengths)
    if not whole or sum(lengths) != rows * columns:
        raise ValueError(
            f"the runs of a mask are {show(lengths)}, expected lengths whose sum is {rows * columns} pixels"
        )
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(rows, columns)


def box_runs(lengths: Sequence[int], box: tuple[int, int, int, int], height: int, width: int) -> np.ndarray:
    """CVAT's mask: runs through the rows of a box (left, top, width, height) of the frame.

    Raises:
        ValueError: the box is not in the frame, or the runs do not fill it.
    """
    left, top, columns, rows = box
    if min(left, top) < 0 or min(columns, rows) < 1 or left + columns > width or top + rows > height:
        raise ValueError(
            f"a mask's box of {columns} x {rows} pixels at ({left}, {top}) is outside the frame of {width} x {height} "
            "pixels (width x height)"
        )
    mask = np.zeros((height, width), dtype=bool)
    mask[top : top + rows, left : left + columns] = runs(lengths, columns, rows)
    return mask


def brush(code: Sequence[int], height: int, width: int) -> np.ndarray:
    """Label Studio's brush: bytes of a run-length code of RGBA pixels (thi.ng/rle-pack), row by row; A is 0 outside.

    The code is a stream of bits: 32 with the number of values, 5 with the bits per value less one, four times 4 with
    the bits of the four kinds of length less one. Then runs: one bit (1: a value that repeats, 0: single values), two
    bits with the kind of length, the length less one, and the value or values.

    Raises:
        ValueError: it is no such code, or one of another number of pixels.
    """
    try:
        bits = np.unpackbits(np.array(code, dtype=np.uint8))
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"a brush is a list of bytes, not {show(code)}") from error
    position = 0

    def take(number: int, count: int = 1) -> np.ndarray:
        nonlocal position
        end = position + number * count
        if end > len(bits):
            raise ValueError("the code of a brush ends too early")
        values = bits[position:end].reshape(count, number) @ (1 << np.arange(number - 1, -1, -1))
        position = end
        return values

    total = int(take(32)[0])
    if total != 4 * height * width:
        raise ValueError(f"a brush of {total // 4} pixels on a frame of {width} x {height} = {width * height} pixels")
    word = int(take(5)[0]) + 1
    lengths = [int(take(4)[0]) + 1 for _ in range(4)]
    values = np.zeros(total, dtype=np.int64)
    done = 0
    while done < total:
        repeats = bool(take(1)[0])
        end = done + int(take(lengths[int(take(2)[0])])[0]) + 1
        if end > total:
            raise ValueError("the code of a brush has more pixels than it declares")
        values[done:end] = take(word, 1 if repeats else end - done)
        done = end
    return values[3::4].reshape(height, width) > 0
