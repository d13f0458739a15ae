"""What the parts of the segmenter, and the whole of it, return: B clips, T frames, K sentences, L tokens."""

from dataclasses import dataclass

import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import ModelOutput


@dataclass
class CVLSFrameFeatures(ModelOutput):
    """What each frame gives by itself, whatever clip or window it is a part of.

    Args:
        pixel_features: (B, T, pixel_size, H/4, W/4), of stride 4.
        token_features: (B, T, h, w, hidden_size), on the coarse grid, h = H/token_stride and w = W/token_stride.
        hidden_states, attentions: those of the backbone, its batch being B * T frames; where they are asked for.
    """

    pixel_features: torch.FloatTensor | None = None
    token_features: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


@dataclass
class CVLSVideoFeatures(BaseModelOutputWithPooling):
    """What a clip gives, whatever the sentences: `CVLSModel.forward` takes it in place of the frames.

    Args:
        last_hidden_state: (B, T, h, w, hidden_size), the coarse tokens after temporal attention; zero on padding where
            clips of different sizes are in one batch.
        pooler_output: always None; a clip is not pooled.
        hidden_states: the tokens before and after each layer of temporal attention, (B, T * h * w, hidden_size) each;
            where they are asked for.
        attentions: the weights of temporal attention, (B, heads, T * h * w, T * h * w) each layer; where asked for.
        pixel_features: (B, T, pixel_size, H/4, W/4), of stride 4.
        frame_mask: (B, T) bool, false on padding frames; None: there are none.
        frame_sizes: (B, 2), height and width of each clip's frames; None: all clips fill H and W.
        token_mask: (B, T, h, w) bool, false on padding; None: there is none.
        vision_hidden_states, vision_attentions: those of the backbone, its batch being B * T frames; where asked for.
    """

    pixel_features: torch.FloatTensor | None = None
    frame_mask: torch.BoolTensor | None = None
    frame_sizes: torch.LongTensor | None = None
    token_mask: torch.BoolTensor | None = None
    vision_hidden_states: tuple[torch.FloatTensor, ...] | None = None
    vision_attentions: tuple[torch.FloatTensor, ...] | None = None


@dataclass
class CVLSFusedFeatures(ModelOutput):
    """A clip and its sentences after they met.

    Args:
        token_features: (B, K, T, h, w, hidden_size).
        sentence_features: (B, K, hidden_size).
        hidden_states, attentions: the fusion's, as in `CVLSOutput`.
    """

    token_features: torch.FloatTensor | None = None
    sentence_features: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


@dataclass
class CVLSOutput(ModelOutput):
    """
    Args:
        loss: scalar, the weighted sum of `losses`; when `referents` and the instances are given.
        mask_logits: (B, K, T, H/4, W/4) logits of the masks, on the grid of the (padded) frames.
        presence_logits: (B, K) logits of "this clip contains a referent of this sentence".
        similarity: (B, K, T, H/4, W/4) in [-1, 1], the contrast's similarity of each position to the sentence; None
            where the contrast is switched off.
        instance_similarity: (B, K, T, M + 1) in [-1, 1], what the contrast compares: the similarity of each instance's
            embedding, and last the background's, to the sentence; with the losses, for looking at (no gradient). Not a
            number where an instance is not seen or not annotated.
        kept_channels: (B, K, D) bool, the channels that the filter (LCF) left to each sentence's contrast, with the
            losses; None where it is off.
        losses: the unweighted parts of the loss: bce, dice, presence, contrast, alignment.
        vision_hidden_states, vision_attentions: those of the backbone, its batch being B * T frames.
        temporal_hidden_states: the tokens before and after each layer of temporal attention, (B, T * h * w,
            hidden_size) each.
        temporal_attentions: (B, heads, T * h * w, T * h * w) of each of these layers.
        text_hidden_states, text_attentions: those of the text encoder, its batch being B * K sentences.
        fusion_hidden_states: the tokens before and after each fusion layer, (B * K, T * h * w, hidden_size) each.
        fusion_attentions: two per fusion layer, of the tokens to the sentence and its words (B * K, heads, T * h * w,
            1 + L), and of the sentence to the tokens (B * K, heads, 1, T * h * w).
            All hidden states with `output_hidden_states`, all attentions with `output_attentions`.
    """

    loss: torch.FloatTensor | None = None
    mask_logits: torch.FloatTensor | None = None
    presence_logits: torch.FloatTensor | None = None
    similarity: torch.FloatTensor | None = None
    instance_similarity: torch.FloatTensor | None = None
    kept_channels: torch.BoolTensor | None = None
    losses: dict[str, torch.FloatTensor] | None = None
    vision_hidden_states: tuple[torch.FloatTensor, ...] | None = None
    vision_attentions: tuple[torch.FloatTensor, ...] | None = None
    temporal_hidden_states: tuple[torch.FloatTensor, ...] | None = None
    temporal_attentions: tuple[torch.FloatTensor, ...] | None = None
    text_hidden_states: tuple[torch.FloatTensor, ...] | None = None
    text_attentions: tuple[torch.FloatTensor, ...] | None = None
    fusion_hidden_states: tuple[torch.FloatTensor, ...] | None = None
    fusion_attentions: tuple[torch.FloatTensor, ...] | None = None


@dataclass
class CVLSFrameOutput(ModelOutput):
    """What `CVLSModel.propagate_in_video_iterator` gives of a frame.

    Args:
        frame_idx: the number of the frame in the video, 0-based.
        mask_logits: (K, H/4, W/4) of the K sentences, on the grid of the frame as the model got it.
        presence_logits: (K,) logits of "this frame contains a referent of this sentence".
    """

    frame_idx: int | None = None
    mask_logits: torch.FloatTensor | None = None
    presence_logits: torch.FloatTensor | None = None


__all__ = ["CVLSFrameFeatures", "CVLSFrameOutput", "CVLSFusedFeatures", "CVLSOutput", "CVLSVideoFeatures"]
