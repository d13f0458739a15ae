"""One picture of what a segmenter saw in a clip: similarity maps, masks and kept channels of each sentence."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..launch import load_model, load_processor
from .clips import Clip
from .measures import channel_overlap, mask_iou, similarity_in_instances
from .panels import (
    FAINT,
    SIMILARITY_COLORS,
    Sheet,
    color_of,
    number_objects,
    plot_similarities,
    shorten,
    show_note,
    show_picture,
    style_scale,
    tint,
)
from .window import Explanation, explain, window_around

TILE = 1.95  # inches, the width of a picture
GAP, MARGIN = 0.14, 0.3
HEAD = 0.74  # inches, the title and the heads of the columns


class NamedSegmenter:
    """A model with its processor and the name that the picture gives it (by default that of its folder).

    Args:
        folder: folder or Hub name of the checkpoint.
        argument: how messages call where the folder is from, such as "--model".
        name: in the picture.
    """

    def __init__(self, folder: str, argument: str, name: str | None = None):
        self.model = load_model(folder, argument).float().eval()
        self.processor = load_processor(folder, argument, self.model)
        self.name = name or Path(folder).name
        self.has_contrast = self.model.config.contrast_weight > 0

    def explain(self, clip: Clip) -> tuple[list[int], Explanation]:
        """The window around the clip's frame, as long as the model takes it, and what the model made of it."""
        window = window_around(clip.frame, clip.num_frames, self.model.config.num_frames)
        return window, explain(self.model, self.processor, clip.read(window), clip.sentences)


@dataclass
class Seen:
    """What one segmenter made of the clip; the clip's frame is at `position` of its window."""

    segmenter: NamedSegmenter
    window: list[int]
    explanation: Explanation
    position: int


class Picture:
    """The picture of a clip and of one or two segmenters: a row for each sentence.

    The columns are the frame, the first segmenter's similarity map, the masks of each segmenter, and, where the objects
    are known, the similarity inside each object over the window.

    Args:
        clip: the clip to explain.
        segmenters: the segmenter to explain, and perhaps a second one whose masks are shown beside.
    """

    def __init__(self, clip: Clip, segmenters: list[NamedSegmenter]):
        self.clip, self.seen = clip, []
        for segmenter in segmenters:
            window, explanation = segmenter.explain(clip)
            self.seen.append(Seen(segmenter, window, explanation, window.index(clip.frame)))
        self.first = self.seen[0]
        self.frame = clip.read([clip.frame])[0]
        self.masks = clip.masks(self.first.window)
        self.truths = [clip.truth(sentence) for sentence in range(clip.num_shown)]
        self.values = None
        if self.masks is not None and self.first.explanation.similarity is not None:
            self.values = similarity_in_instances(self.first.explanation.similarity, self.masks)

        self.tile_height = TILE * self.frame.shape[0] / self.frame.shape[1]
        self.row_height = 0.27 + self.tile_height + 0.32
        num_columns = 2 + len(self.seen) + (self.values is not None)
        self.columns = [MARGIN + i * (TILE + GAP) for i in range(num_columns)]
        foot = 0.2 if self.first.explanation.channels is None else 0.78 + 0.2 * clip.num_shown
        self.foot_top = MARGIN + HEAD + clip.num_shown * self.row_height + 0.25
        width = 2 * MARGIN + num_columns * (TILE + GAP) - GAP + (0.1 if self.values is not None else 0)
        self.sheet = Sheet(width, self.foot_top + 0.3 + foot)

    def draw(self) -> list[str]:
        """Draws everything; returns the numbers in words, one line for each sentence and then those of the channels."""
        self._draw_heads()
        lines = [self._draw_row(sentence) for sentence in range(self.clip.num_shown)]
        return lines + self._draw_channels()

    def save(self, path: Path) -> None:
        """Writes the png file and makes its folder."""
        self.sheet.save(path)

    def _draw_heads(self) -> None:
        name, clip = self.first.segmenter.name, self.clip
        heads = [(f"frame {clip.frame}", "objects numbered, arrows: their motion" if self.masks is not None else "")]
        heads.append(("similarity to the sentence", f"{name}, before any threshold"))
        for seen in self.seen:
            note = "" if seen.segmenter.has_contrast else "trained without the contrast"
            heads.append((f"mask: {seen.segmenter.name}", note))
        if self.values is not None:
            heads.append(("similarity inside objects", "colored: the referent, gray: the others"))
        title = f"{clip.title}, frames {self.first.window[0]} to {self.first.window[-1]}"
        if any(truth is not None for truth in self.truths):
            title += ". White outline: the truth"
        self.sheet.text(MARGIN, MARGIN - 0.08, title, size=10, weight="bold")
        for x, (head, note) in zip(self.columns, heads, strict=True):
            self.sheet.text(x, MARGIN + 0.28, shorten(head, TILE, 8.5), size=8.5)
            self.sheet.text(x, MARGIN + 0.46, note, size=6.5, color=FAINT)

    def _draw_row(self, k: int) -> str:
        y = MARGIN + HEAD + k * self.row_height
        self._draw_sentence(k, y)
        y += 0.27
        columns = iter(self.columns)
        axes = self.sheet.axes(next(columns), y, TILE, self.tile_height)
        show_picture(axes, self.frame, self.truths[k])
        if self.masks is not None:
            number_objects(axes, self.masks, self.first.position)
        self._draw_similarity(k, next(columns), y)
        numbers = [self._draw_mask(k, seen, next(columns), y) for seen in self.seen]
        if self.values is not None:
            numbers += self._draw_lines(k, next(columns), y)
        return f"{self.clip.sentences[k]!r}: " + "; ".join(numbers)

    def _draw_sentence(self, k: int, y: float) -> None:
        patch = self.sheet.axes(MARGIN, y + 0.02, 0.13, 0.13)
        patch.set(xticks=[], yticks=[], facecolor=color_of(k))
        patch.spines[:].set_visible(False)
        absent = self.clip.has_no_referent(k)
        room = self.sheet.width - 2 * MARGIN - 0.3 - 1.6 * absent
        note = "   (has no referent here)" if absent else ""
        self.sheet.text(MARGIN + 0.2, y, f"“{shorten(self.clip.sentences[k], room, 9)}”{note}", size=9)

    def _draw_similarity(self, k: int, x: float, y: float) -> None:
        axes = self.sheet.axes(x, y, TILE, self.tile_height)
        similarity = self.first.explanation.similarity
        if similarity is None:
            show_note(axes, "no similarity map:\ntrained without the contrast\n(contrast_weight 0)")
            return
        shown = similarity[k, self.first.position]
        image = show_picture(axes, shown, self.truths[k], cmap=SIMILARITY_COLORS, vmin=-1, vmax=1)
        if k == self.clip.num_shown - 1:
            scale = self.sheet.axes(x, y + self.tile_height + 0.12, TILE, 0.07)
            bar = self.sheet.figure.colorbar(image, cax=scale, orientation="horizontal")
            bar.set_ticks([-1, 0, 1])
            style_scale(bar.ax)
            bar.outline.set(linewidth=0.4, edgecolor=FAINT)

    def _draw_mask(self, k: int, seen: Seen, x: float, y: float) -> str:
        mask, truth = seen.explanation.masks[k, seen.position], self.truths[k]
        axes = self.sheet.axes(x, y, TILE, self.tile_height)
        show_picture(axes, tint(self.frame, mask, color_of(k)), truth)
        caption = f"presence {seen.explanation.presence[k]:.2f}"
        if not mask.any():
            caption += ", empty"
        if truth is not None and truth.any():
            caption += f", IoU {mask_iou(mask, truth):.2f}"
        self.sheet.text(x, y + self.tile_height + 0.05, caption, size=7, color=FAINT)
        return f"{seen.segmenter.name}: {caption}"

    def _draw_lines(self, k: int, x: float, y: float) -> list[str]:
        referents = self.clip.referents(k)
        axes = self.sheet.axes(x + 0.18, y, TILE - 0.24, self.tile_height)
        plot_similarities(axes, self.first.window, self.values[k], referents, color_of(k))
        parts = [f"{m}{' (referent)' if m in referents else ''} {value:.2f}"
                 for m, value in enumerate(self.values[k, self.first.position]) if not np.isnan(value)]  # fmt: skip
        return ["similarity inside object " + ", ".join(parts)] if parts else []

    def _draw_channels(self) -> list[str]:
        """Draws a strip of cells for each sentence, in its color where the filter keeps the channel, and below in words
        the overlap between all sentences of the clip."""
        channels, y, sentences = self.first.explanation.channels, self.foot_top, self.clip.sentences
        if channels is None:
            filtered = "the channel filter is off: every sentence keeps all channels"
            without = "no channels: trained without the contrast (contrast_weight 0)"
            line = filtered if self.first.segmenter.has_contrast else without
            self.sheet.text(MARGIN, y, line, size=7, color=FAINT)
            return [line]
        size = channels.shape[1]
        self.sheet.text(MARGIN, y, f"channels that each sentence keeps: {channels[0].sum()} of {size}", size=8.5)
        left = MARGIN + 0.36 * (self.sheet.width - 2 * MARGIN)
        width = self.sheet.width - MARGIN - left
        for k, sentence in enumerate(sentences[: self.clip.num_shown]):
            top = y + 0.25 + 0.2 * k
            self.sheet.text(MARGIN, top + 0.015, f"“{shorten(sentence, left - MARGIN - 0.1, 7.5)}”", size=7.5)
            axes = self.sheet.axes(left, top, width, 0.15)
            cells = np.where(channels[k][:, None], color_of(k), (0.93, 0.93, 0.93))
            axes.pcolormesh(np.arange(size + 1), [0, 1], cells[None], edgecolors="white", linewidth=0.5)
            axes.set_axis_off()
        lines = overlap_in_words(channels, sentences)
        below = y + 0.29 + 0.2 * self.clip.num_shown
        self.sheet.text(MARGIN, below, "\n".join(lines), size=7, color=FAINT, linespacing=1.4)
        return lines


def overlap_in_words(channels: np.ndarray, sentences: list[str]) -> list[str]:
    overlap = channel_overlap(channels, sentences)

    def mean(name: str) -> str:
        number = overlap[f"num_{name}"]
        return f"{overlap[name]:.2f} ({number} pair{'s' * (number != 1)})" if number else "no such pair"

    return [
        f"overlap of kept channels (Jaccard index) between the clip's {len(sentences)} sentences; "
        f"by chance {overlap['chance']:.2f}",
        f"pairs that share a content word: {mean('sharing')}; pairs that share none: {mean('other')}",
    ]
