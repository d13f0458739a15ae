"""What a sentence carries from one window of a long video to the next: where its object is, and how sure that is."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init

from .configuration_cvls import CVLSConfig
from .layers_cvls import extend_edges, upsample
from .outputs_cvls import CVLSOutput


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
        output: CVLSOutput,
        state: CVLSSentenceState | None = None,
        frame: int = -1,
        frame_sizes: torch.Tensor | None = None,
    ) -> CVLSSentenceState:
        """What the sentences carry to the next window.

        Args:
            output: of a window without padding frames.
            state: the one that the window was given; None: there was none.
            frame: the frame of the window that the new state is of: the last one, or going backward the first one, 0.
            frame_sizes: (B, 2), as for `CVLSModel.forward`.
        """
        evidence = (self.evidence_scale * output.presence_logits + self.evidence_bias).sigmoid()
        frames, height, width = output.mask_logits.shape[2:]
        grid = (4 * height // self.token_stride, 4 * width // self.token_stride)
        places = F.adaptive_avg_pool2d(output.mask_logits[:, :, frame].sigmoid(), grid)
        if frame_sizes is not None:
            places = extend_edges(places, frame_sizes // self.token_stride)
        if state is not None:
            # an object that is out of the picture is remembered where it left
            seen = places.amax(dim=(2, 3), keepdim=True)
            places = seen * places + (1 - seen) * state.places
            evidence = torch.maximum(evidence, state.evidence)
        return CVLSSentenceState(places, evidence, frame % frames)

    def _distances(self, state: CVLSSentenceState, num_frames: int) -> torch.Tensor:
        frames = torch.arange(num_frames, device=self.pull.device)
        return (frames - state.frame).abs().clamp(max=len(self.pull) - 1)


def passes_of(config: CVLSConfig, passes: int) -> int:
    """The number of passes over a video, 0 to 2, that were asked for; always 0 where sentences carry no state.

    Raises:
        ValueError: another number.
    """
    if passes not in (0, 1, 2):
        raise ValueError(f"passes is 0, 1 or 2, not {passes!r}")
    return passes if config.carry_state else 0


__all__ = ["CVLSCarry", "CVLSSentenceState", "passes_of"]
