"""Adapters (LoRA): small matrices that learn beside the weights of a checkpoint, which stay, through PEFT.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685.
"""

import re
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from ..modeling_cvls import CVLSModel
from .arguments import CVLSTrainingArguments

if TYPE_CHECKING:
    from peft import PeftModel

#: The folder of a checkpoint that holds the adapter in PEFT's own format, and its weights.
ADAPTER, ADAPTER_WEIGHTS = "adapter", "adapter/adapter_model.safetensors"

#: The small heads, which are trained whole; a model has those that its configuration switches on.
HEADS = (
    "contrast", "alignment", "pixel_query", "token_query", "frame_query", "clip_query", "presence_query", "presence",
)  # fmt: skip


def target_modules(model: CVLSModel, args: CVLSTrainingArguments) -> list[str]:
    """The names of the layers that get an adapter: those that `args.lora_target_modules` matches, or all linear ones of
    temporal attention, of the fusion and, unless it is frozen, of the text encoder, whatever the encoder calls them.

    Raises:
        ValueError: no name matches.
    """
    if args.lora_target_modules is None:
        own = ("vision.layers.", "fusion.")
        parts = own if args.freeze_text_encoder else ("language.encoder.", *own)
        return [
            name for name, module in model.named_modules() if isinstance(module, nn.Linear) and name.startswith(parts)
        ]
    found = [name for name, _ in model.named_modules() if re.fullmatch(args.lora_target_modules, name)]
    if not found:
        raise ValueError(
            f"`training.lora_target_modules` ({args.lora_target_modules!r}) matches the whole name of no layer; names "
            "are such as 'fusion.0.tokens_to_words.attention.query'"
        )
    return found


def add_adapter(model: CVLSModel, args: CVLSTrainingArguments) -> "PeftModel":
    """Puts an adapter into a model, in place, and freezes all weights but the adapter's and the heads'.

    Returns:
        PEFT's view of the model, which saves, loads and merges the adapter.

    Raises:
        ValueError: `args.lora_target_modules` matches no layer, or one that can have no adapter.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=args.lora_rank,
        lora_alpha=2 * args.lora_rank if args.lora_alpha is None else args.lora_alpha,
        target_modules=target_modules(model, args),
        modules_to_save=[name for name in HEADS if hasattr(model, name)],
    )
    return get_peft_model(model, config)


def load_adapter(adapter: "PeftModel", checkpoint: str) -> None:
    """Takes the weights of the adapter and of the heads from a checkpoint of the same training.

    Raises:
        ValueError: the adapter in it has another rank, or belongs to other layers.
    """
    from peft import get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict

    saved = load_peft_weights(str(Path(checkpoint) / ADAPTER), device="cpu")
    own = get_peft_model_state_dict(adapter)
    if {name: value.shape for name, value in saved.items()} != {name: value.shape for name, value in own.items()}:
        raise ValueError(
            f"the adapter in {checkpoint} has other matrices than this training: `training.lora_rank`, "
            "`training.lora_target_modules`, `training.freeze_text_encoder` and `model` must be as they were"
        )
    set_peft_model_state_dict(adapter, saved)


def merged(adapter: "PeftModel") -> CVLSModel:
    """A copy of the model with the adapter added to its weights, which has none any more."""
    return deepcopy(adapter).merge_and_unload()
