"""The real pixels: pictures and videos with masks, read once and kept decoded."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from modeling_cvls.composites.catalog import HELD_OUT_SOURCES


@dataclass(frozen=True)
class Source:
    """A picture or a video with masks.

    Attributes:
        name: its id.
        frames: T times (H, W, 3) uint8.
        labels: T times (H, W) uint8, 0 for the background, otherwise the number of an object.
        nouns: number of an object -> what it may be called, the usual word last.
        around: what else the source shows.
        sentences: (text, number of its object), written by people.
    """

    name: str
    frames: tuple[np.ndarray, ...]
    labels: tuple[np.ndarray, ...]
    nouns: dict[int, tuple[str, ...]]
    around: frozenset[str]
    sentences: tuple[tuple[str, int], ...] = ()

    @property
    def words(self) -> frozenset[str]:
        """All that a sentence may call something in it."""
        return self.around | {noun for nouns in self.nouns.values() for noun in nouns}


def _read(picture: Path, mask: Path) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(Image.open(picture).convert("RGB")), np.asarray(Image.open(mask))


def read_videos(root: Path, names: Path) -> Iterator[Source]:
    """The videos of a folder in the layout of Refer-YouTube-VOS, one split, with names.json."""
    called = json.loads(names.read_text(encoding="utf-8"))
    (meta,) = root.glob("meta_expressions/*/meta_expressions.json")
    split = root / meta.parent.name
    for video, content in json.loads(meta.read_text(encoding="utf-8"))["videos"].items():
        of_frames = [
            _read(split / "JPEGImages" / video / f"{name}.jpg", split / "Annotations" / video / f"{name}.png")
            for name in content["frames"]
        ]
        lists = {key: [words] if isinstance(words, str) else words for key, words in called[video].items()}
        nouns = {int(key): tuple(reversed(words)) for key, words in lists.items() if key != "*"}
        sentences = tuple((entry["exp"], int(entry["obj_id"])) for entry in content["expressions"].values())
        around = frozenset(lists.get("*", ()))
        frames, labels = zip(*of_frames, strict=True)
        yield Source(video, frames, labels, nouns, around, sentences)


def read_stills(root: Path) -> Iterator[Source]:
    """The pictures of a folder with JPEGImages, Annotations and objects.json."""
    for name, content in json.loads((root / "objects.json").read_text(encoding="utf-8")).items():
        frame, labels = _read(root / "JPEGImages" / f"{name}.jpg", root / "Annotations" / f"{name}.png")
        nouns = {int(key): tuple(words) for key, words in content["objects"].items()}
        yield Source(name, (frame,), (labels,), nouns, frozenset(content.get("around", ())))


def is_held_out(number: int) -> bool:
    """Whether the source of this number, in the order of the names, is kept from training, as in composites that are
    divided by source."""
    return number % HELD_OUT_SOURCES == HELD_OUT_SOURCES - 1
