"""Sources whose videos are folders of frames with a meta_expressions.json: Refer-YouTube-VOS, Ref-DAVIS17, MeViS.

    <split>/JPEGImages/<video>/<frame>.jpg
    meta_expressions.json   {"videos": {<video>: {"expressions": {<expression>: {"exp": <sentence>, <referents>}},
                                                  "frames": [<frame>, ...]}}}

Where the json lies, which field names the referents, and how masks are stored differs from set to set.
"""

import math
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..images_cvls import natural_order
from ..rle_cvls import encode_masks
from .files import read_frame_files, read_indices, read_json, show
from .problems import Problem, Problems
from .rows import frames_row, sentence_cell

# Where Refer-YouTube-VOS and Ref-DAVIS17 keep the sentences of a split.
PALETTE_META = "meta_expressions/{split}/meta_expressions.json"
# Palette index of pixels that DAVIS counts to no object.
VOID = 255
ONLY_VOID = (
    f"the masks hold only 0 and {VOID}, and {VOID} is void, which belongs to no object: write the pixels of object "
    "number n as n, from 1 on"
)


@dataclass(frozen=True)
class Expression:
    """A sentence of meta_expressions.json: its key there, and the ids of its referents; None where none are published.

    An empty tuple means that the sentence has no referent (MeViS).
    """

    key: str
    text: str
    referents: tuple[str, ...] | None


@dataclass(frozen=True)
class VideoFolder:
    """What one video of the output is read from.

    Attributes:
        video_id: its key in meta_expressions.json.
        frames: the folder of its frames.
        names: its frames in order, without their suffix; None: all that the folder holds.
        expressions: at least one; all of them with referents, or all of them without.
        where: how messages call the video.
        suffix: of the frames' files.
    """

    video_id: str
    frames: Path
    names: tuple[str, ...] | None
    expressions: tuple[Expression, ...]
    where: str
    suffix: str = field(default=".jpg", kw_only=True)

    @property
    def annotated(self) -> bool:
        return self.expressions[0].referents is not None


@dataclass(frozen=True)
class PaletteFolder(VideoFolder):
    """A video whose masks are a folder of palette images, `<frame>.png`."""

    masks: Path


#: (video, its frames' names, height, width) -> ids of all its instances; for each annotated frame (0-based position)
#: the RLE counts of the instances that it shows; what was left out.
MaskReader = Callable[[Any, Sequence[str], int, int], tuple[set[str], dict[int, dict[str, str]], list[Problem]]]


def present_splits(
    source: Path, splits: Sequence[str], meta: str, chosen: Sequence[str] | None, problems: Problems | None = None
) -> list[str]:
    """The splits that a source holds.

    Args:
        source: folder of the download.
        splits: the splits that there may be.
        meta: the path of a split's meta_expressions.json in `source`, with {split} in it.
        chosen: only these; None: all.
        problems: told of a split whose frames are there, but not its json; by default that is an error.

    Raises:
        FileNotFoundError: naming the file of a chosen split that is missing, or all if there is none.
    """
    present = [split for split in chosen or splits if (source / meta.format(split=split)).is_file()]
    missing = [str(source / meta.format(split=split)) for split in chosen or splits if split not in present]
    if missing and (chosen or not present):
        raise FileNotFoundError(
            f"{' or '.join(missing)} does not exist; --source must be the folder of a download, and --split, if given, "
            "name splits that it holds"
        )
    for split in splits:
        if split not in present and not chosen and (source / split / "JPEGImages").is_dir():
            why = f"does not exist, but the frames of its split do ({source / split / 'JPEGImages'})"
            (problems or Problems()).found(str(source / meta.format(split=split)), why, split)
    return present


def read_videos(
    meta: Path, frames: Path, field: str, split: str, problems: Problems, without: Container[str] = ()
) -> list[VideoFolder]:
    """Reads meta_expressions.json: the videos that have sentences, in its order.

    The whole split is without referents (as the splits are whose masks are not published) if no expression has `field`.

    Args:
        meta: the json.
        frames: the folder with a folder of frames for each video.
        field: the field of an expression with the id of its referent, or a list of ids.
        split: what messages to `problems` call the split.
        problems: told of an expression without a sentence or, in a split with referents, without `field`; of a video
            without a folder of frames, and of a folder of frames without a video; of ids that are no plain names.
        without: ids of videos to pass over.

    Raises:
        FileNotFoundError: `frames` does not exist.
        ValueError: naming the file: not json, or not of the form above.
    """
    if not frames.is_dir():
        raise FileNotFoundError(f"{frames} with the frames does not exist, but {meta} does")
    expected = '{"videos": {id: {"expressions": {key: {"exp": text}}}}}'
    content = read_json(meta, expected)
    try:
        videos = content["videos"]
        expressions = {video: list(content["expressions"].items()) for video, content in videos.items()}
        fields = {name for of_video in expressions.values() for _, expression in of_video for name in dict(expression)}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{meta}: not json, or not {expected}: {error!r}") from error

    found = []
    for video_id, of_video in expressions.items():
        where = f"{meta}, video {show(video_id)}"
        if video_id in without or not problems.is_name(where, video_id, "its id", split):
            continue
        read = partial(_read_expression, field=field if field in fields else None, split=split, problems=problems)
        kept = [sentence for key, expression in of_video if (sentence := read(where, key, expression))]
        names = videos[video_id].get("frames") or []
        if not kept or not _are_frame_names(names, where, split, problems):
            continue
        if not (frames / video_id).is_dir():
            problems.found(where, f"the folder {frames / video_id} with its frames does not exist", split)
            continue
        found.append(VideoFolder(video_id, frames / video_id, tuple(map(str, names)) or None, tuple(kept), where))
    for folder in sorted(frames.iterdir()):
        if folder.name not in videos and folder.name[0] != "." and any(folder.glob("[!.]*.jpg")):
            problems.found(str(folder), f"these frames belong to no video in {meta}", split)
    return found


def _read_expression(
    where: str, key: str, expression: dict[str, Any], field: str | None, split: str, problems: Problems
) -> Expression | None:
    """An expression; None where something is wrong with it. `field` is None where there are no referents."""
    where = f"{where}, expression {show(key)}"
    text = expression.get("exp")
    if not problems.is_name(where, key, "its key", split):
        return None
    if not isinstance(text, str) or not text.strip():
        problems.found(where, f"has no sentence: 'exp' is {show(text)}", split)
        return None
    if field is None:
        return Expression(key, text.strip(), None)
    referents = expression.get(field)
    if not _are_ids(referents):
        problems.found(where, f"{field!r} is {show(referents)}, expected an id or a list of ids", split)
        return None
    return Expression(key, text.strip(), tuple(map(str, referents if isinstance(referents, list) else [referents])))


def _are_frame_names(names: object, where: str, split: str, problems: Problems) -> bool:
    if not isinstance(names, list) or len({str(name) for name in names}) < len(names):
        problems.found(where, f"'frames' is {show(names)}, expected a list of names, each once", split)
        return False
    return all(problems.is_name(where, name, "the name of a frame", split) for name in names)


def _are_ids(value: Any) -> bool:
    return isinstance(value, str | int) or (
        isinstance(value, list) and all(isinstance(item, str | int) for item in value)
    )


def read_palette_videos(
    source: Path, split: str, problems: Problems, without: Container[str] = ()
) -> list[PaletteFolder]:
    """The videos of a split of Refer-YouTube-VOS or Ref-DAVIS17, whose layouts are the same.

    `meta_expressions/<split>/meta_expressions.json`, with the referent in `obj_id`, `<split>/JPEGImages` and, unless
    the split is published without masks, `<split>/Annotations/<video>/<frame>.png`.

    Raises:
        FileNotFoundError, ValueError: as `read_videos`; also if there are referents but no folder of annotations.
    """
    meta = source / PALETTE_META.format(split=split)
    annotations = source / split / "Annotations"
    found = []
    for video in read_videos(meta, source / split / "JPEGImages", "obj_id", split, problems, without):
        masks = annotations / video.video_id
        if video.annotated and not annotations.is_dir():
            raise FileNotFoundError(f"{annotations} with the masks does not exist, but {meta} names an obj_id")
        if video.annotated and not masks.is_dir():
            problems.found(video.where, f"the folder {masks} with its masks does not exist", split)
            continue
        found.append(PaletteFolder(**vars(video), masks=masks))
    return found


def read_palette_masks(
    video: PaletteFolder, names: Sequence[str], height: int, width: int
) -> tuple[set[str], dict[int, dict[str, str]], list[Problem]]:
    """Reads a folder of palette images, whose pixels are the ids of objects (0: background, 255: void).

    A mask of a frame that the json leaves out is left out as well. Where every n-th frame has a mask, one that is
    missing is a problem.
    """
    position = {name: number for number, name in enumerate(names)}
    instances: set[str] = set()
    masks: dict[int, dict[str, str]] = {}
    left: list[Problem] = []
    has_void = False
    paths = sorted(video.masks.glob("[!.]*.png"))
    missing, every = _frames_without_masks(names, {path.stem for path in paths})
    if missing:
        rule = "every frame" if every == 1 else f"every frame whose number differs from theirs by a multiple of {every}"
        left.append((str(video.masks), f"no mask of the frames {show(missing)}; there must be one of {rule}"))
    for path in paths:
        if path.stem not in position:
            if not (video.frames / f"{path.stem}{video.suffix}").is_file():
                left.append((str(path), f"there is no frame {path.stem}{video.suffix} in {video.frames}"))
            continue
        try:
            indices = read_indices(path, (height, width))
        except ValueError as error:
            left.append((str(path), str(error).removeprefix(f"{path}: ")))
            continue
        found = np.unique(indices).tolist()
        has_void = has_void or VOID in found
        shown = [index for index in found if index not in (0, VOID)]
        counts = encode_masks(indices == np.array(shown, dtype=np.uint8)[:, None, None]) if shown else []
        masks[position[path.stem]] = dict(zip(map(str, shown), counts, strict=True))
        instances.update(map(str, shown))
    if has_void and not instances:
        left.append((str(video.masks), ONLY_VOID))
    return instances, masks, left


def _frames_without_masks(names: Sequence[str], annotated: Container[str]) -> tuple[list[str], int]:
    """Frames that have no mask although they lie in the regular distance of those that have one, and this distance."""
    numbers = {int(name): name for name in names if name.isdecimal()}
    known = sorted(number for number, name in numbers.items() if name in annotated)
    every = math.gcd(*(number - known[0] for number in known)) if known else 0
    if every == 0:
        return [], 0
    return [numbers[n] for n in sorted(numbers) if n not in known and (n - known[0]) % every == 0], every


def convert_folder(video: VideoFolder, read_masks: MaskReader) -> tuple[dict[str, Any] | None, list[Problem]]:
    """Reads one video into a row with the columns of `FEATURES`.

    An instance that an annotated frame does not show is absent there: its mask is empty, not null. A sentence's id is
    `<video>/<key of the expression>`, a frame's path its file's name, so that `<video>/<expression>/<frame>.png` can be
    written again. Where the source publishes no masks, there are no annotated frames and no instances, and the lack of
    referents says nothing.

    Returns:
        the row (None if none of its sentences is left) and what was left out of it.

    Raises:
        ValueError: naming the video or file: no frames, a frame that is missing, broken or of another size; no mask.
    """
    stems = (path.stem for path in video.frames.glob(f"[!.]*{video.suffix}"))
    names = video.names or tuple(sorted(stems, key=natural_order))
    if not names:
        raise ValueError(f"{video.where}: {video.frames} holds no frame ({video.suffix[1:]})")
    frames, height, width = read_frame_files([video.frames / f"{name}{video.suffix}" for name in names])
    instances, masks, left = read_masks(video, names, height, width) if video.annotated else (set(), {}, [])
    if video.annotated and not masks:
        # What is wrong with the masks, if anything, says more than that there is none.
        reason = (
            "; ".join(f"{where}: {why}" for where, why in left[:1])
            or "no frame has masks (palette images are <frame>.png)"
        )
        raise ValueError(f"{video.where}: {reason}")

    ids = sorted(instances, key=lambda name: (len(name), name))
    sentences = []
    for expression in video.expressions:
        unknown = [name for name in expression.referents or () if name not in instances]
        if unknown:
            why = f"no masks of its referents {', '.join(unknown)}; there are those of {', '.join(ids) or 'none'}"
            left.append((f"{video.where}, expression {expression.key!r}", why))
            continue
        referents = [ids.index(name) for name in expression.referents or ()]
        sentences.append(sentence_cell(video.video_id, expression.key, expression.text, referents))
    if not sentences:
        return None, left
    (empty,) = encode_masks(np.zeros((1, height, width)))
    row = frames_row(
        video.video_id,
        frames,
        height,
        width,
        annotated_frames=sorted(masks),
        instance_ids=ids,
        masks=[[masks[frame].get(name, empty) for name in ids] for frame in sorted(masks)],
        sentences=sentences,
    )
    return row, left


convert_palette_folder = partial(convert_folder, read_masks=read_palette_masks)
