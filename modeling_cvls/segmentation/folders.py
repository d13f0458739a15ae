"""A folder of videos, shared out among processes; what is done already is not done again."""

import json
from dataclasses import asdict
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from tqdm.auto import tqdm

from ..atomic import write_text
from ..images_cvls import IMAGE_SUFFIXES, frame_files
from ..names import check_link, repeated
from ..pipeline_cvls import CVLSPipeline
from ..video_packets_cvls import import_av, is_picture, open_container, video_stream
from .files import Settings, is_done, segment_video

#: What is taken for a video without looking into it, so that a broken one is an error and not left out.
VIDEO_SUFFIXES = (
    ".3gp", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts",
    ".webm", ".wmv",
)  # fmt: skip


def videos_in(folder: Path) -> list[Path]:
    """The videos of a folder, sorted: its files that hold a video, and its folders of frames. None where the folder
    itself is one of frames and holds no video file."""
    paths = sorted(path for path in folder.iterdir() if path.name[0] != ".")
    files = [path for path in paths if path.is_file() and _holds_video(path)]
    if not files and frame_files(folder):
        return []
    return sorted(files + [path for path in paths if path.is_dir() and frame_files(path)])


def check_links(folder: Path, videos: list[Path]) -> None:
    """Refuses links out of a folder among its videos and their frames, or among its own frames.

    Raises:
        ValueError: naming the link.
    """
    for path in videos or [folder]:
        for file in [path, *(frame_files(path) if path.is_dir() else [])]:
            if file.is_symlink():
                check_link(file, folder)


def left_out_of(folder: Path, videos: list[Path]) -> list[Path]:
    """What else a folder holds, sorted; hidden files are not counted."""
    return sorted(path for path in folder.iterdir() if path.name[0] != "." and path not in videos)


def _holds_video(path: Path) -> bool:
    suffix = path.suffix.lower()
    if suffix in VIDEO_SUFFIXES or suffix in IMAGE_SUFFIXES:
        return suffix in VIDEO_SUFFIXES
    av = import_av()
    try:
        with open_container(str(path)) as container:
            return video_stream(container) is not None and not is_picture(container)
    except (av.FFmpegError, OSError, ValueError):
        return False


def check_settings(output: Path, settings: Settings, weights: str) -> None:
    """Remembers the settings in `output`/settings.json. All results in a folder are of the same model, sentences and
    settings, as what is there already is not made again.

    Args:
        output: the folder.
        settings: of this run.
        weights: the fingerprint of the model, whose folder may hold other weights than before.

    Raises:
        ValueError: the folder holds results of other settings, or settings that cannot be read.
    """
    values, path = {**asdict(settings), "weights": weights}, output / "settings.json"
    if path.exists():
        try:
            defaults = {**asdict(Settings(settings.model, settings.sentences)), "weights": weights}
            earlier = {**defaults, **json.loads(path.read_text(encoding="utf-8"))}
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"{path} is damaged ({str(error)[:80]}); give a new folder") from error
        changed = [name for name in values if values[name] != earlier.get(name)]
        if changed:
            raise ValueError(
                f"--output {output} holds results of another {', '.join(changed)} (see {path.name}); give a new folder"
            )
    else:
        write_text(path, json.dumps(values, indent=2) + "\n")


def outputs_in(output: Path, videos: list[Path], settings: Settings) -> dict[Path, Path]:
    """For each video of a folder the file or folder in `output` that its result is written to.

    Raises:
        ValueError: two videos would have the same output.
    """
    outputs = {video: output / f"{video.stem if video.is_file() else video.name}{settings.suffix}" for video in videos}
    twice = repeated(path.name for path in outputs.values())
    if twice:
        raise ValueError(
            f"several videos in {videos[0].parent} would be written to {', '.join(sorted(twice))}: rename some"
        )
    return outputs


def segment_folder(
    segmenter: CVLSPipeline,
    videos: list[Path],
    output: Path,
    settings: Settings,
    state: PartialState,
    batch_size: int = 1,
) -> tuple[list[str], list[str]]:
    """Segments this process's share of the videos whose results are not in the folder `output` yet.

    Returns:
        The errors of all processes, one line per video that could not be segmented, and what is missing of videos that
        are damaged, one line each.

    Raises:
        ValueError: two videos would have the same output.
    """
    outputs = outputs_in(output, videos, settings)
    found = [[video for video in videos if state.is_main_process and not is_done(outputs[video], settings)]]
    broadcast_object_list(found)  # the same for all, though others may have finished some already
    (todo,) = found
    if state.is_main_process and len(todo) < len(videos):
        print(f"{len(videos) - len(todo)} of {len(videos)} videos are done already")
    errors, damages = [], []
    share = todo[state.process_index :: state.num_processes]
    for video in tqdm(share, desc="segmenting", unit="video", disable=not state.is_main_process):
        try:
            summary = segment_video(segmenter, video, outputs[video], settings, batch_size)
            damages += [] if summary.damage is None else [summary.damage]
        except (OSError, ValueError, MemoryError) as error:  # the others can still be done
            errors.append(str(error) if str(video) in str(error) else f"{video}: {error}")
    return gather_object(errors), gather_object(damages)
