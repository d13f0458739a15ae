"""Files of a source are not trusted: what is wrong in one is a `ValueError` that names it."""

import csv
import io
import json
import re
import reprlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..data.reading import check_image
from ..images_cvls import open_image
from ..names import repeated
from .problems import Problems

# Of one file of masks. A 2.9 MB h5 file can declare, and take, 6 GB.
MOST_MASK_BYTES = 1 << 30
NO_LINE_BREAK = "the last line has no line break at its end: the file may have been cut off; add one where it is whole"

_shown = reprlib.Repr()
_shown.maxstring = _shown.maxother = 80


def show(value: object) -> str:
    """`repr(value)` for a message, cut where it is long."""
    return _shown.repr(value)


@contextmanager
def reading(path: Path, expected: str) -> Iterator[None]:
    """Whatever a library runs into in a damaged file becomes a `ValueError` that names the file.

    Args:
        path: the file.
        expected: what it should be, as in "a palette image (png)".
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except Exception as error:  # a decoder raises what it runs into: OSError, struct.error, zlib.error, MemoryError ...
        what = " ".join(str(error).split())[:120] or type(error).__name__
        raise ValueError(f"{path}: cannot be decoded; {expected} was expected ({what})") from error


def read_text(path: Path) -> str:
    """The content of a text file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: naming the file and the line: it is not UTF-8.
    """
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}, line {line}: not UTF-8 text (byte {content[error.start]:#04x})") from error


def read_csv(
    path: Path,
    problems: Problems,
    *headers: Sequence[str],
    columns: Sequence[str] = (),
    split: str | None = None,
) -> Iterator[tuple[int, list[str]]]:
    """The rows of a csv file that are not blank, with the numbers of their lines (from 1).

    Problems, naming file and line: a row with another number of fields than the header; one that spans several lines,
    which a quote that is not closed does; and a last row without a line break, as the file may have been cut off there.

    Args:
        path: the file.
        problems: told of what is wrong; such a row is left out.
        headers: the headers that it may have.
        columns: what its columns are, where it has no header.
        split: the split that messages are about.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: naming the file and the line: it is not UTF-8, or has another header.
    """
    text = read_text(path)
    lines = text.count("\n")
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    if headers:
        header = next(rows, [])
        if header not in [list(one) for one in headers]:
            expected = " or ".join(repr(",".join(one)) for one in headers)
            if len(header) == 1 and re.search(r"[;\t]", header[0]):
                expected += "; fields are separated by commas"
            raise ValueError(f"{path}, line 1: the header is {show(','.join(header))}, expected {expected}")
        columns = header
    while True:
        first = rows.line_num + 1
        where = f"{path}, line {first}"
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            problems.found(where, f"not a row of csv: {error}", split)
            continue
        if rows.line_num > lines:
            problems.found(where, NO_LINE_BREAK, split)
        elif not row:
            continue
        elif rows.line_num > first:
            why = f"the row spans {rows.line_num - first + 1} lines; a quote at its start is not closed"
            problems.found(where, why, split)
        elif len(row) != len(columns):
            why = (
                f"{len(row)} fields, expected {len(columns)} ({','.join(columns)}), got {show(','.join(row))}; "
                "a sentence with a comma stands in double quotes"
            )
            problems.found(where, why, split)
        else:
            yield first, row


def first_fields(path: Path) -> set[str]:
    """The first fields of all rows of a csv file, also of those in which something is wrong."""
    return {line.split(",", 1)[0].strip() for line in read_text(path).splitlines()}


def read_json(path: Path, expected: str) -> Any:
    """The content of a json file.

    Args:
        path: the file.
        expected: what it should be, for the message.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: naming the file: it is not json, is nested too deeply, or has a key twice.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) < len(pairs):
            raise ValueError(f"the key {show(repeated(key for key, _ in pairs)[0])} stands there twice")
        return content

    text = read_text(path)
    try:
        return json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not json, or not {expected}: {str(error)[:120]}") from error


def read_frame_files(paths: Sequence[Path]) -> tuple[list[dict[str, Any]], int, int]:
    """Reads encoded frames as they are.

    Args:
        paths: the files in order, at least one.

    Returns:
        the cells of the column `frames` ({"bytes", "path"}; the path is the file's name), height and width in pixels.

    Raises:
        ValueError: naming the file that is missing, cannot be decoded, or has another size than the first.
    """
    cells = []
    size = None
    for path in paths:
        try:
            content = path.read_bytes()
        except FileNotFoundError as error:
            raise ValueError(f"{path}: this frame does not exist") from error
        with reading(path, "an encoded image such as png or jpeg"):
            height, width = check_image(content)
        if size is None:
            size = height, width
        if (height, width) != size:
            raise ValueError(
                f"{path}: {height} x {width} pixels (height x width), but {paths[0].name} has {size[0]} x {size[1]}; "
                "all frames of a video must be of one size"
            )
        cells.append({"bytes": content, "path": path.name})
    return cells, *size


def read_indices(path: Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """Reads a palette image, whose pixels are the ids of objects.

    Args:
        path: the file.
        size: height and width that it must have; None: any.

    Returns:
        uint8 (height, width).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: naming the file: it cannot be decoded, is no palette or gray image, or has another size.
    """
    with reading(path, "a palette image (png)"), open_image(path) as image:
        mode, indices = image.mode, np.asarray(image)
    if mode not in ("P", "L") or size not in (None, indices.shape):
        expected = "" if size is None else f" of the frames' size, {size[0]} x {size[1]}"
        raise ValueError(
            f"{path}: an image of mode {mode} and {' x '.join(map(str, indices.shape[:2]))} pixels (height x width); "
            f"expected a palette image (mode P){expected}"
        )
    return indices


def check_mask_array(path: Path, name: str, array: np.ndarray) -> None:
    """Raises a `ValueError` that names the file unless an array holds finite numbers, as masks do.

    Args:
        path: the file.
        name: of the array in it.
        array: of any shape.
    """
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{path}: {name} holds {array.dtype}, expected numbers, 0 outside a mask")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(
            f"{path}: {name} holds values that are no numbers (NaN or infinite), expected 0 outside a mask"
        )
