"""The masks of a whole data set as the competition servers take them."""

import hashlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from PIL import Image

from ..atomic import written_together
from ..names import check_name, repeated
from ..rle_cvls import decode_mask
from .protocols import Protocol

SETTINGS = "settings.json"


class Submission:
    """FOLDER/Annotations/<video>/<expression>/<frame>.png for every sentence and frame, and FOLDER/submission.zip.

    The expression is the sentence's id without the video's before it; frames are called as in the source. The masks are
    binary images (0 and 255). A video's folder appears when all its masks are written, so an evaluation that was killed
    goes on with the videos that are missing.

    Args:
        folder: where to write.
        settings: everything that decides what the masks are; `dataset_digest` tells data sets apart, and has
            checked their ids.
    """

    def __init__(self, folder: str | Path, settings: Mapping[str, Any]):
        self.folder = Path(folder)
        self.masks = self.folder / "Annotations"
        self.settings = json.dumps(dict(settings), indent=2) + "\n"

    def check(self) -> None:
        """Raises a `ValueError` where the folder holds masks that were made otherwise. Writes nothing."""
        path = self.folder / SETTINGS
        if self.masks.exists() and (not path.is_file() or path.read_text(encoding="utf-8") != self.settings):
            raise ValueError(
                f"{self.masks} exists already, with masks of another model, data set or settings (see {path}); give a "
                "new folder, so that nothing is mixed"
            )

    def begin(self) -> None:
        """Notes the settings, for an evaluation that goes on later."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / SETTINGS).write_text(self.settings, encoding="utf-8")
        self.masks.mkdir(exist_ok=True)

    def has(self, video_id: str) -> bool:
        """Whether the masks of a video are all there."""
        return (self.masks / video_id).is_dir()

    def write(self, row: Mapping[str, Any], predictions: Sequence[Sequence[Mapping[str, Any]]]) -> None:
        """Writes the masks of a row, unless they are there.

        Args:
            row: a row with the columns of `FEATURES`.
            predictions: of each sentence one prediction per frame of the video.

        Raises:
            ValueError: as `frame_names_of`.
        """
        if self.has(row["video_id"]):
            return
        names = frame_names_of(row)
        with written_together(self.masks / row["video_id"]) as partial:
            (partial / row["video_id"]).mkdir()
            for expression, of_sentence in zip(expressions_of(row), predictions, strict=True):
                path = partial / row["video_id"] / expression
                path.mkdir()
                for name, prediction in zip(names, of_sentence, strict=True):
                    mask = decode_mask(prediction["counts"], *prediction["size"])
                    Image.fromarray(mask * np.uint8(255)).save(path / f"{name}.png")

    def finish(self, protocol: Protocol) -> None:
        """Writes submission.zip; its files are stored as they are, for PNG is compressed already."""
        root = self.folder if protocol.archive_root else self.masks
        with written_together(self.folder / "submission.zip") as partial:
            with zipfile.ZipFile(partial / "submission.zip", "w") as archive:
                for path in sorted(self.masks.rglob("*.png")):
                    archive.write(path, path.relative_to(root))


def frame_names_of(row: Mapping[str, Any]) -> list[str]:
    """What the files of a row's masks are called.

    Raises:
        ValueError: a frame has no name, none that a file can have, or the name of another one.
    """
    names = [Path(cell["path"] or "").stem for cell in row["frames"] or []]
    if not names or not all(names):
        raise ValueError("a submission is named after the source's frames, but the row's frames have no `path`")
    for name in names:
        check_name(name, "the name of a frame")
    _check_once(names, "frames")
    return names


def expressions_of(row: Mapping[str, Any]) -> list[str]:
    """What the folders of a row's sentences are called.

    Raises:
        ValueError: naming the video: the id of a sentence is no plain name, or that of another one.
    """
    video = f"video {row['video_id']!r}"
    names = [
        check_name(sentence["sentence_id"].removeprefix(f"{row['video_id']}/"), f"{video}: the sentence's id")
        for sentence in row["sentences"]
    ]
    _check_once(names, f"sentences of {video}")
    return names


def _check_once(names: Sequence[str], what: str) -> None:
    twice = repeated(names)
    if twice:
        raise ValueError(f"several {what} are called {twice[0]!r}, so that the masks of one would replace the other's")


def dataset_digest(dataset: Dataset) -> str:
    """A digest of the videos and sentences of a data set, in their order.

    Raises:
        ValueError: the id of a video or of a sentence is no plain name, so that no folder can be called so, or is
            there twice.
    """
    digest = hashlib.sha256()
    _check_once(dataset["video_id"], "videos")
    for row in dataset.select_columns(["video_id", "num_frames", "sentences"]):
        check_name(row["video_id"], "the video's id")
        expressions_of(row)
        digest.update(json.dumps(row, sort_keys=True).encode())
    return digest.hexdigest()
