"""Frames with palette images as masks, and sentences in a csv file -> a folder that `datasets.load_dataset` loads.

    cvls convert frames --source SOURCE --output DATASET --title "My videos" --license cc-by-4.0

SOURCE holds

    JPEGImages/<video>/<frame>.jpg    the frames (jpg or png), in the order of their names
    Annotations/<video>/<frame>.png   palette images: the index of a pixel is the number of its object, 0 is background
                                      and 255 counts for nothing; of every frame, or of every n-th
    sentences.csv                     csv with the header video,object,sentence: the number of the object that the
                                      sentence refers to, several with spaces between them, or none
"""

from argparse import Namespace
from collections import defaultdict

from jsonargparse import ArgumentParser

from ..images_cvls import frame_files
from .arguments import Conversion
from .own import SPLITS, Sentence, add_sentences_argument, conversion, read_sentences, sentences_file
from .problems import Problems
from .video_folders import Expression, PaletteFolder, convert_palette_folder

__all__ = ["SPLITS", "add_arguments", "prepare"]


def add_arguments(parser: ArgumentParser) -> None:
    """Adds --sentences."""
    add_sentences_argument(parser, "video,object,sentence")


def prepare(arguments: Namespace, problems: Problems) -> Conversion:
    """Finds the videos that sentences speak of."""
    frames, masks = arguments.source / "JPEGImages", arguments.source / "Annotations"
    for path in (frames, masks):
        if not path.is_dir():
            raise FileNotFoundError(f"{path} does not exist; `cvls convert frames --help` says what --source holds")
    by_video: dict[str, list[Sentence]] = defaultdict(list)
    for sentence in read_sentences(arguments, problems, "video", "object"):
        if problems.is_name(sentence.where, sentence.video, "the video"):
            by_video[sentence.video].append(sentence)
    videos = []
    for video_id, sentences in by_video.items():
        where = sentences[0].where
        missing = next((folder / video_id for folder in (frames, masks) if not (folder / video_id).is_dir()), None)
        if missing:
            problems.found(where, f"the folder {missing} does not exist")
            continue
        files = frame_files(frames / video_id)
        suffixes = {path.suffix for path in files}
        if len(suffixes) != 1:
            kinds = ", ".join(sorted(suffixes)) or "no frames"
            problems.found(where, f"{frames / video_id} holds {kinds}, expected jpg or png alone")
            continue
        expressions = tuple(Expression(str(n), one.text, one.objects) for n, one in enumerate(sentences))
        names = tuple(path.stem for path in files)
        where = f"{sentences_file(arguments)}, video {video_id!r}"
        suffix = suffixes.pop()
        videos.append(
            PaletteFolder(video_id, frames / video_id, names, expressions, where, masks / video_id, suffix=suffix)
        )
    described = by_video.keys()
    for folder in sorted(frames.iterdir()):
        if folder.is_dir() and folder.name not in described and frame_files(folder):
            problems.found(str(folder), "no sentence is about this video")
    return conversion(arguments, videos, "frames with palette images", convert_palette_folder)
