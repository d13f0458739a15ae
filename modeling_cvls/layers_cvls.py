"""What the parts of the segmenter are made of: the base class, attention, its layer, and small functions on tensors."""

import math
import re
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_cvls import CVLSConfig
from .hub_cvls import push_card

#: Parameters of backbones and text encoders that no feature depends on: poolers, the token of masked patches, and the
#: last norm of backbones that give features from before it.
WITHOUT_GRADIENT = re.compile(r"(^|\.)(pooler|mask_token)(\.|$)|^(swin|model|pixio)\.layernorm\.|^bit\.norm\.")


class CVLSPreTrainedModel(PreTrainedModel):
    """What all models of CVLS have in common: configuration, how weights start, what the library may do with them."""

    config_class = CVLSConfig
    base_model_prefix = "model"
    main_input_name = "pixel_values_videos"
    input_modalities = ("video", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_attention_backend = True
    _no_split_modules = ["CVLSLayer"]

    @classmethod
    def from_pretrained(cls, *args, device_map: Any = None, **kwargs) -> "CVLSPreTrainedModel":
        """As inherited, but `device_map="auto"` and its like mean one device, the accelerator where there is one: the
        segmenter is small, and what its parts compute meets in too many places to lie on several."""
        if device_map in ("auto", "balanced", "balanced_low_0", "sequential"):
            device_map = torch.accelerator.current_accelerator() or "cpu"
        return super().from_pretrained(*args, device_map=device_map, **kwargs)

    def push_to_hub(self, repo_id: str, **kwargs) -> str:
        """As inherited, and where the repository has no card yet, the one of the checkpoint that was loaded."""
        repo_id = push_card(self.config._name_or_path, repo_id, kwargs.get("private"), kwargs.get("token"))
        return super().push_to_hub(repo_id, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            # scaled by the fan-in: 0.02 is made for width 768, and stalls the narrow sizes
            init.trunc_normal_(module.weight, std=1 / math.sqrt(module.weight[0].numel()))
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, (nn.LayerNorm, nn.GroupNorm)):
            init.ones_(module.weight)
            init.zeros_(module.bias)


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention written out; the library's interface has faster versions of the same.

    Args:
        query: (N, heads, Q, head_dim).
        key, value: (N, heads, S, head_dim).
        attention_mask: float, added to the logits (N, heads, Q, S), or None.

    Returns:
        The attended values (N, Q, heads, head_dim) and the attention weights (N, heads, Q, S).
    """
    weights = query @ key.transpose(-2, -1) * scaling
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = weights.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    return (weights @ value).transpose(1, 2).contiguous(), weights


class CVLSAttention(nn.Module):
    """Multi-head attention of queries to a memory."""

    is_causal = False

    def __init__(self, config: CVLSConfig):
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self, queries: torch.Tensor, memory: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        Args:
            queries: (N, Q, hidden_size).
            memory: (N, S, hidden_size).
            attention_mask: what the library's `create_bidirectional_mask` makes of the padding in the memory.

        Returns:
            (N, Q, hidden_size), and the attention weights (N, heads, Q, S), or None where the attention implementation
            does not give them.
        """

        def heads(x: torch.Tensor) -> torch.Tensor:
            return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        attended, weights = attend(
            self,
            heads(self.query(queries)),
            heads(self.key(memory)),
            heads(self.value(memory)),
            attention_mask=attention_mask,
            scaling=self.head_dim**-0.5,
            dropout=0.0,
        )
        return self.output(attended.flatten(-2)), weights


class CVLSLayer(GradientCheckpointingLayer):
    """Pre-norm attention to a memory, then a feed-forward network."""

    def __init__(self, config: CVLSConfig):
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden_size)
        self.attention = CVLSAttention(config)
        self.norm2 = nn.LayerNorm(config.hidden_size)
        self.feed_forward = nn.Sequential(
            nn.Linear(config.hidden_size, 2 * config.hidden_size),
            nn.GELU(),
            nn.Linear(2 * config.hidden_size, config.hidden_size),
        )

    def forward(
        self, x: torch.Tensor, memory: torch.Tensor | None = None, attention_mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(N, Q, hidden_size) and a memory (N, S, hidden_size), None for self-attention, -> (N, Q, hidden_size) and the
        attention weights, as `CVLSAttention`."""
        normed = self.norm1(x)
        attended, weights = self.attention(normed, normed if memory is None else memory, attention_mask)
        x = x + attended
        return x + self.feed_forward(self.norm2(x)), weights


def freeze_what_cannot_learn(encoder: nn.Module) -> nn.Module:
    """An encoder, of which the parameters that none of its features depend on are frozen: one without a gradient would
    end a training on several devices."""
    for name, parameter in encoder.named_parameters():
        if WITHOUT_GRADIENT.search(name):
            parameter.requires_grad_(False)
    return encoder


def normalize(x: torch.Tensor, dim: int = -1) -> torch.Tensor:
    """As `torch.nn.functional.normalize`, also in float16, where that function's smallest length of 1e-12 is 0 and a
    zero vector becomes not a number."""
    return F.normalize(x, dim=dim, eps=smallest_length(x.dtype))


def smallest_length(dtype: torch.dtype) -> float:
    """The length below which a vector counts as zero."""
    return max(1e-12, torch.finfo(dtype).tiny)


def resize(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """(N, C, h, w) -> (N, C, *size), bilinear."""
    return maps if maps.shape[-2:] == tuple(size) else F.interpolate(maps, size=tuple(size), mode="bilinear")


def upsample(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """(B, K, T, h, w) -> (B, K, T, *size), bilinear."""
    return F.interpolate(maps.flatten(0, 1), size=tuple(size), mode="bilinear").unflatten(0, maps.shape[:2])


def extend_edges(maps: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
    """Maps (B, ..., h, w), of which each clip fills `sizes` (B, 2) -> its last row and column continued into the
    padding, as interpolation does at the border of a map: so upsampling meets no padding."""
    for dim in (-2, -1):
        indices = torch.arange(maps.shape[dim], device=maps.device).expand(maps.shape[0], -1)
        indices = torch.minimum(indices, sizes[:, dim, None] - 1)
        shape = [maps.shape[0]] + [1] * (maps.ndim - 1)
        shape[dim] = maps.shape[dim]
        maps = maps.gather(dim, indices.view(shape).expand_as(maps))
    return maps


__all__ = ["CVLSPreTrainedModel"]
