"""Frames to features, each frame once, and features with sentences to logits, window by window.

A window's motion features and its temporal attention are its own. The motion of its first and of its last frame looks
at one neighbor only, as in training, so that a window of a long video gives what the same frames alone would give.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .carrying_cvls import CVLSSentenceState
from .masks_cvls import FrameSizes
from .outputs_cvls import CVLSOutput, CVLSVideoFeatures
from .windows_cvls import FrameLogits, LogitBlender, Window


@dataclass(frozen=True)
class EncodedWindows:
    """Windows of equal length and their features, on the model's device.

    Attributes:
        windows: N of them, of T frames each.
        pixel_features: (N, T, pixel_size, H/4, W/4).
        token_features: (N, T, h, w, hidden_size), after temporal attention.
        sizes: those of the frames.
    """

    windows: Sequence[Window]
    pixel_features: torch.Tensor
    token_features: torch.Tensor
    sizes: FrameSizes

    def features(self) -> CVLSVideoFeatures:
        """As the model takes them, N being its batch."""
        return CVLSVideoFeatures(last_hidden_state=self.token_features, pixel_features=self.pixel_features)

    def each(self) -> list["EncodedWindows"]:
        """The windows, each by itself."""
        parts = [slice(index, index + 1) for index in range(len(self.windows))]
        return [
            replace(
                self,
                windows=self.windows[part],
                pixel_features=self.pixel_features[part],
                token_features=self.token_features[part],
            )
            for part in parts
        ]


class WindowEncoder:
    """Encodes frames once, and keeps their features as long as a window may need them."""

    def __init__(self, model, processor):
        self.model, self.processor = model, processor
        self._sizes: FrameSizes | None = None
        self._pixels: dict[int, torch.Tensor] = {}
        self._tokens: dict[int, torch.Tensor] = {}

    @property
    def sizes(self) -> FrameSizes:
        """The sizes of the frames, of which at least one was added."""
        if self._sizes is None:
            raise ValueError("no frame was added yet")
        return self._sizes

    @torch.no_grad()
    def add(self, pictures: dict[int, np.ndarray]) -> None:
        """Encodes frames, each by itself.

        Args:
            pictures: position -> uint8 (H, W, 3).

        Raises:
            ValueError: the frames differ in size from the earlier ones.
        """
        if not pictures:
            return
        frames = np.stack(list(pictures.values()))
        clip = self.processor(videos=frames)
        sizes = FrameSizes(tuple(clip["frame_sizes"][0].tolist()), frames.shape[1:3])
        if self._sizes not in (None, sizes):
            raise ValueError(
                f"a frame is {sizes.own[0]} x {sizes.own[1]} pixels (height x width), those before it are "
                f"{self.sizes.own[0]} x {self.sizes.own[1]}; all frames of a video must be of one size"
            )
        self._sizes = sizes
        values = clip["pixel_values_videos"].to(self.model.device, self.model.dtype)
        features = self.model.vision.get_frame_features(values)
        self._pixels.update(zip(pictures, features.pixel_features[0], strict=True))
        self._tokens.update(zip(pictures, features.token_features[0], strict=True))

    @torch.no_grad()
    def encode(self, windows: Sequence[Window]) -> EncodedWindows:
        """The features of windows whose frames were added; frames that are not needed any more are forgotten."""
        pixels, tokens = stack(self._pixels, windows), stack(self._tokens, windows)
        motion = self.model.vision.get_motion_features(pixels)
        tokens = self.model.vision.get_window_features(tokens, motion).last_hidden_state
        forget(self._pixels, windows[-1].needed)
        forget(self._tokens, windows[-1].needed)
        return EncodedWindows(windows, pixels, tokens, self.sizes)


class SentenceLogits:
    """The logits of sentences in the frames of a video; each sentence is encoded once.

    Where the sentences carry a state, windows go through the model one after the other, and the state of each goes to
    the next. If `look_back` was given the windows before, each window takes, for each sentence, the logits of the
    direction in which there was more evidence up to it.
    """

    @torch.no_grad()
    def __init__(self, model, text: dict[str, torch.Tensor], passes: int = 1):
        """`text`: what the processor makes of the K sentences. `passes`: 0 for windows that know nothing of each other,
        also where the model has a state."""
        self.model = model
        text = {name: value.to(model.device) for name, value in text.items()}
        self._attention_mask = text["attention_mask"]
        self._text = model.get_text_features(**text)
        self._blender = LogitBlender()
        self._carries = passes > 0 and model.config.carry_state
        self._state: CVLSSentenceState | None = None
        self._state_back: CVLSSentenceState | None = None
        self._back: dict[int, tuple[CVLSSentenceState | None, torch.Tensor]] = {}  # by the start of a window

    @torch.no_grad()
    def look_back(self, windows: EncodedWindows) -> None:
        """The pass from the last window to the first, which comes before the windows are added: of each, what the later
        windows know and how much evidence there is with it. The logits themselves would take too much memory."""
        for window in reversed(windows.each()):
            given = self._state_back
            _, self._state_back = self._segment_with_state(window, given, frame=0)
            self._back[window.windows[0].start] = given, self._state_back.evidence[0]

    @torch.no_grad()
    def add(self, encoded: EncodedWindows) -> FrameLogits | None:
        """Takes windows in; returns what is complete then, as [`LogitBlender.take`]."""
        if self._carries:
            for window in encoded.each():
                self._blender.add(window.windows[0], *self._best(window))
        else:
            outputs = self._segment(encoded)
            for index, window in enumerate(encoded.windows):
                self._blender.add(window, outputs.mask_logits[index], outputs.presence_logits[index])
        return self.take(encoded.windows[-1].complete)

    def take(self, below: int) -> FrameLogits | None:
        """What lies before a position, as [`LogitBlender.take`]."""
        return self._blender.take(below)

    def _segment(self, encoded: EncodedWindows, state: CVLSSentenceState | None = None) -> CVLSOutput:
        number = len(encoded.windows)
        return self.model(
            video_features=encoded.features(),
            text_features=BaseModelOutputWithPooling(
                last_hidden_state=self._text.last_hidden_state.expand(number, -1, -1, -1),
                pooler_output=self._text.pooler_output.expand(number, -1, -1),
            ),
            attention_mask=self._attention_mask.expand(number, -1, -1),
            sentence_state=state,
        )

    def _segment_with_state(
        self, window: EncodedWindows, state: CVLSSentenceState | None, frame: int
    ) -> tuple[CVLSOutput, CVLSSentenceState]:
        """The output of one window, and the state after it, both states counted from the first frame of the video."""
        start = window.windows[0].start
        state = None if state is None else state.seen_from(start)
        output = self._segment(window, state)
        return output, self.model.carry.next_state(window.features(), output, state, frame).seen_from(-start)

    def _best(self, window: EncodedWindows) -> tuple[torch.Tensor, torch.Tensor]:
        """The mask logits (K, T, h4, w4) and presence logits (K,) of one window, which the state goes on from."""
        output, self._state = self._segment_with_state(window, self._state, frame=-1)
        masks, presence = output.mask_logits[0], output.presence_logits[0]
        state_back, evidence = self._back.pop(window.windows[0].start, (None, None))
        if evidence is not None and (later := evidence > self._state.evidence[0]).any():
            other, _ = self._segment_with_state(window, state_back, frame=0)
            masks = torch.where(later[:, None, None, None], other.mask_logits[0], masks)
            presence = torch.where(later, other.presence_logits[0], presence)
        return masks, presence


def stack(features: dict[int, torch.Tensor], windows: Sequence[Window]) -> torch.Tensor:
    """Features of positions (...) -> those of N windows of T positions, (N, T, ...)."""
    of_windows = [features[position] for window in windows for position in window.positions]
    return torch.stack(of_windows).unflatten(0, (len(windows), -1))


def forget(features: dict[int, Any], below: int) -> None:
    """Removes the positions below `below`."""
    for position in [position for position in features if position < below]:
        del features[position]


__all__ = ["EncodedWindows", "SentenceLogits", "WindowEncoder", "forget", "stack"]
