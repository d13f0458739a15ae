"""One video to an overlay, cut-outs and videos of its masks, or to a file or folder of another format."""

import re
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..atomic import written_together
from ..frame_reader_cvls import FrameReader
from ..pipeline_cvls import CVLSPipeline
from ..results import SUFFIXES, check_free, segment
from ..video_packets_cvls import import_av, open_container, video_stream
from ..visualization import VideoWriter, cutout, mask_picture, overlay, writer_like

#: Frames per second of a folder of frames, where nothing else is said.
FOLDER_FPS = 24
#: Of the warning that frames of a video are missing; what comes before is its name.
DAMAGE = r"(?s).* is damaged or was cut off: "


# Of the pipeline, which fields of the same names give.
OPTIONS = ("start", "end", "fps", "window", "overlap", "threshold", "presence_threshold")


@dataclass(frozen=True)
class Settings:
    """What the results of a video depend on; one field for each option of `cvls segment`."""

    model: str
    sentences: list[str]
    format: str = "overlay"
    cutouts: bool = False
    masks: bool = False
    start: float | None = None
    end: float | None = None
    fps: float | None = None
    video_fps: float | None = None
    on_damage: str = "keep"
    window: int | None = None
    overlap: int | None = None
    threshold: float = 0.5
    presence_threshold: float = 0.5

    def __post_init__(self):
        if self.format != "overlay" and (self.cutouts or self.masks):
            raise ValueError(f"--cutouts and --masks belong to --format overlay, not to --format {self.format}")

    @property
    def suffix(self) -> str:
        """What the name of a result ends in; "" for a folder."""
        return SUFFIXES.get(self.format, "")

    @property
    def names(self) -> list[str]:
        """For each sentence a name for files: its number, from 1 on, and its words."""
        words = [re.sub(r"[^a-z0-9]+", "_", sentence.lower()).strip("_")[:60] for sentence in self.sentences]
        return [f"{number}_{name}".rstrip("_") for number, name in enumerate(words, start=1)]


@dataclass(frozen=True)
class Summary:
    """What was found in a video.

    Attributes:
        frames: the number of frames.
        scores: the largest presence probability of each sentence.
        shares: the share of the frames in which each sentence has a mask.
        damage: a sentence that names the frames that could not be decoded, None where there is none.
    """

    frames: int
    scores: list[float]
    shares: list[float]
    damage: str | None = None


def outputs_of(output: Path, settings: Settings) -> list[Path]:
    """What is written for a video whose result is `output`. The result comes last: where it is, all is there."""
    cutouts, masks = _folders_of(output)
    return [*([cutouts] if settings.cutouts else []), *([masks] if settings.masks else []), output]


def is_done(output: Path, settings: Settings) -> bool:
    """Whether all that belongs to a video is there; with an overlay, a mask and a cut-out for each of its frames."""
    if settings.format != "overlay":
        return output.is_file() or (output.is_dir() and any(output.iterdir()))
    frames = _count_frames(output)
    cutouts, masks = _folders_of(output)
    counts = [frames]
    if settings.cutouts:
        counts += [len(list((cutouts / name).glob("*.png"))) for name in settings.names]
    if settings.masks:
        counts += [_count_frames(masks / f"{name}.mp4") for name in settings.names]
    return frames > 0 and counts == [frames] * len(counts)


def _count_frames(path: Path) -> int:
    """The frames of a video that was written here, as its header says; 0 where there is none."""
    av = import_av()
    try:
        with open_container(str(path)) as container:
            stream = video_stream(container)
            return stream.frames if stream else 0
    except (av.FFmpegError, OSError, ValueError):
        return 0


def segment_video(
    segmenter: CVLSPipeline,
    source: str | Path,
    output: Path,
    settings: Settings,
    batch_size: int = 1,
    progress: bool = False,
) -> Summary:
    """Segments a video and writes what `outputs_of` lists. Nothing is left of a video that could not be finished, and
    what was there before stays until then.

    Args:
        segmenter: the pipeline of the model.
        source: a video file, a URL or a folder of frames.
        output: the mp4 file of the overlay, or what `settings.format` is written to.
        batch_size: this many windows go through the model together.
        progress: show a bar.

    Raises:
        BlockingIOError: another process is writing the same results.
        OSError, ValueError: as the pipeline's `stream`.
    """
    fps = settings.video_fps or (FOLDER_FPS if Path(source).is_dir() else None)
    options: dict[str, Any] = {name: getattr(settings, name) for name in OPTIONS}
    options |= {"batch_size": batch_size, "progress": progress}
    if settings.format != "overlay":
        check_free(output)  # before the work
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", DAMAGE, UserWarning)  # as below
            result = segment(segmenter, source, settings.sentences, fps, on_damage=settings.on_damage, **options)
        result.save(output, settings.format)
        shown = np.array(result.frame_scores) > 0
        return Summary(len(result.frame_indices), list(result.scores), shown.mean(1).tolist(), result.reader.damage)
    reader = FrameReader(str(source), fps, settings.on_damage)
    results = segmenter.stream(reader, settings.sentences, passes=2, return_frames=True, **options)
    count, scores, shares = 0, np.zeros(len(settings.sentences)), np.zeros(len(settings.sentences))
    with closing(results), warnings.catch_warnings(), _writer(output, settings, reader) as write:
        warnings.filterwarnings("ignore", DAMAGE, UserWarning)  # that frames are missing is in the summary
        for result in results:
            write(result)
            count += 1
            scores = np.maximum(scores, result["scores"])
            shares += result["masks"].any((1, 2))
        if not count:
            raise ValueError(f"none of the frames of {source} that were asked for can be decoded")
    return Summary(count, scores.tolist(), (shares / count).tolist(), reader.damage)


def _folders_of(output: Path) -> tuple[Path, Path]:
    """Where the cut-outs and the mask videos go for a video whose overlay is `output`."""
    return output.with_name(f"{output.stem}_cutouts"), output.with_name(f"{output.stem}_masks")


@contextmanager
def _writer(output: Path, settings: Settings, reader: FrameReader) -> Iterator[Any]:
    """A function that writes the result of a frame."""
    with written_together(*outputs_of(output, settings)) as partial, ExitStack() as stack:
        cutouts, _ = _folders_of(partial / output.name)
        writers: list[VideoWriter] = []  # of the overlay, then those of the masks
        start = 0.0

        def write(result: dict[str, Any]) -> None:
            nonlocal start
            if not writers:  # the time of the first frame is the zero of all
                start = result["time"]
                writers.extend(map(stack.enter_context, _open_writers(partial / output.name, settings, reader, start)))
            frame, masks, time = result["frame"], result["masks"], result["time"] - start
            writers[0].write(overlay(frame[None], masks[:, None], settings.sentences, result["scores"])[0], time)
            if settings.cutouts:
                for name, mask in zip(settings.names, masks, strict=True):
                    (cutouts / name).mkdir(parents=True, exist_ok=True)
                    cutout(frame, mask).save(cutouts / name / f"{result['frame_index']:05d}.png")
            for writer, mask in zip(writers[1:], masks, strict=False):  # none unless asked for
                writer.write(mask_picture(mask), time)

        yield write


def _open_writers(overlay_path: Path, settings: Settings, reader: FrameReader, start: float) -> list[VideoWriter]:
    """The writers of the overlay, which has the source's sound, and of the masks."""
    fps = reader.fps if settings.fps is None else min(settings.fps, reader.fps)
    end = reader.end if settings.end is None else min(settings.end, reader.end)
    writers = [writer_like(overlay_path, reader, start, end, fps, with_sound=True)]
    if settings.masks:
        _, folder = _folders_of(overlay_path)
        writers += [writer_like(folder / f"{name}.mp4", reader, start, end, fps) for name in settings.names]
    return writers
