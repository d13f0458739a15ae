"""Pictures with annotations in COCO's json, and sentences on them -> a folder that `datasets.load_dataset` loads.

    cvls convert coco --source SOURCE --output DATASET

SOURCE holds

    instances.json   COCO's format, as most tools export it: images (id, file_name, height, width) and annotations
                     (id, image_id, segmentation: polygons or run lengths); --annotations names another file
    images/          the pictures, by their file_name
    sentences.csv    csv with the header object,sentence: the id of an annotation and what is said of it

Each picture with sentences becomes a video of one frame. For videos, export YouTube-VIS json and see
`cvls convert youtube_vis`.
"""

from argparse import Namespace
from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from .arguments import Conversion
from .files import read_json, show
from .own import (
    SPLITS,
    AnnotatedVideo,
    Sentence,
    add_file_arguments,
    check_objects,
    convert_video,
    describe,
    one_split,
    read_sentences,
)
from .problems import Problems
from .shapes import coco_segmentation

__all__ = ["SPLITS", "add_arguments", "prepare", "read_instances", "still"]

EXPECTED = '{"images": [{"id", "file_name", ...}], "annotations": [{"id", "image_id", "segmentation", ...}]}'


def read_instances(path: Path) -> tuple[dict[Any, dict[str, Any]], dict[Any, list[dict[str, Any]]]]:
    """Reads COCO's json: images by their ids, and the annotations of each image, without crowds.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: naming the file: not of this form.
    """
    content = read_json(path, EXPECTED)
    try:
        images = {image["id"]: {"file_name": str(image["file_name"])} for image in content["images"]}
        annotations: dict[Any, list[dict[str, Any]]] = defaultdict(list)
        for annotation in content["annotations"]:
            if not annotation.get("iscrowd"):
                fields = {name: annotation[name] for name in ("id", "segmentation")}
                annotations[annotation["image_id"]].append(fields)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not of the form {EXPECTED}: {error!r:.100}") from error
    unknown = annotations.keys() - images.keys()
    if unknown:
        raise ValueError(f"{path}: an annotation has the image_id {show(min(unknown, key=str))}, but no image has it")
    return images, annotations


def still(
    video_id: str, picture: Path, annotations: list[dict[str, Any]], sentences: list[Sentence], where: str
) -> AnnotatedVideo:
    """A picture as a video of one frame, with all its annotations as objects."""
    shapes = [(0, str(one["id"]), partial(coco_segmentation, one["segmentation"])) for one in annotations]
    return AnnotatedVideo(video_id, [picture], shapes, sentences, where)


def add_arguments(parser: ArgumentParser) -> None:
    """Adds --annotations, --images and --sentences."""
    add_file_arguments(parser, "instances.json", "images", "object,sentence")


def prepare(arguments: Namespace, problems: Problems) -> Conversion:
    """Finds the pictures that sentences speak of."""
    path = arguments.annotations or arguments.source / "instances.json"
    folder = arguments.images or arguments.source / "images"
    images, annotations = read_instances(path)
    image_of = {str(one["id"]): image for image, of_image in annotations.items() for one in of_image}
    by_image: dict[Any, list[Sentence]] = defaultdict(list)
    for sentence in check_objects(read_sentences(arguments, problems, "object"), image_of, problems):
        found = {image_of[name]: name for name in sentence.objects}
        if len(found) > 1:
            problems.found(sentence.where, "its objects are of different pictures")
        else:
            by_image[next(iter(found))].append(sentence)
    videos = [
        still(video_id, folder / name, annotations[image], by_image[image], f"{path}, image {show(image)}")
        for image, name in _names(images).items()
        if image in by_image and problems.is_name(str(path), video_id := Path(name).stem, "the name of a picture")
    ]
    return Conversion(one_split(arguments, videos), convert_video, describe(arguments, "COCO's json"))


def _names(images: Mapping[Any, Mapping[str, str]]) -> dict[Any, str]:
    """The paths of the pictures below their folder.

    Raises:
        ValueError: one leads out of it.
    """
    names = {image: fields["file_name"] for image, fields in images.items()}
    for name in names.values():
        if Path(name).is_absolute() or ".." in Path(name).parts or "\\" in name or "\0" in name:
            raise ValueError(f"the file_name {show(name)} leads out of the folder of the pictures")
    return names
