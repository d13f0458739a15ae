"""Composites as rows of a data set, and the halves of the source's videos as they are."""

import functools
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..conversion import Description, Problem, write_dataset
from ..conversion.files import read_frame_files
from ..conversion.rows import frames_row, sentence_cell
from ..conversion.video_folders import Expression, convert_palette_folder, read_palette_masks
from ..rle_cvls import encode_masks
from ..synthetic.scenes import SPLITS, check_sizes
from ..synthetic.sentences import Sentence
from .catalog import Catalog, SourceFolders, read_catalog
from .compositing import MIN_SOURCE_PIXELS, Composite, render_composite, try_composite
from .language import describe_composite

ATTEMPTS = 300
# Small, as a run that was stopped goes on behind the last one that was finished.
SHARD_BYTES = 20_000_000

CARD = Description(
    title="Composites",
    description=(
        "Objects of real videos and stills, cut out along their masks and placed, scaled, mirrored, tinted and moved, "
        "on the frames of another one, with sentences that tell look-alikes apart. test and heldout show parts of the "
        "source that train and validation never show: the second half of every video, or videos and stills of their "
        "own; heldout shows pairs of noun and color, or of noun and motion, that the others do not. real_train and "
        "real are the source's videos as they are, divided in the same way, with the sentences of the source and one "
        "that only names the object. Written by `cvls compose`."
    ),
    license="other",
    license_note="The frames and masks remain under the terms of the videos and pictures that they were made from.",
    citation="@misc{composites, title = {Composites of real clips with referring sentences}}",
)


def make_composite(
    catalog: Catalog,
    split: str,
    index: int,
    seed: int = 0,
    height: int = 96,
    width: int = 160,
    num_frames: int = 8,
    max_sentences: int = 6,
) -> tuple[Composite, list[Sentence]]:
    """The composite number `index` of a split and its sentences, the same for the same arguments.

    Raises:
        ValueError: naming the video or file of the source that cannot be read, or an object without a name; or the
            source does not allow for a composite.
    """
    rng = np.random.default_rng((seed, SPLITS[split], index))
    for _ in range(ATTEMPTS):
        composite = try_composite(catalog, rng, split, height, width, num_frames)
        if composite is not None:
            sentences = describe_composite(composite, catalog, rng, max_sentences, held_out=split == "heldout")
            if sentences:
                return composite, sentences
    raise ValueError(
        f"no composite could be made in {ATTEMPTS} attempts (split {split}, number {index}): the source needs objects "
        f"of at least {MIN_SOURCE_PIXELS} pixels in what the split may show, and for each object another video whose "
        "own objects have other names, or such a still"
    )


def _encode_jpeg(frame: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=92, subsampling=0)
    return buffer.getvalue()


def _composite_row(
    catalog: Catalog, split: str, index: int, seed: int, height: int, width: int, num_frames: int
) -> dict[str, Any]:
    composite, sentences = make_composite(catalog, split, index, seed, height, width, num_frames)
    frames, masks = render_composite(composite)
    video_id = f"{split}_{index:06d}"
    return frames_row(
        video_id,
        [{"bytes": _encode_jpeg(frame), "path": f"{t:05d}.jpg"} for t, frame in enumerate(frames)],
        height,
        width,
        annotated_frames=list(range(num_frames)),
        instance_ids=[
            *(f"{m}:{obj.source}/{obj.object_id}" for m, obj in enumerate(composite.objects)),
            *(f"background:{composite.source}/{name}" for name in composite.background_ids),
        ],
        masks=[encode_masks(of_frame) for of_frame in masks],
        sentences=[
            sentence_cell(video_id, number, sentence.text, sentence.instances, sentence.kind)
            for number, sentence in enumerate(sentences)
        ],
    )


def _real_row(catalog: Catalog, video_id: str, split: str) -> tuple[dict[str, Any] | None, list[Problem]]:
    """What a split may show of a source video, as it is: its sentences (kind "expression") and "the <noun>" (kind
    "noun") of each object whose name is that of nothing else in the video."""
    video, source = catalog.videos[video_id], catalog.sources[video_id]
    start, end = source.part(split, catalog.divide)
    names = tuple(path.stem for path in source.frames[start:end])
    if not names:
        return None, []
    _, height, width = read_frame_files(source.frames[start : start + 1])
    shown, _, _ = read_palette_masks(video, names, height, width)
    nouns = catalog.nouns[video_id]
    expressions = [expression for expression in video.expressions if shown.issuperset(expression.referents)]
    for name in sorted(shown & nouns.keys()):
        others = {word for other, words in nouns.items() if other != name for word in words}
        others.update(catalog.around[video_id])
        if nouns[name][0] not in others:
            expressions.append(Expression(f"noun-{name}", f"the {nouns[name][0]}", (name,)))
    if not expressions:
        return None, []
    row, left = convert_palette_folder(replace(video, names=names, expressions=tuple(expressions)))
    for sentence in row["sentences"] if row else ():
        sentence["kind"] = "noun" if "/noun-" in sentence["sentence_id"] else "expression"
    return row, left


def _convert(
    item: tuple[str, int | str], folders: SourceFolders, seed: int, height: int, width: int, num_frames: int
) -> dict[str, Any] | tuple[dict[str, Any] | None, list[Problem]]:
    split, which = item
    catalog = read_catalog(folders)
    if isinstance(which, str):
        return _real_row(catalog, which, "test" if split == "real" else "train")
    return _composite_row(catalog, split, which, seed, height, width, num_frames)


def write_composites(
    folders: SourceFolders,
    output: str | Path,
    splits: dict[str, int],
    seed: int = 0,
    height: int = 96,
    width: int = 160,
    num_frames: int = 8,
    num_proc: int = 1,
) -> None:
    """Writes composites, and the source's videos as they are, as a folder that `load_dataset` loads.

    A run that was stopped is started again with the same arguments and goes on where it was.

    Args:
        folders: what they are made from. Where only some frames are annotated, these are the frames of a video.
        output: the folder to write, must not exist.
        splits: split ("train", "validation", "test", "heldout") -> how many composites; besides, real_train and real
            are always written.
        seed: the same seed gives the same bytes.
        height, width: pixels of the composites; the real videos keep theirs.
        num_frames: frames of a composite, at least 2.
        num_proc: processes.

    Raises:
        FileExistsError: `output` exists.
        FileNotFoundError, ValueError: naming what is wrong in the source, the names or the arguments.
    """
    unknown = [split for split in splits if split not in SPLITS]
    if unknown:
        raise ValueError(f"unknown split {unknown[0]!r}, splits are {', '.join(SPLITS)}")
    negative = [split for split, count in splits.items() if count < 0]
    if negative:
        raise ValueError(f"split {negative[0]!r} must have 0 or more clips, got {splits[negative[0]]}")
    check_sizes(height, width, num_frames)
    if num_proc < 1:
        raise ValueError(f"num_proc must be at least 1, got {num_proc}")
    items: dict[str, list] = {split: [(split, index) for index in range(count)] for split, count in splits.items()}
    for split in ("real_train", "real"):
        items[split] = [(split, video) for video in read_catalog(folders).videos]
    convert = functools.partial(_convert, folders=folders, seed=seed, height=height, width=width, num_frames=num_frames)
    write_dataset(Path(output), items, convert, CARD, num_proc=num_proc, shard_bytes=SHARD_BYTES)
