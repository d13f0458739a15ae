"""Pictures to look at: overlays, cut-outs, contact sheets, training curves."""

import functools
import itertools
import os
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw

from .extras import require
from .fonts import font_for, text_blocks
from .frame_reader_cvls import FrameReader
from .sound import Sound, open_sound

# Okabe and Ito's colors, told apart by color-blind readers too; black left out, as it cannot be seen on dark frames.
COLORS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (213, 94, 0), (204, 121, 167), (0, 114, 178))
BACKGROUND, INK = (24, 24, 24), (240, 240, 240)
CLOCK = 90_000  # ticks per second: the usual frame rates come out even
SLOWEST = Fraction(1, 1001)  # frames per second that a header can say
HIGHEST = 4096  # pixels: beyond it, small frames are not enlarged
RIGHT, WRONG = (60, 200, 90), (230, 70, 60)


def _enlarge(frames: np.ndarray, factor: int) -> np.ndarray:
    if factor == 1:
        return frames
    size = frames.shape[2] * factor, frames.shape[1] * factor
    return np.stack([np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC)) for frame in frames])


def _outline(mask: np.ndarray, thickness: int) -> np.ndarray:
    """What lies inside within `thickness` pixels (city-block) of what lies outside, or of the picture's edge."""
    inner = np.pad(mask, 1)
    for _ in range(thickness):
        inner[1:-1, 1:-1] &= inner[:-2, 1:-1] & inner[2:, 1:-1] & inner[1:-1, :-2] & inner[1:-1, 2:]
    return mask & ~inner[1:-1, 1:-1]


def _paint(frame: np.ndarray, mask: np.ndarray, color: tuple[int, int, int], opacity: float, thickness: int) -> None:
    """Tints `frame` (H, W, 3) where `mask` (H, W), in place, with an opaque outline."""
    if not mask.any():
        return
    frame[mask] = ((1 - opacity) * frame[mask] + opacity * np.array(color)).astype(np.uint8)
    frame[_outline(mask, thickness)] = color


def overlay(
    frames: np.ndarray,
    masks: np.ndarray,
    labels: Sequence[str],
    scores: Sequence[float] | None = None,
    colors: Sequence[tuple[int, int, int]] = COLORS,
    opacity: float = 0.45,
    min_width: int = 480,
) -> np.ndarray:
    """Draws the masks over the frames, one color per sentence, and a legend below.

    Args:
        frames: uint8 (T, H, W, 3), RGB.
        masks: bool (K, T, H, W).
        labels: K sentences for the legend.
        scores: K numbers shown behind the sentences.
        colors: RGB colors, used in turn.
        opacity: of the tint inside a mask; outlines are opaque.
        min_width: narrower videos are enlarged by a whole factor to at least this many pixels, for readable text, as
            far as they stay within 4096 pixels of height.

    Returns:
        uint8 (T, H', W', 3): the frames, enlarged where small, with the legend strip below; H' and W' are even.

    Raises:
        ValueError: shapes or numbers do not agree.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        raise ValueError(f"frames must be uint8 of shape (T, H, W, 3), not {frames.dtype} {frames.shape}")
    if masks.dtype != bool or masks.shape != (len(labels), *frames.shape[:3]):
        raise ValueError(
            f"masks must be bool of shape (K, T, H, W) = {(len(labels), *frames.shape[:3])} for {len(labels)} labels "
            f"and frames of shape {frames.shape}, not {masks.dtype} {masks.shape}"
        )
    factor = max(1, min(-(-min_width // frames.shape[2]), HIGHEST // frames.shape[1]))
    canvas = _enlarge(frames, factor).copy()
    thickness = max(1, round(min(canvas.shape[1:3]) / 240))
    for index, mask in enumerate(masks):
        for frame, frame_mask in zip(canvas, mask, strict=True):
            frame_mask = frame_mask.repeat(factor, 0).repeat(factor, 1)
            _paint(frame, frame_mask, colors[index % len(colors)], opacity, thickness)

    values = None if scores is None else tuple(f"  ({score:.2f})" for score in scores)
    font_size = max(14, canvas.shape[2] // 40)
    strip = _legend(tuple(labels), values, tuple(map(tuple, colors)), canvas.shape[2], font_size)
    strip = np.broadcast_to(strip, (len(canvas), *strip.shape))
    picture = np.concatenate([canvas, strip], axis=1)
    # H.264 in yuv420p takes even sizes only.
    return np.pad(picture, ((0, 0), (0, picture.shape[1] % 2), (0, picture.shape[2] % 2), (0, 0)), mode="edge")


@functools.lru_cache(maxsize=8)  # a video is drawn frame by frame, mostly with the same legend
def _legend(
    labels: tuple[str, ...],
    values: tuple[str, ...] | None,
    colors: tuple[tuple[int, int, int], ...],
    width: int,
    font_size: int,
) -> np.ndarray:
    """Lines break alike whatever the values, so that the strips of all frames are of one size."""
    line, margin = round(font_size * 1.4), font_size // 2
    number_font = font_for("0123456789", font_size)
    room = 0 if values is None else number_font.getlength("  (0.00)") + margin
    entries = text_blocks(labels, font_size, width - 3 * margin - font_size - room)
    strip = Image.new("RGB", (width, line * sum(len(lines) for _, lines in entries) + 2 * margin), BACKGROUND)
    draw, y = ImageDraw.Draw(strip), margin
    for index, (font, lines) in enumerate(entries):
        draw.rectangle((margin, y + 2, margin + font_size, y + 2 + font_size), fill=colors[index % len(colors)])
        for number, text in enumerate(lines):
            left = 2 * margin + font_size
            draw.text((left, y), text, INK, font)
            if values is not None and number == len(lines) - 1:
                draw.text((left + font.getlength(text), y), values[index], INK, number_font)
            y += line
    return np.asarray(strip)


class VideoWriter:
    """Writes an H.264 mp4 that browsers play (yuv420p), frame by frame; a context manager.

    Args:
        path: the file to write; its folder is made.
        fps: frames per second; where `write` is told times, the mean.
        sample_aspect_ratio: the width of a pixel divided by its height.
        end: the time in seconds at which the last frame ends; by default it lasts 1 / `fps`.
        sound: written beside the frames, encoded as AAC; closed with the writer.

    Raises:
        ValueError: a frame has odd or differing sides.
    """

    def __init__(
        self,
        path: str | Path,
        fps: float,
        sample_aspect_ratio: Fraction = Fraction(1),
        end: float | None = None,
        sound: Sound | None = None,
    ):
        self.path, self.num_frames = Path(path), 0
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._fps, self._end, self._sound, self._pts = fps, end, sound, -1
        self._container = av.open(os.path.abspath(self.path), "w")
        # Without B-frames the times of decoding are those of presentation, and the lengths of frames come out exactly.
        # The preset makes files as small as the default one at this quality, in a third of the time.
        options = {"crf": "18", "bf": "0", "preset": "veryfast"}
        rate = Fraction(fps).limit_denominator(1001) or SLOWEST
        self._stream = self._container.add_stream("libx264", rate=rate, options=options)
        self._stream.codec_context.time_base = Fraction(1, CLOCK)
        self._stream.codec_context.sample_aspect_ratio = sample_aspect_ratio
        self._audio = None if sound is None else self._container.add_stream("aac", rate=sound.rate, layout=sound.layout)

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, *exception) -> None:
        try:
            if self.num_frames:
                self._finish()
        finally:  # also where the disk is full
            self._container.close()
            if self._sound is not None:
                self._sound.close()

    def _finish(self) -> None:
        packets, last = self._stream.encode(), self._pts / CLOCK
        lasts = 1 / self._fps if self._end is None else max(self._end - last, 1 / CLOCK)
        packets[-1].duration = round(lasts * CLOCK)
        self._container.mux(packets)
        self._write_sound(last + lasts)
        if self._audio is not None:
            self._container.mux(self._audio.encode())

    def write(self, frame: np.ndarray, time: float | None = None) -> None:
        """Appends a uint8 (H, W, 3) frame, RGB, H and W even.

        Args:
            time: when it is to be shown, in seconds from the beginning; by default 1 / `fps` after the one before.
        """
        height, width = frame.shape[:2]
        if not self.num_frames:
            if height % 2 or width % 2:
                raise ValueError(
                    f"frames for {self.path} are {height} x {width} pixels: H.264 in yuv420p takes even sizes only"
                )
            self._stream.height, self._stream.width, self._stream.pix_fmt = height, width, "yuv420p"
        elif (height, width) != (self._stream.height, self._stream.width):
            raise ValueError(
                f"frame {self.num_frames} for {self.path} has shape {frame.shape}, the first one was "
                f"{self._stream.height} x {self._stream.width}"
            )
        time = self.num_frames / self._fps if time is None else time
        self._write_sound(time)
        self.num_frames += 1
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        self._pts = max(round(time * CLOCK), self._pts + 1)
        picture.pts, picture.time_base = self._pts, Fraction(1, CLOCK)
        self._container.mux(self._stream.encode(picture))

    def _write_sound(self, time: float) -> None:
        if self._sound is not None:
            for frame in self._sound.until(time):
                self._container.mux(self._audio.encode(frame))


def writer_like(
    path: str | Path, reader: FrameReader, start: float, end: float, fps: float, with_sound: bool = False
) -> VideoWriter:
    """A writer for what is drawn over a stretch of a video: it lasts as long and has the same shape of pixels.

    Args:
        path: the file to write; its folder is made.
        reader: the video; its times are known.
        start, end: the stretch, in seconds on the clock of `reader.times`; `start` is the zero of what is written.
        fps: the mean number of frames per second that are written.
        with_sound: write the sound of the stretch too, where there is any.
    """
    sound = open_sound(reader, start, end) if with_sound else None
    return VideoWriter(path, fps, reader.sample_aspect_ratio, end - start, sound)


def write_video(path: str | Path, frames: Iterable[np.ndarray], fps: float) -> None:
    """Writes frames as [`VideoWriter`] does.

    Args:
        path: the file to write; its folder is made.
        frames: uint8 (H, W, 3) frames, RGB, H and W even: an array (T, H, W, 3) or any iterable, taken one by one.
        fps: frames per second.

    Raises:
        ValueError: there is no frame, or a frame has odd or differing sides.
    """
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise ValueError(f"no frames to write to {path}")
    with VideoWriter(path, fps) as writer:
        for frame in itertools.chain([first], frames):
            writer.write(frame)


def cutout(frame: np.ndarray, mask: np.ndarray) -> Image.Image:
    """The object alone on a transparent ground: frame uint8 (H, W, 3), mask bool (H, W) -> RGBA picture."""
    return Image.fromarray(np.dstack([frame, mask * np.uint8(255)]))


def mask_picture(mask: np.ndarray) -> np.ndarray:
    """bool (H, W) -> uint8 (H', W', 3), white inside on black, H and W made even by black pixels."""
    height, width = mask.shape
    picture = np.pad(mask, ((0, height % 2), (0, width % 2)))
    return np.broadcast_to(picture[..., None] * np.uint8(255), (*picture.shape, 3))


def _checked_rows(
    frames: np.ndarray,
    sentences: Sequence[str],
    masks: np.ndarray,
    truth: np.ndarray | None,
    correct: Sequence[bool] | None,
) -> Sequence[bool] | None:
    """`correct` as `contact_sheet` shows it, after a check of the shapes."""
    expected = (len(sentences), *frames.shape[:3])
    for name, value in (("masks", masks), ("truth", truth)):
        if value is not None and (value.dtype != bool or value.shape != expected):
            raise ValueError(f"{name} must be bool of shape (K, T, H, W) = {expected}, not {value.dtype} {value.shape}")
    if correct is None and truth is not None:
        both, either = (masks & truth).sum((1, 2, 3)), (masks | truth).sum((1, 2, 3))
        correct = 2 * both > either
        correct |= either == 0

    return correct


def contact_sheet(
    path: str | Path,
    frames: np.ndarray,
    sentences: Sequence[str],
    masks: np.ndarray,
    truth: np.ndarray | None = None,
    correct: Sequence[bool] | None = None,
    max_columns: int = 6,
    tile_width: int = 200,
) -> None:
    """Writes one picture of a clip: one row per sentence, one column per frame, the mask laid over each frame.

    Args:
        path: the png to write; its folder is made.
        frames: uint8 (T, H, W, 3), RGB.
        sentences: K row titles.
        masks: bool (K, T, H, W), what the model found.
        truth: bool (K, T, H, W), outlined in white.
        correct: K values: a green bar before the row's title where true, a red one where false. By default, where
            `truth` is given, true if the intersection over union over the shown clip exceeds one half (two empty masks
            agree).
        max_columns: longer clips are shown by this many evenly spaced frames.
        tile_width: width of a frame in pixels, about: small frames are enlarged by whole factors.

    Raises:
        ValueError: shapes or numbers do not agree.
    """
    correct = _checked_rows(frames, sentences, masks, truth, correct)
    columns = np.unique(np.linspace(0, len(frames) - 1, max_columns).round().astype(int))
    factor = max(1, round(tile_width / frames.shape[2]))
    tiles = _enlarge(frames[columns], factor)
    height, width = tiles.shape[1:3]
    gap, bar = 6, 10
    sheet_width = max(len(columns) * (width + gap) + gap, 360)
    font_size = max(14, min(22, sheet_width // 50))
    line = round(font_size * 1.4)
    titles = text_blocks(sentences, font_size, sheet_width - 3 * gap - bar)
    sheet_height = gap + sum(len(title) * line + height + 2 * gap for _, title in titles)
    sheet = Image.new("RGB", (sheet_width, sheet_height), BACKGROUND)
    draw, y = ImageDraw.Draw(sheet), gap
    for row, (font, title) in enumerate(titles):
        x = gap
        if correct is not None:
            draw.rectangle((gap, y, gap + bar, y + len(title) * line - gap), fill=RIGHT if correct[row] else WRONG)
            x += bar + gap
        for text in title:
            draw.text((x, y), text, INK, font)
            y += line
        for column, frame_index in enumerate(columns):
            tile = tiles[column].copy()
            enlarged = masks[row, frame_index].repeat(factor, 0).repeat(factor, 1)
            _paint(tile, enlarged, COLORS[row % len(COLORS)], 0.45, thickness=2)
            if truth is not None:
                tile[_outline(truth[row, frame_index].repeat(factor, 0).repeat(factor, 1), 1)] = 255
            sheet.paste(Image.fromarray(tile), (gap + column * (width + gap), y))
        y += height + 2 * gap
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def training_curves(log_history: list[dict[str, float]], path: str | Path) -> None:
    """Plots what the trainer logged over the optimization steps: the loss and its parts, the evaluation's metrics, and,
    where sentences are of several kinds, the mean IoU of each kind.

    Args:
        log_history: the trainer's `state.log_history`: dicts with "step" and numbers; "loss" and its parts "loss_...",
            metrics "eval_..." and, for a kind of sentence, "eval_<kind>/mean_iou".
        path: the png to write; its folder is made.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: nothing was logged.
    """
    panels: dict[str, dict[str, list[tuple[int, float]]]] = {"loss": {}, "evaluation": {}, "mean IoU per kind": {}}
    for entry in log_history:
        for key, value in entry.items():
            if not isinstance(value, int | float):
                continue
            name = key.removeprefix("eval_")
            if key == "loss" or key.startswith("loss_") or key == "eval_loss":
                panels["loss"].setdefault(key, []).append((entry["step"], value))
            elif key == name or name.startswith("num_") or name.endswith(("runtime", "_per_second")):
                continue
            elif "/" not in name:
                panels["evaluation"].setdefault(name, []).append((entry["step"], value))
            elif name.endswith("/mean_iou"):
                panels["mean IoU per kind"].setdefault(name.split("/")[0], []).append((entry["step"], value))
    panels = {title: lines for title, lines in panels.items() if lines}
    if not panels:
        raise ValueError("the training log holds neither a loss nor an evaluation: nothing to plot")
    require("train", "matplotlib")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6 * len(panels), 4.5), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)
    for axis, (title, lines) in zip(axes[0], panels.items(), strict=True):
        for name, points in lines.items():
            axis.plot(*zip(*points, strict=True), marker="." if len(points) < 50 else None, label=name)
        axis.set(title=title, xlabel="step")
        axis.set_ylim(bottom=0, top=None if title == "loss" else 1)
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small", ncols=1 + len(lines) // 9)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
