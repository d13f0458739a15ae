"""Videos annotated in CVAT, and sentences on them -> a folder that `datasets.load_dataset` loads.

    cvls convert cvat --source SOURCE --output DATASET

SOURCE holds a task as CVAT exports it, with its images, and the sentences:

    annotations.xml   "CVAT for video 1.1": tracks with polygons or masks; --annotations names another file
    images/           the frames; their order is that of their names
    sentences.csv     csv with the header object,sentence: the id of a track and what is said of it

or, as "MOTS PNG 1.0", `instances/<frame>.png` in place of annotations.xml: 16-bit images with 1000 x label + number for
each pixel. The object is that whole number.
"""

from argparse import Namespace
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from jsonargparse import ArgumentParser
from PIL import Image

from ..images_cvls import frame_files
from .arguments import Conversion
from .files import read_text, reading, show
from .own import (
    SPLITS,
    AnnotatedVideo,
    Shape,
    add_file_arguments,
    check_objects,
    convert_video,
    describe,
    one_split,
    read_sentences,
)
from .problems import Problems
from .shapes import box_runs, polygons

__all__ = ["SPLITS", "add_arguments", "prepare"]

# Pixels of MOTS that belong to no object: background, and what is to be ignored.
MOTS_NOTHING = (0, 10_000)


def add_arguments(parser: ArgumentParser) -> None:
    """Adds --annotations, --images and --sentences."""
    add_file_arguments(parser, "annotations.xml", "images", "object,sentence")


def prepare(arguments: Namespace, problems: Problems) -> Conversion:
    """Reads the task's only video."""
    folder = arguments.images or arguments.source / "images"
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} with the frames does not exist; export the task with its images")
    frames = frame_files(folder) or [path for inner in sorted(folder.iterdir()) for path in frame_files(inner)]
    path = arguments.annotations or arguments.source / "annotations.xml"
    instances = arguments.source / "instances"
    if path.exists() or not instances.is_dir():
        shapes = list(read_tracks(path, len(frames)))
        where, annotated = str(path), range(len(frames))
    else:
        shapes = list(read_mots(instances, frames))
        where, annotated = str(instances), range(len(frames))
    known = {name: None for _, name, _ in shapes}
    sentences = check_objects(read_sentences(arguments, problems, "object"), known, problems)
    video_id = arguments.source.resolve().name
    problems.is_name(str(arguments.source), video_id, "the folder's name")
    videos = [AnnotatedVideo(video_id, frames, shapes, sentences, where, annotated)] if sentences else []
    return Conversion(one_split(arguments, videos), convert_video, describe(arguments, "CVAT"))


def read_tracks(path: Path, num_frames: int) -> Iterator[tuple[int, str, Shape]]:
    """The polygons and masks of all tracks of a "CVAT for video" file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: naming the file and the track: not such a file; a frame that is not there.
    """
    text = read_text(path)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError(f"{path}: has a document type or entities, which CVAT does not write")
    with reading(path, "an xml file in the format CVAT for video"):
        root = ElementTree.fromstring(text)
    if root.tag != "annotations":
        raise ValueError(f"{path}: its root is <{root.tag}>, expected <annotations> of the format CVAT for video")
    for track in root.iter("track"):
        name = track.get("id", "")
        for element in track:
            if element.tag not in ("polygon", "mask") or element.get("outside") == "1":
                continue
            try:
                frame = int(element.get("frame", ""))
                shape = _shape(element.tag, element.attrib)
            except (ValueError, KeyError) as error:
                raise ValueError(f"{path}, track {name}: a {element.tag} cannot be read: {error!r:.100}") from error
            if not 0 <= frame < num_frames:
                why = f"a {element.tag} is on frame {frame}, but there are {num_frames} frames, from 0 on"
                raise ValueError(f"{path}, track {name}: {why}; export the task with its images")
            yield frame, name, shape


def _shape(tag: str, attributes: Mapping[str, str]) -> Shape:
    if tag == "polygon":
        points = [float(number) for point in attributes["points"].split(";") for number in point.split(",")]
        return partial(polygons, [points])
    box = tuple(int(float(attributes[name])) for name in ("left", "top", "width", "height"))
    return partial(box_runs, [int(number) for number in attributes["rle"].split(",")], box)


def read_mots(folder: Path, frames: list[Path]) -> Iterator[tuple[int, str, Shape]]:
    """The objects of the images of a MOTS export.

    Raises:
        ValueError: naming the file: an image is missing or cannot be decoded.
    """
    for number, frame in enumerate(frames):
        path = folder / f"{frame.stem}.png"
        if not path.is_file():
            raise ValueError(f"{path} with the masks of {frame.name} does not exist")
        for name in np.unique(read_mots_image(path)).tolist():
            if name not in MOTS_NOTHING:
                yield number, str(name), partial(mots_mask, path, name)


def read_mots_image(path: Path) -> np.ndarray:
    """Whole numbers (H, W).

    Raises:
        ValueError: naming the file: no gray image of whole numbers.
    """
    with reading(path, "a 16-bit gray image (png)"), Image.open(path) as image:
        mode, values = image.mode, np.asarray(image)
    if values.ndim != 2 or values.dtype.kind not in "iu":
        raise ValueError(f"{path}: an image of mode {mode}, expected a 16-bit gray image (mode I;16)")
    return values


def mots_mask(path: Path, name: int, height: int, width: int) -> np.ndarray:
    """The pixels of an object in an image of a MOTS export.

    Raises:
        ValueError: it has another size than the frame.
    """
    values = read_mots_image(path)
    if values.shape != (height, width):
        size = f"{values.shape[1]} x {values.shape[0]}"
        raise ValueError(f"{show(path.name)} is {size} pixels (width x height), its frame {width} x {height}")
    return values == name
