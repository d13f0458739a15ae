"""A tiny segmenter and its processor, made from nothing; shared by the tests."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from modeling_cvls import CVLSConfig, CVLSModel, CVLSProcessor, CVLSVideoProcessor

WORDS = "the a small large red blue green circle square moving left right up down on".split()


def tiny_config(**changes) -> CVLSConfig:
    fields = {
        "backbone_config": {
            "model_type": "resnet",
            "layer_type": "basic",
            "embedding_size": 8,
            "hidden_sizes": [8, 16, 16],
            "depths": [1, 1, 1],
            "out_features": ["stage1", "stage2", "stage3"],
        },
        "text_config": {
            "model_type": "bert",
            "vocab_size": len(WORDS) + 2,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "max_position_embeddings": 16,
        },
        "hidden_size": 16,
        "pixel_size": 16,
        "contrast_size": 12,
        "token_stride": 8,
        "num_temporal_layers": 1,
        "num_fusion_layers": 2,
        "num_attention_heads": 2,
        "num_frames": 4,
    }
    return CVLSConfig(**{**fields, **changes})


def tiny_sections(dataset: Path, **training) -> dict:
    """The sections of a configuration file for scripts/train.py: six steps of the tiny model."""
    model = tiny_config()
    fields = ("hidden_size", "pixel_size", "contrast_size", "token_stride", "num_temporal_layers", "num_fusion_layers")
    config = {name: getattr(model, name) for name in (*fields, "num_attention_heads", "num_frames")}
    for part, names in {
        "backbone_config": ("layer_type", "embedding_size", "hidden_sizes", "depths", "out_features"),
        "text_config": ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    }.items():
        own = getattr(model, part)
        config[part] = {"model_type": own.model_type, **{name: getattr(own, name) for name in names}}
    return {
        "model": {"config": config},
        "data": {"dataset": str(dataset), "shortest_edge": 64, "longest_edge": 64, "sentences_per_clip": 3},
        "training": {
            "max_steps": 6,
            "per_device_train_batch_size": 2,
            "learning_rate": 0.003,
            "logging_steps": 1,
            "eval_strategy": "steps",
            "eval_steps": 3,
            "save_steps": 3,
            "save_total_limit": 2,
            "load_best_model_at_end": True,
            "metric_for_best_model": "eval_mean_iou",
            "greater_is_better": True,
            "report_to": "tensorboard",
            "use_cpu": True,
            "disable_tqdm": True,
            **training,
        },
    }


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {word: index for index, word in enumerate(["[PAD]", "[UNK]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=16
    )


@pytest.fixture
def make_model():
    """A function: fields of the configuration -> a tiny model in evaluation mode, always with the same weights."""

    def make(**changes) -> CVLSModel:
        torch.manual_seed(0)
        return CVLSModel(tiny_config(**changes)).eval()

    return make


@pytest.fixture
def processor() -> CVLSProcessor:
    return CVLSProcessor(CVLSVideoProcessor(size={"shortest_edge": 64, "longest_edge": 64}), tiny_tokenizer())
