"""A page that shows at a glance whether a data set is right: frames with objects outlined and numbered, sentences."""

import base64
import html
import io
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ..visualization import COLORS, overlay
from .reading import read_frames, read_masks

STYLE = """
body { font-family: sans-serif; margin: 2em; max-width: 75em; }
section { border-top: 1px solid #bbb; padding: 1em 0; }
img { max-width: 100%; }
b { color: white; border-radius: 0.7em; padding: 0 0.5em; }
"""


def review_page(rows: Iterable[Mapping[str, Any]], title: str, columns: int = 4) -> str:
    """An HTML page of rows, complete in itself.

    Args:
        rows: rows with the columns of `FEATURES`.
        title: the head of the page.
        columns: so many frames per row, evenly spaced among the annotated ones (or among all where there are none).

    Raises:
        ValueError: naming the video of a row that cannot be read.
    """
    sections = "\n".join(_section(row, columns) for row in rows)
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>'
    body = f"<h1>{html.escape(title)}</h1>\n{sections}"
    return f"<!DOCTYPE html>\n<html><head>{head}</head><body>\n{body}\n</body></html>\n"


def _color(number: int) -> str:
    return "rgb({}, {}, {})".format(*COLORS[number % len(COLORS)])


def _section(row: Mapping[str, Any], columns: int) -> str:
    shown = row["annotated_frames"] or list(range(row["num_frames"]))
    chosen = [shown[i] for i in np.unique(np.linspace(0, len(shown) - 1, columns).round().astype(int))]
    facts = (
        f"{row['num_frames']} frames of {row['width']} x {row['height']} pixels (width x height), "
        f"{len(row['annotated_frames'])} annotated; shown: {', '.join(map(str, chosen))}"
    )
    sentences = "\n".join(f"<li>{_sentence(sentence, row['instance_ids'])}</li>" for sentence in row["sentences"])
    return (
        f"<section><h2>{html.escape(row['video_id'])}</h2>\n<p>{facts}</p>\n"
        f'<img src="data:image/jpeg;base64,{_picture(row, chosen)}">\n<ol>{sentences}</ol></section>'
    )


def _sentence(sentence: Mapping[str, Any], ids: list[str]) -> str:
    marks = [f'<b style="background: {_color(m)}">{html.escape(ids[m])}</b>' for m in sentence["instances"]]
    return f"{html.escape(sentence['text'])} {' '.join(marks) or '<i>no referent</i>'}"


def _picture(row: Mapping[str, Any], frames: list[int]) -> str:
    """Frames side by side, with the masks of the objects and their ids, as base64 of a JPEG."""
    pictures, (masks, _, annotated) = read_frames(row, frames), read_masks(row, frames)
    height, width = pictures.shape[1:3]
    factor = max(1, -(-320 // width))
    tiles = []
    for picture, of_frame, known in zip(pictures, masks, annotated, strict=True):
        drawn = overlay(picture[None], of_frame[:, None], [""] * len(of_frame), opacity=0.2, min_width=factor * width)[
            0
        ]
        tile = Image.fromarray(drawn[: factor * height, : factor * width])
        draw = ImageDraw.Draw(tile)
        for m in np.flatnonzero(known & of_frame.any(axis=(1, 2))):
            y, x = (int(factor * axis.mean()) for axis in np.nonzero(of_frame[m]))
            name = row["instance_ids"][m]
            draw.text((x, y), name, (255, 255, 255), anchor="mm", stroke_width=2, stroke_fill=(0, 0, 0))
        tiles.append(np.asarray(tile))
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(tiles, axis=1)).save(buffer, "jpeg", quality=85)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
