"""A2D Sentences, as downloaded -> a folder that `datasets.load_dataset` loads.

    cvls convert a2d_sentences --source RAW --output DATASET [--skip-invalid] [--push-to-hub USER/NAME]

RAW holds

    Release/videoset.csv                   id, label, start, end, height, width, frames, annotated, subset; no header
    Release/clips320H/<id>.mp4             (CLIPS320 in some copies)
    text_annotations/a2d_annotation.txt    csv with header: video_id, instance_id, query (and kind, in synthetic sets)
    text_annotations/a2d_missed_videos.txt videos to leave out, one per line (may be absent)
    text_annotations/a2d_annotation_with_instances/<id>/<frame:05d>.h5
                                           frames count from 1; `instance` (N,) ids, `reMask` (N, W, H), (W, H) if N = 1

What is wrong in the source ends the conversion, or, with --skip-invalid, is left out: a row of a csv file, or a video
with all its sentences where its clip or one of its masks is wrong. Only the row with the instance `1 (copy)` and the
videos in a2d_missed_videos.txt, known mistakes of the original, are left out silently.

Videos: https://web.eecs.umich.edu/~jjcorso/r/a2d/, sentences: https://kgavrilyuk.github.io/publication/actor_action/
"""

import math
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ..frame_reader_cvls import FrameReader
from ..rle_cvls import encode_masks
from .arguments import Conversion
from .card import Description, terms_note
from .files import MOST_MASK_BYTES, check_mask_array, first_fields, read_csv, read_text, show
from .problems import Problem, Problems
from .rows import sentence_cell, video_row

# Subsets of videoset.csv; the original has 0 and 1, the synthetic sets all four.
SUBSETS = {"0": "train", "1": "test", "2": "validation", "3": "heldout"}
SPLITS = tuple(SUBSETS.values())
CLIP_FOLDERS = ("clips320H", "CLIPS320")
# The id of the one row of the original that is a mistake; every reader of the data set drops it.
MISTAKEN_INSTANCE = "1 (copy)"

DESCRIPTION = Description(
    title="A2D Sentences",
    description=(
        "Videos of actors and actions with sentences that each refer to one actor, and the masks of the actors in a "
        "few frames per video. Converted from the original layout by `cvls convert a2d_sentences`."
    ),
    license="other",
    license_note=terms_note("A2D and of A2D Sentences"),
    citation="""
@inproceedings{xu2015a2d,
  title     = {Can Humans Fly? Action Understanding with Multiple Classes of Actors},
  author    = {Xu, Chenliang and Hsieh, Shao-Hang and Xiong, Caiming and Corso, Jason J.},
  booktitle = {IEEE Conference on Computer Vision and Pattern Recognition (CVPR)},
  year      = {2015}
}

@inproceedings{gavrilyuk2018actor,
  title     = {Actor and Action Video Segmentation from a Sentence},
  author    = {Gavrilyuk, Kirill and Ghodrati, Amir and Li, Zhenyang and Snoek, Cees G. M.},
  booktitle = {IEEE Conference on Computer Vision and Pattern Recognition (CVPR)},
  year      = {2018}
}
""",
)


@dataclass(frozen=True, slots=True)
class Sentence:
    """A row of a2d_annotation.txt: `instance` is None where the sentence has no referent, `line` counts from 1."""

    video_id: str
    instance: int | None
    text: str
    kind: str | None
    line: int


@dataclass(slots=True)
class Video:
    """What one row of the output is made from, besides the files that its id names."""

    video_id: str
    annotated: int
    sentences: list[Sentence] = field(default_factory=list)


def annotation_file(source: Path) -> Path:
    return source / "text_annotations" / "a2d_annotation.txt"


def mask_folder(source: Path) -> Path:
    return source / "text_annotations" / "a2d_annotation_with_instances"


def clip_folder(source: Path) -> Path:
    folder = next((folder for name in CLIP_FOLDERS if (folder := source / "Release" / name).is_dir()), None)
    if folder is None:
        raise FileNotFoundError(f"{source / 'Release'} has no folder {' or '.join(CLIP_FOLDERS)} with the videos")
    return folder


def read_sentences(path: Path, problems: Problems) -> Iterator[Sentence]:
    """Reads a2d_annotation.txt, without the row that is a known mistake.

    Problems, naming file and line: those of `read_csv`, an instance id that is no integer, an empty sentence, a video
    whose id is no plain name.

    Raises:
        ValueError: the file has another header.
    """
    header = ("video_id", "instance_id", "query")
    for line, row in read_csv(path, problems, header, (*header, "kind")):
        where = f"{path}, line {line}"
        video_id, instance, text = (value.strip() for value in row[:3])
        if instance == MISTAKEN_INSTANCE or not problems.is_name(where, video_id, "the video's id"):
            continue
        if instance and not (instance.isascii() and instance.isdecimal() and len(instance) < 19):
            problems.found(where, f"the instance id {show(instance)} is not an integer (empty: no referent)")
        elif not text:
            problems.found(where, "the sentence is empty")
        else:
            kind = row[3].strip() or None if len(row) == 4 else None
            yield Sentence(video_id, int(instance) if instance else None, text, kind, line)


def read_videoset(path: Path, problems: Problems) -> dict[str, tuple[str, int]]:
    """Reads videoset.csv: video id -> its split, and how many of its frames are annotated (0: not stated).

    Problems, naming file and line: those of `read_csv`, an unknown subset, a video that stands there twice or whose id
    is no plain name.
    """
    videos: dict[str, tuple[str, int]] = {}
    columns = ("id", "label", "start", "end", "height", "width", "frames", "annotated", "subset")
    for line, row in read_csv(path, problems, columns=columns):
        where = f"{path}, line {line}"
        video_id, annotated, subset = row[0].strip(), row[7].strip(), row[8].strip()
        if subset not in SUBSETS:
            problems.found(where, f"the subset is {show(row[8])}, expected one of {', '.join(SUBSETS)}")
        elif video_id in videos:
            problems.found(where, f"the video {show(video_id)} stands there twice")
        elif problems.is_name(where, video_id, "the video's id"):
            videos[video_id] = SUBSETS[subset], int(annotated) if annotated.isdecimal() else 0
    return videos


def find_videos(source: Path, problems: Problems) -> dict[str, list[Video]]:
    """Finds the videos that have sentences, in the order of videoset.csv: split -> videos.

    Problems, naming the line of a sentence: its video is not in videoset.csv, or has no clip or no folder of masks.

    Raises:
        FileNotFoundError: a part of the layout.
    """
    videoset, annotations, masks = source / "Release" / "videoset.csv", annotation_file(source), mask_folder(source)
    for path in (videoset, annotations, masks):
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist; --source must be the folder of an A2D Sentences download")
    clips = clip_folder(source)
    listed = read_videoset(videoset, problems)
    missed_file = source / "text_annotations" / "a2d_missed_videos.txt"
    missed = set(read_text(missed_file).split()) if missed_file.exists() else set()

    videos = {name: Video(name, annotated) for name, (_, annotated) in listed.items() if name not in missed}
    for sentence in read_sentences(annotations, problems):
        if sentence.video_id in missed:
            continue
        clip, folder = clips / f"{sentence.video_id}.mp4", masks / sentence.video_id
        where, split = f"{annotations}, line {sentence.line}", listed.get(sentence.video_id, (None, 0))[0]
        if sentence.video_id not in videos:
            problems.found(where, f"the video {sentence.video_id!r} is not in {videoset}")
        elif not clip.is_file():
            problems.found(where, f"the video {clip} does not exist", split)
        elif not folder.is_dir():
            problems.found(where, f"the folder {folder} with the masks (h5) does not exist", split)
        else:
            videos[sentence.video_id].sentences.append(sentence)

    described = first_fields(annotations) | missed
    for folder in sorted(masks.iterdir()):
        if folder.name not in described and any(folder.glob("[!.]*.h5")):
            problems.found(str(folder), f"these masks belong to no sentence in {annotations}")

    splits: dict[str, list[Video]] = {split: [] for split in SUBSETS.values()}
    for name, video in videos.items():
        if video.sentences:
            splits[listed[name][0]].append(video)
    return splits


def read_instance_masks(path: Path, height: int, width: int) -> dict[int, str]:
    """Reads the h5 file of one frame: instance id -> COCO compressed RLE counts.

    Raises:
        ValueError: naming the file: not h5, without `instance` or `reMask`, or masks that are not (N, width, height).
    """
    try:
        with h5py.File(path) as file:
            instances, masks = _read_arrays(path, file, height, width)
    except ValueError as error:
        raise error if str(error).startswith(str(path)) else _unreadable(path, error) from error
    except Exception as error:  # h5py raises what it runs into: OSError, KeyError, RuntimeError, TypeError ...
        raise _unreadable(path, error) from error
    if len(instances) == 0:
        return {}
    by_instance: dict[int, str] = {}
    for instance, counts in zip(instances.tolist(), encode_masks(masks.transpose(0, 2, 1)), strict=True):
        # Should a file repeat an id, its first mask counts.
        by_instance.setdefault(int(instance), counts)
    return by_instance


def _unreadable(path: Path, error: Exception) -> ValueError:
    why = " ".join(str(error).split())[:120]
    return ValueError(f"{path}: cannot read 'instance' and 'reMask' from this h5 file: {why}")


def _read_arrays(path: Path, file: h5py.File, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """`instance` (N,) and `reMask` (N, W, H), whose shapes are checked before they are read."""
    for name in ("instance", "reMask"):
        inside = isinstance(file.get(name, getlink=True), h5py.HardLink) and isinstance(file[name], h5py.Dataset)
        if not inside or file[name].external or file[name].is_virtual:
            raise _unreadable(path, KeyError(f"{name!r} is not an array that is stored in it"))
    number, masks = math.prod(file["instance"].shape), file["reMask"]
    shape = (1, *masks.shape) if number == 1 and len(masks.shape) == 2 else masks.shape
    if number and shape != (number, width, height):
        raise ValueError(
            f"{path}: reMask has the shape {shape}, expected {(number, width, height)}: one mask per instance, "
            f"transposed (width x height), of the size of the video, {height} x {width} (height x width)"
        )
    if max(masks.size * masks.dtype.itemsize, number) > MOST_MASK_BYTES:
        raise ValueError(
            f"{path}: 'instance' and 'reMask' take more than {MOST_MASK_BYTES:,} bytes, which no frame needs"
        )
    instances = file["instance"][()].reshape(-1)
    if instances.dtype.kind not in "iu" and not np.array_equal(instances, np.round(instances.astype(float))):
        raise ValueError(f"{path}: 'instance' holds {show(instances.tolist())}, expected whole numbers")
    if number == 0:
        return instances, np.zeros((0, width, height))
    values = masks[()].reshape(shape)
    check_mask_array(path, "reMask", values)
    return instances, values


def read_video(source: Path, video: Video) -> dict[str, Any]:
    """Reads one video into a row with the columns of `FEATURES`, but `sentences`.

    Raises:
        FileNotFoundError, ValueError: naming the file that is missing or wrong.
    """
    clip, folder = clip_folder(source) / f"{video.video_id}.mp4", mask_folder(source) / video.video_id
    # videoset.csv also states size and length, but of the original video and not always right.
    reader = FrameReader(clip)
    num_frames, height, width = len(reader), reader.height, reader.width
    masks: dict[int, dict[int, str]] = {}
    for path in sorted(folder.glob("*.h5")):
        if not path.stem.isdecimal() or not 1 <= int(path.stem) <= num_frames:
            raise ValueError(f"{path}: the file's name must be the number of a frame of {clip}, 1 to {num_frames}")
        masks[int(path.stem) - 1] = read_instance_masks(path, height, width)
    if not masks:
        raise FileNotFoundError(f"{folder} holds no h5 file, expected one for each annotated frame")
    frames = sorted(masks)
    # A clip may open although it is cut off: its annotated frames, at least, are there.
    reader.read(frames)
    instances = sorted({instance for in_frame in masks.values() for instance in in_frame})
    return video_row(
        video.video_id,
        clip,
        reader,
        annotated_frames=frames,
        instance_ids=[str(instance) for instance in instances],
        masks=[[masks[frame].get(instance) for instance in instances] for frame in frames],
    )


def convert_video(source: Path, video: Video) -> tuple[dict[str, Any] | None, list[Problem]]:
    """Reads one video: its row, and what is wrong: sentences and frames that are not in it, and why."""

    def where(sentence: Sentence) -> str:
        return f"{annotation_file(source)}, line {sentence.line}"

    try:
        row = read_video(source, video)
    except (FileNotFoundError, ValueError) as error:
        return None, [(where(sentence), str(error)) for sentence in video.sentences]
    sentences: list[dict[str, Any]] = []
    problems: list[Problem] = []
    found = len(row["annotated_frames"])
    if found < video.annotated:
        folder = mask_folder(source) / video.video_id
        why = f"{found} h5 files, but videoset.csv states {video.annotated} annotated frames"
        problems.append((str(folder), why))
    for number, sentence in enumerate(video.sentences):
        instance = "" if sentence.instance is None else str(sentence.instance)
        if instance and instance not in row["instance_ids"]:
            folder = mask_folder(source) / video.video_id
            why = f"no h5 file in {folder} has the instance {instance}, they have {', '.join(row['instance_ids'])}"
            problems.append((where(sentence), why))
            continue
        instances = [row["instance_ids"].index(instance)] if instance else []
        sentences.append(sentence_cell(video.video_id, number, sentence.text, instances, sentence.kind))
    return {**row, "sentences": sentences} if sentences else None, problems


def prepare(arguments: Namespace, problems: Problems) -> Conversion:
    """Finds the videos of an A2D Sentences download."""
    splits = find_videos(arguments.source, problems)
    return Conversion(splits, partial(convert_video, arguments.source), DESCRIPTION)
