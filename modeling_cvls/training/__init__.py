"""Training a segmenter: its arguments, the model and the data that they describe, and the Trainer."""

from ..extras import require

require("train", "datasets", "evaluate")

from .arguments import CVLSTrainingArguments, DataArguments, ModelArguments  # noqa: E402
from .building import build, word_tokenizer  # noqa: E402
from .datasets import collator_for, load_eval_set, load_train_set  # noqa: E402
from .parsing import parse_training, training_options, training_parser  # noqa: E402
from .run import train  # noqa: E402
from .trainer import CVLSTrainer  # noqa: E402

__all__ = [
    "CVLSTrainer",
    "CVLSTrainingArguments",
    "DataArguments",
    "ModelArguments",
    "build",
    "collator_for",
    "load_eval_set",
    "load_train_set",
    "parse_training",
    "train",
    "training_options",
    "training_parser",
    "word_tokenizer",
]
