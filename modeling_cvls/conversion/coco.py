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
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from . import own
from .arguments import Conversion
from .files import read_json, show
from .problems import Problems
from .shapes import coco_segmentation

SPLITS = own.SPLITS

EXPECTED = '{"images": [{"id", "file_name", ...}], "annotations": [{"id", "image_id", "segmentation", ...}]}'


def read_instances(path: Path) -> tuple[dict[Any, dict[str, Any]], dict[Any, list[dict[str, Any]]]]:
    """Reads COCO's json: images by their ids (file_name, and size: height and width, None where it is not stated), and
    the annotations of each image, without crowds.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: naming the file: not of this form, or an id twice.
    """
    content = read_json(path, EXPECTED)
    try:
        images = by_id(path, "image", content["images"])
        annotations: dict[Any, list[dict[str, Any]]] = defaultdict(list)
        for annotation in by_id(path, "annotation", content["annotations"]).values():
            if not annotation.get("iscrowd"):
                fields = {name: annotation[name] for name in ("id", "segmentation")}
                annotations[annotation["image_id"]].append(fields)
        found = {
            name: {"file_name": str(image["file_name"]), "size": stated_size(image)} for name, image in images.items()
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not of the form {EXPECTED}: {error!r:.100}") from error
    unknown = annotations.keys() - found.keys()
    if unknown:
        raise ValueError(f"{path}: an annotation has the image_id {show(min(unknown, key=str))}, but no image has it")
    return found, annotations


def by_id(path: Path, what: str, entries: list[dict[str, Any]]) -> dict[Any, dict[str, Any]]:
    """The entries of a list of COCO's json by their ids.

    Raises:
        KeyError, TypeError: they are no list of objects with ids.
        ValueError: naming the file: two have the same id.
    """
    found = {entry["id"]: entry for entry in entries}
    if len({str(name) for name in found}) < len(entries):
        ((twice, _),) = Counter(str(entry["id"]) for entry in entries).most_common(1)
        raise ValueError(f"{path}: two entries of kind {what} have the id {twice}; each needs an id of its own")
    return found


def stated_size(entry: Mapping[str, Any]) -> tuple[int, int] | None:
    """Height and width of an image or video of COCO's json; None where they are not stated.

    Raises:
        TypeError: they are no numbers.
    """
    size = entry.get("height"), entry.get("width")
    if not all(
        side is None or isinstance(side, int) or (isinstance(side, float) and side.is_integer()) for side in size
    ):
        raise TypeError(f"height and width are {size}")
    return (int(size[0]), int(size[1])) if all(size) else None


def still(
    video_id: str, picture: Path, annotations: list[dict[str, Any]], sentences: list[own.Sentence], where: str
) -> own.AnnotatedVideo:
    """A picture as a video of one frame, with all its annotations as objects."""
    shapes = [(0, str(one["id"]), partial(coco_segmentation, one["segmentation"])) for one in annotations]
    return own.AnnotatedVideo(video_id, [picture], shapes, sentences, where)


def add_arguments(parser: ArgumentParser) -> None:
    """Adds --annotations, --images and --sentences."""
    own.add_file_arguments(parser, "instances.json", "images", "object,sentence")


def prepare(arguments: Namespace, problems: Problems) -> Conversion:
    """Finds the pictures that sentences speak of."""
    path = own.annotations_file(arguments, "instances.json")
    folder = arguments.images or arguments.source / "images"
    images, annotations = read_instances(path)
    image_of = {str(one["id"]): image for image, of_image in annotations.items() for one in of_image}
    by_image: dict[Any, list[own.Sentence]] = defaultdict(list)
    for sentence in own.check_objects(own.read_sentences(arguments, problems, "object"), image_of, problems):
        found = {image_of[name]: name for name in sentence.objects}
        if len(found) > 1:
            problems.found(sentence.where, "its objects are of different pictures")
        else:
            by_image[next(iter(found))].append(sentence)
    names = {image: fields["file_name"] for image, fields in images.items()}
    stems = Counter(Path(name).stem for name in names.values())
    videos = []
    for image in filter(by_image.__contains__, names):
        where = f"{path}, image {show(image)}"
        if not problems.is_path(where, names[image], "the file_name"):
            continue
        path_of_image = Path(names[image])
        # pictures in several folders may have the same name
        parts = path_of_image.with_suffix("").parts
        video_id = path_of_image.stem if stems[path_of_image.stem] == 1 else "_".join(parts)
        if problems.is_name(where, video_id, "the name of a picture"):
            video = still(video_id, folder / path_of_image, annotations[image], by_image[image], where)
            videos.append(replace(video, size=images[image]["size"]))
    return own.conversion(arguments, videos, "COCO's json")
