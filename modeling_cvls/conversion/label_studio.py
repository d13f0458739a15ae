"""Frames annotated in Label Studio, and sentences on them -> a folder that `datasets.load_dataset` loads.

    cvls convert label_studio --source SOURCE --output DATASET

SOURCE holds

    annotations.json          the project's export as JSON: brushes or polygons; --annotations names another file
    images/<video>/<frame>    the frames. A task's image is found by the last two parts of its path, or by the last one
                              alone if the frames of the only video lie in images/ itself
    sentences.csv             csv with the header video,object,sentence: the object is the label of its regions, such as
                              dog1; leave it empty for a sentence without a referent

Each label stands for one object in all frames of a video: give each object a label of its own.
"""

from argparse import Namespace
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
from jsonargparse import ArgumentParser

from ..images_cvls import frame_files
from .arguments import Conversion
from .files import read_json, show
from .own import (
    SPLITS,
    AnnotatedVideo,
    Sentence,
    Shape,
    add_file_arguments,
    check_objects,
    convert_video,
    describe,
    one_split,
    read_sentences,
)
from .problems import Problems
from .shapes import brush, polygons

__all__ = ["SPLITS", "add_arguments", "prepare"]

EXPECTED = '[{"data": {"image": path}, "annotations": [{"result": [{"type", "value", ...}]}]}]'
REGIONS = {"brushlabels": "brushlabels", "polygonlabels": "polygonlabels"}


def add_arguments(parser: ArgumentParser) -> None:
    """Adds --annotations, --images and --sentences."""
    add_file_arguments(parser, "annotations.json", "images", "video,object,sentence")


def prepare(arguments: Namespace, problems: Problems) -> Conversion:
    """Finds the videos that sentences speak of."""
    path = arguments.annotations or arguments.source / "annotations.json"
    folder = arguments.images or arguments.source / "images"
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} with the frames does not exist")
    loose = frame_files(folder)
    folders = [folder] if loose else [inner for inner in sorted(folder.iterdir()) if inner.is_dir()]
    frames = {inner.name: frame_files(inner) for inner in folders}
    shapes: dict[str, list[tuple[int, str, Shape]]] = defaultdict(list)
    annotated: dict[str, list[int]] = defaultdict(list)
    for where, video, name, regions in _tasks(path, folder.name if loose else None):
        number = next((n for n, file in enumerate(frames.get(video, [])) if file.name == name), None)
        if number is None:
            problems.found(where, f"there is no frame {folder if loose else folder / video}/{name} for its image")
            continue
        annotated[video].append(number)
        shapes[video] += [(number, label, shape) for label, shape in regions]
    by_video: dict[str, list[Sentence]] = defaultdict(list)
    for sentence in read_sentences(arguments, problems, "video", "object"):
        if sentence.video not in annotated:
            problems.found(sentence.where, f"{path} has no annotated frame of a video {show(sentence.video)}")
            continue
        known = {label: None for _, label, _ in shapes[sentence.video]}
        by_video[sentence.video] += check_objects([sentence], known, problems)
    videos = [
        AnnotatedVideo(video, frames[video], shapes[video], sentences, f"{path}, video {video!r}", annotated[video])
        for video, sentences in by_video.items()
        if sentences and problems.is_name(str(path), video, "the video")
    ]
    return Conversion(one_split(arguments, videos), convert_video, describe(arguments, "Label Studio"))


def _tasks(path: Path, only: str | None) -> Iterator[tuple[str, str, str, list[tuple[str, Shape]]]]:
    """Of each annotated task: how messages call it, its video, the name of its frame, and its labels with shapes."""
    tasks = read_json(path, EXPECTED)
    try:
        for number, task in enumerate(tasks):
            where = f"{path}, task {show(task.get('id', number))}"
            image = PurePosixPath(unquote(urlsplit(str(task["data"]["image"])).path))
            given = [one for one in task["annotations"] if not one.get("was_cancelled")]
            if given:  # the last annotation of a task is the newest
                regions = [(label, shape) for region in given[-1]["result"] for label, shape in _regions(region)]
                yield where, only or image.parent.name, image.name, regions
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"{path}: not of the form {EXPECTED}: {error!r:.100}") from error


def _regions(region: dict[str, Any]) -> Iterator[tuple[str, Shape]]:
    kind = REGIONS.get(region["type"])
    if kind is None:
        return
    value, size = region["value"], (int(region["original_height"]), int(region["original_width"]))
    label = str(value[kind][0]).replace(" ", "_")
    if kind == "brushlabels":
        yield label, partial(_brush, value["rle"], size)
    else:
        yield label, partial(_polygon, value["points"], size)


def _check_size(size: tuple[int, int], height: int, width: int) -> None:
    if size != (height, width):
        drawn, expected = f"{size[1]} x {size[0]}", f"{width} x {height}"
        raise ValueError(f"it was drawn on {drawn} pixels (width x height), but its frame has {expected}")


def _brush(code: list[int], size: tuple[int, int], height: int, width: int) -> np.ndarray:
    _check_size(size, height, width)
    return brush(code, height, width)


def _polygon(points: list[list[float]], size: tuple[int, int], height: int, width: int) -> np.ndarray:
    """Points are in percent of the picture."""
    _check_size(size, height, width)
    try:
        flat = [float(number) * side / 100 for x, y in points for number, side in ((x, width), (y, height))]
    except (TypeError, ValueError) as error:
        raise ValueError(f"a polygon has points [x, y] in percent, not {show(points)}") from error
    return polygons([flat], height, width)
