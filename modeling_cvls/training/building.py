"""The model and the processor that a training starts from."""

from collections.abc import Mapping

from datasets import Dataset, IterableDataset
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from tqdm.auto import tqdm
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from ..configuration_cvls import CVLSConfig
from ..launch import load_model, load_processor
from ..modeling_cvls import CVLSModel
from ..processing_cvls import CVLSProcessor
from ..video_processing_cvls import CVLSVideoProcessor
from .arguments import DataArguments, ModelArguments


def word_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A tokenizer whose vocabulary is the words of `texts`, for a text encoder that is trained from nothing."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(
        texts, trainers.WordLevelTrainer(special_tokens=["[PAD]", "[UNK]"], show_progress=False)
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")


def frame_size(data_args: DataArguments, own: Mapping[str, int] = CVLSVideoProcessor.size) -> dict[str, int]:
    """The size that frames are scaled to, as `CVLSVideoProcessor` takes it: what `data_args` says, or else `own`."""
    given = {"shortest_edge": data_args.shortest_edge, "longest_edge": data_args.longest_edge}
    return {name: own[name] if value is None else value for name, value in given.items()}


def build(
    model_args: ModelArguments, data_args: DataArguments, train_set: Dataset | IterableDataset
) -> tuple[CVLSModel, CVLSProcessor]:
    """The model and the processor that the arguments describe.

    Args:
        train_set: rows of video sentences; their words are the vocabulary where no pretrained tokenizer is given.
    """
    if model_args.checkpoint:
        model = load_model(model_args.checkpoint, "model.checkpoint", **model_args.config)
        processor = load_processor(model_args.checkpoint, "model.checkpoint", model)
        own = processor.video_processor.size
        processor.video_processor.size = type(own)(**frame_size(data_args, own))
    else:
        if model_args.vision and model_args.text:
            model = CVLSModel.from_vision_text_pretrained(model_args.vision, model_args.text, **model_args.config)
            tokenizer = AutoTokenizer.from_pretrained(model_args.text)
        else:
            tokenizer = word_tokenizer(
                [sentence["text"] for row in train_set.select_columns("sentences") for sentence in row["sentences"]]
            )
            config = CVLSConfig(**model_args.config)
            config.text_config.vocab_size = len(tokenizer)
            config.text_config.pad_token_id = tokenizer.pad_token_id
            model = CVLSModel(config)
        processor = CVLSProcessor(CVLSVideoProcessor(size=frame_size(data_args)), tokenizer)
    processor.limit_sentences(model.config)
    return model, processor


def check_sentences(rows: Dataset, processor: CVLSProcessor) -> None:
    """Checks that no sentence of a data set is longer than the processor takes, before a training meets it.

    Raises:
        ValueError: naming the first such sentence and its video.
    """
    for row in tqdm(rows.select_columns(["video_id", "sentences"]), desc="checking sentences", delay=5):
        try:
            processor(text=[sentence["text"] for sentence in row["sentences"]])
        except ValueError as error:
            raise ValueError(f"video {row['video_id']!r}: {error}") from error
