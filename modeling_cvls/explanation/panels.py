"""The panels of an explanation's picture, placed on a sheet that is measured in inches."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..visualization import COLORS

INK, FAINT, LOOK_ALIKE = "#1c1c1c", "#6b6b6b", "#9a9a9a"
SIMILARITY_COLORS = "RdBu_r"


class Sheet:
    """A figure on which axes are placed in inches from its upper left corner."""

    def __init__(self, width: float, height: float):
        # not by pyplot, which would look for a display
        self.figure = Figure(figsize=(width, height), facecolor="white")
        self.width, self.height = width, height

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        place = (x / self.width, 1 - (y + height) / self.height, width / self.width, height / self.height)
        return self.figure.add_axes(place)

    def text(self, x: float, y: float, text: str, size: float = 8, color: str = INK, **style) -> None:
        """Writes `text` with its upper left corner at (x, y)."""
        self.figure.text(x / self.width, 1 - y / self.height, text, size=size, color=color, va="top",
                         parse_math=False, **style)  # fmt: skip

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.figure.savefig(path, dpi=150)


def shorten(text: str, width: float, size: float) -> str:
    """`text`, cut where it would be wider than about `width` inches at `size` points."""
    most = max(8, int(width / (0.0085 * size)))
    return text if len(text) <= most else text[: most - 1] + "…"


def color_of(sentence: int) -> tuple[float, float, float]:
    return tuple(value / 255 for value in COLORS[sentence % len(COLORS)])


def tint(frame: np.ndarray, mask: np.ndarray, color: tuple[float, float, float]) -> np.ndarray:
    """The frame in gray, and in `color` inside the mask, so that the mask stands out on any frame."""
    gray = frame.mean(axis=2, keepdims=True) / 255
    return np.where(mask[..., None], (0.75 + 0.25 * gray) * color, 0.12 + 0.6 * gray)


def show_picture(axes: Axes, picture: np.ndarray, truth: np.ndarray | None = None, **style):
    """Shows a picture with sharp pixels, and the outline of the truth in white on black."""
    image = axes.imshow(picture, interpolation="nearest", **style)
    if truth is not None and truth.any():
        # a frame of one empty pixel closes the outline of what the picture's edge cuts
        height, width = truth.shape
        grid = np.arange(-1, width + 1), np.arange(-1, height + 1), np.pad(truth, 1).astype(float)
        for line, color in ((2.2, "black"), (1.0, "white")):
            axes.contour(*grid, levels=[0.5], colors=color, linewidths=line)
        axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(linewidth=0.5, color=FAINT)
    return image


def show_note(axes: Axes, text: str) -> None:
    """Shows a text in place of a picture."""
    axes.set(xticks=[], yticks=[], facecolor="#f2f2f2")
    axes.spines[:].set_visible(False)
    axes.text(0.5, 0.5, text, size=7.5, color=FAINT, ha="center", va="center", transform=axes.transAxes)


def style_scale(axes: Axes) -> None:
    axes.tick_params(labelsize=6, length=2, width=0.5, colors=FAINT, pad=1.5)


def number_objects(axes: Axes, masks: np.ndarray, shown: int) -> None:
    """Writes numbers on the objects of the frame `shown`, and draws arrows on those that move.

    Args:
        masks: bool (T, M, H, W). An arrow is twice as long as an object's way during these T frames.
    """
    halo = {"boxstyle": "round,pad=0.15", "facecolor": "black", "edgecolor": "none", "alpha": 0.65}
    for number, mask in enumerate(masks.swapaxes(0, 1)):
        if not mask[shown].any():
            continue
        centers = [np.argwhere(one).mean(axis=0)[::-1] for one in mask if one.any()]
        center, way = np.argwhere(mask[shown]).mean(axis=0)[::-1], centers[-1] - centers[0]
        if np.hypot(*way) > 0.04 * mask.shape[-1]:
            edge = np.where(way > 0, np.array(mask.shape[:0:-1]) - 1 - center, center)
            scale = min(2, *(edge / np.maximum(abs(way), 1e-6)))  # ends inside the picture
            arrow = {"arrowstyle": "->", "color": "white", "linewidth": 1.0, "shrinkA": 0, "shrinkB": 0}
            axes.annotate("", center + scale * way, center, arrowprops=arrow)
        axes.text(*center, str(number), size=6, color="white", ha="center", va="center", bbox=halo)


def plot_similarities(axes: Axes, frames: list[int], values: np.ndarray, referents: list[int], color) -> None:
    """Plots `values` (T, M) over `frames`: the referents in `color`, other objects in gray, each with its number."""
    known = np.flatnonzero(~np.isnan(values).all(axis=1))
    frames, values = [frames[t] for t in known], values[known]
    axes.axhline(0, color="#dddddd", linewidth=0.6, zorder=0)
    ends = []
    for instance, line in enumerate(values.T):
        if np.isnan(line).all():
            continue
        if instance in referents:
            axes.plot(frames, line, color=INK, linewidth=3.0, marker="o", markersize=5.2)
            axes.plot(frames, line, color=color, linewidth=1.8, marker="o", markersize=3.8)
        else:
            axes.plot(frames, line, color=LOOK_ALIKE, linewidth=0.9, marker="o", markersize=2.2, zorder=1)
        last = np.flatnonzero(~np.isnan(line))[-1]
        ends.append((line[last], instance))
    ends.sort()
    for place, (_, instance) in zip(spread([value for value, _ in ends], 0.17), ends, strict=True):
        bold = "bold" if instance in referents else "normal"
        ink = INK if instance in referents else FAINT
        at = axes.get_yaxis_transform()
        axes.text(1.03, place, str(instance), size=6, color=ink, weight=bold, va="center", transform=at)
    axes.set(ylim=(-1.05, 1.05), yticks=[-1, 0, 1], xticks=frames)
    if len(frames) > 6:
        axes.set_xticks([frames[0], frames[-1]])
    axes.margins(x=0.12)
    style_scale(axes)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set(linewidth=0.5, color=FAINT)
    axes.set_xlabel("frame", size=6, color=FAINT, labelpad=0.5)


def spread(places: list[float], distance: float) -> np.ndarray:
    """Increasing places, moved apart until they are about `distance` from each other."""
    spread = np.array(places)
    for _ in range(50):
        push = np.maximum(0, distance - np.diff(spread)) / 2
        if not push.any():
            break
        spread[:-1] -= push
        spread[1:] += push
    return spread
