"""A video annotated in CVAT, and sentences on it -> a folder that `datasets.load_dataset` loads.

    cvls convert cvat --source SOURCE --output DATASET

SOURCE holds a task as CVAT exports it, the sentences, and the video or the images that CVAT saves with the export:

    annotations.xml   "CVAT for video 1.1": tracks with polygons or masks; --annotations names another file
    <video>           the video of the task, under the name that it had in CVAT; --video names another file
    images/           or the frames, where the task was exported with its images
    sentences.csv     csv with the header object,sentence: the id of a track and what is said of it

CVAT does not track masks, and exports each as a track of its own. With `--objects labels` each label is one object in
all frames, and sentences.csv names the label (dog_1 for "dog 1"): give each object a label of its own. A frame without
any mask then counts as not annotated. Polygons are interpolated by CVAT, which writes them for every frame; frames that
it leaves out of a track are not annotated.

In place of annotations.xml, "MOTS PNG 1.0" has `instances/<frame>.png`: 16-bit images with 1000 x label + number for
each pixel. The object is that whole number, and images/ is needed.
"""

import re
from argparse import Namespace
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from jsonargparse import ArgumentParser

from ..frame_reader_cvls import FrameReader
from ..images_cvls import frame_files, open_image
from ..names import check_name, repeated
from . import own
from .arguments import Conversion
from .files import read_text, reading, show
from .problems import Problems
from .shapes import box_runs, polygons

SPLITS = own.SPLITS

# Pixels of MOTS that belong to no object: background, and what is to be ignored.
MOTS_NOTHING = (0, 10_000)


@dataclass(frozen=True)
class Track:
    """What stays one object.

    Attributes:
        name: its id.
        label: its label.
        shapes: (frame, shape), in the order of the file.
        gaps: frames between two shapes of which the file says nothing.
    """

    name: str
    label: str
    shapes: list[tuple[int, own.Shape]]
    gaps: list[range]


@dataclass(frozen=True)
class Task:
    """An exported task. Its frames have the numbers that they have in the video.

    Attributes:
        tracks: those with polygons or masks.
        start, step: number of the first frame, and from one frame to the next.
        count: number of frames; None where it is not stated.
        size: height and width of the frames; None where they are not stated.
        video: name of the file of the video; None where it is not stated.
    """

    tracks: list[Track]
    start: int = 0
    step: int = 1
    count: int | None = None
    size: tuple[int, int] | None = None
    video: str | None = None


def add_arguments(parser: ArgumentParser) -> None:
    """Adds --annotations, --images, --video, --objects and --sentences."""
    own.add_file_arguments(parser, "annotations.xml", "images", "object,sentence")
    parser.add_argument("--video", type=Path, help="the file of the video (default: by its name, in the source)")
    parser.add_argument("--objects", choices=["tracks", "labels"],
                        help="what is one object, and is named in the file of sentences: each track, by its id; or all "
                        "tracks with the same label, by that label (default: tracks)")  # fmt: skip


def prepare(arguments: Namespace, problems: Problems) -> Conversion:
    """Reads the task's only video."""
    folder = arguments.images or arguments.source / "images"
    instances = arguments.source / "instances"
    video_id = arguments.source.resolve().name
    problems.is_name(str(arguments.source), video_id, "the folder's name")
    if arguments.annotations or (arguments.source / "annotations.xml").exists() or not instances.is_dir():
        path = own.annotations_file(arguments, "annotations.xml")
        task = read_task(path)
        name_of = _names_of(task, arguments.objects, path)
        frames, positions = _find_frames(task, arguments.video, folder, path)
        shapes = [
            (_position(positions, frame, path, track), name_of[track.name], shape)
            for track in task.tracks
            for frame, shape in track.shapes
        ]
        unknown = [
            (position, name_of[track.name])
            for track in task.tracks
            for gap in track.gaps
            for frame, position in positions.items()
            if frame in gap
        ]
        # a frame without any mask may be empty, or one that nobody has drawn on yet
        annotated = [] if arguments.objects == "labels" else sorted(positions.values())
        video = own.AnnotatedVideo(video_id, frames, shapes, [], str(path), annotated, unknown, task.size)
    else:
        frames = _images(folder)
        shapes = list(read_mots(instances, frames))
        video = own.AnnotatedVideo(video_id, frames, shapes, [], str(instances), range(len(frames)))
    known = {name: None for _, name, _ in shapes}
    video.sentences = own.check_objects(own.read_sentences(arguments, problems, "object"), known, problems)
    return own.conversion(arguments, [video] if video.sentences else [], "CVAT")


def _names_of(task: Task, objects: str | None, path: Path) -> dict[str, str]:
    """The object of each track, by --objects.

    Raises:
        ValueError: it is not given, and tracks are likely to be parts of one object.
    """
    if objects == "labels":
        return {track.name: track.label.replace(" ", "_") for track in task.tracks}
    by_label: dict[str, list[Track]] = defaultdict(list)
    for track in task.tracks:
        by_label[track.label].append(track)
    for label, tracks in by_label.items():
        frames = {frame for track in tracks for frame, _ in track.shapes}
        if objects is None and len(frames) > 1 and all(len(track.shapes) == 1 for track in tracks):
            raise ValueError(
                f"{path}: the {len(tracks)} tracks with the label {show(label)} have one shape each, as CVAT exports "
                "masks; give --objects labels where a label is one object, and --objects tracks where a track is"
            )
    return {track.name: track.name for track in task.tracks}


def _find_frames(task: Task, video: Path | None, folder: Path, path: Path) -> tuple[Path | list[Path], dict[int, int]]:
    """The video or its frames, and the positions of the task's frames in it, by their numbers.

    Raises:
        FileNotFoundError: there is neither.
        ValueError: naming the folder: its images are not those of the task.
    """
    if video is None and not folder.is_dir() and task.video is not None:
        video = path.parent / check_name(task.video, f"{path}: the name of the video")
    if video is not None:
        if not video.is_file():
            raise FileNotFoundError(f"{video}, the video of the task, does not exist; put it there, or give --video")
        length = len(FrameReader(video))
        stop = length if task.count is None else min(length, task.start + task.count * task.step)
        return video, {number: number for number in range(task.start, stop, task.step)}
    images = _images(folder)
    numbers = [re.fullmatch(r"frame_(\d+)", image.stem) for image in images]
    if all(numbers):  # CVAT's name of a frame of a video
        return images, {int(number[1]): position for position, number in enumerate(numbers) if number}
    if task.count not in (None, len(images)):
        raise ValueError(f"{folder} holds {len(images)} images, but the task of {path} has {task.count} frames")
    names = [image.relative_to(folder).as_posix() for image in images]
    if names != sorted(names):
        wrong = next(name for name, other in zip(names, sorted(names), strict=True) if name != other)
        raise ValueError(
            f"{folder}: the order of {show(wrong)} is not clear, as CVAT orders images by their names as text; number "
            "them with leading zeros, in the order that they have in CVAT"
        )
    return images, {task.start + task.step * position: position for position in range(len(images))}


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} with the frames does not exist; export the task with its images, or put its video beside it"
        )
    images = frame_files(folder) or [path for inner in sorted(folder.iterdir()) for path in frame_files(inner)]
    if not images:
        raise FileNotFoundError(f"{folder} holds no images")
    return images


def _position(positions: Mapping[int, int], frame: int, path: Path, track: Track) -> int:
    if frame not in positions:
        numbers = f"{min(positions)} to {max(positions)}" if positions else "none"
        raise ValueError(
            f"{path}, track {track.name}: a shape is on frame {frame}, but there are {len(positions)} frames "
            f"({numbers}); the images or the video must be those of the task"
        )
    return positions[frame]


def read_task(path: Path) -> Task:
    """The tracks of a "CVAT for video" file, and what it says of the task.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: naming the file and the track: not such a file, or the export of a project.
    """
    text = read_text(path)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError(f"{path}: has a document type or entities, which CVAT does not write")
    with reading(path, "an xml file in the format CVAT for video"):
        root = ElementTree.fromstring(text)
    if root.tag != "annotations":
        raise ValueError(f"{path}: its root is <{root.tag}>, expected <annotations> of the format CVAT for video")
    if root.find("meta/project") is not None:
        raise ValueError(f"{path} is the export of a project; export each of its tasks, and convert it by itself")
    if root.find("image") is not None:
        raise ValueError(f"{path} has the format CVAT for images, expected CVAT for video 1.1")
    about = next((found for name in ("task", "job") if (found := root.find(f"meta/{name}")) is not None), root)

    def number(name: str) -> int | None:
        text = about.findtext(name) or ""
        return int(text) if text.isdecimal() else None

    step = re.search(r"step\s*=\s*(\d+)", about.findtext("frame_filter") or "")
    step = max(1, int(step[1])) if step else 1
    height, width = number("original_size/height"), number("original_size/width")
    tracks = [_read_track(element, path, step) for element in root.iter("track")]
    twice = repeated(track.name for track in tracks)
    if twice:
        raise ValueError(f"{path}: two tracks have the id {twice[0]}")
    return Task(
        [track for track in tracks if track.shapes],
        number("start_frame") or 0,
        step,
        number("size"),
        (height, width) if height and width else None,
        root.findtext("meta/source") or about.findtext("source"),
    )


def _read_track(track: ElementTree.Element, path: Path, step: int) -> Track:
    name = track.get("id", "")
    shapes, gaps = [], []
    shown = None  # the last frame with a shape after which the track is not said to be outside
    for element in track:
        if element.tag not in ("polygon", "mask"):
            continue
        try:
            frame = int(element.get("frame", ""))
            outside = element.get("outside") == "1"
            shape = None if outside else _shape(element.tag, element.attrib)
        except (ValueError, KeyError, OverflowError) as error:
            raise ValueError(f"{path}, track {name}: a {element.tag} cannot be read: {error!r:.100}") from error
        if shown is not None and shown + step < frame:
            gaps.append(range(shown + step, frame, step))
        if shape is not None:
            shapes.append((frame, shape))
        shown = None if outside else frame
    return Track(name, track.get("label", ""), shapes, gaps)


def _shape(tag: str, attributes: Mapping[str, str]) -> own.Shape:
    if tag == "polygon":
        points = [float(number) for point in attributes["points"].split(";") for number in point.split(",")]
        return partial(polygons, [points])
    box = tuple(int(float(attributes[name])) for name in ("left", "top", "width", "height"))
    return partial(box_runs, [int(number) for number in attributes["rle"].split(",")], box)


def read_mots(folder: Path, frames: Sequence[Path]) -> Iterator[tuple[int, str, own.Shape]]:
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
    with reading(path, "a 16-bit gray image (png)"), open_image(path) as image:
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
