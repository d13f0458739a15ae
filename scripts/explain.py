"""Shows what a segmenter saw: similarity maps, masks and kept channels of some sentences about a clip, as one picture.

python scripts/explain.py VIDEO "the dog on the left" "the cat" --model outputs/demo/checkpoint --output out.png
python scripts/explain.py --dataset outputs/demo/dataset --split test --model FULL --compare BASELINE --output out.png
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from datasets import load_dataset
from transformers import AutoProcessor

from modeling_cvls import CVLSModel, FrameReader
from modeling_cvls.data import check_dataset, read_frames, read_masks
from modeling_cvls.explanation import (
    Explanation,
    channel_overlap,
    explain,
    first_of_look_alikes,
    mask_iou,
    similarity_in_instances,
    window_around,
)
from modeling_cvls.launch import check_checkpoint
from modeling_cvls.visualization import COLORS, plt  # its matplotlib needs no display

TILE = 1.95  # of the pictures: inches wide
GAP, MARGIN = 0.14, 0.3
INK, FAINT, LOOK_ALIKE = "#1c1c1c", "#6b6b6b", "#9a9a9a"
MAP = "RdBu_r"


class Clip:
    """One window of a video and its sentences; the truth where it is known.

    Args:
        title: what the video is called.
        sentences: K sentences.
        num_shown: so many of them, the first, are drawn; the others count in the overlap of channels only.
        num_frames: frames of the video.
        frame: the one to show.
        read: frame numbers -> uint8 (T, H, W, 3).
        row: the row of a data set that it is, or None.
    """

    def __init__(self, title, sentences, num_shown, num_frames, frame, read, row=None):
        self.title, self.sentences, self.num_shown = title, sentences, min(num_shown, len(sentences))
        self.num_frames, self.frame, self.read, self.row = num_frames, frame, read, row

    def window(self, length: int) -> list[int]:
        return window_around(self.frame, self.num_frames, length)

    def masks(self, indices: Sequence[int]) -> np.ndarray | None:
        """bool (T, M, H, W): the objects in these frames; None where none is known."""
        return None if self.row is None else read_masks(self.row, indices)[0]

    def truth(self, sentence: int) -> np.ndarray | None:
        """bool (H, W): the referents in the frame that is shown, None where they are not known."""
        if self.row is None or self.frame not in self.row["annotated_frames"]:
            return None
        instances = self.row["sentences"][sentence]["instances"]
        masks, _, annotated = read_masks(self.row, [self.frame])
        return masks[0, instances].any(axis=0) if annotated[0, instances].all() else None


def clip_of_row(row: dict, frame: int | None, num_shown: int) -> Clip:
    annotated = row["annotated_frames"]
    if frame is None:
        frame = annotated[len(annotated) // 2] if annotated else row["num_frames"] // 2
    sentences = [sentence["text"] for sentence in row["sentences"]]
    if not sentences:
        raise ValueError(f"video {row['video_id']!r} has no sentences")
    return Clip(
        row["video_id"], sentences, num_shown, row["num_frames"], frame, lambda indices: read_frames(row, indices), row
    )


def clip_of_video(video: str, sentences: list[str], frame: int | None) -> Clip:
    reader = FrameReader(video)
    frame = len(reader) // 2 if frame is None else frame
    return Clip(Path(video).name, sentences, len(sentences), len(reader), frame, reader.read)


class Segmenter:
    """A model with its processor and the name that the picture gives it."""

    def __init__(self, folder: str, name: str | None):
        self.model = CVLSModel.from_pretrained(folder).float().eval()
        self.processor = AutoProcessor.from_pretrained(folder)
        self.name = name or Path(folder).name
        self.has_contrast = self.model.config.contrast_weight > 0

    def explain(self, clip: Clip) -> tuple[list[int], Explanation]:
        """The window around the clip's frame, of this model's length, and what the model made of it."""
        window = clip.window(self.model.config.num_frames)
        return window, explain(self.model, self.processor, clip.read(window), clip.sentences)


class Sheet:
    """A figure on which axes are placed in inches from its upper left corner."""

    def __init__(self, width: float, height: float):
        self.figure = plt.figure(figsize=(width, height), facecolor="white")
        self.width, self.height = width, height

    def axes(self, x: float, y: float, width: float, height: float):
        place = (x / self.width, 1 - (y + height) / self.height, width / self.width, height / self.height)
        return self.figure.add_axes(place)

    def text(self, x: float, y: float, text: str, size: float = 8, color: str = INK, **style) -> None:
        """`text` with its upper left corner at (x, y)."""
        self.figure.text(x / self.width, 1 - y / self.height, text, size=size, color=color, va="top",
                         parse_math=False, **style)  # fmt: skip


def shorten(text: str, width: float, size: float) -> str:
    """`text`, cut where it would be wider than about `width` inches at `size` points."""
    most = max(8, int(width / (0.0085 * size)))
    return text if len(text) <= most else text[: most - 1] + "…"


def color_of(sentence: int) -> tuple[float, float, float]:
    return tuple(value / 255 for value in COLORS[sentence % len(COLORS)])


def show(axes, picture: np.ndarray, truth: np.ndarray | None = None, **style):
    """A picture, every pixel sharp, with the truth's outline in white on black."""
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


def tint(frame: np.ndarray, mask: np.ndarray, color: tuple[float, float, float]) -> np.ndarray:
    """The frame, gray where the mask is not and in `color` where it is: the mask is seen on any frame."""
    gray = frame.mean(axis=2, keepdims=True) / 255
    return np.where(mask[..., None], (0.75 + 0.25 * gray) * color, 0.12 + 0.6 * gray)


def say(axes, text: str) -> None:
    axes.set(xticks=[], yticks=[], facecolor="#f2f2f2")
    axes.spines[:].set_visible(False)
    axes.text(0.5, 0.5, text, size=7.5, color=FAINT, ha="center", va="center", transform=axes.transAxes)


def number_objects(axes, masks: np.ndarray, shown: int) -> None:
    """Numbers on the objects (`masks` (T, M, H, W)) of the frame `shown`, and arrows on those that move: twice as long
    as the way that they go during the window."""
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


def plot_similarities(axes, frames: list[int], values: np.ndarray, referents: list[int], color) -> None:
    """`values` (T, M) over `frames`: the referents' in `color`, the others' gray, each with its object's number."""
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
    places = np.sort([value for value, _ in ends])
    for _ in range(50):  # numbers that would lie on each other move apart
        steps = np.diff(places)
        push = np.maximum(0, 0.17 - steps) / 2
        if not push.any():
            break
        places[:-1] -= push
        places[1:] += push
    for place, (_, instance) in zip(places, sorted(ends), strict=True):
        bold = "bold" if instance in referents else "normal"
        ink = INK if instance in referents else FAINT
        at = axes.get_yaxis_transform()
        axes.text(1.03, place, str(instance), size=6, color=ink, weight=bold, va="center", transform=at)
    axes.set(ylim=(-1.05, 1.05), yticks=[-1, 0, 1], xticks=frames)
    if len(frames) > 6:
        axes.set_xticks([frames[0], frames[-1]])
    axes.margins(x=0.12)
    axes.tick_params(labelsize=6, length=2, width=0.5, colors=FAINT, pad=1.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set(linewidth=0.5, color=FAINT)
    axes.set_xlabel("frame", size=6, color=FAINT, labelpad=0.5)


def draw(path: Path, clip: Clip, segmenter: Segmenter, other: Segmenter | None) -> list[str]:
    """Writes the picture; one line of text a sentence with the numbers in it, and one on the channels."""
    window, seen = segmenter.explain(clip)
    compared = None if other is None else other.explain(clip)
    shown = window.index(clip.frame)
    frame = clip.read([clip.frame])[0]
    masks = clip.masks(window)
    values = None
    if masks is not None and seen.similarity is not None:
        values = similarity_in_instances(seen.similarity, masks)

    heads = [(f"frame {clip.frame}", "objects numbered, arrows: their motion" if masks is not None else "")]
    heads.append(("similarity to the sentence", f"{segmenter.name}, before any threshold"))
    heads.append((f"mask: {segmenter.name}", "" if segmenter.has_contrast else "trained without the contrast"))
    if other is not None:
        heads.append((f"mask: {other.name}", "" if other.has_contrast else "no similarity map: without the contrast"))
    if values is not None:
        heads.append(("similarity inside objects", "colored: the referent, gray: the others"))

    tile_height = TILE * frame.shape[0] / frame.shape[1]
    row_height = 0.27 + tile_height + 0.32
    strips = seen.channels is not None
    top, count = MARGIN + 0.74, clip.num_shown
    sheet_height = top + count * row_height + 0.55 + (0.78 + 0.2 * count if strips else 0.2)
    sheet = Sheet(2 * MARGIN + len(heads) * (TILE + GAP) - GAP + (0.1 if values is not None else 0), sheet_height)
    columns = [MARGIN + i * (TILE + GAP) for i in range(len(heads))]

    truths = [clip.truth(sentence) for sentence in range(count)]
    title = f"{clip.title}, frames {window[0]} to {window[-1]}"
    if any(truth is not None for truth in truths):
        title += ". White outline: the truth"
    sheet.text(MARGIN, MARGIN - 0.08, title, size=10, weight="bold")
    for x, (head, note) in zip(columns, heads, strict=True):
        sheet.text(x, MARGIN + 0.28, shorten(head, TILE, 8.5), size=8.5)
        sheet.text(x, MARGIN + 0.46, note, size=6.5, color=FAINT)

    report = []
    for k, sentence in enumerate(clip.sentences[:count]):
        y, color, truth = top + k * row_height, color_of(k), truths[k]
        patch = sheet.axes(MARGIN, y + 0.02, 0.13, 0.13)
        patch.set(xticks=[], yticks=[], facecolor=color)
        patch.spines[:].set_visible(False)
        absent = clip.row is not None and not clip.row["sentences"][k]["instances"]
        note = "   (has no referent here)" if absent else ""
        sheet.text(
            MARGIN + 0.2, y, f"“{shorten(sentence, sheet.width - 2 * MARGIN - 0.3 - 1.6 * absent, 9)}”{note}", size=9
        )
        y += 0.27
        places = iter(columns)

        axes = sheet.axes(next(places), y, TILE, tile_height)
        show(axes, frame, truth)
        if masks is not None:
            number_objects(axes, masks, shown)

        x = next(places)
        axes = sheet.axes(x, y, TILE, tile_height)
        if seen.similarity is None:
            say(axes, "no similarity map:\ntrained without the contrast\n(contrast_weight 0)")
        else:
            image = show(axes, seen.similarity[k, shown], truth, cmap=MAP, vmin=-1, vmax=1)
            if k == count - 1:
                bar = sheet.figure.colorbar(
                    image, cax=sheet.axes(x, y + tile_height + 0.12, TILE, 0.07), orientation="horizontal"
                )
                bar.set_ticks([-1, 0, 1])
                bar.ax.tick_params(labelsize=6, length=2, width=0.5, colors=FAINT, pad=1.5)
                bar.outline.set(linewidth=0.4, edgecolor=FAINT)

        numbers = []
        models = [(segmenter.name, shown, seen)]
        if other is not None:
            models.append((other.name, compared[0].index(clip.frame), compared[1]))
        for name, position, explanation in models:
            x = next(places)
            mask = explanation.masks[k, position]
            show(sheet.axes(x, y, TILE, tile_height), tint(frame, mask, color), truth)
            caption = f"presence {explanation.presence[k]:.2f}"
            if not mask.any():
                caption += ", empty"
            if truth is not None and truth.any():
                caption += f", IoU {mask_iou(mask, truth):.2f}"
            sheet.text(x, y + tile_height + 0.05, caption, size=7, color=FAINT)
            numbers.append(f"{name}: {caption}")

        if values is not None:
            referents = clip.row["sentences"][k]["instances"]
            axes = sheet.axes(next(places) + 0.18, y, TILE - 0.24, tile_height)
            plot_similarities(axes, window, values[k], referents, color)
            parts = [f"{m}{' (referent)' if m in referents else ''} {value:.2f}"
                     for m, value in enumerate(values[k, shown]) if not np.isnan(value)]  # fmt: skip
            if parts:
                numbers.append("similarity inside object " + ", ".join(parts))
        report.append(f"{sentence!r}: " + "; ".join(numbers))

    y = top + count * row_height + 0.25
    if strips:
        lines = draw_channels(sheet, y, seen.channels, clip.sentences, count)
    else:
        if segmenter.has_contrast:
            lines = ["the channel filter is off: every sentence keeps all channels"]
        else:
            lines = ["no channels: trained without the contrast (contrast_weight 0)"]
        sheet.text(MARGIN, y, lines[0], size=7, color=FAINT)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.figure.savefig(path, dpi=150)
    plt.close(sheet.figure)
    return report + lines


def draw_channels(sheet: Sheet, y: float, channels: np.ndarray, sentences: list[str], count: int) -> list[str]:
    """A strip of cells for each of the first `count` sentences, in its color where the filter leaves it the channel;
    below, in words, the overlap between all of them."""
    size = channels.shape[1]
    sheet.text(MARGIN, y, f"channels that each sentence keeps: {channels[0].sum()} of {size}", size=8.5)
    left = MARGIN + 0.36 * (sheet.width - 2 * MARGIN)
    width = sheet.width - MARGIN - left
    for k, sentence in enumerate(sentences[:count]):
        top = y + 0.25 + 0.2 * k
        sheet.text(MARGIN, top + 0.015, f"“{shorten(sentence, left - MARGIN - 0.1, 7.5)}”", size=7.5)
        axes = sheet.axes(left, top, width, 0.15)
        cells = np.where(channels[k][:, None], color_of(k), (0.93, 0.93, 0.93))
        axes.pcolormesh(np.arange(size + 1), [0, 1], cells[None], edgecolors="white", linewidth=0.5)
        axes.set_axis_off()
    overlap = channel_overlap(channels, sentences)

    def mean(name: str) -> str:
        number = overlap[f"num_{name}"]
        return f"{overlap[name]:.2f} ({number} pair{'s' * (number != 1)})" if number else "no such pair"

    lines = [
        f"overlap of kept channels (Jaccard index) between the clip's {len(sentences)} sentences; "
        f"by chance {overlap['chance']:.2f}",
        f"pairs that share a content word: {mean('sharing')}; pairs that share none: {mean('other')}",
    ]
    sheet.text(MARGIN, y + 0.29 + 0.2 * count, "\n".join(lines), size=7, color=FAINT, linespacing=1.4)
    return lines


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", nargs="?", help="the video file, where no --dataset is given")
    parser.add_argument("sentences", nargs="*", metavar="sentence", help="about the video; each in quotes")
    parser.add_argument("--model", required=True, help="folder (or Hub name) of a trained model")
    parser.add_argument("--compare", help="folder (or Hub name) of a second model, whose masks are shown beside")
    parser.add_argument("--names", nargs="+", default=[], metavar="NAME", help="what the picture calls the models")
    parser.add_argument("--dataset", help="folder or Hub name that load_dataset loads; its masks are the truth")
    parser.add_argument("--split", default="test", help="split of the data set; default: test")
    parser.add_argument(
        "--video-id",
        help="video of the split. Default: the first with four objects or more and sentences of the kinds appearance "
        "and temporal; where there is none, the first with an annotated frame and a sentence",
    )
    parser.add_argument("--num-sentences", type=int, default=4, help="of a data set's video, the first so many; 4")
    parser.add_argument(
        "--frame", type=int, help="frame to show, from 0; the window of the model lies around it. Default: the middle "
        "annotated one, of a video file the middle one"
    )  # fmt: skip
    parser.add_argument("--output", required=True, type=Path, help="the png file to write")
    args = parser.parse_args(arguments)
    if args.output.suffix.lower() != ".png":
        parser.error(f"--output {args.output}: a png is written, so the name must end in .png")
    if args.dataset and args.video:
        parser.error("give either --dataset or a video with sentences, not both")
    if not args.dataset and not (args.video and args.sentences):
        parser.error("give a video and at least one sentence, or --dataset")
    if len(args.names) > 1 + bool(args.compare):
        parser.error(f"--names: {len(args.names)} names for {1 + bool(args.compare)} model(s)")
    if args.num_sentences < 1:
        parser.error(f"--num-sentences {args.num_sentences}: at least 1")

    try:
        if args.dataset:
            dataset = load_dataset(args.dataset, split=args.split)
            check_dataset(dataset, f"{args.dataset}, split {args.split}")
            if args.video_id is None:
                index = first_of_look_alikes(dataset)
            elif args.video_id in (ids := dataset["video_id"][:]):
                index = ids.index(args.video_id)
            else:
                raise ValueError(
                    f"--video-id {args.video_id}: split {args.split} has no such video; its first is {ids[0]}"
                )
            clip = clip_of_row(dataset[index], args.frame, args.num_sentences)
        else:
            clip = clip_of_video(args.video, args.sentences, args.frame)
        check_checkpoint(args.model, "--model")
        if args.compare:
            check_checkpoint(args.compare, "--compare")
        names = [*args.names, None, None]
        segmenter = Segmenter(args.model, names[0])
        other = Segmenter(args.compare, names[1]) if args.compare else None
        report = draw(args.output, clip, segmenter, other)
    except (OSError, ValueError) as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        sys.exit(2)
    print(*report, f"written to {args.output}", sep="\n")


if __name__ == "__main__":
    main()
