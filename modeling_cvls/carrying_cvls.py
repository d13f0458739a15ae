"""What a sentence carries from one window of a long video to the next: where its object is, and how sure that is."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init

from .configuration_cvls import CVLSConfig
from .layers_cvls import extend_edges, upsample
from .outputs_cvls import CVLSOutput, CVLSVideoFeatures
from .windows_cvls import plan_windows, window_and_overlap


class CVLSSentenceState(NamedTuple):
    """What K sentences know of B videos from the windows before.

    `CVLSCarry.next_state` makes it from the output of a window, and `CVLSModel.forward` takes it with the next window.
    """

    places: torch.Tensor  # (B, K, h, w) in [0, 1], where the object was in the frame, or where it was seen last
    evidence: torch.Tensor  # (B, K) in [0, 1], the most that one window has shown of what the sentence says
    frame: int  # the frame that `places` is of, counted from the first frame of the window that the state is given with

    def seen_from(self, start: int) -> "CVLSSentenceState":
        """The same state for a window that starts `start` frames after the one that `frame` is counted from."""
        return self._replace(frame=self.frame - start)


class CVLSCarry(nn.Module):
    """How a state enters a window, and how the next state comes out of it.

    Windows are short, and what tells an object from its look-alikes may be seen in one of them alone. The map of where
    the object was joins the tokens of the next window before these meet the sentence, by a vector for each distance in
    frames. It also joins the mask logits, by a number for each distance. Both are multiplied by the evidence, which is
    read off the presence logit. Before training both are zero, and the state changes nothing.
    """

    def __init__(self, config: CVLSConfig):
        super().__init__()
        self.token_stride = config.token_stride
        self.mark = nn.Parameter(torch.zeros(config.num_frames, config.hidden_size))
        self.pull = nn.Parameter(torch.zeros(config.num_frames))
        self.evidence_scale = nn.Parameter(torch.ones(1))
        self.evidence_bias = nn.Parameter(torch.zeros(1))

    def reset_parameters(self) -> None:
        """Gives the parameters the values that they have before training."""
        for parameter in (self.mark, self.pull, self.evidence_bias):
            init.zeros_(parameter)
        init.ones_(self.evidence_scale)

    def marks(self, state: CVLSSentenceState, num_frames: int) -> torch.Tensor:
        """(B, K, T, h, w, hidden_size), what joins the tokens of a window of T frames."""
        known = state.evidence[..., None, None] * state.places
        return known[:, :, None, :, :, None] * self.mark[self._distances(state, num_frames)][:, None, None]

    def logits(self, state: CVLSSentenceState, num_frames: int, size: tuple[int, int]) -> torch.Tensor:
        """(B, K, T, *size), what joins the mask logits of a window of T frames."""
        signed = upsample(state.evidence[..., None, None, None] * (2 * state.places[:, :, None] - 1), size)
        return signed * self.pull[self._distances(state, num_frames)][:, None, None]

    def next_state(
        self,
        video: CVLSVideoFeatures,
        output: CVLSOutput,
        state: CVLSSentenceState | None = None,
        frame: int = -1,
    ) -> CVLSSentenceState:
        """What the sentences carry to the next window.

        Args:
            video: the features of the window.
            output: what the model gave for it.
            state: the one that the window was given; None: there was none.
            frame: the frame of the window that the new state is of: the last one, or going backward the first one, 0. A
                clip of which it is a padding frame is not seen in it.
        """
        evidence = (self.evidence_scale * output.presence_logits + self.evidence_bias).sigmoid()
        frames, height, width = output.mask_logits.shape[2:]
        grid = (4 * height // self.token_stride, 4 * width // self.token_stride)
        places = F.adaptive_avg_pool2d(output.mask_logits[:, :, frame].sigmoid(), grid)
        if video.frame_sizes is not None:
            places = extend_edges(places, video.frame_sizes // self.token_stride)
        if video.frame_mask is not None:
            seen = video.frame_mask[:, frame, None]
            places, evidence = places * seen[..., None, None], evidence * seen
        if state is not None:
            # an object that is out of the picture is remembered where it left
            seen = places.amax(dim=(2, 3), keepdim=True)
            places = seen * places + (1 - seen) * state.places
            evidence = torch.maximum(evidence, state.evidence)
        return CVLSSentenceState(places, evidence, frame % frames)

    def _distances(self, state: CVLSSentenceState, num_frames: int) -> torch.Tensor:
        frames = torch.arange(num_frames, device=self.pull.device)
        return (frames - state.frame).abs().clamp(max=len(self.pull) - 1)


def forward_windows(
    model,
    starts: Sequence[int],
    clips: dict[str, torch.Tensor | None],
    text: dict[str, torch.Tensor | None],
    referents: torch.Tensor | None,
    truth: tuple[torch.Tensor | None, ...],
    state: CVLSSentenceState | None,
) -> CVLSOutput:
    """`CVLSModel.forward` of clips that are gone through in windows. With `carry_state`, the state of each window goes
    to the next, and the gradient goes through it.

    Args:
        model: a `CVLSModel`.
        starts: the first frames of the windows, in the order in which they are gone through; all windows have
            `num_frames` frames.
        clips: the arguments `pixel_values_videos`, `frame_mask` and `frame_sizes` of the model.
        text: `input_ids`, `attention_mask` and `sentence_mask`.
        referents: as for the model.
        truth: `instance_masks`, `annotated_frames` and `annotated_instances`, of all frames of the clips.
        state: of a window before the clips, counted from their first frame; None: there was none.

    Returns:
        The output of the last window, in which `loss` and `losses` are the means over the windows.
    """
    windows = [slice(start, start + model.config.num_frames) for start in starts]
    videos = model.vision.get_features_of_windows(**clips, windows=windows)
    words = {name: text[name] for name in ("attention_mask", "sentence_mask")}
    words["text_features"] = model.get_text_features(**text, return_dict=True)
    last = 0 if starts[-1] < starts[0] else -1
    outputs = []
    for window, video in zip(windows, videos, strict=True):
        given = None if state is None else state.seen_from(window.start)
        masks, frames, instances = (None if part is None else part[:, window] for part in truth)
        shown = {"instance_masks": masks, "annotated_frames": frames, "annotated_instances": instances}
        output = model.forward(
            video_features=video, **words, referents=referents, **shown, sentence_state=given, return_dict=True
        )
        if model.config.carry_state:
            state = model.carry.next_state(video, output, given, last).seen_from(-window.start)
        outputs.append(output)
    if outputs[0].loss is not None:
        output.loss = torch.stack([of_window.loss for of_window in outputs]).mean()
        output.losses = {
            name: torch.stack([of_window.losses[name] for of_window in outputs]).mean() for name in output.losses
        }
        if model.config.carry_state and len(outputs) == 1:
            # training on several devices takes a gradient of every parameter, also where no window comes after another
            output.loss = output.loss + sum(0 * parameter.sum() for parameter in model.carry.parameters())
    return output


def starts_of_windows(config: CVLSConfig, num_frames: int, backward: bool = False) -> list[int]:
    """The first frames of the windows of a training clip of `num_frames` frames: those that a video of this length has,
    from the first to the last or `backward`."""
    starts = [window.start for (window,) in plan_windows(num_frames, *window_and_overlap(config.num_frames))]
    return starts[::-1] if backward else starts


def passes_of(config: CVLSConfig, passes: int) -> int:
    """The number of passes over a video, 0 to 2, that were asked for; always 0 where sentences carry no state.

    Raises:
        ValueError: another number.
    """
    if passes not in (0, 1, 2):
        raise ValueError(f"passes is 0, 1 or 2, not {passes!r}")
    return passes if config.carry_state else 0


__all__ = ["CVLSCarry", "CVLSSentenceState", "forward_windows", "passes_of", "starts_of_windows"]
