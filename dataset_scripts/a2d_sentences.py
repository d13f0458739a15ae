"""A2D Sentences, as downloaded -> a folder that `datasets.load_dataset` loads.

    python dataset_scripts/a2d_sentences.py --source RAW --output DATASET

RAW holds

    Release/videoset.csv                   id, label, start, end, height, width, frames, annotated, subset; no header
    Release/clips320H/<id>.mp4             (CLIPS320 in some copies)
    text_annotations/a2d_annotation.txt    csv with header: video_id, instance_id, query (and kind, in synthetic sets)
    text_annotations/a2d_missed_videos.txt videos to leave out, one a line (may be absent)
    text_annotations/a2d_annotation_with_instances/<id>/<frame:05d>.h5
                                           frames count from 1; `instance` (N,) ids, `reMask` (N, W, H), (W, H) if N = 1

Videos: https://web.eecs.umich.edu/~jjcorso/r/a2d/, sentences: https://kgavrilyuk.github.io/publication/actor_action/
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from pycocotools import mask as coco_mask

from modeling_cvls.data.conversion import DatasetCard, conversion_parser, write_dataset
from modeling_cvls.frame_reader_cvls import FrameReader

# Subsets of videoset.csv; the original has 0 and 1, the synthetic sets all four.
SUBSETS = {"0": "train", "1": "test", "2": "validation", "3": "heldout"}
CLIP_FOLDERS = ("clips320H", "CLIPS320")
# The id of the one row of the original that is a mistake; every reader of the data set drops it.
MISTAKEN_INSTANCE = "1 (copy)"

CARD = DatasetCard(
    title="A2D Sentences",
    description=(
        "Videos of actors and actions with sentences that each refer to one actor, and the masks of the actors in a "
        "few frames a video. Converted from the original layout by `dataset_scripts/a2d_sentences.py`."
    ),
    licence="other",
    licence_note=(
        "Videos, masks and sentences remain under the terms of those who published them (a synthetic set in this "
        "layout under those of its generator). Read the terms of A2D and of A2D Sentences before passing this "
        "conversion on."
    ),
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


@dataclass(frozen=True)
class Sentence:
    """A row of a2d_annotation.txt: `instance` is None where the sentence has no referent, `line` counts from 1."""

    video_id: str
    instance: int | None
    text: str
    kind: str | None
    line: int


@dataclass
class VideoSource:
    """What one video of the output is read from."""

    video_id: str
    clip: Path
    masks: Path
    sentences: list[Sentence] = field(default_factory=list)


def read_sentences(path: Path) -> list[Sentence]:
    """Reads a2d_annotation.txt, without the row that is a known mistake.

    Raises:
        ValueError: naming file and line: another header, a row with another number of fields than the header, an
            instance id that is no integer, an empty sentence.
    """
    sentences = []
    with open(path, newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        header = next(rows, [])
        if header not in (["video_id", "instance_id", "query"], ["video_id", "instance_id", "query", "kind"]):
            raise ValueError(
                f"{path}, line 1: the header is {','.join(header)!r}, expected 'video_id,instance_id,query' "
                "(or the same with a fourth column 'kind')"
            )
        for row in rows:
            where = f"{path}, line {rows.line_num}"
            if len(row) != len(header):
                raise ValueError(
                    f"{where}: {len(row)} fields, expected {len(header)} ({','.join(header)}), got {','.join(row)!r}; "
                    "a sentence with a comma stands in double quotes"
                )
            video_id, instance, text = (value.strip() for value in row[:3])
            if instance == MISTAKEN_INSTANCE:
                continue
            if instance and not instance.isdecimal():
                raise ValueError(f"{where}: the instance id {instance!r} is not an integer (empty: no referent)")
            if not text:
                raise ValueError(f"{where}: the sentence is empty")
            kind = row[3].strip() or None if len(row) == 4 else None
            sentences.append(Sentence(video_id, int(instance) if instance else None, text, kind, rows.line_num))
    return sentences


def read_subsets(path: Path) -> dict[str, str]:
    """Reads videoset.csv: video id -> split.

    Raises:
        ValueError: naming file and line: a row that has not nine fields, an unknown subset.
    """
    splits = {}
    with open(path, newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        for row in rows:
            where = f"{path}, line {rows.line_num}"
            if len(row) != 9:
                raise ValueError(
                    f"{where}: {len(row)} fields, expected 9 (id, label, start, end, height, width, frames, "
                    f"annotated, subset), got {','.join(row)!r}"
                )
            if row[8].strip() not in SUBSETS:
                raise ValueError(f"{where}: the subset is {row[8]!r}, expected one of {', '.join(SUBSETS)}")
            splits[row[0].strip()] = SUBSETS[row[8].strip()]
    return splits


def find_videos(source: Path) -> dict[str, list[VideoSource]]:
    """Finds the videos that have sentences, in the order of videoset.csv: split -> videos.

    Raises:
        FileNotFoundError: a part of the layout, or the clip or the masks of a video that has sentences.
        ValueError: a malformed row, or a sentence on a video that videoset.csv does not list.
    """
    videoset = source / "Release" / "videoset.csv"
    annotations = source / "text_annotations" / "a2d_annotation.txt"
    masks = source / "text_annotations" / "a2d_annotation_with_instances"
    for path in (videoset, annotations, masks):
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist; --source must be the folder of an A2D Sentences download")
    clips = next((folder for name in CLIP_FOLDERS if (folder := source / "Release" / name).is_dir()), None)
    if clips is None:
        raise FileNotFoundError(f"{source / 'Release'} has no folder {' or '.join(CLIP_FOLDERS)} with the videos")

    subsets = read_subsets(videoset)
    missed_file = source / "text_annotations" / "a2d_missed_videos.txt"
    missed = set(missed_file.read_text(encoding="utf-8").split()) if missed_file.exists() else set()
    videos = {name: VideoSource(name, clips / f"{name}.mp4", masks / name) for name in subsets}
    for sentence in read_sentences(annotations):
        if sentence.video_id in missed:
            continue
        where = f"{annotations}, line {sentence.line}"
        if sentence.video_id not in videos:
            raise ValueError(f"{where}: the video {sentence.video_id!r} is not in {videoset}")
        video = videos[sentence.video_id]
        if not video.sentences:
            if not video.clip.is_file():
                raise FileNotFoundError(f"{where}: the video {video.clip} does not exist")
            if not video.masks.is_dir():
                raise FileNotFoundError(f"{where}: the folder {video.masks} with the masks (h5) does not exist")
        video.sentences.append(sentence)

    splits: dict[str, list[VideoSource]] = {split: [] for split in SUBSETS.values()}
    for name, video in videos.items():
        if video.sentences:
            splits[subsets[name]].append(video)
    return splits


def read_instance_masks(path: Path, height: int, width: int) -> dict[int, str]:
    """Reads the h5 file of one frame: instance id -> COCO compressed RLE counts.

    Raises:
        ValueError: naming the file: not h5, without `instance` or `reMask`, or masks that are not (N, width, height).
    """
    try:
        with h5py.File(path) as file:
            instances = file["instance"][()].reshape(-1)
            masks = file["reMask"][()]
    except (OSError, KeyError) as error:
        raise ValueError(f"{path}: cannot read 'instance' and 'reMask' from this h5 file: {error}") from error
    if len(instances) == 0:
        return {}
    if len(instances) == 1 and masks.ndim == 2:
        masks = masks[None]
    if masks.shape != (len(instances), width, height):
        raise ValueError(
            f"{path}: reMask has the shape {masks.shape}, expected {(len(instances), width, height)}: one mask an "
            f"instance, transposed (width x height), of the size of the video, {height} x {width} (height x width)"
        )
    encoded = coco_mask.encode(np.asfortranarray((masks != 0).transpose(2, 1, 0), dtype=np.uint8))
    counts: dict[int, str] = {}
    for instance, rle in zip(instances.tolist(), encoded, strict=True):
        # Should a file repeat an id, its first mask counts.
        counts.setdefault(int(instance), rle["counts"].decode("ascii"))
    return counts


def convert_video(video: VideoSource) -> dict[str, Any]:
    """Reads one video into a row with the columns of `FEATURES`.

    Raises:
        FileNotFoundError, ValueError: naming the file that is missing or wrong.
    """
    # videoset.csv also states size and length, but of the original video and not always right.
    reader = FrameReader(video.clip)
    num_frames, height, width = len(reader), reader.height, reader.width
    masks_by_frame: dict[int, dict[int, str]] = {}
    for path in sorted(video.masks.glob("*.h5")):
        if not path.stem.isdecimal() or not 1 <= int(path.stem) <= num_frames:
            raise ValueError(
                f"{path}: the file's name must be the number of a frame of {video.clip}, 1 to {num_frames}"
            )
        masks_by_frame[int(path.stem) - 1] = read_instance_masks(path, height, width)
    if not masks_by_frame:
        raise FileNotFoundError(f"{video.masks} holds no h5 file, expected one for each annotated frame")

    # An instance that a sentence names but no frame shows stays in: it is annotated, and evaluated, nowhere.
    instances = sorted(
        {instance for masks in masks_by_frame.values() for instance in masks}
        | {sentence.instance for sentence in video.sentences if sentence.instance is not None}
    )
    frames = sorted(masks_by_frame)
    return {
        "video_id": video.video_id,
        "video": {"bytes": video.clip.read_bytes(), "path": video.clip.name},
        "frames": None,
        "num_frames": num_frames,
        "height": height,
        "width": width,
        "fps": reader.fps,
        "annotated_frames": frames,
        "evaluation_frames": None,
        "instance_ids": [str(instance) for instance in instances],
        "masks": [[masks_by_frame[frame].get(instance) for instance in instances] for frame in frames],
        "sentences": [
            {
                "sentence_id": f"{video.video_id}/{number}",
                "text": sentence.text,
                "instances": [] if sentence.instance is None else [instances.index(sentence.instance)],
                "kind": sentence.kind,
            }
            for number, sentence in enumerate(video.sentences)
        ],
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = conversion_parser(__doc__.splitlines()[0], list(SUBSETS.values()))
    args = parser.parse_args(argv)
    splits = find_videos(args.source)
    if args.split:
        empty = [split for split in args.split if not splits[split]]
        if empty:
            raise ValueError(f"--split {' '.join(empty)}: {args.source} has no video with sentences in it")
        splits = {split: splits[split] for split in args.split}
    write_dataset(args.output, splits, convert_video, CARD, num_proc=args.num_proc)


if __name__ == "__main__":
    main()
