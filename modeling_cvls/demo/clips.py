"""The clips that the page takes, and what it answers to those that it does not take."""

import html
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gradio as gr

from ..frame_reader_cvls import FrameReader

MAX_FPS = 30  # frames a second that are gone through: with the seconds, a bound on the work that a clip makes
MAX_PIXELS = 2560 * 1440  # of a frame; masks of all sentences are made at its size


@contextmanager
def told(path: str | None) -> Iterator[None]:
    """Turns what is wrong with a visitor's clip or sentences into a message in the page, which names the clip, but not
    the folder in which the server keeps it."""
    try:
        yield
    except (OSError, ValueError) as error:
        text = str(error) if path is None else str(error).replace(path, Path(path).name)
        raise gr.Error(html.escape(text), print_exception=False) from error


def open_clip(path: str | None, max_seconds: float) -> FrameReader:
    """Raises ValueError or OSError for what is no clip, or too much of one."""
    if path is None:
        raise ValueError("There is no clip yet: upload one or choose an example.")
    if not Path(path).is_file():
        raise ValueError("The clip has been deleted by now: upload it again.")
    reader = FrameReader(path)
    if not (reader.fps and math.isfinite(reader.fps)):
        raise ValueError(f"{path} does not say how many frames per second it has.")
    if (seconds := len(reader) / reader.fps) > max_seconds:
        raise ValueError(f"{path} is too long: it lasts {seconds:.1f} s, and at most {max_seconds:g} s are taken here.")
    if reader.height * reader.width > MAX_PIXELS:
        raise ValueError(
            f"The frames of {path} are too large: {reader.width} x {reader.height} pixels, and at most as many as "
            "2560 x 1440 has are taken here."
        )
    return reader
