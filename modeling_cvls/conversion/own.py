"""What the importers of one's own annotations share: sentences in a csv file, videos as frames with shapes, rows."""

from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jsonargparse import ArgumentParser

from ..rle_cvls import encode_masks
from .card import Description
from .files import read_csv, read_frame_files, show
from .problems import Problem, Problems

#: One's own data are of one split; --split names it.
SPLITS = ("train", "validation", "test")

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
        frames: the files of its frames, in order.
        shapes: (number of a frame, id of an object, shape). A frame that has shapes is annotated; so are those in
            `annotated`. An object without a shape in an annotated frame is absent there.
        sentences: at least one.
        where: how messages call the video.
        annotated: numbers of frames that are annotated, also where no object is in them.
    """

    video_id: str
    frames: Sequence[Path]
    shapes: Sequence[tuple[int, str, Shape]]
    sentences: Sequence[Sentence]
    where: str
    annotated: Sequence[int] = field(default_factory=list)


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


def read_sentences(arguments: Namespace, problems: Problems, *columns: str) -> list[Sentence]:
    """Reads the file of sentences, whose header is `columns` and "sentence".

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another header.
    """
    path = arguments.sentences or arguments.source / "sentences.csv"
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
    frames, height, width = read_frame_files(video.frames)
    ids = list(dict.fromkeys(name for _, name, _ in video.shapes))
    masks: dict[int, np.ndarray] = {}
    for number in (*video.annotated, *(number for number, _, _ in video.shapes)):
        masks.setdefault(number, np.zeros((len(ids), height, width), dtype=bool))
    for number, name, shape in video.shapes:
        try:
            masks[number][ids.index(name)] |= shape(height, width)
        except ValueError as error:
            where = f"{video.where}, frame {video.frames[number].name}, object {show(name)}"
            return None, [(where, str(error))]
    annotated = sorted(masks)
    return {
        "video_id": video.video_id,
        "video": None,
        "frames": frames,
        "num_frames": len(frames),
        "height": height,
        "width": width,
        "fps": None,
        "annotated_frames": annotated,
        "evaluation_frames": None,
        "instance_ids": ids,
        "masks": [encode_masks(masks[number]) if ids else [] for number in annotated],
        "sentences": [
            {
                "sentence_id": f"{video.video_id}/{number}",
                "text": sentence.text,
                "instances": [ids.index(name) for name in sentence.objects],
                "kind": None,
            }
            for number, sentence in enumerate(video.sentences)
        ],
    }, []


def describe(arguments: Namespace, tool: str) -> Description:
    """What the card of one's own data set says where --title and --license say nothing."""
    return Description(
        title=arguments.source.resolve().name,
        description=f"Videos with sentences that refer to objects, and the objects' masks. Converted from {tool}.",
        license="unknown",
        license_note="Whoever made the videos and the annotations decides on the terms; none were given.",
    )


def one_split(arguments: Namespace, videos: Sequence[Any]) -> dict[str, Sequence[Any]]:
    """The split that --split names, "train" without it.

    Raises:
        ValueError: --split names several.
    """
    names = arguments.split or ["train"]
    if len(names) > 1:
        raise ValueError(f"--split {' '.join(names)}: the videos are of one split; convert each split on its own")
    return {names[0]: videos}
