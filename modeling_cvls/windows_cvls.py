"""A sequence of frames is gone through in overlapping windows, whose logits fade into each other."""

from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Window:
    """Positions `start` to `stop` (excluded) of the sequence that is gone through.

    Attributes:
        start, stop: the first position and the one after the last.
        wanted: (N,) int, the positions in it whose results are asked for, increasing.
        weights: (N,) float, how much this window's logits count at those positions.
        complete: below this position results are complete: no later window counts for them.
        needed: no later window holds positions below this one, though it may hold some whose results are complete.
    """

    start: int
    stop: int
    wanted: np.ndarray
    weights: np.ndarray
    complete: int
    needed: int

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def positions(self) -> range:
        """All its positions."""
        return range(self.start, self.stop)

    @property
    def offsets(self) -> np.ndarray:
        """The wanted positions, counted from the window's first one."""
        return self.wanted - self.start


def fade(length: int) -> np.ndarray:
    """(length,): the weights of a window's positions, which fall from its middle to its ends: 1 2 3 3 2 1."""
    return np.minimum(np.arange(length) + 1, length - np.arange(length))


def window_and_overlap(num_frames: int, window: int | None = None, overlap: int | None = None) -> tuple[int, int]:
    """Frames of a window, and those that it shares with the next one: what is given, or else the `num_frames` that a
    model is made for, and a quarter of the window."""
    window = num_frames if window is None else window
    return window, window // 4 if overlap is None else overlap


def check_window(window: int, overlap: int) -> None:
    """Raises a ValueError where there are no such windows."""
    if window < 1:
        raise ValueError(f"window is a number of at least 1, not {window}")
    if not 0 <= overlap < window:
        raise ValueError(f"overlap is a number from 0 to below the window of {window} frames, not {overlap}")


def plan_windows(
    num_positions: int,
    window: int,
    overlap: int,
    wanted: np.ndarray | None = None,
    batch_size: int = 1,
    passes: int = 0,
) -> list[list[Window]]:
    """The windows that hold a wanted position, and those that a state needs, in batches.

    Each window shares `overlap` positions with the next one; the last is shifted back so that it is full. Where the
    sequence is shorter than a window, all of it is one window. At each position the weights of all windows sum to 1.

    Args:
        num_positions: length of the sequence, at least 1.
        window: positions of a window, at least 1.
        overlap: from 0 to below `window`.
        wanted: the positions whose results are asked for, increasing; default: all.
        batch_size: this many windows go through the model together; `complete` and `needed` are the whole batch's.
        passes: where a state goes from window to window, the windows before those with a wanted position are needed too
            (1), and if it goes in both directions, all of them (2).

    Raises:
        ValueError: a number is outside these bounds.
    """
    check_window(window, overlap)
    if batch_size < 1:
        raise ValueError(f"batch_size is a number of at least 1, not {batch_size}")
    last = max(0, num_positions - window)
    starts = [*range(0, last, window - overlap), last]
    window = min(window, num_positions)
    ramp, total = fade(window), np.zeros(num_positions)
    for start in starts:
        total[start : start + window] += ramp
    is_wanted = np.zeros(num_positions, dtype=bool)
    is_wanted[slice(None) if wanted is None else wanted] = True
    holds_wanted = np.array([is_wanted[start : start + window].any() for start in starts])
    if passes:
        last_wanted = np.flatnonzero(holds_wanted)[-1]
        holds_wanted[: len(starts) if passes == 2 else last_wanted] = True
    starts = [start for start, needed in zip(starts, holds_wanted, strict=True) if needed]

    batches = []
    for first in range(0, len(starts), batch_size):
        batch, later = starts[first : first + batch_size], starts[first + batch_size :]
        complete = later[0] if later else num_positions
        batches.append([])
        for start in batch:
            positions = start + np.flatnonzero(is_wanted[start : start + window])
            weights = ramp[positions - start] / total[positions]
            batches[-1].append(Window(start, start + window, positions, weights, complete, needed=complete))
    return batches


class LiveWindows:
    """Windows over a sequence that grows, and whose end is not known.

    A window ends at every `hop`-th position. A position's result is complete when `look_ahead` more positions have
    come, at the latest; all windows that have ended by then and hold it count. With the largest look-ahead, `window` -
    1, these are the windows of `plan_windows`.

    Args:
        window: positions of a window; the first windows may be shorter.
        overlap: positions that a window shares with the next one, where the look-ahead allows it.
        look_ahead: from 0 to `window` - 1.

    Raises:
        ValueError: a number is outside these bounds.
    """

    def __init__(self, window: int, overlap: int, look_ahead: int):
        check_window(window, overlap)
        if not 0 <= look_ahead < window:
            raise ValueError(
                f"look_ahead is a number of frames from 0 to below the window of {window} frames, not {look_ahead}"
            )
        self.window, self.look_ahead = window, look_ahead
        self.hop = min(window - overlap, look_ahead + 1)
        self._length = self._complete = self._stop = 0
        self._due = look_ahead + 1  # the length at which the next window ends

    def push(self) -> Window | None:
        """One more position; the window that ends there, if one does."""
        self._length += 1
        if self._length < self._due:
            return None
        self._due += self.hop
        return self._window(complete=self._due - 1 - self.look_ahead)

    def close(self) -> Window | None:
        """No more positions come; the last window, if positions came after the last one. Then all is complete."""
        return None if self._stop == self._length else self._window(complete=self._length)

    def _window(self, complete: int) -> Window:
        stop, start = self._length, max(0, self._length - self.window)
        wanted = np.arange(max(start, self._complete), stop)
        self._complete, self._stop = complete, stop
        weights = fade(stop - start)[wanted - start].astype(float)
        return Window(start, stop, wanted, weights, complete, needed=max(0, stop + 1 - self.window))


@dataclass(frozen=True)
class FrameLogits:
    """The logits of K sentences at N positions.

    Attributes:
        positions: N positions, increasing.
        mask_logits: (K, N, h, w) float32.
        presence_logits: (K, N) float32.
    """

    positions: list[int]
    mask_logits: torch.Tensor
    presence_logits: torch.Tensor


class LogitBlender:
    """Weighted means of windows' logits; holds only positions that have not got all their windows yet."""

    def __init__(self):
        self._sums: dict[int, tuple[float, torch.Tensor, torch.Tensor]] = {}

    def add(self, window: Window, mask_logits: torch.Tensor, presence_logits: torch.Tensor) -> None:
        """Adds what a window says of all its positions: mask_logits (K, T, h, w), presence_logits (K,)."""
        weights = torch.from_numpy(window.weights).float().to(mask_logits.device)
        mask_logits = mask_logits[:, window.offsets].float() * weights[:, None, None]
        presence_logits = presence_logits[:, None].float() * weights
        for index, (position, weight) in enumerate(zip(window.wanted.tolist(), window.weights.tolist(), strict=True)):
            new = weight, mask_logits[:, index], presence_logits[:, index]
            if position in self._sums:
                weight, masks, presence = self._sums[position]
                new = weight + new[0], masks + new[1], presence + new[2]
            self._sums[position] = new

    def take(self, below: int) -> FrameLogits | None:
        """Removes the positions below `below` and returns their logits; None where there are none."""
        positions = sorted(position for position in self._sums if position < below)
        if not positions:
            return None
        weights, mask_logits, presence_logits = zip(*(self._sums.pop(p) for p in positions), strict=True)
        weights = torch.tensor(weights, device=mask_logits[0].device)
        mask_logits, presence_logits = torch.stack(mask_logits, dim=1), torch.stack(presence_logits, dim=1)
        return FrameLogits(positions, mask_logits / weights[:, None, None], presence_logits / weights)


__all__ = [
    "FrameLogits",
    "LiveWindows",
    "LogitBlender",
    "Window",
    "check_window",
    "fade",
    "plan_windows",
    "window_and_overlap",
]
