"""A sequence of frames is gone through in overlapping windows, whose logits fade into each other."""

from collections.abc import Sequence
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
        complete: no later window has positions below this one, so that their results are complete.
    """

    start: int
    stop: int
    wanted: np.ndarray
    weights: np.ndarray
    complete: int

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


def plan_windows(
    num_positions: int, window: int, overlap: int, wanted: np.ndarray | None = None, batch_size: int = 1
) -> list[list[Window]]:
    """The windows that hold a wanted position, in batches.

    Each window shares `overlap` positions with the next one; the last is shifted back so that it is full. Where the
    sequence is shorter than a window, all of it is one window. At each position the weights of all windows sum to 1.

    Args:
        num_positions: length of the sequence, at least 1.
        window: positions of a window, at least 1.
        overlap: from 0 to below `window`.
        wanted: the positions whose results are asked for, increasing; default: all.
        batch_size: this many windows go through the model together. `complete` is that of the whole batch.

    Raises:
        ValueError: a number is outside these bounds.
    """
    for name, value in (("window", window), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name} is a number of at least 1, not {value}")
    if not 0 <= overlap < window:
        raise ValueError(f"overlap is a number from 0 to below the window of {window} frames, not {overlap}")
    last = max(0, num_positions - window)
    starts = [*range(0, last, window - overlap), last]
    window = min(window, num_positions)
    ramp, total = fade(window), np.zeros(num_positions)
    for start in starts:
        total[start : start + window] += ramp
    is_wanted = np.zeros(num_positions, dtype=bool)
    is_wanted[slice(None) if wanted is None else wanted] = True
    starts = [start for start in starts if is_wanted[start : start + window].any()]

    batches = []
    for first in range(0, len(starts), batch_size):
        batch, later = starts[first : first + batch_size], starts[first + batch_size :]
        complete = later[0] if later else num_positions
        batches.append([])
        for start in batch:
            positions = start + np.flatnonzero(is_wanted[start : start + window])
            weights = ramp[positions - start] / total[positions]
            batches[-1].append(Window(start, start + window, positions, weights, complete))
    return batches


class LogitBlender:
    """Weighted means of windows' logits; holds only positions that have not got all their windows yet."""

    def __init__(self):
        self._sums: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def add(self, window: Window, mask_logits: torch.Tensor, presence_logits: torch.Tensor) -> None:
        """Adds what a window says of all its positions: mask_logits (K, T, h, w), presence_logits (K,)."""
        weights = torch.from_numpy(window.weights).float().to(mask_logits.device)
        mask_logits = mask_logits[:, window.offsets].float() * weights[:, None, None]
        presence_logits = presence_logits[:, None].float() * weights
        for index, position in enumerate(window.wanted.tolist()):
            new = mask_logits[:, index], presence_logits[:, index]
            sums = self._sums.get(position)
            self._sums[position] = new if sums is None else (sums[0] + new[0], sums[1] + new[1])

    def take(self, below: int) -> tuple[Sequence[int], torch.Tensor | None, torch.Tensor | None]:
        """Removes the N positions below `below`: the positions in order, mask logits (K, N, h, w) and presence logits
        (K, N); None where there is no such position."""
        positions = sorted(position for position in self._sums if position < below)
        if not positions:
            return [], None, None
        mask_logits, presence_logits = zip(*(self._sums.pop(position) for position in positions), strict=True)
        return positions, torch.stack(mask_logits, dim=1), torch.stack(presence_logits, dim=1)


__all__ = ["LogitBlender", "Window", "fade", "plan_windows"]
