"""How the weights of earlier checkpoints become those of today: numbers of no dimension get one, poolers go.

Sharding over processes (FSDP) divides each parameter along its first dimension, so each parameter needs one.
"""

import torch
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import ConversionOps, WeightConverter

#: Parameters of the segmenter that were numbers of no dimension in the checkpoints of version 0.1.
SCALARS = ("mask_bias", "similarity_scale", "choice_sharpness")


def as_of_today(state_dict: dict[str, torch.Tensor], prefix: str, has_pooler: bool) -> None:
    """Changes a state dict, whose names start with `prefix`, in place: gives the `SCALARS` one dimension, and drops the
    text encoder's pooler, which nothing read, where the encoder `has_pooler` no more."""
    for name in SCALARS:
        if prefix + name in state_dict:
            state_dict[prefix + name] = state_dict[prefix + name].reshape(1)
    for name in [name for name in state_dict if name.startswith(f"{prefix}language.encoder.pooler.")]:
        if not has_pooler:
            del state_dict[name]


class WithOneDimension(ConversionOps):
    """One dimension for one weight, as the library's loading asks for it. What is saved keeps its dimension."""

    def convert(self, input_dict: dict, target_patterns: list[str], **kwargs) -> dict[str, torch.Tensor]:
        (tensors,) = input_dict.values()
        tensor = tensors[0] if isinstance(tensors, list) else tensors
        return {target_patterns[0]: tensor.reshape(1)}

    @property
    def reverse_op(self) -> "WithOneDimension":
        return self


def register_conversions(model_class: str) -> None:
    """Tells the library, for `from_pretrained` of the class of this name."""
    conversions = [WeightConverter(f"^{name}", name, operations=[WithOneDimension()]) for name in SCALARS]
    register_checkpoint_conversion_mapping(model_class, conversions, overwrite=True)


__all__ = ["as_of_today", "register_conversions"]
