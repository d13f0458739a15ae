"""The rows that a training reads, and what makes batches of them."""

from functools import partial

from datasets import Dataset, Features, IterableDataset, Value, concatenate_datasets, interleave_datasets

from ..configuration_cvls import CVLSConfig
from ..data import ClipAugmentation, ClipCollator, ClipSampler, FrameSampling, check_dataset, check_rows
from ..data.loading import load_rows
from ..modeling_cvls import CVLSModel
from ..processing_cvls import CVLSProcessor
from ..windows_cvls import window_and_overlap
from .arguments import CVLSTrainingArguments, DataArguments


def load_train_set(data_args: DataArguments, seed: int) -> Dataset | IterableDataset:
    """The training split. Of several data sets with weights, rows are drawn in proportion to these; of several without,
    every row is there once."""
    parts = []
    for name in data_args.datasets:
        part = load_rows(name, "`data.dataset`", data_args.train_split, data_args.streaming)
        check_dataset(part, name)
        if data_args.check and not data_args.streaming:
            check_rows(part, f"{name}[{data_args.train_split}]", allow_urls=data_args.allow_urls)
        part = _repeated(part, data_args.clips_per_video)
        parts.append(part.shuffle(seed=seed, buffer_size=256) if data_args.streaming else part)
    if len(parts) == 1:
        return parts[0]
    if not isinstance(data_args.dataset, dict):
        return concatenate_datasets(parts)
    total = sum(data_args.dataset.values())
    shares = [weight / total for weight in data_args.dataset.values()]
    return interleave_datasets(parts, probabilities=shares, seed=seed, stopping_strategy="all_exhausted")


def _repeated(part: Dataset | IterableDataset, number: int) -> Dataset | IterableDataset:
    """Every video `number` times, each with another number in the column `clip`, by which `ClipSampler` draws another
    clip; every photograph once."""
    if number == 1:
        return part
    if isinstance(part, IterableDataset):
        features = Features({**part.features, "clip": Value("int64")}) if part.features else None
        copies = [part, *([part.filter(_is_video)] * (number - 1))]
        numbered = [copy.map(partial(_with_clip, clip=clip), features=features) for clip, copy in enumerate(copies)]
    else:
        videos = part.select([index for index, frames in enumerate(part["num_frames"]) if frames > 1])
        copies = [part, *([videos] * (number - 1))]
        numbered = [copy.add_column("clip", [clip] * len(copy)) for clip, copy in enumerate(copies)]
    return concatenate_datasets(numbered)


def _is_video(row: dict) -> bool:
    return row["num_frames"] > 1


def _with_clip(row: dict, clip: int) -> dict:
    return {**row, "clip": clip}


def load_eval_set(data_args: DataArguments) -> Dataset | None:
    """The rows to evaluate on while training, of all data sets together; None where no split is named."""
    if not data_args.eval_split:
        return None
    parts = [load_rows(name, "`data.dataset`", data_args.eval_split) for name in data_args.datasets]
    eval_set = concatenate_datasets(parts)
    if data_args.eval_videos:
        eval_set = eval_set.select(range(min(data_args.eval_videos, len(eval_set))))
    return eval_set


def collator_for(
    model: CVLSModel, processor: CVLSProcessor, data_args: DataArguments, training_args: CVLSTrainingArguments
) -> ClipCollator:
    """What makes a training's batches of rows.

    Raises:
        ValueError: `data.windows_per_clip` does not go with `model.config.carry_state`.
    """
    sampler = ClipSampler(
        _clip_length(model.config, data_args.windows_per_clip),
        data_args.sentences_per_clip,
        data_args.flip_probability,
        training_args.seed,
        FrameSampling(data_args.sampling, data_args.frame_stride, data_args.frame_reach),
        ClipAugmentation(
            crop_probability=data_args.crop_probability,
            color_probability=data_args.color_probability,
            reverse_probability=data_args.reverse_probability,
            still_frames=data_args.still_frames,
        ),
        data_args.allow_urls,
    )
    return ClipCollator(processor, sampler, data_args.train_shortest_edges, data_args.train_longest_edge)


def _clip_length(config: CVLSConfig, windows: int | None) -> int:
    """The frames of so many windows, which share frames as those of a long video do."""
    carries = config.carry_state
    windows = (4 if carries else 1) if windows is None else windows
    if carries != (windows > 1):
        raise ValueError(
            f"`data.windows_per_clip` is {windows} and `model.config.carry_state` is {str(carries).lower()}: a clip of "
            "a model that carries a state from window to window has 2 windows or more, any other clip has 1"
        )
    window, overlap = window_and_overlap(config.num_frames)
    return windows * (window - overlap) + overlap if windows > 1 else window
