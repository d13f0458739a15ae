"""Files and folders of a result. Each is written under another name, and gets its own when it is complete."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..atomic import written_together
from ..visualization import COLORS, VideoWriter, overlay, writer_like
from .annotations import to_coco, to_cvat, to_youtube_vis

if TYPE_CHECKING:
    from .video import VideoResult

DEFAULT_FPS = 24  # of a video whose frames per second are not known


def check_free(path: Path) -> None:
    """Raises a `FileExistsError` where a folder of that name has something in it."""
    if path.is_dir() and any(path.iterdir()):
        raise FileExistsError(f"{path} exists and is not empty; choose another name")


@contextmanager
def _complete(path: Path) -> Iterator[Path]:
    """A name to write to; what was written gets the name `path` at the end, and nothing stays after an error."""
    check_free(path)
    with written_together(path) as folder:
        yield folder / path.name


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with _complete(path) as partial:
        partial.write_text(json.dumps(content), encoding="utf-8")


def write_coco(result: VideoResult, path: Path) -> None:
    """A json file in COCO's format."""
    _write_json(path, to_coco(result))


def write_youtube_vis(result: VideoResult, path: Path) -> None:
    """A json file in YouTube-VIS's format."""
    _write_json(path, to_youtube_vis(result))


def write_cvat(result: VideoResult, path: Path) -> None:
    """An xml file in the format CVAT for video 1.1."""
    with _complete(path) as partial:
        partial.write_text(to_cvat(result), encoding="utf-8")


def write_overlay(result: VideoResult, path: Path) -> None:
    """An mp4 file: the video with the masks and a legend drawn in, in the order of time, with the times, the shape of
    pixels and the sound of the source."""
    positions = {index: position for position, index in enumerate(result.frame_indices)}
    indices = sorted(positions)
    reader, first, last = result.reader, indices[0], indices[-1]
    with _complete(path) as partial:
        if reader.times is None:
            writer, times = VideoWriter(partial, DEFAULT_FPS), None
        else:
            end = reader.end if last + 1 == len(reader) else reader.times[last + 1]
            writer = writer_like(partial, reader, reader.times[first], end, result.fps, with_sound=True)
            times = reader.times - reader.times[first]
        with writer:
            for index, frame in zip(indices, reader.frames(indices), strict=True):
                masks = result.masks(positions[index])[:, None]
                picture = overlay(frame[None], masks, result.sentences, result.scores)[0]
                writer.write(picture, None if times is None else times[index])


def write_palette(result: VideoResult, path: Path) -> None:
    """A folder with Annotations/<video>/<frame>.png, palette images whose index is the number of the sentence, from 1
    on, and sentences.csv, as `cvls convert frames` reads them: a sentence of which no pixel is left has no object."""
    palette = np.zeros((256, 3), dtype=np.uint8)
    palette[1:] = np.resize(np.array(COLORS), (255, 3))
    with _complete(path) as partial:
        folder = partial / "Annotations" / result.name
        folder.mkdir(parents=True)
        shown: set[int] = set()
        for position, name in enumerate(result.frame_names):
            labels = result.labels(position)
            shown.update(np.unique(labels).tolist())
            image = Image.fromarray(labels).convert("P")
            image.putpalette(palette.reshape(-1).tolist())
            image.save(folder / f"{name}.png")
        numbered = enumerate(result.sentences, start=1)
        rows = [(result.name, number if number in shown else "", text) for number, text in numbered]
        with open(partial / "sentences.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([("video", "object", "sentence"), *rows])


def write_competition(result: VideoResult, path: Path) -> None:
    """A folder with Annotations/<video>/<number of the sentence, from 0 on>/<frame>.png, images of 0 and 255, as the
    servers of Refer-YouTube-VOS and MeViS take them."""
    with _complete(path) as partial:
        for number in range(len(result.sentences)):
            (partial / "Annotations" / result.name / str(number)).mkdir(parents=True)
        for position, name in enumerate(result.frame_names):
            for number, mask in enumerate(result.masks(position)):
                file = partial / "Annotations" / result.name / str(number) / f"{name}.png"
                Image.fromarray(mask * np.uint8(255)).save(file)


def write_mots(result: VideoResult, path: Path) -> None:
    """A folder as CVAT's "MOTS PNG 1.0": instances/<frame>.png, 16 bits, 1000 + number of the sentence; labels.txt."""
    with _complete(path) as partial:
        (partial / "instances").mkdir(parents=True)
        (partial / "instances" / "labels.txt").write_text("object\n", encoding="utf-8")
        for position, name in enumerate(result.frame_names):
            labels = result.labels(position).astype(np.uint16)
            Image.fromarray(np.where(labels, 1000 + labels, 0).astype(np.uint16)).save(
                partial / "instances" / f"{name}.png"
            )
