"""The contrastive side: embeddings, the channel filter, alignment before fusion, and what the contrast selects."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from .configuration_cvls import CVLSConfig
from .layers_cvls import normalize, smallest_length, upsample


class CVLSEmbeddings(NamedTuple):
    """What the contrast compares; D channels.

    A position's embedding is f^ = (normalize(pixels) + upsampled normalize(tokens)) / 2: what it looks like, and what
    the coarse token there became when it met the sentence. It is never written out for every position: similarity and
    pooling are linear in both halves, so that stride-4 maps with channels exist once per clip, not once per sentence.
    """

    pixels: torch.Tensor  # (B, T, D, h4, w4), shared by the sentences; not normalized, which would write them out again
    lengths: torch.Tensor  # (B, T, h4, w4), |pixels|
    tokens: torch.Tensor  # (B, K, T, h, w, D), normalized
    sentence: torch.Tensor  # (B, K, D), e^

    def similarity(self) -> torch.Tensor:
        """s = <f^, e^> in [-1, 1] of every position, (B, K, T, h4, w4)."""
        fine = torch.einsum("bkd,btdhw->bkthw", self.sentence, self.pixels) / self.lengths[:, None]
        coarse = torch.einsum("bkthwd,bkd->bkthw", self.tokens, self.sentence)
        return (fine + upsample(coarse, fine.shape[-2:])) / 2

    def pool(self, weights: torch.Tensor) -> torch.Tensor:
        """Instance embeddings v = normalize(sum_p a_p f^_p) from the weights a (B, K, T, R, h4, w4) of each region:
        (B, K, T, R, D)."""
        fine = torch.einsum("bktrhw,btdhw->bktrd", weights / self.lengths[:, None, :, None], self.pixels)
        rows, columns = (
            _interpolation(size, to, weights)
            for size, to in zip(self.tokens.shape[3:5], weights.shape[-2:], strict=True)
        )
        coarse = torch.einsum("bktrhw,bkthwd->bktrd", rows.T @ weights @ columns, self.tokens)
        return normalize(fine + coarse)


class CVLSContrastiveHead(nn.Module):
    """Embeddings of the pixels, the fused tokens and the fused sentence."""

    def __init__(self, config: CVLSConfig):
        super().__init__()
        self.project_pixels = nn.Conv2d(config.pixel_size, config.contrast_size, 1)
        self.project_tokens = nn.Linear(config.hidden_size, config.contrast_size)
        self.project_sentence = nn.Linear(config.hidden_size, config.contrast_size)

    def forward(self, pixels: torch.Tensor, tokens: torch.Tensor, sentence: torch.Tensor) -> CVLSEmbeddings:
        """
        Args:
            pixels: (B, T, pixel_size, h4, w4), shared by the sentences.
            tokens: (B, K, T, h, w, hidden_size), fused with each sentence.
            sentence: (B, K, hidden_size).
        """
        fine = self.project_pixels(pixels.flatten(0, 1)).unflatten(0, pixels.shape[:2])
        lengths = torch.linalg.vector_norm(fine, dim=2)
        return CVLSEmbeddings(
            fine,
            lengths.clamp(min=smallest_length(lengths.dtype)),
            normalize(self.project_tokens(tokens)),
            normalize(self.project_sentence(sentence)),
        )


class ReferentSelection(NamedTuple):
    """What the similarity selects for each sentence."""

    logits: torch.Tensor  # (B, K, T, h4, w4), s / tau
    of_frame: torch.Tensor  # (B, K, T, C), the tokens selected in each frame
    of_clip: torch.Tensor  # (B, K, C), those selected in the whole clip
    similarity: torch.Tensor  # (B, K), s / tau of what is selected in the clip


def select_referent(
    tokens: torch.Tensor,
    token_mask: torch.Tensor | None,
    similarity: torch.Tensor,
    temperature: float,
    sharpness: torch.Tensor,
) -> ReferentSelection:
    """What the contrast finds most similar to each sentence, in a frame and in the whole clip.

    Args:
        tokens: (B, K, T, h, w, C), fused with each sentence.
        token_mask: (B, T, h, w) bool, false on padding; None: there is none.
        similarity: (B, K, T, h4, w4).
        temperature: tau of the contrast.
        sharpness: (1,), the factor of s / tau in the softmax over the tokens.
    """
    logits = similarity / temperature
    of_tokens = F.interpolate(logits.flatten(1, 2), size=tokens.shape[3:5], mode="area").view(tokens.shape[:5])
    weights = sharpness * of_tokens
    if token_mask is not None:
        weights = weights.masked_fill(~token_mask[:, None], torch.finfo(weights.dtype).min)
    of_clip = weights.flatten(2).softmax(dim=-1)
    return ReferentSelection(
        logits,
        torch.einsum("bktp,bktpc->bktc", weights.flatten(3).softmax(dim=-1), tokens.flatten(3, 4)),
        torch.einsum("bkp,bkpc->bkc", of_clip, tokens.flatten(2, 4)),
        (of_clip * of_tokens.flatten(2)).sum(dim=-1),
    )


class CVLSAligned(NamedTuple):
    """Sentences and objects as they are before they meet; D channels."""

    sentence: torch.Tensor  # (B, K, D), normalized
    objects: torch.Tensor  # (B, M, D), normalized
    channels: torch.Tensor | None  # (B, K, D) of zeros and ones, what the filter keeps; None without the filter


class CVLSAlignment(nn.Module):
    """Align before fusing (Li et al., ALBEF, 2021): sentences and the objects of their clip, each as it is before they
    meet, where the contrast can only be won by what vision and language know by themselves; for training only.

    Here the Language-relevant Channel Filter (LCF) acts. What all sentences have in common is most of what a text
    encoder gives (Ethayarajh, 2019), tells no object from another, and hides the words that do. The filter takes it
    out: each channel of the sentences is brought to mean 0 and variance 1 over the batch, and each sentence keeps the
    channels in which it then stands out.
    """

    def __init__(self, config: CVLSConfig):
        super().__init__()
        self.config = config
        self.project_pixels = nn.Linear(config.pixel_size, config.contrast_size)
        self.project_tokens = nn.Linear(config.hidden_size, config.contrast_size)
        self.project_sentence = nn.Linear(config.hidden_size, config.contrast_size)

    def forward(
        self,
        pixels: torch.Tensor,
        tokens: torch.Tensor,
        sentence: torch.Tensor,
        sentence_mask: torch.Tensor,
        instance_masks: torch.Tensor,
    ) -> CVLSAligned:
        """
        Args:
            pixels: (B, T, pixel_size, h4, w4).
            tokens: (B, T, h, w, hidden_size), not fused.
            sentence: (B, K, hidden_size), not fused.
            sentence_mask: (B, K) bool, false on padding.
            instance_masks: (B, T, M, h4, w4) float, the share of a position that an instance covers, 0 where the
                instance is not annotated.

        Returns:
            Sentences, objects and channels. An object is the mean of where it is in the clip.
        """
        objects = normalize(self.project_pixels(_mean_inside(pixels, instance_masks)))
        objects = objects + normalize(self.project_tokens(_mean_inside(tokens.movedim(-1, 2), instance_masks)))
        sentence, channels = self.filter(sentence, sentence_mask)
        return CVLSAligned(sentence, normalize(objects), channels)

    def filter(self, sentence: torch.Tensor, sentence_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The language half: sentences (B, K, hidden_size) -> (B, K, D), normalized, and the channels (B, K, D) that
        the filter (LCF) leaves to each, zeros and ones, None without the filter. It goes by the sentences alone."""
        if not self.config.channel_filter:
            return normalize(self.project_sentence(sentence)), None
        sentence = normalize(self.project_sentence(_standardized(sentence, sentence_mask)))
        return sentence, channel_filter(sentence, self.config.kept_channels)


def channel_filter(sentence: torch.Tensor, kept_channels: float) -> torch.Tensor:
    r"""Language-relevant Channel Filter (LCF): which channels are left to a sentence's contrast.

    The $\lceil \rho D \rceil$ channels with the largest $|\hat e_d|$ get 1, the others 0. Of a sentence that was
    standardized over the batch, as in `CVLSAlignment`, these are the channels in which it differs most from the other
    sentences: what it speaks of. A dropped channel takes no part, not even in the length of what is compared.

    Args:
        sentence: (B, K, D) $\hat e$.
        kept_channels: $\rho$ in (0, 1].

    Returns:
        (B, K, D) of zeros and ones, dtype of `sentence`; a selection, without a gradient.
    """
    kept = sentence.detach().abs().topk(math.ceil(kept_channels * sentence.shape[-1]), dim=-1).indices
    return torch.zeros_like(sentence).scatter(-1, kept, 1.0)


def _standardized(sentence: torch.Tensor, sentence_mask: torch.Tensor) -> torch.Tensor:
    """Sentences (B, K, C) with a mean of 0 and a variance of 1 in each channel over all sentences of the batch but the
    padding; a sentence alone, which differs from nothing, as it is."""
    weights = sentence_mask[..., None].to(sentence.dtype)
    number = weights.sum()
    centered = sentence - (sentence * weights).sum(dim=(0, 1)) / number.clamp(min=1)
    variance = (centered.square() * weights).sum(dim=(0, 1)) / number.clamp(min=1)
    return torch.where(number > 1, centered * (variance + 1e-5).rsqrt(), sentence)


def _mean_inside(features: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Features (B, T, C, h, w) and the share of each position that a mask covers (B, T, M, H, W), on the same grid or a
    finer one -> the mean inside each mask in all frames (B, M, C); 0 where there is none."""
    weights = masks.flatten(3)
    if masks.shape[-2:] != features.shape[-2:]:
        weights = F.interpolate(masks.flatten(0, 1), size=features.shape[-2:], mode="area").view(*masks.shape[:3], -1)
    weights = weights / weights.sum(dim=(1, 3), keepdim=True).clamp(min=1e-6)
    return torch.einsum("btmp,btcp->bmc", weights.to(features.dtype), features.flatten(3))


def _interpolation(size: int, to: int, like: torch.Tensor) -> torch.Tensor:
    """(to, size): the weights of linear interpolation, so that rows @ map @ columns.T is the map, bilinear."""
    identity = torch.eye(size, dtype=like.dtype, device=like.device)
    return F.interpolate(identity[None], size=to, mode="linear")[0].T


__all__ = ["CVLSAligned", "CVLSAlignment", "CVLSContrastiveHead", "CVLSEmbeddings", "ReferentSelection"]
