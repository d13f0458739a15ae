"""A small state that each sentence carries from window to window, put around the segmenter as it is."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from modeling_cvls import CVLSModel, CVLSProcessor
from modeling_cvls.encoding_cvls import EncodedWindows, SentenceLogits, WindowEncoder
from modeling_cvls.fusion_cvls import word_mask_of
from modeling_cvls.loss_cvls import CVLSLosses, CVLSTargets
from modeling_cvls.outputs_cvls import CVLSVideoFeatures
from modeling_cvls.windows_cvls import FrameLogits, LogitBlender, plan_windows


class State(NamedTuple):
    """What N sentences know from the windows before, each of its own clip."""

    frame: int  # the last frame that was seen: the newest, or going backward the oldest
    places: torch.Tensor  # (N, h, w) in [0, 1], where the object was in it, or where it was seen last
    evidence: torch.Tensor  # (N,) in [0, 1], the most that one window has shown of what the sentence says


class Pairs(NamedTuple):
    """N pairs of a window and a sentence, on the batch's axis: each has tokens of its own."""

    video: CVLSVideoFeatures  # (N, T, ...)
    text: BaseModelOutputWithPooling  # (N, 1, ...)
    word_mask: torch.Tensor | None  # (N, 1, L)
    frames: range  # the T frames of the windows, the same for all


class Step(NamedTuple):
    """What a window gives."""

    mask_logits: torch.Tensor  # (N, T, h4, w4)
    presence_logits: torch.Tensor  # (N,)
    state: State
    losses: CVLSLosses | None


class Carry(nn.Module):
    """A segmenter whose sentences carry a state. As long as it has not learned anything it gives what the segmenter
    gives.

    The places where the object was join the tokens of all frames of the next window, before these meet the sentence, by
    a vector for each distance in frames, and its mask logits by a number for each; both in proportion to the evidence,
    which is read off the presence logit.
    """

    def __init__(self, model: CVLSModel):
        super().__init__()
        config = model.config
        self.model = model
        self.mark = nn.Parameter(torch.zeros(config.num_frames, config.hidden_size))
        self.pull = nn.Parameter(torch.zeros(config.num_frames))
        self.evidence = nn.Linear(1, 1)
        nn.init.ones_(self.evidence.weight)
        nn.init.zeros_(self.evidence.bias)

    def new_parameters(self) -> list[nn.Parameter]:
        """Those that are not the segmenter's."""
        return [p for name, p in self.named_parameters() if not name.startswith("model.")]

    def forward(self, pairs: Pairs, state: State | None, targets: CVLSTargets | None = None, newest: int = -1) -> Step:
        """
        Args:
            pairs: the windows and their sentences.
            state: of the window before; None: there is none.
            targets: the truth of the N pairs, for the losses.
            newest: the frame of the window that the next one shares: -1, or 0 going backward.
        """
        model, video, pull = self.model, pairs.video, 0.0
        if state is not None:
            video, pull = self._remembered(pairs, state)
        fused = model.fuse(video, pairs.text, pairs.word_mask)
        embeddings = model.contrastive_head(video, fused)
        similarity = embeddings.similarity()
        selection = model.select_referent(video, fused, similarity)
        mask_logits = model.predict_masks(video, fused, selection) + pull
        presence_logits = model.predict_presence(fused, selection)
        losses = None
        if targets is not None:
            shares = targets.instance_shares(mask_logits.shape[-2:])
            before = pairs.video.pixel_features, pairs.video.last_hidden_state, pairs.text.pooler_output
            aligned = model.alignment(*before, targets.sentence_mask, targets.annotated_shares(shares))
            losses = model.criterion(targets, mask_logits, presence_logits, similarity, embeddings, shares, aligned)

        evidence = self.evidence(presence_logits)[:, 0].sigmoid()
        grid = video.last_hidden_state.shape[2:4]
        places = F.adaptive_avg_pool2d(mask_logits[:, 0, newest].sigmoid(), grid)
        if state is not None:
            # an object that is out of the picture is remembered where it left
            seen = places.amax(dim=(1, 2), keepdim=True)
            places = seen * places + (1 - seen) * state.places
            evidence = torch.maximum(evidence, state.evidence)
        new = State(pairs.frames[newest], places, evidence)
        return Step(mask_logits[:, 0], presence_logits[:, 0], new, losses)

    def _remembered(self, pairs: Pairs, state: State) -> tuple[CVLSVideoFeatures, torch.Tensor]:
        """The windows with what is known of them, and what is added to the mask logits (N, 1, T, h4, w4)."""
        video = pairs.video
        distances = torch.tensor([abs(frame - state.frame) for frame in pairs.frames]).clamp(max=len(self.mark) - 1)
        known = state.evidence[:, None, None] * state.places
        tokens = video.last_hidden_state + known[:, None, :, :, None] * self.mark[distances][:, None, None]
        signed = state.evidence[:, None, None] * (2 * state.places - 1)
        signed = F.interpolate(signed[:, None], video.pixel_features.shape[-2:], mode="bilinear")
        pull = signed[:, None] * self.pull[distances][:, None, None]
        return CVLSVideoFeatures(last_hidden_state=tokens, pixel_features=video.pixel_features), pull


def pairs_of(
    video: CVLSVideoFeatures, text: BaseModelOutputWithPooling, word_mask: torch.Tensor, frames: range
) -> Pairs:
    """B clips with K sentences each -> N = B * K pairs."""
    number = text.pooler_output.shape[1]
    return Pairs(
        CVLSVideoFeatures(
            last_hidden_state=video.last_hidden_state.repeat_interleave(number, dim=0),
            pixel_features=video.pixel_features.repeat_interleave(number, dim=0),
        ),
        BaseModelOutputWithPooling(
            last_hidden_state=text.last_hidden_state.flatten(0, 1)[:, None],
            pooler_output=text.pooler_output.flatten(0, 1)[:, None],
        ),
        word_mask.flatten(0, 1)[:, None],
        frames,
    )


@torch.no_grad()
def segment(
    carry: Carry, processor: CVLSProcessor, frames: np.ndarray, sentences: list[str], passes: int
) -> FrameLogits:
    """The logits of a whole video, its frames (T, H, W, 3) uint8.

    Args:
        passes: 0: windows know nothing of each other. 1: the state goes from the first window to the last one. 2: it
            also goes from the last one to the first one, and each window takes the way on which there was more
            evidence.
    """
    model = carry.model
    encoder = WindowEncoder(model, processor)
    encoder.add(dict(enumerate(frames)))
    batches = plan_windows(len(frames), model.config.num_frames, model.config.num_frames // 4, batch_size=len(frames))
    windows = [window for batch in batches for window in batch]
    encoded = encoder.encode(windows)
    text = processor(text=sentences)
    if passes == 0:
        return SentenceLogits(model, text).add(encoded)
    ways = [_go(carry, encoded, text, range(len(windows)), -1)]
    if passes == 2:
        ways.append(_go(carry, encoded, text, reversed(range(len(windows))), 0))
    blender = LogitBlender()
    for index, window in enumerate(windows):
        steps = [way[index] for way in ways]
        best = torch.stack([step.state.evidence for step in steps]).argmax(dim=0)
        sentence = torch.arange(len(sentences))
        masks = torch.stack([step.mask_logits for step in steps])[best, sentence]
        blender.add(window, masks, torch.stack([step.presence_logits for step in steps])[best, sentence])
    return blender.take(len(frames))


def _go(
    carry: Carry, encoded: EncodedWindows, text: dict[str, torch.Tensor], order: Iterable[int], newest: int
) -> dict[int, Step]:
    """All windows in an order, the state going from each to the next."""
    of_text, words = carry.model.get_text_features(**text), word_mask_of(text["attention_mask"], text["sentence_mask"])
    steps, state = {}, None
    for index in order:
        video = CVLSVideoFeatures(
            last_hidden_state=encoded.token_features[index, None], pixel_features=encoded.pixel_features[index, None]
        )
        pairs = pairs_of(video, of_text, words, encoded.windows[index].positions)
        steps[index] = carry(pairs, state, newest=newest)
        state = steps[index].state
    return steps
