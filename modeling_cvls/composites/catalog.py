"""What composites are made from: videos and stills with masks, what their objects are called, and their pixels."""

import functools
import json
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..conversion import Problems
from ..conversion.files import read_frame_files, read_indices, read_json
from ..conversion.video_folders import (
    ONLY_VOID,
    PALETTE_META,
    VOID,
    PaletteFolder,
    present_splits,
    read_palette_videos,
)
from ..frame_reader_cvls import FrameReader
from ..images_cvls import natural_order
from ..names import check_name

# What a tinted object is painted with.
TINTS = {
    "red": (214, 40, 36),
    "green": (50, 168, 62),
    "blue": (42, 88, 220),
    "yellow": (232, 206, 50),
    "purple": (160, 56, 196),
}
COLORS = tuple(TINTS)
MOTIONS = ("left", "right", "up", "down", "still")
# The motions that training does not show of a noun. Neither is "left" or "right": a training clip that is flipped
# would show the mirrored one.
HELD_OUT_MOTIONS = ("up", "down", "still")
#: Words for people, of whom no sentence names a natural color: that of their clothes is not theirs.
PEOPLE = frozenset(
    ("person people man woman boy girl child player dancer hiker skater surfer cyclist biker windsurfer rider skier "
     "paraglider").split()
)  # fmt: skip
AROUND = "*"  # stands in the names for what a video shows besides its objects
#: One source in so many, in the order of their names, is shown by test and heldout only (stills, and videos where they
#: are divided by source).
HELD_OUT_SOURCES = 8
_MAX_CACHE_BYTES = 600_000_000


@dataclass(frozen=True)
class SourceFolders:
    """Where everything lies that composites are made from.

    Attributes:
        videos: a folder in the layout of Refer-YouTube-VOS, or of one of its splits (the folder with JPEGImages, beside
            which meta_expressions lies). Splits without masks are passed over.
        names: json, {video: {object: word or list of words}}: what each object of each video is called. The first word
            is the usual one; each must be true of it ("dancer", "woman"), since it is told from others by them. The
            object "*" stands for what else there is to see in the video, without masks, such as men in the audience.
        stills: a folder of pictures, `JPEGImages/<id>.jpg` with palette masks `Annotations/<id>.png` and
            `objects.json`: {id: {"objects": {object: [word, ...]}, "around": [word, ...]}}, the usual word last.
        divide: "time": train and validation show the first half of every video, test and heldout the second; "source":
            test and heldout show every eighth video, the others the rest. Stills are always divided by source.
    """

    videos: Path
    names: str
    stills: Path | None = None
    divide: str = "time"


@dataclass(frozen=True)
class Source:
    """A video or a still with palette masks.

    Attributes:
        name: its id.
        frames, masks: the files of its annotated frames, in order; a still has one.
        where: how messages call it.
        is_still: whether it is a still.
        number: its place among those of its kind, in the order of the names.
    """

    name: str
    frames: tuple[Path, ...]
    masks: tuple[Path, ...]
    where: str
    is_still: bool
    number: int

    def part(self, split: str, divide: str = "time") -> tuple[int, int]:
        """The frames (start, end) that a split may show: of a video that is divided by time, the first half for train
        and validation and the second for test and heldout; of a still, and of a video that is divided by source, all
        or none."""
        second = split in ("test", "heldout")
        if divide == "time" and not self.is_still:
            middle = len(self.frames) // 2
            return (middle, len(self.frames)) if second else (0, middle)
        return (0, len(self.frames)) if second == (self.number % HELD_OUT_SOURCES == HELD_OUT_SOURCES - 1) else (0, 0)


@dataclass(frozen=True, eq=False)
class Catalog:
    """What composites are made from.

    Attributes:
        videos: id -> the video as the layout describes it.
        sources: id -> the video or still.
        nouns: id of a source -> id of an object -> what it is called, the usual word first.
        possible_nouns: the same -> what it may also be called: of an object with a single name, as "dog", what any
            other object of that name is called, as "beagle".
        around: id of a source -> what else it shows, without masks: no sentence may speak of that on its background.
        held_out: (noun, color or motion) pairs that only the split heldout shows.
        divide: "time" or "source", see `SourceFolders`.
    """

    videos: dict[str, PaletteFolder]
    sources: dict[str, Source]
    nouns: dict[str, dict[str, tuple[str, ...]]]
    possible_nouns: dict[str, dict[str, frozenset[str]]]
    around: dict[str, tuple[str, ...]]
    held_out: frozenset[tuple[str, str]]
    divide: str = "time"

    def is_held_out(self, nouns: tuple[str, ...], *values: str | None) -> bool:
        return any((noun, value) in self.held_out for noun in nouns for value in values)

    @functools.cached_property
    def background_nouns(self) -> dict[str, frozenset[str]]:
        """Id of a source -> all that something in it may be called."""
        lists = {
            name: (*self.nouns[name].values(), *self.possible_nouns[name].values(), self.around[name])
            for name in self.sources
        }
        return {name: frozenset(noun for nouns in of for noun in nouns) for name, of in lists.items()}

    @functools.cached_property
    def all_nouns(self) -> tuple[str, ...]:
        return tuple(sorted({noun for nouns in self.background_nouns.values() for noun in nouns}))

    @functools.lru_cache(maxsize=8)  # noqa: B019 (one or two catalogs per process)
    def shown(self, split: str) -> tuple[str, ...]:
        """The sources of which a split may show something."""
        spans = {name: source.part(split, self.divide) for name, source in self.sources.items()}
        return tuple(name for name, (start, end) in spans.items() if end > start)

    @functools.lru_cache(maxsize=8)  # noqa: B019
    def shown_objects(self, split: str) -> dict[str, tuple[tuple[str, str], ...]]:
        """Usual noun -> the objects (source, object) of that name that a split may show."""
        of_noun: dict[str, tuple[tuple[str, str], ...]] = {}
        for name in self.shown(split):
            for obj, nouns in self.nouns[name].items():
                of_noun[nouns[0]] = (*of_noun.get(nouns[0], ()), (name, obj))
        return of_noun


@dataclass(frozen=True)
class Footage:
    """A part of a source: what is known of its T frames without their colors.

    Attributes:
        source: where it is from.
        names: (T,) names of the frames.
        frames, masks: their files.
        shortest: the frames are read so that their shorter side has at most about so many pixels.
        height, width: of the frames as they are read.
        ids: (N,) ids of its objects.
        areas: (N, T) int, pixels of each object in each frame.
        boxes: (N, T, 4) int, top, bottom, left, right of each, the ends not included.
    """

    source: Source
    names: tuple[str, ...]
    frames: tuple[Path, ...]
    masks: tuple[Path, ...]
    shortest: int
    height: int
    width: int
    ids: tuple[str, ...]
    areas: np.ndarray
    boxes: np.ndarray

    def picture(self, t: int) -> np.ndarray:
        """(H, W, 3) uint8, frame t."""
        return _cached(("picture", self.frames[t], self.shortest), lambda: _read_picture(self.frames[t], self.shortest))

    def labels(self, t: int) -> np.ndarray:
        """(H, W) uint8: 0, `VOID`, or the id of the object that frame t shows there."""
        return _cached(("labels", self.masks[t], self.shortest), lambda: _read_labels(self.masks[t], self.shortest))


_cache: OrderedDict[tuple, np.ndarray] = OrderedDict()


def _cached(key: tuple, read: Callable[[], np.ndarray]) -> np.ndarray:
    """What `read` gave for this key, of the arrays used last, up to a number of bytes."""
    if key in _cache:
        _cache.move_to_end(key)
    else:
        _cache[key] = read()
        size = sum(array.nbytes for array in _cache.values()) if len(_cache) % 64 == 0 else 0
        while size > _MAX_CACHE_BYTES:
            size -= _cache.popitem(last=False)[1].nbytes
    return _cache[key]


def _reduction(height: int, width: int, shortest: int) -> int:
    return max(min(height, width) // shortest, 1)


def _read_picture(path: Path, shortest: int) -> np.ndarray:
    cells, height, width = read_frame_files([path])
    (frame,) = FrameReader([cells[0]["bytes"]]).read([0])
    every = _reduction(height, width, shortest)
    return frame if every == 1 else np.asarray(Image.fromarray(frame).reduce(every))


def _read_labels(path: Path, shortest: int, size: tuple[int, int] | None = None) -> np.ndarray:
    """The labels of a palette image, whose (height, width) must be `size` where it is given."""
    labels = read_indices(path, size)
    every = _reduction(*labels.shape, shortest)
    # A pixel of the smaller picture stands for `every` x `every`, and takes the label of the middle one.
    rows, columns = (np.minimum(np.arange(0, side, every) + every // 2, side - 1) for side in labels.shape)
    return labels if every == 1 else labels[rows[:, None], columns]


@functools.lru_cache(maxsize=16384)
def read_footage(source: Source, start: int, end: int, shortest: int) -> Footage:
    """Looks through the masks of the frames `start` to `end` of a source.

    Raises:
        ValueError: naming the file: a mask cannot be decoded, is no palette image or has another size than the frame,
            or all masks hold void alone.
    """
    frames, masks = source.frames[start:end], source.masks[start:end]
    _, height, width = read_frame_files(frames[:1])
    size, own_size, has_void = (height, width), (height, width), False
    found: dict[int, dict[int, tuple[int, tuple[int, int, int, int]]]] = {}
    for t, mask in enumerate(masks):
        labels = _cached(("labels", mask, shortest), functools.partial(_read_labels, mask, shortest, own_size))
        size = labels.shape
        counts = np.bincount(labels.ravel(), minlength=256)
        has_void = has_void or counts[VOID] > 0
        for number in np.flatnonzero(counts[1:VOID]) + 1:
            shown = labels == number
            rows, columns = np.flatnonzero(shown.any(axis=1)), np.flatnonzero(shown.any(axis=0))
            box = (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1)
            found.setdefault(int(number), {})[t] = (int(counts[number]), box)
    ids = sorted(found)
    if has_void and not ids:
        raise ValueError(f"{masks[0]}: {ONLY_VOID}")
    areas, boxes = np.zeros((len(ids), len(frames)), int), np.zeros((len(ids), len(frames), 4), int)
    for n, number in enumerate(ids):
        for t, (area, box) in found[number].items():
            areas[n, t], boxes[n, t] = area, box
    return Footage(
        source=source,
        names=tuple(path.stem for path in frames),
        frames=frames,
        masks=masks,
        shortest=shortest,
        height=size[0],
        width=size[1],
        ids=tuple(map(str, ids)),
        areas=areas,
        boxes=boxes,
    )


def _read_names(text: str) -> dict[str, dict[str, tuple[str, ...]]]:
    named: dict[str, dict[str, tuple[str, ...]]] = {}
    try:
        for source, of_source in json.loads(text).items():
            lists = {obj: [words] if isinstance(words, str) else words for obj, words in of_source.items()}
            named[source] = {obj: tuple(word.strip().lower() for word in words) for obj, words in lists.items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"the names are not json of the form {{video: {{object: word}}}}: {error!r}") from error
    return named


def _read_videos(folder: Path) -> dict[str, PaletteFolder]:
    root, chosen = (folder.parent, [folder.name]) if (folder / "JPEGImages").is_dir() else (folder, None)
    present = sorted(path.parent.name for path in root.glob(PALETTE_META.format(split="*")))
    present = present_splits(root, present or ["train", "valid", "test"], PALETTE_META, chosen)
    videos: dict[str, PaletteFolder] = {}
    for split in present:
        for video in read_palette_videos(root, split, Problems()):
            if video.video_id in videos:
                raise ValueError(f"{video.where} is also in another split; name one split's folder as the source")
            if video.annotated:
                videos[video.video_id] = video
    if not videos:
        raise ValueError(f"{folder} has no video with masks and sentences with an obj_id")
    return videos


def _check_names(video: PaletteFolder, named: dict[str, tuple[str, ...]]) -> None:
    said: dict[str, list[str]] = {}
    for expression in video.expressions:
        for name in expression.referents or ():
            said.setdefault(name, []).append(expression.text)
    for name, texts in said.items():
        if not named.get(name) or not all(named[name]):
            raise ValueError(
                f'{video.where}: the names lack what object {name} is called (a word or a list of words, as "dog" '
                f'or ["dog", "animal"]); its sentences: {"; ".join(texts)}'
            )


def _source_of(video: PaletteFolder, number: int) -> Source:
    names = sorted((path.stem for path in video.masks.glob("[!.]*.png")), key=natural_order)
    if video.names:
        names = [name for name in video.names if name in set(names)]
    if not names:
        raise ValueError(f"{video.where}: no frame has masks in {video.masks}")
    frames = tuple(video.frames / f"{name}.jpg" for name in names)
    return Source(
        video.video_id, frames, tuple(video.masks / f"{name}.png" for name in names), video.where, False, number
    )


def _read_stills(folder: Path) -> tuple[dict[str, Source], dict[str, dict[str, tuple[str, ...]]]]:
    """The stills of a folder, and their names in the form of those of videos."""
    path = folder / "objects.json"
    form = '{id: {"objects": {object: [word]}, "around": [word]}}'
    content = read_json(path, form)
    try:
        # The most particular word stands first there.
        named = {
            name: {obj: tuple(word.strip().lower() for word in reversed(words)) for obj, words in of["objects"].items()}
            | {AROUND: tuple(of.get("around", ()))}
            for name, of in sorted(content.items())
        }
    except (ValueError, AttributeError, TypeError, KeyError) as error:
        raise ValueError(f"{path}: not json of the form {form}: {error!r:.100}") from error
    stills = {}
    for number, name in enumerate(named):
        check_name(name, f"{path}: the id of a picture")
        files = folder / "JPEGImages" / f"{name}.jpg", folder / "Annotations" / f"{name}.png"
        for file in files:
            if not file.is_file():
                raise FileNotFoundError(f"{file} does not exist, but {path} names {name!r}")
        stills[name] = Source(name, files[:1], files[1:], f"{path}, picture {name!r}", True, number)
    return stills, named


@functools.lru_cache(maxsize=2)
def read_catalog(folders: SourceFolders) -> Catalog:
    """Reads which videos, stills, objects and names there are.

    Raises:
        FileNotFoundError, ValueError: naming the file, video or object that is missing or wrong.
    """
    if folders.divide not in ("time", "source"):
        raise ValueError(f'divide must be "time" or "source", got {folders.divide!r}')
    videos, named = _read_videos(folders.videos), _read_names(folders.names)
    for video in videos.values():
        _check_names(video, named.get(video.video_id, {}))
    sources = {name: _source_of(videos[name], number) for number, name in enumerate(sorted(videos))}
    if folders.stills is not None:
        pictures, of_pictures = _read_stills(folders.stills)
        if twice := sources.keys() & pictures.keys():
            raise ValueError(f"{sorted(twice)[0]!r} is both a video and a still; sources must have different names")
        sources |= pictures
        named |= of_pictures
    nouns = {name: {obj: words for obj, words in named[name].items() if words and obj != AROUND} for name in sources}
    called_too: dict[str, set[str]] = {}
    for of_source in nouns.values():
        for words in of_source.values():
            for word in words:
                called_too.setdefault(word, set()).update(words)
    usual = sorted({words[0] for of_source in nouns.values() for words in of_source.values()})
    held_out = {(word, COLORS[number % len(COLORS)]) for number, word in enumerate(usual)}
    held_out |= {(word, HELD_OUT_MOTIONS[number % len(HELD_OUT_MOTIONS)]) for number, word in enumerate(usual)}
    return Catalog(
        videos=videos,
        sources=sources,
        nouns=nouns,
        possible_nouns={
            name: {
                obj: frozenset(called_too[words[0]] if len(words) == 1 else words) for obj, words in of_source.items()
            }
            for name, of_source in nouns.items()
        },
        around={name: named[name].get(AROUND, ()) for name in sources},
        held_out=frozenset(held_out),
        divide=folders.divide,
    )
