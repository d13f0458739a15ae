"""What the importers of one's own annotations share: sentences in a csv file, videos as frames with shapes, rows."""

from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jsonargparse import ArgumentParser

from ..frame_reader_cvls import FrameReader
from ..names import repeated
from ..rle_cvls import encode_masks
from .arguments import OWN_SPLITS, Conversion
from .card import Description
from .files import read_csv, read_frame_files, show
from .problems import Problem, Problems
from .rows import frames_row, sentence_cell, video_row
from .writing import Convert

SPLITS = OWN_SPLITS

#: (height, width) -> bool (height, width); a `functools.partial` of a function in shapes.py.
Shape = Callable[[int, int], np.ndarray]


@dataclass(frozen=True)
class Sentence:
    """A row of a file of sentences: the ids of its referents, none where it has no referent."""

    objects: tuple[str, ...]
    text: str
    where: str
    video: str = ""


@dataclass
class AnnotatedVideo:
    """A video of one's own.

    Attributes:
        video_id: its name.
        frames: the files of its frames, in order; or the file of a video.
        shapes: (number of a frame, id of an object, shape). A frame that has shapes is annotated; so are those in
            `annotated`. An object without a shape in an annotated frame is absent there.
        sentences: at least one.
        where: how messages call the video.
        annotated: numbers of frames that are annotated, also where no object is in them.
        unknown: (number of a frame, id of an object) where it is not known whether and where the object is there,
            unless `shapes` says so.
        size: height and width of the frames as the annotations state them, None where they do not.
    """

    video_id: str
    frames: Sequence[Path] | Path
    shapes: Sequence[tuple[int, str, Shape]]
    sentences: Sequence[Sentence]
    where: str
    annotated: Sequence[int] = field(default_factory=list)
    unknown: Sequence[tuple[int, str]] = field(default_factory=list)
    size: tuple[int, int] | None = None


def add_file_arguments(parser: ArgumentParser, annotations: str, images: str, columns: str) -> None:
    """Adds --annotations, --images and --sentences.

    Args:
        parser: of the conversion.
        annotations, images: the names in the source that are taken by default.
        columns: the header of the file of sentences.
    """
    parser.add_argument(
        "--annotations", type=Path, help=f"the file of annotations (default: {annotations} in the source)"
    )
    parser.add_argument("--images", type=Path, help=f"folder of the frames (default: {images} in the source)")
    add_sentences_argument(parser, columns)


def add_sentences_argument(parser: ArgumentParser, columns: str) -> None:
    """Adds --sentences."""
    parser.add_argument("--sentences", type=Path, metavar="FILE",
                        help=f"csv file with the header {columns}; several objects of one sentence are separated by "
                        "spaces (default: sentences.csv in the source)")  # fmt: skip


def sentences_file(arguments: Namespace) -> Path:
    """--sentences, or sentences.csv in the source."""
    return arguments.sentences or arguments.source / "sentences.csv"


def annotations_file(arguments: Namespace, name: str) -> Path:
    """--annotations, or the file of this name in the source.

    Raises:
        FileNotFoundError: there is no such file.
    """
    path = arguments.annotations or arguments.source / name
    if not path.is_file():
        raise FileNotFoundError(f"{path} with the annotations does not exist; --annotations names another file")
    return path


def read_sentences(arguments: Namespace, problems: Problems, *columns: str) -> list[Sentence]:
    """Reads the file of sentences, whose header is `columns` and "sentence".

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another header.
    """
    path = sentences_file(arguments)
    if not path.is_file():
        header = ",".join((*columns, "sentence"))
        raise FileNotFoundError(
            f"{path} does not exist; it is a csv file with the header {header}, and --sentences names another one"
        )
    found = []
    for line, row in read_csv(path, problems, (*columns, "sentence")):
        fields = dict(zip((*columns, "sentence"), map(str.strip, row), strict=True))
        where = f"{path}, line {line}"
        if not fields["sentence"]:
            problems.found(where, "the sentence is empty")
        elif not fields["object"] and "video" not in columns:
            problems.found(where, "the sentence has no object; name the id of the one that it refers to")
        else:
            found.append(Sentence(tuple(fields["object"].split()), fields["sentence"], where, fields.get("video", "")))
    return found


def check_objects(sentences: Iterable[Sentence], known: Mapping[str, Any], problems: Problems) -> list[Sentence]:
    """The sentences all of whose objects exist."""
    kept = []
    for sentence in sentences:
        unknown = [name for name in sentence.objects if name not in known]
        if unknown:
            some = ", ".join(list(known)[:5]) + (", ..." if len(known) > 5 else "")
            problems.found(sentence.where, f"there is no object {show(unknown[0])}; there are {some or 'none'}")
        else:
            kept.append(sentence)
    return kept


def convert_video(video: AnnotatedVideo) -> tuple[dict[str, Any] | None, list[Problem]]:
    """Reads one video into a row with the columns of `FEATURES`.

    Returns:
        the row, or None and what is wrong with a shape.

    Raises:
        ValueError: naming the file: a frame that is missing, broken or of another size.
    """
    if isinstance(video.frames, Path):
        reader = FrameReader(video.frames)
        start = partial(video_row, video.video_id, video.frames, reader)
        height, width = reader.height, reader.width
    else:
        frames, height, width = read_frame_files(video.frames)
        start = partial(frames_row, video.video_id, frames, height, width)
    if video.size not in (None, (height, width)):
        of, found = (f"{size[1]} x {size[0]}" for size in (video.size, (height, width)))
        return None, [(video.where, f"annotated on frames of {of} pixels (width x height), but the frames are {found}")]
    ids = list(dict.fromkeys(name for _, name, _ in video.shapes))
    masks: dict[int, list[str | None]] = {}
    by_frame: dict[int, list[tuple[str, Shape]]] = {number: [] for number in video.annotated}
    for number, name, shape in video.shapes:
        by_frame.setdefault(number, []).append((name, shape))
    for number in sorted(by_frame):
        drawn = np.zeros((len(ids), height, width), dtype=bool)
        for name, shape in by_frame[number]:
            try:
                drawn[ids.index(name)] |= shape(height, width)
            except ValueError as error:
                frame = number if isinstance(video.frames, Path) else video.frames[number].name
                return None, [(f"{video.where}, frame {frame}, object {show(name)}", str(error))]
        masks[number] = list(encode_masks(drawn)) if ids else []
    for number, name in video.unknown:
        if name in ids and number in by_frame and name not in (known for known, _ in by_frame[number]):
            masks[number][ids.index(name)] = None
    masks = {number: of_frame for number, of_frame in masks.items() if not ids or any(of_frame)}
    if isinstance(video.frames, Path):
        for _ in reader.frames(masks):  # a video may open although it is cut off
            pass
    row = start(
        annotated_frames=list(masks),
        instance_ids=ids,
        masks=list(masks.values()),
        sentences=[
            sentence_cell(video.video_id, number, sentence.text, [ids.index(name) for name in sentence.objects])
            for number, sentence in enumerate(video.sentences)
        ],
    )
    return row, []


def describe(arguments: Namespace, tool: str) -> Description:
    """What the card of one's own data set says where --title and --license say nothing."""
    return Description(
        title=arguments.source.resolve().name,
        description=f"Videos with sentences that refer to objects, and the objects' masks. Converted from {tool}.",
        license="unknown",
        license_note="Whoever made the videos and the annotations decides on the terms; none were given.",
    )


def conversion(arguments: Namespace, videos: Sequence[Any], tool: str, convert: Convert = convert_video) -> Conversion:
    """A conversion of videos of one's own, all of one split: that of --split, "train" without it.

    Args:
        arguments: of the command.
        videos: with `video_id`s.
        tool: what they were annotated with, for the card.
        convert: an item of `videos` -> a row, as for `write_dataset`.

    Raises:
        ValueError: --split names several; there is no video, or two of one name.
    """
    names = arguments.split or ["train"]
    if len(names) > 1:
        raise ValueError(f"--split {' '.join(names)}: the videos are of one split; convert each split on its own")
    if not videos:
        raise ValueError(f"{sentences_file(arguments)}: no sentence is about a video of {arguments.source}")
    twice = repeated(video.video_id for video in videos)
    if twice:
        raise ValueError(f"{arguments.source} has two videos that are called {show(twice[0])}; rename one")
    return Conversion({names[0]: videos}, convert, describe(arguments, tool))
