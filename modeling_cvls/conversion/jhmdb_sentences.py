"""J-HMDB Sentences, as downloaded -> a folder that `datasets.load_dataset` loads.

    cvls convert jhmdb_sentences --source RAW --output DATASET \\
        --samples-metadata jhmdb_sentences_samples_metadata.json

RAW holds

    Rename_Images/<action>/<id>/<frame:05d>.png        frames count from 1
    puppet_mask/<action>/<id>/puppet_mask.mat          `part_mask` (H, W, n): the one person in the first n frames
    jhmdb_annotation.txt                               csv with header: video_id, query

All videos are for testing: the one split is "test". Published results measure three frames per video; which ones stands
in a json that MTTR published: rows [video, path of the frame, path of the mask file, number of masks, sentence].
Without --samples-metadata the set names no frames to evaluate; `cvls eval --protocol jhmdb` then takes three
evenly spaced ones that have a mask, and says so: other frames, so other numbers.

Videos and masks: http://jhmdb.is.tue.mpg.de/, sentences: https://kgavrilyuk.github.io/publication/actor_action/,
samples metadata: https://github.com/mttr2021/MTTR
"""

import json
from argparse import Namespace
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from jsonargparse import ArgumentParser

from ..rle_cvls import encode_masks
from .arguments import Conversion
from .card import Description, terms_note
from .files import check_mask_array, first_fields, read_csv, read_frame_files, read_text
from .problems import Problems
from .rows import frames_row, sentence_cell

SPLIT = "test"
SPLITS = (SPLIT,)

DESCRIPTION = Description(
    title="J-HMDB Sentences",
    description=(
        "Videos of one acting person each, with a sentence that refers to this person and the person's mask. Converted "
        "from the original layout by `cvls convert jhmdb_sentences`."
    ),
    license="other",
    license_note=terms_note("J-HMDB and of J-HMDB Sentences"),
    citation="""
@inproceedings{jhuang2013towards,
  title     = {Towards Understanding Action Recognition},
  author    = {Jhuang, Hueihan and Gall, Juergen and Zuffi, Silvia and Schmid, Cordelia and Black, Michael J.},
  booktitle = {IEEE International Conference on Computer Vision (ICCV)},
  year      = {2013}
}

@inproceedings{gavrilyuk2018actor,
  title     = {Actor and Action Video Segmentation from a Sentence},
  author    = {Gavrilyuk, Kirill and Ghodrati, Amir and Li, Zhenyang and Snoek, Cees G. M.},
  booktitle = {IEEE Conference on Computer Vision and Pattern Recognition (CVPR)},
  year      = {2018}
}
""",
)
PUBLISHED_FRAMES = (
    "`evaluation_frames` holds the three frames per video on which published results are measured (MTTR's samples "
    "metadata)."
)
NO_FRAMES = (
    "`evaluation_frames` is null: this conversion was made without MTTR's samples metadata. The protocol `jhmdb` then "
    "takes three evenly spaced frames with a mask a video, so results are not comparable with published ones, which "
    "are measured on other frames."
)


@dataclass(frozen=True)
class VideoSource:
    """What one video of the output is read from; `evaluated`: frame numbers from 0, None where nothing names them."""

    video_id: str
    frames: Path
    masks: Path
    sentences: tuple[str, ...]
    evaluated: tuple[int, ...] | None


def read_sentences(path: Path, problems: Problems) -> dict[str, list[tuple[int, str]]]:
    """Reads jhmdb_annotation.txt: video id -> its sentences and their lines (from 1).

    Raises:
        ValueError: another header.
    """
    sentences: dict[str, list[tuple[int, str]]] = {}
    for line, (video_id, text) in read_csv(path, problems, ("video_id", "query"), split=SPLIT):
        where = f"{path}, line {line}"
        if not text.strip():
            problems.found(where, "the sentence is empty", SPLIT)
        elif problems.is_name(where, video_id.strip(), "the video's id", SPLIT):
            sentences.setdefault(video_id.strip(), []).append((line, text.strip()))
    return sentences


def read_samples_metadata(path: Path) -> dict[str, tuple[int, ...]]:
    """Reads MTTR's samples metadata: video id -> numbers of the frames to evaluate, from 0, ascending.

    Raises:
        ValueError: naming the file: not json, or not of the form that it has.
    """
    frames: dict[str, set[int]] = {}
    try:
        for video_id, frame, _, _, _ in json.loads(read_text(path)):
            frames.setdefault(str(video_id), set()).add(int(Path(frame).stem) - 1)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{path}: not a samples metadata json, whose rows are [video, path of the frame <number>.png, path of the "
            f"mask file, number of masks, sentence]: {str(error)[:120]}"
        ) from error
    return {video_id: tuple(sorted(numbers)) for video_id, numbers in frames.items()}


def find_videos(source: Path, samples_metadata: Path | None, problems: Problems) -> list[VideoSource]:
    """Finds the videos that have sentences, in the order of jhmdb_annotation.txt.

    Raises:
        FileNotFoundError: a part of the layout.
        ValueError: an annotation file that is not of its form.
    """
    annotations = source / "jhmdb_annotation.txt"
    images = source / "Rename_Images"
    masks = source / "puppet_mask"
    for path in (annotations, images, masks):
        if not path.exists():
            raise FileNotFoundError(
                f"{path} does not exist; --source must be the folder of a J-HMDB Sentences download"
            )
    evaluated = None if samples_metadata is None else read_samples_metadata(samples_metadata)
    actions = {folder.name: folder.parent.name for folder in sorted(images.glob("*/*")) if folder.is_dir()}

    videos = []
    sentences = read_sentences(annotations, problems)
    for video_id, of_video in sentences.items():
        where = f"{annotations}, line {of_video[0][0]}"
        action = actions.get(video_id)
        if action is None:
            problems.found(where, f"there is no folder {images}/<action>/{video_id} with frames", SPLIT)
            continue
        mask_file = masks / action / video_id / "puppet_mask.mat"
        if not mask_file.is_file():
            problems.found(where, f"the masks {mask_file} do not exist", SPLIT)
            continue
        if evaluated is not None and video_id not in evaluated:
            problems.found(where, f"the video {video_id!r} is not in {samples_metadata}", SPLIT)
            continue
        texts = tuple(text for _, text in of_video)
        frames = None if evaluated is None else evaluated[video_id]
        videos.append(VideoSource(video_id, images / action / video_id, mask_file, texts, frames))
    for video_id in sorted((evaluated or {}).keys() - sentences.keys()):
        problems.found(str(samples_metadata), f"the video {video_id!r} is not in {annotations}", SPLIT)
    described = first_fields(annotations)
    for video_id, action in actions.items():
        folder = images / action / video_id
        if video_id not in described and any(folder.glob("[!.]*.png")):
            problems.found(str(folder), f"these frames belong to no sentence in {annotations}", SPLIT)
    return videos


def read_part_mask(path: Path, num_frames: int, height: int, width: int) -> np.ndarray:
    """Reads the masks of a puppet_mask.mat, (n, H, W), of at most `num_frames` frames.

    Raises:
        ValueError: naming the file: not such a file, masks of another size than the frames, or more than there are.
    """
    try:
        # the headers alone, so that nothing is read that has a wrong or a huge shape
        shape = next(shape for name, shape, _ in scipy.io.whosmat(path) if name == "part_mask")
    except Exception as error:  # scipy raises what it runs into: ValueError, TypeError, zlib.error, OSError ...
        raise ValueError(f"{path}: cannot read 'part_mask' from this mat file: {error!r:.120}") from error
    if len(shape) == 2:
        shape = (*shape, 1)  # MATLAB drops a last dimension of one
    if len(shape) != 3 or shape[:2] != (height, width):
        raise ValueError(
            f"{path}: part_mask has the shape {shape}, expected ({height}, {width}, number of frames): height "
            "and width of the frames"
        )
    if not 1 <= shape[2] <= num_frames:
        raise ValueError(f"{path}: {shape[2]} masks for {num_frames} frames")
    try:
        masks = scipy.io.loadmat(path, variable_names=["part_mask"])["part_mask"].reshape(shape)
    except Exception as error:  # as above
        raise ValueError(f"{path}: cannot read 'part_mask' from this mat file: {error!r:.120}") from error
    check_mask_array(path, "part_mask", masks)
    return masks.transpose(2, 0, 1)


def convert_video(video: VideoSource) -> dict[str, Any]:
    """Reads one video into a row with the columns of `FEATURES`.

    Raises:
        ValueError: naming the file that is missing or wrong.
    """
    # Copies made on a Mac hold hidden files beside the frames.
    paths = sorted(
        (path for path in video.frames.glob("*.png") if path.stem.isdecimal()), key=lambda path: int(path.stem)
    )
    numbers = [int(path.stem) for path in paths]
    if not paths or numbers != list(range(1, len(paths) + 1)):
        raise ValueError(
            f"{video.frames}: frames must be numbered from 00001.png without a gap, found {len(paths)}"
            + (f", {paths[0].name} to {paths[-1].name}" if paths else "")
        )
    frames, height, width = read_frame_files(paths)
    masks = read_part_mask(video.masks, len(frames), height, width)
    for frame in video.evaluated or ():
        if not 0 <= frame < len(masks):
            raise ValueError(
                f"{video.masks}: masks of the first {len(masks)} frames, but frame {frame + 1} is to be evaluated; "
                "frames count from 1"
            )
    return frames_row(
        video.video_id,
        frames,
        height,
        width,
        annotated_frames=list(range(len(masks))),
        evaluation_frames=None if video.evaluated is None else list(video.evaluated),
        instance_ids=["1"],
        masks=[[counts] for counts in encode_masks(masks)],
        sentences=[sentence_cell(video.video_id, number, text, [0]) for number, text in enumerate(video.sentences)],
    )


def add_arguments(parser: ArgumentParser) -> None:
    """Adds --samples-metadata."""
    parser.add_argument("--samples-metadata", type=Path, metavar="FILE",
                        help="MTTR's jhmdb_sentences_samples_metadata.json: the frames on which published results are "
                        "measured (default: none named; the evaluation takes three evenly spaced ones)")  # fmt: skip


def prepare(arguments: Namespace, problems: Problems) -> Conversion:
    """Finds the videos of a J-HMDB Sentences download, and says which frames are to be evaluated."""
    videos = find_videos(arguments.source, arguments.samples_metadata, problems)
    frames = NO_FRAMES if arguments.samples_metadata is None else PUBLISHED_FRAMES
    print(frames)
    description = replace(DESCRIPTION, description=f"{DESCRIPTION.description}\n\n{frames}")
    return Conversion({SPLIT: videos}, convert_video, description)
