"""The pretrained parts of a new segmenter: a vision backbone and a text encoder, by their names."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import transformers
from torch import nn
from transformers import AutoBackbone, AutoConfig, AutoModel, PreTrainedConfig
from transformers.utils import logging

from .fusion_cvls import without_pooler
from .layers_cvls import freeze_what_cannot_learn

#: Some that can serve, for those who named one that cannot.
BACKBONES = "ResNet, ConvNeXt, ConvNeXt V2, Swin, Swin V2, Hiera, PVT v2, DINOv2 and DINOv3"
TEXT_ENCODERS = "BERT, RoBERTa, MiniLM, MPNet, DeBERTa, and the text towers of CLIP, SigLIP and SigLIP 2"


def load_backbone(name: str, features: list[str] | None = None) -> nn.Module:
    """A pretrained vision backbone.

    Args:
        name, features: as for `backbone_config`.

    Raises:
        ValueError: as `backbone_config`, or the checkpoint lacks the backbone's weights.
    """
    config = backbone_config(name, features)
    return freeze_what_cannot_learn(_load(_backbone_class(config), name, config))


def _backbone_class(config: PreTrainedConfig) -> type[nn.Module]:
    with torch.device("meta"):  # `AutoBackbone.from_pretrained` takes a folder for a name on the Hub
        return type(AutoBackbone.from_config(config))


def backbone_config(name: str, features: list[str] | None = None) -> PreTrainedConfig:
    """The configuration of a pretrained vision backbone, without its weights.

    Args:
        name: name on the Hub or folder of a model that `AutoBackbone` loads, of any task.
        features: the stages to use, finest first. Default: all stages of a pyramid (ResNet, ConvNeXt, Swin, Hiera), and
            four evenly spaced layers of a plain transformer.

    Raises:
        ValueError: the model is no backbone, or it does not have such stages.
    """
    config = AutoConfig.from_pretrained(name)
    stages = [stage for stage in getattr(config, "stage_names", None) or [] if stage != "stem"]
    try:
        _backbone_class(config)
    except ValueError:
        stages = []
    if not stages:
        raise ValueError(
            f"{name} holds a {config.model_type}, which is no backbone that gives several feature maps; some that do "
            f"are {BACKBONES}"
        )
    if features is None:
        features = stages if len(stages) <= 5 else [stages[len(stages) * i // 4 - 1] for i in range(1, 5)]
    unknown = sorted(set(features) - set(stages))
    if unknown:
        raise ValueError(f"{name} has no stages {', '.join(unknown)}; it has {', '.join(stages)}")
    config.out_features = features
    return config


def load_text_encoder(name: str) -> nn.Module:
    """A pretrained text encoder.

    Args:
        name: as for `text_config`.

    Raises:
        ValueError: as `text_config`, or the checkpoint lacks the encoder's weights.
    """
    config = text_config(name)
    register_text_tower(config)
    return freeze_what_cannot_learn(_load(AutoModel, name, config, **without_pooler(config)))


def text_config(name: str) -> PreTrainedConfig:
    """The configuration of a pretrained text encoder, without its weights.

    Args:
        name: name on the Hub or folder of a model that `AutoModel` loads, of any task. Of a model of images and text,
            such as CLIP, its text tower.

    Raises:
        ValueError: the model does not encode a sentence as a vector for each word.
    """
    config = AutoConfig.from_pretrained(name)
    # a tower in a model of two; some text models keep settings of their own under the same name
    tower = getattr(config, "text_config", None)
    if isinstance(tower, PreTrainedConfig) and getattr(config, "vision_config", None) is not None:
        config = tower
    if config.is_encoder_decoder or not isinstance(getattr(config, "hidden_size", None), int):
        raise ValueError(
            f"{name} holds a {config.model_type}, which is no text encoder; some that can serve are {TEXT_ENCODERS}"
        )
    return config


def register_text_tower(config: PreTrainedConfig) -> None:
    """Lets `AutoModel` know the text towers of SigLIP, as it knows CLIP's."""
    towers = {"siglip_text_model": "SiglipTextModel", "siglip2_text_model": "Siglip2TextModel"}
    if config.model_type in towers:
        AutoModel.register(type(config), getattr(transformers, towers[config.model_type]), exist_ok=True)


def _load(model_class, name: str, config: PreTrainedConfig, **kwargs) -> nn.Module:
    """Loads a part. The weights of the rest of a checkpoint, such as a classifier, are left out without a word, and the
    norms of a backbone's feature maps, which no checkpoint has, are new.

    Raises:
        ValueError: other weights are missing.
    """
    with _without_load_report():
        model, info = model_class.from_pretrained(name, config=config, output_loading_info=True, **kwargs)
    new = [key for key in sorted(info["missing_keys"]) if "hidden_states_norms" not in key]
    if new:
        raise ValueError(
            f"{name} lacks {len(new)} of the weights of its {config.model_type}, such as {new[0]}; a checkpoint that "
            "holds the whole model was expected"
        )
    return model


@contextmanager
def _without_load_report() -> Iterator[None]:
    # the library lists weights that are left out or new as if they were faults
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


__all__ = ["backbone_config", "load_backbone", "load_text_encoder", "register_text_tower", "text_config"]
