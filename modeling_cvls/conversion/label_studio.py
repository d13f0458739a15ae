"""Frames annotated in Label Studio, and sentences on them -> a folder that `datasets.load_dataset` loads.

    cvls convert label_studio --source SOURCE --output DATASET

SOURCE holds

    annotations.json          the project's export as JSON: brushes or polygons; --annotations names another file
    images/<video>/<frame>    the frames; those of a single video may lie in images/ itself. A task's image is found by
                              the last two parts of its path, or by the last one alone where only one video has a frame
                              of that name; the code that Label Studio puts before the name of an upload is left out
    sentences.csv             csv with the header video,object,sentence: the object is the label of its regions, such as
                              dog1; leave it empty for a sentence without a referent

Each label stands for one object in all frames of a video: give each object a label of its own.
"""

import re
from argparse import Namespace
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
from jsonargparse import ArgumentParser

from ..images_cvls import frame_files
from . import own
from .arguments import Conversion
from .files import read_json, show
from .problems import Problems
from .shapes import brush, polygons

SPLITS = own.SPLITS

EXPECTED = '[{"data": {"image": path}, "annotations": [{"result": [{"type", "value", ...}]}]}]'
# What Label Studio puts before the name of an uploaded file.
UPLOAD = re.compile(r"^[0-9a-f]{8}-")
REGIONS = {"brushlabels": "brushlabels", "polygonlabels": "polygonlabels"}


def add_arguments(parser: ArgumentParser) -> None:
    """Adds --annotations, --images and --sentences."""
    own.add_file_arguments(parser, "annotations.json", "images", "video,object,sentence")


def prepare(arguments: Namespace, problems: Problems) -> Conversion:
    """Finds the videos that sentences speak of."""
    path = own.annotations_file(arguments, "annotations.json")
    folder = arguments.images or arguments.source / "images"
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} with the frames does not exist")
    loose = frame_files(folder)
    folders = [folder] if loose else [inner for inner in sorted(folder.iterdir()) if inner.is_dir()]
    frames = {inner.name: frame_files(inner) for inner in folders}
    places: dict[str, list[tuple[str, int]]] = defaultdict(list)  # of the frames of a name
    for video, files in frames.items():
        for number, file in enumerate(files):
            places[file.name].append((video, number))
    shapes: dict[str, list[tuple[int, str, own.Shape]]] = defaultdict(list)
    annotated: dict[str, list[int]] = defaultdict(list)
    for where, image, regions in _tasks(path):
        place = _place_of(image, places)
        if place is None:
            name = image.name if loose else f"{image.parent.name}/{image.name}"
            problems.found(where, f"there is no frame {folder}/{name} for its image")
            continue
        video, number = place
        if number in annotated[video]:
            name = frames[video][number].name
            problems.found(where, f"another task has the same frame, {name} of the video {show(video)}")
            continue
        annotated[video].append(number)
        shapes[video] += [(number, label, shape) for label, shape in regions]
    by_video: dict[str, list[own.Sentence]] = defaultdict(list)
    for sentence in own.read_sentences(arguments, problems, "video", "object"):
        if sentence.video not in annotated:
            problems.found(sentence.where, f"{path} has no annotated frame of a video {show(sentence.video)}")
            continue
        known = {label: None for _, label, _ in shapes[sentence.video]}
        by_video[sentence.video] += own.check_objects([sentence], known, problems)
    videos = [
        own.AnnotatedVideo(video, frames[video], shapes[video], sentences, f"{path}, video {video!r}", annotated[video])
        for video, sentences in by_video.items()
        if sentences and problems.is_name(str(path), video, "the video")
    ]
    return own.conversion(arguments, videos, "Label Studio")


def _place_of(image: PurePosixPath, places: Mapping[str, list[tuple[str, int]]]) -> tuple[str, int] | None:
    """Video and number of the frame that a task's image is; None where there is none, or not only one."""
    for name in (image.name, UPLOAD.sub("", image.name)):
        found = places.get(name, [])
        if len(found) > 1:
            found = [place for place in found if place[0] == image.parent.name]
        if found:
            return found[0]
    return None


def _tasks(path: Path) -> Iterator[tuple[str, PurePosixPath, list[tuple[str, own.Shape]]]]:
    """Of each annotated task: how messages call it, the path of its image, and its labels with shapes."""
    tasks = read_json(path, EXPECTED)
    try:
        for number, task in enumerate(tasks):
            where = f"{path}, task {show(task.get('id', number))}"
            url = urlsplit(str(task["data"]["image"]))
            # of local storage: /data/local-files/?d=walk/00000.jpg
            image = PurePosixPath(parse_qs(url.query).get("d", [unquote(url.path)])[0])
            given = [one for one in task["annotations"] if not one.get("was_cancelled")]
            if given:  # the last annotation of a task is the newest
                regions = [(label, shape) for region in given[-1]["result"] for label, shape in _regions(region)]
                yield where, image, regions
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, OverflowError) as error:
        raise ValueError(f"{path}: not of the form {EXPECTED}: {error!r:.100}") from error


def _regions(region: dict[str, Any]) -> Iterator[tuple[str, own.Shape]]:
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
