"""Checks every row of a data set before it costs hours: all that reading it later would run into."""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import datasets
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets import Dataset

from ..frame_reader_cvls import FrameReader
from ..rle_cvls import count_pixels
from .reading import inspect_image, read_referents, video_of
from .schema import check_dataset

# Changes with what is checked: data sets that were checked by another version are checked again.
VERSION = 2
MOST_SHOWN = 20
FAULTS = datasets.Features({"video": datasets.Value("string"), "faults": datasets.List(datasets.Value("string"))})


def row_faults(
    row: Mapping[str, Any], for_training: bool = False, tokenizer: Callable | None = None, allow_urls: bool = False
) -> Iterator[str]:
    """Everything that is wrong with a row, each in one sentence.

    Args:
        row: a row with the columns of `FEATURES`.
        for_training: a row without sentences or annotated frames, of which no clip can be drawn, is wrong.
        tokenizer: to tell sentences that are too long for the model; None: their length is not checked.
        allow_urls: a video may be at a URL; it is not fetched to check it.
    """
    try:
        size = _frame_count_and_size(row, allow_urls)
    except (ValueError, TypeError, OSError) as error:
        yield str(error).removeprefix(f"video {row['video_id']!r}: ")
        size = None
    stated = row["num_frames"], row["height"], row["width"]
    if size is not None and size != stated:
        found, said = ("{} frames of {} x {} pixels (height x width)".format(*one) for one in (size, stated))
        yield f"it has {found}, but the row says {said}"
    for name in ("annotated_frames", "evaluation_frames"):
        numbers = row[name] or []
        outside = [number for number in numbers if not 0 <= number < row["num_frames"]]
        if outside:
            yield f"{name} holds {outside[0]}, but the frames are 0 to {row['num_frames'] - 1}"
        if list(numbers) != sorted(set(numbers)):
            yield f"{name} must ascend and hold each number once"
    for number in row["evaluation_frames"] or []:
        if number not in row["annotated_frames"]:
            yield f"frame {number} is to be evaluated, but is not one of the annotated_frames"
    yield from _mask_faults(row)
    yield from _sentence_faults(row, tokenizer)
    if for_training and not row["annotated_frames"]:
        yield "no frame is annotated; leave such videos out of a training set"
    if for_training and not row["sentences"]:
        yield "there is no sentence; leave such videos out of a training set"


def _frame_count_and_size(row: Mapping[str, Any], allow_urls: bool) -> tuple[int, int, int] | None:
    """Frames, height and width of the row's video; every image is inspected, an encoded video is indexed."""
    video = video_of(row, allow_urls)
    if any(isinstance(part, str) and "://" in part for part in (video if isinstance(video, list) else [video])):
        return None
    if not isinstance(video, list):
        reader = FrameReader(video)
        return len(reader), reader.height, reader.width
    sizes = set()
    for number, frame in enumerate(video):
        try:
            sizes.add(inspect_image(frame))
        except Exception as error:  # Pillow raises what it runs into: OSError, SyntaxError, struct.error ...
            raise ValueError(f"frame {number} cannot be decoded: {str(error)[:100]}") from error
    if len(sizes) != 1:
        raise ValueError(f"its frames have {len(sizes)} sizes (height x width): {sorted(sizes)[:3]}, expected one")
    return len(video), *sizes.pop()


def _mask_faults(row: Mapping[str, Any]) -> Iterator[str]:
    frames, ids, pixels = row["annotated_frames"], row["instance_ids"], row["height"] * row["width"]
    if len(set(ids)) < len(ids):
        yield "instance_ids holds an id twice"
    if len(row["masks"]) != len(frames):
        yield f"masks of {len(row['masks'])} frames, but {len(frames)} annotated frames"
    for frame, masks in zip(frames, row["masks"], strict=False):
        if len(masks) != len(ids):
            yield f"frame {frame} has {len(masks)} masks, but there are {len(ids)} instance_ids"
        for name, counts in zip(ids, masks, strict=False):
            if counts is None:
                continue
            try:
                found = count_pixels(counts)
            except ValueError as error:
                yield f"frame {frame}, instance {name!r}: {error}"
                continue
            if found != pixels:
                yield f"frame {frame}, instance {name!r}: the mask has {found} pixels, the frame {pixels}"


def _sentence_faults(row: Mapping[str, Any], tokenizer: Callable | None) -> Iterator[str]:
    ids = [sentence["sentence_id"] for sentence in row["sentences"]]
    if len(set(ids)) < len(ids):
        yield "a sentence_id stands there twice"
    for sentence in row["sentences"]:
        name = f"sentence {sentence['sentence_id']!r}"
        if not (sentence["text"] or "").strip():
            yield f"{name} is empty"
        elif tokenizer is not None:
            length, most = len(tokenizer(sentence["text"])["input_ids"]), tokenizer.model_max_length
            if length > most:
                yield f"{name} has {length} tokens, the model takes {most}"
        try:
            read_referents(row, [sentence])
        except ValueError as error:
            yield str(error).removeprefix(f"video {row['video_id']!r}, ")


def _faults_of(row: Mapping[str, Any], **options: Any) -> dict[str, Any]:
    return {"video": row["video_id"], "faults": list(row_faults(row, **options))}


def _cache_file(dataset: Dataset, for_training: bool, tokenizer: Callable | None) -> Path:
    length = getattr(tokenizer, "model_max_length", None)
    name = f"{dataset._fingerprint}-{VERSION}-{int(for_training)}-{length}.json"
    return Path(datasets.config.HF_DATASETS_CACHE) / "cvls_checks" / name


def find_faults(
    dataset: Dataset,
    name: str,
    for_training: bool = False,
    tokenizer: Callable | None = None,
    num_proc: int | None = None,
    again: bool = False,
    allow_urls: bool = False,
) -> list[tuple[str, str]]:
    """All faults of all rows: (video_id, fault). A data set without faults is noted, and not checked again.

    Args:
        dataset: one split.
        name: how the bar and messages call it.
        for_training, tokenizer, allow_urls: as for `row_faults`.
        num_proc: processes; default: one per core.
        again: check also what was checked.

    Raises:
        ValueError: columns are missing.
    """
    check_dataset(dataset, name)
    noted = _cache_file(dataset, for_training, tokenizer)
    if noted.exists() and not again:
        print(f"{name}: checked before, {len(dataset):,} videos are right")
        return []
    processes = max(1, min(num_proc or os.cpu_count() or 1, len(dataset) // 4))
    found = dataset.map(
        partial(_faults_of, for_training=for_training, tokenizer=tokenizer, allow_urls=allow_urls),
        remove_columns=dataset.column_names,
        features=FAULTS,
        num_proc=processes if processes > 1 else None,
        load_from_cache_file=False,
        desc=f"checking {name}",
    )
    faults = [(row["video"], fault) for row in found for fault in row["faults"]]
    rows_of = Counter(dataset["video_id"])
    faults += [(name, f"{number} rows have this video_id") for name, number in rows_of.items() if number > 1]
    if not faults:
        noted.parent.mkdir(parents=True, exist_ok=True)
        noted.write_text(json.dumps({"data set": name, "videos": len(dataset)}), encoding="utf-8")
        print(f"{name}: {len(dataset):,} videos are right")
    return faults


def check_rows(
    dataset: Dataset, name: str, for_training: bool = True, tokenizer: Callable | None = None, allow_urls: bool = False
) -> None:
    """Checks every row in the first process, while the others wait; the first faults are printed.

    Args:
        dataset, name, for_training, tokenizer, allow_urls: as for `find_faults`.

    Raises:
        ValueError: in all processes, where anything is wrong with a row.
    """
    state = PartialState()
    faults: list[list[tuple[str, str]]] = [[]]
    if state.is_main_process:
        faults = [find_faults(dataset, name, for_training, tokenizer, allow_urls=allow_urls)]
    broadcast_object_list(faults)
    if not faults[0]:
        return
    if state.is_main_process:
        for video, fault in faults[0][:MOST_SHOWN]:
            print(f"video {video!r}: {fault}")
    video, fault = faults[0][0]
    raise ValueError(
        f"{name}: {len(faults[0])} faults in its rows, such as video {video!r}: {fault}; `cvls check` lists them all"
    )
