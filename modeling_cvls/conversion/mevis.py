"""MeViS, as downloaded -> a folder that `datasets.load_dataset` loads.

    cvls convert mevis --source RAW --output DATASET

RAW holds

    <split>/JPEGImages/<video>/<frame>.jpg
    <split>/meta_expressions.json   videos -> <video> -> expressions -> <n> -> {exp, obj_id: [], anno_id: []}, frames;
                                    one referent, several, or none: []; valid and test have `exp` alone
    <split>/mask_dict.json          <anno_id> -> one COCO RLE per frame, {"size", "counts"}; null: the object is absent
                                    (not in valid and test)

Every frame is annotated. The masks of valid_u are published, those of valid and test are not: their rows carry no
annotated frames, and are there to be segmented for the competition server.

Download and terms: https://github.com/henghuiding/MeViS
"""

import json
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..rle_cvls import count_pixels
from .arguments import Conversion
from .card import Description
from .json_values import find_values
from .problems import Problem, Problems
from .video_folders import VideoFolder, convert_folder, present_splits, read_videos

# The synthetic sets in this layout also have heldout.
SPLITS = ("train", "valid_u", "valid", "test", "heldout")
META = "{split}/meta_expressions.json"

DESCRIPTION = Description(
    title="MeViS",
    description=(
        "Videos of several, often similar objects, with sentences on how they move that refer to one object, to "
        "several, or to none, and masks in every frame. The splits valid and test are published without masks. "
        "Converted from the original layout by `cvls convert mevis`."
    ),
    license="other",
    license_note=(
        "Videos, masks and sentences remain under the terms of those who published them: MeViS is released for "
        "non-commercial research under CC BY-NC-SA 4.0, and its videos come from other data sets with terms of their "
        "own (a synthetic set in this layout stands under those of its generator). Read them before passing this "
        "conversion on."
    ),
    citation="""
@inproceedings{ding2023mevis,
  title     = {{MeViS}: A Large-scale Benchmark for Video Segmentation with Motion Expressions},
  author    = {Ding, Henghui and Liu, Chang and He, Shuting and Jiang, Xudong and Loy, Chen Change},
  booktitle = {IEEE/CVF International Conference on Computer Vision (ICCV)},
  year      = {2023}
}
""",
)


@dataclass(frozen=True)
class MevisVideo(VideoFolder):
    """A video whose masks are lists in mask_dict.json; `spans`: anno_id -> where its list lies there."""

    masks: Path
    spans: Mapping[str, tuple[int, int]]


def read_mask_lists(
    video: MevisVideo, names: Sequence[str], height: int, width: int
) -> tuple[set[str], dict[int, dict[str, str]], list[Problem]]:
    """Reads the lists of masks of a video's instances; every frame is annotated, also where it shows none of them."""
    instances: set[str] = set()
    masks: dict[int, dict[str, str]] = {number: {} for number in range(len(names))}
    left: list[Problem] = []
    with open(video.masks, "rb") as file:
        for name, (start, length) in video.spans.items():
            file.seek(start)
            rles = json.loads(file.read(length))
            why = _wrong_masks(rles, len(names), height, width)
            if why:
                left.append((f"{video.masks}, anno_id {name}", f"{why} (video {video.video_id!r})"))
                continue
            instances.add(name)
            for number, rle in enumerate(rles):
                if rle is not None:
                    masks[number][name] = rle["counts"]
    return instances, masks, left


def _wrong_masks(rles: object, num_frames: int, height: int, width: int) -> str | None:
    if not isinstance(rles, list) or len(rles) != num_frames:
        count = f"{len(rles)} masks" if isinstance(rles, list) else "no list of masks"
        return f"{count}, expected one (or null) for each of {num_frames} frames"
    for number, rle in enumerate(rles):
        if rle is None:
            continue
        counts = rle.get("counts") if isinstance(rle, dict) else None
        if not isinstance(counts, str) or not counts.isascii() or "size" not in rle:
            return f"the mask of frame {number} is not a compressed COCO RLE, {{'size': [h, w], 'counts': text}}"
        # A run that is missing would leave the mask's pixels to chance when it is decoded.
        try:
            pixels = count_pixels(counts)
        except ValueError as error:
            return f"the mask of frame {number}: {error}"
        if rle["size"] != [height, width] or pixels != height * width:
            return (
                f"the mask of frame {number} has the size {rle['size']} and {pixels} pixels, expected those of the "
                f"frames, [{height}, {width}] and {height * width}"
            )
    return None


def find_videos(source: Path, split: str, problems: Problems) -> list[MevisVideo]:
    """Finds the videos of a split that have sentences.

    Raises:
        FileNotFoundError, ValueError: a part of the layout is missing or is not json.
    """
    meta = source / META.format(split=split)
    videos = read_videos(meta, source / split / "JPEGImages", "anno_id", split, problems)
    masks = source / split / "mask_dict.json"
    if videos and masks.exists() and not any(video.annotated for video in videos):
        problems.found(str(meta), f"no expression has an anno_id, but {masks} holds masks", split)
    if not any(video.annotated for video in videos):
        return [MevisVideo(**vars(video), masks=masks, spans={}) for video in videos]
    if not masks.is_file():
        raise FileNotFoundError(f"{masks} with the masks does not exist, but {meta} names an anno_id")
    spans = {name: (start, length) for name, start, length in find_values(masks)}
    found = []
    for video in videos:
        names = {name for expression in video.expressions for name in expression.referents}
        # A name that is not in mask_dict.json is found wrong with the sentence that refers to it.
        found.append(MevisVideo(**vars(video), masks=masks, spans={n: spans[n] for n in sorted(names & spans.keys())}))
    return found


convert_video = partial(convert_folder, read_masks=read_mask_lists)


def prepare(arguments: Namespace, problems: Problems) -> Conversion:
    """Finds the videos of a MeViS download."""
    present = present_splits(arguments.source, SPLITS, META, arguments.split, problems)
    splits = {split: find_videos(arguments.source, split, problems) for split in present}
    return Conversion(splits, convert_video, DESCRIPTION)
