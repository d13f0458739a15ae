"""Train a segmenter: `accelerate launch scripts/train.py configs/demo.yaml [--section.key value ...]`.

The YAML file has three sections: `model` (what to build, see `ModelArguments`), `data` (see `DataArguments`) and
`training` (transformers' `TrainingArguments`). A flag such as `--training.max_steps 100` or
`--model.config.contrast_weight 0` overrides the file; its value is read as YAML.
"""

import re
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml
from datasets import concatenate_datasets, interleave_datasets, load_dataset
from huggingface_hub.errors import StrictDataclassError
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoProcessor,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint

from modeling_cvls import CVLSConfig, CVLSModel, CVLSProcessor, CVLSVideoProcessor
from modeling_cvls.data import ClipCollator, ClipSampler, check_dataset
from modeling_cvls.launch import start_cpu_processes
from modeling_cvls.training import CVLSTrainer


class Loader(yaml.SafeLoader):
    """YAML with the scalars of version 1.2, where `no` is a word and 2e-3 a number; PyYAML's own are those of 1.1."""


BOOL, FLOAT = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:float"
Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in (BOOL, FLOAT)]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver(BOOL, re.compile("^(true|false)$", re.IGNORECASE), list("tTfF"))
Loader.add_implicit_resolver(
    FLOAT, re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$", re.IGNORECASE), list("-+.0123456789")
)


@dataclass
class ModelArguments:
    """`checkpoint` (a trained segmenter), or `vision` and `text` (pretrained parts), or `config` alone."""

    checkpoint: str | None = field(default=None, metadata={"help": "folder or Hub name of a CVLS checkpoint"})
    vision: str | None = field(default=None, metadata={"help": "folder or Hub name of a vision backbone"})
    text: str | None = field(default=None, metadata={"help": "folder or Hub name of a text encoder"})
    config: dict[str, Any] = field(default_factory=dict, metadata={"help": "fields of CVLSConfig"})


@dataclass
class DataArguments:
    dataset: str | dict[str, float] | None = field(
        default=None,
        metadata={"help": "folder or Hub name that load_dataset loads; or several, each with its weight: {a: 3, b: 1}"},
    )
    train_split: str = "train"
    eval_split: str | None = "validation"
    eval_videos: int | None = field(default=None, metadata={"help": "evaluate on the first so many videos in training"})
    shortest_edge: int = field(default=320, metadata={"help": "frames are scaled to this short side, in pixels ..."})
    longest_edge: int = field(default=576, metadata={"help": "... and to at most this long side"})
    streaming: bool = field(default=False, metadata={"help": "read the rows as they come, without preparing them"})
    sentences_per_clip: int | None = field(default=None, metadata={"help": "a random choice of so many, default all"})
    flip_probability: float = 0.5


def read_arguments(arguments: list[str]) -> tuple[ModelArguments, DataArguments, TrainingArguments]:
    """The YAML file's sections with the flags laid over them; a key that does not exist is an error that names it."""
    if not arguments or arguments[0].startswith("-"):
        raise ValueError("the first argument must be a YAML file, as in: train.py configs/demo.yaml")
    config = yaml.load(Path(arguments[0]).read_text(), Loader) or {}
    flags = arguments[1:]
    if len(flags) % 2:
        raise ValueError(f"flags come in pairs, `--section.key value`: {flags[-1]!r} has no value")
    for flag, value in zip(flags[::2], flags[1::2], strict=True):
        if not flag.startswith("--") or "." not in flag:
            raise ValueError(f"{flag!r} is no flag of the form --section.key, such as --training.max_steps")
        *path, key = flag[2:].split(".")
        section = config
        for name in path:
            section = section.setdefault(name, {})
        section[key] = yaml.load(value, Loader)

    sections = {"model": ModelArguments, "data": DataArguments, "training": TrainingArguments}
    _check_keys(config, list(sections), "sections")
    for name, section in sections.items():
        _check_keys(config.get(name, {}), [f.name for f in fields(section) if f.init], f"keys of `{name}`")
    model_fields = [f.name for f in fields(CVLSConfig) if f.init]
    _check_keys(config.get("model", {}).get("config", {}), model_fields, "keys of `model.config`")
    return tuple(section(**config.get(name, {})) for name, section in sections.items())


def _check_keys(section: dict[str, Any], known: list[str], what: str) -> None:
    unknown = sorted(set(section) - set(known))
    if unknown:
        raise ValueError(f"unknown {what}: {', '.join(unknown)}. There are: {', '.join(known)}")


def word_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A tokenizer whose vocabulary is the words of `texts`, for a text encoder that is trained from nothing."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(
        texts, trainers.WordLevelTrainer(special_tokens=["[PAD]", "[UNK]"], show_progress=False)
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")


def build(model_args: ModelArguments, data_args: DataArguments, train_set) -> tuple[CVLSModel, CVLSProcessor]:
    """The model and the processor that the arguments describe."""
    if model_args.checkpoint:
        return (
            CVLSModel.from_pretrained(model_args.checkpoint, **model_args.config),
            AutoProcessor.from_pretrained(model_args.checkpoint),
        )
    if bool(model_args.vision) != bool(model_args.text):
        raise ValueError("`model.vision` and `model.text` go together: give both, or neither and `model.config`")
    if model_args.vision:
        model = CVLSModel.from_vision_text_pretrained(model_args.vision, model_args.text, **model_args.config)
        tokenizer = AutoTokenizer.from_pretrained(model_args.text)
    else:
        tokenizer = word_tokenizer(
            [s["text"] for row in train_set.select_columns("sentences") for s in row["sentences"]]
        )
        config = CVLSConfig(**model_args.config)
        config.text_config.vocab_size = len(tokenizer)
        config.text_config.pad_token_id = tokenizer.pad_token_id
        tokenizer.model_max_length = config.text_config.max_position_embeddings
        model = CVLSModel(config)
    size = {"shortest_edge": data_args.shortest_edge, "longest_edge": data_args.longest_edge}
    return model, CVLSProcessor(CVLSVideoProcessor(size=size), tokenizer)


def weights_of(data_args: DataArguments) -> dict[str, float]:
    """The names of the data sets, each with its weight."""
    if not data_args.dataset:
        raise ValueError("`data.dataset` is missing: the folder or Hub name of a data set of video sentences")
    weights = data_args.dataset if isinstance(data_args.dataset, dict) else {data_args.dataset: 1.0}
    if min(weights.values()) <= 0:
        raise ValueError(f"the weights in `data.dataset` must be above 0, got {weights}")
    return weights


def load_train_set(data_args: DataArguments, seed: int):
    """The training split; of several data sets, rows are drawn from each in proportion to its weight."""
    weights = weights_of(data_args)
    parts = []
    for name in weights:
        part = load_dataset(name, split=data_args.train_split, streaming=data_args.streaming)
        check_dataset(part, name)
        parts.append(part.shuffle(seed=seed, buffer_size=256) if data_args.streaming else part)
    if len(parts) == 1:
        return parts[0]
    shares = [weight / sum(weights.values()) for weight in weights.values()]
    return interleave_datasets(parts, probabilities=shares, seed=seed, stopping_strategy="all_exhausted")


def collator_for(
    model: CVLSModel, processor: CVLSProcessor, data_args: DataArguments, training_args: TrainingArguments
) -> ClipCollator:
    """What makes a training's batches of rows."""
    return ClipCollator(
        processor,
        ClipSampler(
            model.config.num_frames, data_args.sentences_per_clip, data_args.flip_probability, training_args.seed
        ),
    )


def main(arguments: list[str]) -> None:
    model_args, data_args, training_args = read_arguments(arguments)
    set_seed(training_args.seed)
    train_set = load_train_set(data_args, training_args.seed)
    eval_set = None
    if data_args.eval_split and training_args.eval_strategy != "no":
        names = weights_of(data_args)
        eval_set = concatenate_datasets([load_dataset(name, split=data_args.eval_split) for name in names])
        if data_args.eval_videos:
            eval_set = eval_set.select(range(min(data_args.eval_videos, len(eval_set))))

    model, processor = build(model_args, data_args, train_set)
    training_args.remove_unused_columns = False  # the collator reads the rows' own columns
    trainer = CVLSTrainer(
        model=model,
        args=training_args,
        train_dataset=train_set,
        eval_dataset=eval_set,
        data_collator=collator_for(model, processor, data_args, training_args),
        processing_class=processor,
    )
    resume = training_args.resume_from_checkpoint
    if resume is True:
        resume = get_last_checkpoint(training_args.output_dir)
    trainer.train(resume_from_checkpoint=resume)
    trainer.save_model()
    trainer.save_state()


if __name__ == "__main__":
    start_cpu_processes()
    try:
        main(sys.argv[1:])
    except (ValueError, StrictDataclassError) as error:
        sys.exit(f"train.py: {error}")
