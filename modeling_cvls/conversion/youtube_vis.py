"""Videos with annotations in YouTube-VIS's json, and sentences on them -> a folder that `datasets.load_dataset` loads.

    cvls convert youtube_vis --source SOURCE --output DATASET

SOURCE holds

    instances.json   videos (id, file_names, height, width) and annotations (id, video_id, segmentations: for each frame
                     polygons, run lengths, or null where the object is absent); --annotations names another file
    JPEGImages/      the frames, by their file_names; --images names another folder
    sentences.csv    csv with the header object,sentence: the id of an annotation and what is said of it
"""

from argparse import Namespace
from collections import defaultdict
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from . import own
from .arguments import Conversion
from .coco import by_id, stated_size
from .files import read_json, show
from .problems import Problems
from .shapes import coco_segmentation

SPLITS = own.SPLITS

EXPECTED = '{"videos": [{"id", "file_names", ...}], "annotations": [{"id", "video_id", "segmentations", ...}]}'


def add_arguments(parser: ArgumentParser) -> None:
    """Adds --annotations, --images and --sentences."""
    own.add_file_arguments(parser, "instances.json", "JPEGImages", "object,sentence")


def prepare(arguments: Namespace, problems: Problems) -> Conversion:
    """Finds the videos that sentences speak of."""
    path = own.annotations_file(arguments, "instances.json")
    folder = arguments.images or arguments.source / "JPEGImages"
    content = read_json(path, EXPECTED)
    try:
        listed = by_id(path, "video", content["videos"])
        names = {video: [str(name) for name in fields["file_names"]] for video, fields in listed.items()}
        sizes = {video: stated_size(fields) for video, fields in listed.items()}
        tracks: dict[Any, dict[str, list]] = defaultdict(dict)
        for one in by_id(path, "annotation", content["annotations"]).values():
            tracks[one["video_id"]][str(one["id"])] = list(one["segmentations"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not of the form {EXPECTED}: {error!r:.100}") from error
    video_of = {name: video for video, of_video in tracks.items() for name in of_video}
    by_video: dict[Any, list[own.Sentence]] = defaultdict(list)
    for sentence in own.check_objects(own.read_sentences(arguments, problems, "object"), video_of, problems):
        found = {video_of[name] for name in sentence.objects}
        if len(found) > 1:
            problems.found(sentence.where, "its objects are of different videos")
        else:
            by_video[found.pop()].append(sentence)
    videos = [
        replace(video, size=sizes[number])
        for number, sentences in by_video.items()
        if (video := _video(path, folder, number, names.get(number), tracks[number], sentences, problems))
    ]
    return own.conversion(arguments, videos, "YouTube-VIS's json")


def _video(
    path: Path,
    folder: Path,
    number: Any,
    names: list[str] | None,
    tracks: dict[str, list],
    sentences: list[own.Sentence],
    problems: Problems,
) -> own.AnnotatedVideo | None:
    """A video; None where something is wrong with it."""
    where = f"{path}, video {show(number)}"
    if not names:
        problems.found(where, "there is no such video with file_names, but annotations of it")
        return None
    if not all(problems.is_path(where, name, "the file_name") for name in names):
        return None
    video_id = Path(names[0]).parent.name or str(number)
    if not problems.is_name(where, video_id, "the video's id"):
        return None
    wrong = next((name for name, masks in tracks.items() if len(masks) != len(names)), None)
    if wrong is not None:
        why = f"the annotation {wrong} has {len(tracks[wrong])} segmentations for {len(names)} frames"
        problems.found(where, why)
        return None
    shapes = [
        (frame, name, partial(coco_segmentation, mask))
        for name, masks in tracks.items()
        for frame, mask in enumerate(masks)
        if mask is not None
    ]
    # an object whose masks are all null is absent everywhere
    shapes += [(0, name, partial(coco_segmentation, [])) for name, masks in tracks.items() if not any(masks)]
    files = [folder / name for name in names]
    return own.AnnotatedVideo(video_id, files, shapes, sentences, where, annotated=list(range(len(files))))
