"""A folder of videos, shared out among processes; what is done already is not done again."""

import json
from dataclasses import asdict
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from tqdm.auto import tqdm

from ..frame_reader_cvls import frame_files
from ..pipeline_cvls import CVLSPipeline
from .files import Settings, outputs_of, segment_video

VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")


def videos_in(folder: Path) -> list[Path]:
    """The videos of a folder: its video files, or, where it has neither those nor frames, its folders of frames."""
    files = [path for path in folder.iterdir() if path.suffix.lower() in VIDEO_SUFFIXES and path.name[0] != "."]
    if not files and not frame_files(folder):
        files = [path for path in folder.iterdir() if path.is_dir() and frame_files(path)]
    return sorted(files)


def check_settings(output: Path, settings: Settings) -> None:
    """Remembers the settings in `output`/settings.json. All results in a folder are of the same sentences and
    settings, as what is there already is not made again.

    Raises:
        ValueError: the folder holds results of other settings.
    """
    values, path = asdict(settings), output / "settings.json"
    if path.exists():
        earlier = json.loads(path.read_text())
        changed = [name for name in values if values[name] != earlier.get(name)]
        if changed:
            raise ValueError(
                f"--output {output} holds results of another {', '.join(changed)} (see {path.name}); give a new folder"
            )
    else:
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(values, indent=2) + "\n")
        partial.replace(path)


def segment_folder(
    segmenter: CVLSPipeline,
    videos: list[Path],
    output: Path,
    settings: Settings,
    state: PartialState,
    batch_size: int = 1,
) -> list[str]:
    """Segments this process's share of the videos whose results are not in the folder `output` yet.

    Returns:
        The errors of all processes, one line per video that could not be segmented.

    Raises:
        ValueError: two videos would have the same output.
    """
    outputs = {video: output / f"{video.stem if video.is_file() else video.name}.mp4" for video in videos}
    names = [path.name for path in outputs.values()]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(
            f"several videos in {videos[0].parent} would be written to {', '.join(sorted(twice))}: rename some"
        )
    todo = [[video for video in videos if not all(path.exists() for path in outputs_of(outputs[video], settings))]]
    broadcast_object_list(todo)  # the same for all, though others may have finished some already
    (todo,) = todo
    if state.is_main_process and len(todo) < len(videos):
        print(f"{len(videos) - len(todo)} of {len(videos)} videos are done already")
    errors = []
    share = todo[state.process_index :: state.num_processes]
    for video in tqdm(share, desc="segmenting", unit="video", disable=not state.is_main_process):
        try:
            segment_video(segmenter, video, outputs[video], settings, batch_size)
        except (OSError, ValueError) as error:  # the others can still be done
            errors.append(f"{video}: {error}")
    return gather_object(errors)
