"""Composites: objects of real clips, cut out along their masks and placed on the frames of another clip.

The source is a folder in the layout of Refer-YouTube-VOS. Every clip shows, on the background of one video, two to four
objects of others: scaled, mirrored, tinted, played at another speed and moved along a path. At least two of them are
the same object but for one thing, which the first sentence names. The sentences say what was done, and nothing else.

Splits are cut along time: train and validation show the first half of every source video, test and heldout the second.
"""

import functools
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..conversion import Description, Problem, Problems, write_dataset
from ..conversion.video_folders import (
    PALETTE_META,
    Expression,
    PaletteFolder,
    convert_folder,
    present_splits,
    read_frame_files,
    read_palette_masks,
    read_palette_videos,
)
from ..frame_reader_cvls import FrameReader
from ..rle_cvls import decode_mask, encode_masks
from .layouts import SPLITS
from .scenes import check_sizes
from .sentences import _MOTION_PHRASES, _POSITION_PHRASES, Sentence, _pick

# What a tinted object is painted with.
TINTS = {
    "red": (214, 40, 36),
    "green": (50, 168, 62),
    "blue": (42, 88, 220),
    "yellow": (232, 206, 50),
    "purple": (160, 56, 196),
}
COLORS = tuple(TINTS)
NATURAL_SHARE = 0.5  # of the objects that no sentence has to tell from another by its color
MOTIONS = ("left", "right", "up", "down", "still")
# The motions that training does not show of a noun. Neither is "left" or "right": a training clip that is flipped
# would show the mirrored one.
HELD_OUT_MOTIONS = ("up", "down", "still")
# Which thing tells the first look-alike from its original, and the later ones from theirs.
CHANGE_SHARES = {"size": 0.2, "color": 0.25, "motion": 0.35, "position": 0.2}
AROUND = "*"  # stands in the names for what a video shows besides its objects
# Shares of the picture's shorter side: the extent of an object, and pixels a frame.
EXTENT = {"small": (0.22, 0.25), "large": (0.38, 0.43)}
MIN_EXTENT = 0.1  # in every frame: what is much smaller there than in others of the clip is not cut out
SPEED = (0.03, 0.045)
STEPS, STEP_SHARES = (0, 1, 2), (0.1, 0.6, 0.3)  # source frames a frame; 0: the object is frozen
# To be "the smaller" of several, an object must have at most this share of another one's pixels, in every frame; to be
# "on the left" its center must lie this share of the picture's width beyond another one's, in every frame.
AREA_MARGIN = 0.5
POSITION_MARGIN = 0.12
MIN_VISIBLE = 0.5
MIN_SOURCE_PIXELS = 100  # an object that its source shows smaller than this is not cut out
INSIDE = 0.85  # of the way from an object's center to its edge must lie in the picture

# What the sentences of a kind may state besides a noun; of each, the smallest set that tells an object from all others.
_STATED = {
    "appearance": [(), ("size",), ("color",), ("size", "color")],
    "spatial": [("position",)],
    "temporal": [("motion",)],
    "several": [("color", "motion"), ("size", "motion"), ("color", "position"), ("size", "color", "motion")],
}
_KIND_WEIGHT = {"appearance": 1.2, "spatial": 1.0, "temporal": 2.0, "several": 1.5}
_RELATIVE = ("size", "position")
_SIZE_WORDS = {"small": ("smaller", "small", "smallest"), "large": ("larger", "bigger", "large", "big", "largest")}
# The limbs of what stays in place may well move.
_MOTION_WORDS = _MOTION_PHRASES | {"still": ("staying in place", "that stays in place", "not moving to any side")}

CARD = Description(
    title="Composites",
    description=(
        "Objects of real clips, cut out along their masks and placed, scaled, mirrored, tinted and moved, on the "
        "frames of another clip, with sentences that tell look-alikes apart. train and validation use the first half "
        "of every source video only, test and heldout the second; heldout shows pairs of noun and color, or of noun "
        "and motion, that the others do not. real_train and real are the first and second halves as they are, with "
        "the sentences of the source and one that only names the object. Written by `scripts/make_composites.py`."
    ),
    license="other",
    license_note="The frames and masks remain under the terms of the videos that they were made from.",
    citation="@misc{composites, title = {Composites of real clips with referring sentences}}",
)


@dataclass(frozen=True)
class Catalog:
    """What composites are made from.

    Attributes:
        videos: id -> the video, with masks.
        nouns: id of a video -> id of an object -> what it is called, the usual word first.
        around: id of a video -> what else it shows, without masks: no sentence may speak of that on its background.
        objects: (video, object), all of `nouns`.
        held_out: (noun, color or motion) pairs that only the split heldout shows.
    """

    videos: dict[str, PaletteFolder]
    nouns: dict[str, dict[str, tuple[str, ...]]]
    around: dict[str, tuple[str, ...]]
    objects: tuple[tuple[str, str], ...]
    held_out: frozenset[tuple[str, str]]

    def is_held_out(self, nouns: tuple[str, ...], *values: str | None) -> bool:
        return any((noun, value) in self.held_out for noun in nouns for value in values)

    def background_nouns(self, video: str) -> set[str]:
        return {noun for nouns in (*self.nouns[video].values(), self.around[video]) for noun in nouns}


@dataclass(frozen=True)
class CompositeObject:
    """One object that was placed.

    Attributes:
        video, object_id: where it was cut out.
        nouns: what it may be called.
        color: of `COLORS`; None: as filmed, so that it may be of any color.
        motion: of `MOTIONS`, in the picture.
        frames: (T,) names of the source frames.
        patches: T times (h, w, 4) uint8, colors and cover (0 to 255).
        corners: (T, 2) int, where the upper left pixel of each patch lies (x, y).
        centers: (T, 2) float, the center of the whole mask (x, y) in pixels.
        areas: (T,) int, pixels of the whole mask.
    """

    video: str
    object_id: str
    nouns: tuple[str, ...]
    color: str | None
    motion: str
    frames: tuple[str, ...]
    patches: tuple[np.ndarray, ...]
    corners: np.ndarray
    centers: np.ndarray
    areas: np.ndarray


@dataclass(frozen=True)
class Composite:
    """A clip before it is put together.

    Attributes:
        video: whose frames are the background.
        background: (T, H, W, 3) uint8.
        background_frames: (T,) names of them in the source.
        background_ids: ids of the N objects that the video shows itself.
        background_masks: (T, N, H, W) bool, with nothing in front of them.
        background_nouns: what the video's own objects may be called.
        objects: those placed, furthest first, so later ones hide earlier ones.
        pair: two of them that are look-alikes, and the one thing they differ in: "size", "color", "motion" or, where
            it is only where they are, "position".
    """

    video: str
    background: np.ndarray
    background_frames: tuple[str, ...]
    background_ids: tuple[str, ...]
    background_masks: np.ndarray
    background_nouns: frozenset[str]
    objects: tuple[CompositeObject, ...]
    pair: tuple[int, int, str]

    @functools.cached_property
    def beyond(self) -> dict[str, np.ndarray]:
        """For left, right, small and large (M, M) bool: object i is clearly more so than j, in every frame."""
        x = np.stack([obj.centers[:, 0] for obj in self.objects])
        areas = np.stack([obj.areas for obj in self.objects])
        left = (x[None] - x[:, None]).min(axis=2) >= POSITION_MARGIN * self.background.shape[2]
        small = (areas[:, None] <= AREA_MARGIN * areas[None]).all(axis=2)
        return {"left": left, "right": left.T, "small": small, "large": small.T}


def referents(composite: Composite, predicate: dict[str, str]) -> list[int]:
    """Indices of the objects that a predicate may be true of: what is not known to be false counts.

    An object that is not tinted may be of any color. Size and position are relative: among the objects that the rest
    fits, the one that is clearly the smallest, or the outermost; with one such object they say nothing.
    """
    fitting = [
        index
        for index, obj in enumerate(composite.objects)
        if predicate["noun"] in obj.nouns
        and ("color" not in predicate or obj.color in (predicate["color"], None))
        and ("motion" not in predicate or obj.motion == predicate["motion"])
    ]
    for name in _RELATIVE:
        if name in predicate and len(fitting) > 1:
            beyond = composite.beyond[predicate[name]]
            return [index for index in fitting if all(beyond[index, other] for other in fitting if other != index)]
    return fitting


def shortest_descriptions(composite: Composite, index: int, kind: str) -> list[dict[str, str]]:
    """The predicates of a kind with the fewest statements that fit `composite.objects[index]` alone, for each noun.

    Nothing but the noun could be dropped: what is left would fit others too.
    """
    obj = composite.objects[index]
    found = []
    for noun in obj.nouns:
        shortest: list[dict[str, str]] = []
        for names in _STATED[kind]:
            if shortest and len(names) + 1 > len(shortest[0]):
                break
            predicates = [{"noun": noun}]
            for name in names:
                values = {"size": EXTENT, "position": ("left", "right")}.get(name) or [getattr(obj, name)]
                predicates = [rest | {name: value} for rest in predicates for value in values if value is not None]
            for predicate in predicates:
                without = [{key: predicate[key] for key in predicate if key != name} for name in names]
                if referents(composite, predicate) == [index] and all(
                    referents(composite, rest) != [index] for rest in without
                ):
                    shortest.append(predicate)
        found += shortest
    return found


def phrase(predicate: dict[str, str], rng: np.random.Generator) -> str:
    """Words for a predicate, in one of several wordings."""
    adjectives = [_pick(rng, _SIZE_WORDS[predicate["size"]])] if "size" in predicate else []
    adjectives += [predicate["color"]] if "color" in predicate else []
    tail = ""
    if "motion" in predicate:
        tail = _pick(rng, _MOTION_WORDS[predicate["motion"]])
    elif "position" in predicate:
        if rng.random() < 0.25:
            adjectives.insert(0, f"{predicate['position']}most")
        else:
            tail = _pick(rng, _POSITION_PHRASES[predicate["position"]])
    noun = " ".join([*adjectives, predicate["noun"]])
    # What is relative picks one of several, so it takes the definite article.
    indefinite = not any(name in predicate for name in _RELATIVE) and rng.random() < 0.2
    article = "the" if not indefinite else "an" if noun[0] in "aeiou" else "a"
    return " ".join(part for part in (article, noun, tail) if part)


def _without_referent(
    composite: Composite,
    predicate: dict[str, str],
    catalog: Catalog,
    rng: np.random.Generator,
    held_out: bool,
) -> dict[str, str] | None:
    """The predicate with one statement changed so that no object may fit, nor one of the background.

    Size and position stay; what they are about fits no object.
    """
    shown = {getattr(obj, name) for obj in composite.objects for name in ("color", "motion")}
    shown |= {noun for obj in composite.objects for noun in obj.nouns}
    all_nouns = sorted({noun for video in catalog.videos for noun in catalog.background_nouns(video)})
    changes, weights = [], []
    for name, values in (("noun", all_nouns), ("color", COLORS), ("motion", MOTIONS)):
        for value in values if name in predicate else ():
            changed = predicate | {name: value}
            absolute = {key: changed[key] for key in changed if key not in _RELATIVE}
            # Training must not teach that what is held out has no referent.
            untaught = any((changed["noun"], other) in catalog.held_out for other in absolute.values())
            if (
                changed["noun"] not in composite.background_nouns
                and not referents(composite, absolute)
                and (held_out or not untaught)
            ):
                changes.append(changed)
                # What the clip shows elsewhere is harder; and there are many nouns.
                weights.append((3.0 if value in shown else 1.0) / (len(all_nouns) if name == "noun" else 1))
    return _pick(rng, changes, weights) if changes else None


def describe(
    composite: Composite,
    catalog: Catalog,
    rng: np.random.Generator,
    max_sentences: int = 6,
    none_share: float = 0.5,
    held_out: bool = False,
) -> list[Sentence]:
    """Sentences about a composite: at most one for each object and kind.

    The first one tells the look-alikes of `composite.pair` apart by what they differ in; it is about the first of them
    if that is the one held out. The list is empty if there is no such sentence.
    """
    candidates = [
        (kind, index, predicate)
        for kind in _STATED
        for index in range(len(composite.objects))
        for predicate in shortest_descriptions(composite, index, kind)
    ]
    first, second, difference = composite.pair
    of_pair = [first] if held_out else [first, second]
    sentences: list[Sentence] = []
    while len(sentences) < max_sentences:
        eligible = [
            candidate
            for candidate in candidates
            if sentences or (candidate[1] in of_pair and difference in candidate[2])
        ]
        if not eligible:
            break
        kinds = sorted({candidate[0] for candidate in eligible})
        kind = _pick(rng, kinds, [_KIND_WEIGHT[kind] for kind in kinds])
        _, index, predicate = _pick(rng, [candidate for candidate in eligible if candidate[0] == kind])
        sentences.append(Sentence(phrase(predicate, rng), kind, (index,), predicate))
        candidates = [candidate for candidate in candidates if candidate[:2] != (kind, index)]

    if sentences and rng.random() < none_share:
        for position in rng.permutation(len(sentences)):
            predicate = _without_referent(composite, sentences[position].predicate, catalog, rng, held_out)
            if predicate is not None:
                sentences.append(Sentence(phrase(predicate, rng), "none", (), predicate))
                break
    return sentences


@dataclass(frozen=True)
class _Half:
    """One half of a video, in time: the names of its T annotated frames, its frames (T, H, W, 3) uint8, the ids of
    its objects and (T, H, W) uint8 which of them shows where (1: the first; 0: none)."""

    names: tuple[str, ...]
    frames: np.ndarray
    ids: tuple[str, ...]
    labels: np.ndarray


def _half_names(video: PaletteFolder, second: bool) -> tuple[str, ...]:
    """The frames with masks of one half of a video."""
    names = sorted(path.stem for path in video.masks.glob("[!.]*.png"))
    if video.names:
        listed = set(video.names)
        names = [name for name in names if name in listed]
    if not names:
        raise ValueError(f"{video.where}: no frame has masks in {video.masks}")
    middle = len(names) // 2
    return tuple(names[middle:] if second else names[:middle])


@functools.lru_cache(maxsize=24)
def _read_half(video: PaletteFolder, second: bool, shortest: int) -> _Half:
    """Reads one half of a video, at most so large that its shorter side has about `shortest` pixels."""
    names = _half_names(video, second)
    if not names:
        return _Half((), np.zeros((0, 1, 1, 3), np.uint8), (), np.zeros((0, 1, 1), np.uint8))
    cells, height, width = read_frame_files([video.frames / f"{name}.jpg" for name in names])
    frames = FrameReader([cell["bytes"] for cell in cells]).read(range(len(cells)))
    instances, masks, left = read_palette_masks(video, names, height, width)
    if left:
        raise ValueError(f"{left[0][0]}: {left[0][1]}")
    ids = tuple(sorted(instances, key=lambda name: (len(name), name)))
    labels = np.zeros((len(names), height, width), dtype=np.uint8)
    for frame, of_frame in masks.items():
        for name, counts in of_frame.items():
            labels[frame][decode_mask(counts, height, width)] = 1 + ids.index(name)
    every = min(height, width) // shortest
    if every > 1:
        frames = np.stack([np.asarray(Image.fromarray(frame).reduce(every)) for frame in frames])
        # A pixel of the smaller picture stands for `every` x `every`, and takes the label of the middle one.
        rows, columns = (np.minimum(np.arange(0, side, every) + every // 2, side - 1) for side in (height, width))
        labels = labels[:, rows[:, None], columns]
    return _Half(names, frames, ids, labels)


@dataclass(frozen=True)
class _Draft:
    """An object before it is cut out: which one, and what is to be done to it.

    `grade` (0 to 1) is how large it is among those of its size, `start` (0 to 1) where in the half it begins.
    """

    video: str
    object_id: str
    size: str
    grade: float
    color: str | None
    motion: str
    mirrored: bool
    start: float
    step: int


def _draw(catalog: Catalog, rng: np.random.Generator, video: str, object_id: str) -> _Draft:
    nouns = catalog.nouns[video][object_id]
    while True:
        color = None if rng.random() < NATURAL_SHARE else _pick(rng, COLORS)
        motion = _pick(rng, MOTIONS)
        if not catalog.is_held_out(nouns, color, motion):
            break
    return _Draft(
        video=video,
        object_id=object_id,
        size=_pick(rng, tuple(EXTENT)),
        grade=rng.random(),
        color=color,
        motion=motion,
        mirrored=bool(rng.random() < 0.5),
        start=rng.random(),
        step=_pick(rng, STEPS, STEP_SHARES),
    )


def _change(catalog: Catalog, rng: np.random.Generator, draft: _Draft, name: str) -> _Draft:
    """A look-alike: the same but for one thing, which is not held out; for "position" it need only lie elsewhere."""
    if name == "position":
        return draft
    nouns = catalog.nouns[draft.video][draft.object_id]
    values = {"size": tuple(EXTENT), "color": COLORS, "motion": MOTIONS}[name]
    options = [value for value in values if value != getattr(draft, name) and not catalog.is_held_out(nouns, value)]
    return replace(draft, **{name: _pick(rng, options)})


def _drafts(catalog: Catalog, rng: np.random.Generator, held_out: bool) -> tuple[list[_Draft], str]:
    """Two to four objects, the first two of them look-alikes, and what these differ in.

    The first one shows what is held out, if that is asked for.
    """
    video, object_id = _pick(rng, catalog.objects)
    first = _draw(catalog, rng, video, object_id)
    names, shares = list(CHANGE_SHARES), list(CHANGE_SHARES.values())
    if held_out:
        noun, value = _pick(
            rng, sorted(pair for pair in catalog.held_out if pair[0] in catalog.nouns[video][object_id])
        )
        difference = "color" if value in COLORS else "motion"
        first = replace(first, **{difference: value})
    else:
        difference = _pick(rng, names, shares)
        if difference == "color" and first.color is None:
            options = [value for value in COLORS if not catalog.is_held_out(catalog.nouns[video][object_id], value)]
            first = replace(first, color=_pick(rng, options))
    drafts = [first, _change(catalog, rng, first, difference)]
    while len(drafts) < 4 and rng.random() < 0.75:
        if rng.random() < 0.5:
            original = _pick(rng, drafts)
            name = _pick(rng, names, shares)
            if name == "color" and original.color is None:
                continue
            drafts.append(_change(catalog, rng, original, name))
        else:
            drafts.append(_draw(catalog, rng, *_pick(rng, catalog.objects)))
    return drafts, difference


def _bounce(start: int, step: int, length: int, count: int) -> np.ndarray:
    """`count` numbers from `start` on, to and fro between 0 and `length` - 1."""
    if length == 1:
        return np.zeros(count, dtype=int)
    at = (start + step * np.arange(count)) % (2 * length - 2)
    return np.minimum(at, 2 * length - 2 - at)


def _tint(crops: list[np.ndarray], masks: list[np.ndarray], rgb: np.ndarray) -> list[np.ndarray]:
    """Paints pictures (h, w, 3) in a color: light and dark stay, evened out so that black things take the color too.

    `masks` tell what counts for what is light in all of them.
    """
    lights = [crop @ np.array([0.299, 0.587, 0.114], dtype=np.float32) for crop in crops]
    inside = np.concatenate([light[mask] for light, mask in zip(lights, masks, strict=True)])
    mean, deviation, rgb = inside.mean(), max(inside.std(), 1.0), rgb.astype(np.float32)
    painted = []
    for light in lights:
        light = np.clip(0.5 + 0.2 * (light - mean) / deviation, 0.08, 0.95)[..., None]
        painted.append(np.minimum(2 * light, 1) * rgb + 0.75 * np.maximum(2 * light - 1, 0) * (255 - rgb))
    return painted


def _cut_out(
    half: _Half, draft: _Draft, shorter: int, num_frames: int, rgb: np.ndarray | None
) -> tuple[tuple[str, ...], list[np.ndarray]] | None:
    """The names of the source frames and a patch (h, w, 4) for each; None if the half does not show it well enough."""
    if draft.object_id not in half.ids:
        return None
    masks = half.labels == 1 + half.ids.index(draft.object_id)
    usable = np.flatnonzero(np.count_nonzero(masks, axis=(1, 2)) >= MIN_SOURCE_PIXELS)
    if not len(usable):
        return None
    frames = usable[_bounce(int(draft.start * len(usable)), draft.step, len(usable), num_frames)]
    shown, positions = np.unique(frames, return_inverse=True)
    crops, cropped = [], []
    for frame in shown:
        rows, columns = (np.flatnonzero(masks[frame].any(axis=axis)) for axis in (1, 0))
        box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        crops.append(half.frames[frame][box])
        cropped.append(masks[frame][box])
    if rgb is not None:
        crops = _tint(crops, cropped, rgb)
    # One scale for the clip, so that what comes nearer grows. Long things may be longer, so that they show enough; the
    # outermost twentieths do not count, which may be a rope or a rod.
    extent = 0.0
    for mask in cropped:
        height, width = np.ptp(np.quantile(np.argwhere(mask), (0.05, 0.95), axis=0), axis=0) / 0.9
        extent = max(extent, mask.sum() ** 0.5, height / 1.7, width / 2.2)
    low, high = EXTENT[draft.size]
    scale = (low + (high - low) * draft.grade) * shorter / extent
    patches = []
    for crop, mask in zip(crops, cropped, strict=True):
        layer = np.concatenate([crop, 255 * mask[..., None]], axis=2).round().astype(np.uint8)
        size = tuple(max(round(side * scale), 1) for side in mask.shape[::-1])
        # Pillow weighs the colors by the cover, so nothing of the old surroundings gets in at the edge.
        patch = np.asarray(Image.fromarray(layer).resize(size, Image.Resampling.BILINEAR))
        if (patch[..., 3] >= 128).sum() < (MIN_EXTENT * shorter) ** 2:
            return None
        patches.append(patch[:, ::-1] if draft.mirrored else patch)
    return tuple(half.names[frame] for frame in frames), [patches[position] for position in positions]


def _centers(patches: list[np.ndarray]) -> np.ndarray:
    """(T, 2) float, the center (x, y) of each patch's mask, a pixel's center lying half a pixel from its index."""
    return np.array([np.argwhere(patch[..., 3] >= 128).mean(axis=0)[::-1] + 0.5 for patch in patches])


def _path(
    rng: np.random.Generator, patches: list[np.ndarray], centers: np.ndarray, motion: str, height: int, width: int
) -> np.ndarray | None:
    """(T, 2) int corners of the patches, whose centers move evenly; None if there is no room for that."""
    sizes = np.array([patch.shape[1::-1] for patch in patches])
    low = INSIDE * centers.max(axis=0)
    high = (width, height) - INSIDE * (sizes - centers).max(axis=0)
    offsets = np.zeros((len(patches), 2))
    if motion != "still":
        axis, sign = {"left": (0, -1), "right": (0, 1), "up": (1, -1), "down": (1, 1)}[motion]
        # A long clip is crossed more slowly, so that the object is in the picture to the end.
        longest = 0.9 * (high - low)[axis] / max(len(patches) - 1, 1)
        speed = min(rng.uniform(*SPEED) * min(height, width), longest)
        if speed * (len(patches) - 1) < 0.1 * min(height, width):
            return None
        offsets[:, axis] = sign * speed * np.arange(len(patches))
    low, high = low - offsets.min(axis=0), high - offsets.max(axis=0)
    if (low > high).any():
        return None
    return np.round(rng.uniform(low, high) + offsets - centers).astype(int)


def _cropped(corner: np.ndarray, patch: np.ndarray, height: int, width: int) -> tuple[tuple[slice, slice], np.ndarray]:
    """Where in the picture a patch lies, and what of it lies there."""
    left, top = corner.tolist()
    rows = slice(max(top, 0), max(min(top + patch.shape[0], height), 0))
    columns = slice(max(left, 0), max(min(left + patch.shape[1], width), 0))
    return (rows, columns), patch[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]


def _visible(objects: list[CompositeObject], height: int, width: int) -> np.ndarray:
    """(T, M, H, W) bool, what shows of each."""
    visible = np.zeros((len(objects[0].patches), len(objects), height, width), dtype=bool)
    for m, obj in enumerate(objects):
        for t, (corner, patch) in enumerate(zip(obj.corners, obj.patches, strict=True)):
            (rows, columns), patch = _cropped(corner, patch, height, width)
            mask = patch[..., 3] >= 128
            visible[t, :m, rows, columns] &= ~mask
            visible[t, m, rows, columns] = mask
    return visible


def _background(
    half: _Half, start: float, num_frames: int, height: int, width: int
) -> tuple[np.ndarray, tuple[str, ...], np.ndarray]:
    """(T, H, W, 3) uint8 frames of a half, cut at the sides to fill the picture, their names, (T, N, H, W) masks."""
    frames = _bounce(int(start * len(half.names)), 1, len(half.names), num_frames)
    of_height, of_width = half.frames.shape[1:3]
    scale = max(height / of_height, width / of_width)
    x, y = (of_width - width / scale) / 2, (of_height - height / scale) / 2
    box = (x, y, of_width - x, of_height - y)
    pictures, masks = [], []
    for frame in frames:
        image = Image.fromarray(half.frames[frame])
        pictures.append(np.asarray(image.resize((width, height), Image.Resampling.BILINEAR, box=box)))
        image = Image.fromarray(half.labels[frame])
        labels = np.asarray(image.resize((width, height), Image.Resampling.NEAREST, box=box))
        masks.append(labels == np.arange(1, len(half.ids) + 1, dtype=np.uint8)[:, None, None])
    return np.stack(pictures), tuple(half.names[frame] for frame in frames), np.stack(masks)


def _try_composite(
    catalog: Catalog, rng: np.random.Generator, split: str, height: int, width: int, num_frames: int
) -> Composite | None:
    second, shorter = split in ("test", "heldout"), min(height, width)

    def read(video: str) -> _Half:
        half = _read_half(catalog.videos[video], second, 3 * shorter)
        for name in half.ids:
            if name not in catalog.nouns[video]:
                raise ValueError(
                    f"{catalog.videos[video].where}: object {name} has a mask but no name; name it in the names, as "
                    f'{{"{video}": {{"{name}": "dog"}}}}'
                )
        return half

    drafts, difference = _drafts(catalog, rng, held_out=split == "heldout")
    used = {draft.video for draft in drafts}
    nouns = {noun for draft in drafts for noun in catalog.nouns[draft.video][draft.object_id]}
    backgrounds = [
        video for video in catalog.videos if video not in used and not nouns & catalog.background_nouns(video)
    ]
    if not backgrounds:
        return None
    video = _pick(rng, backgrounds)
    half = read(video)
    if not half.names:
        return None
    # Things of the same color are of exactly the same.
    tints = {name: np.clip(np.array(rgb) + rng.uniform(-16, 16, 3), 0, 255) for name, rgb in TINTS.items()}
    cut = [
        _cut_out(read(draft.video), draft, shorter, num_frames, tints[draft.color] if draft.color else None)
        for draft in drafts
    ]
    if None in cut:
        return None
    centers = [_centers(patches) for _, patches in cut]
    areas = [np.array([(patch[..., 3] >= 128).sum() for patch in patches]) for _, patches in cut]
    background, background_frames, background_masks = _background(half, rng.random(), num_frames, height, width)
    order = [int(index) for index in rng.permutation(len(drafts))]
    for _ in range(20):
        objects = []
        for index in order:
            draft, (names, patches) = drafts[index], cut[index]
            corners = _path(rng, patches, centers[index], draft.motion, height, width)
            if corners is None:
                return None
            objects.append(
                CompositeObject(
                    video=draft.video,
                    object_id=draft.object_id,
                    nouns=catalog.nouns[draft.video][draft.object_id],
                    color=draft.color,
                    motion=draft.motion,
                    frames=names,
                    patches=tuple(patches),
                    corners=corners,
                    centers=corners + centers[index],
                    areas=areas[index],
                )
            )
        shown = _visible(objects, height, width).sum(axis=(2, 3))
        if (shown >= MIN_VISIBLE * np.stack([obj.areas for obj in objects], axis=1)).all():
            return Composite(
                video=video,
                background=background,
                background_frames=background_frames,
                background_ids=half.ids,
                background_masks=background_masks,
                background_nouns=frozenset(catalog.background_nouns(video)),
                objects=tuple(objects),
                pair=(order.index(0), order.index(1), difference),
            )
    return None


def make_composite(
    catalog: Catalog,
    split: str,
    index: int,
    seed: int = 0,
    height: int = 96,
    width: int = 160,
    num_frames: int = 8,
    max_sentences: int = 6,
) -> tuple[Composite, list[Sentence]]:
    """The composite number `index` of a split and its sentences, the same for the same arguments.

    Raises:
        ValueError: naming the video or file of the source that cannot be read, or an object without a name; or the
            source does not allow for a composite.
    """
    rng = np.random.default_rng((seed, SPLITS[split], index))
    for _ in range(300):
        composite = _try_composite(catalog, rng, split, height, width, num_frames)
        if composite is not None:
            sentences = describe(composite, catalog, rng, max_sentences, held_out=split == "heldout")
            if sentences:
                return composite, sentences
    raise ValueError(
        f"no composite could be made in 300 attempts (split {split}, number {index}): the source needs objects of at "
        f"least {MIN_SOURCE_PIXELS} pixels in both halves of its videos, and for each object another video whose own "
        "objects have other names"
    )


def render(composite: Composite) -> tuple[np.ndarray, np.ndarray]:
    """Puts a composite together.

    Returns:
        frames: (T, H, W, 3) uint8.
        masks: (T, M + N, H, W) bool, the visible parts, of the objects placed and then of the background's own.
    """
    height, width = composite.background.shape[1:3]
    frames = composite.background.astype(np.float32)
    for obj in composite.objects:
        for frame, corner, patch in zip(frames, obj.corners, obj.patches, strict=True):
            where, patch = _cropped(corner, patch, height, width)
            frame[where] += patch[..., 3:] / np.float32(255) * (patch[..., :3] - frame[where])
    visible = _visible(list(composite.objects), height, width)
    behind = composite.background_masks & ~visible.any(axis=1, keepdims=True)
    return np.clip(frames + 0.5, 0, 255).astype(np.uint8), np.concatenate([visible, behind], axis=1)


@functools.lru_cache(maxsize=2)
def read_catalog(source: Path, names: str) -> Catalog:
    """Reads which videos, objects and names there are.

    Args:
        source: a folder in the layout of Refer-YouTube-VOS, or of one of its splits (the folder with JPEGImages, beside
            which meta_expressions lies). Splits without masks are passed over.
        names: json, {video: {object: word or list of words}}: what each object of each video is called. The first word
            is the usual one; each must be true of it ("dancer", "woman"), since it is told from others by them. The
            object "*" stands for what else there is to see in the video, without masks, such as men in the audience.

    Raises:
        FileNotFoundError, ValueError: naming the file, video or object that is missing or wrong.
    """
    root, chosen = (source.parent, [source.name]) if (source / "JPEGImages").is_dir() else (source, None)
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
        raise ValueError(f"{source} has no video with masks and sentences with an obj_id")
    named: dict[str, dict[str, tuple[str, ...]]] = {}
    try:
        for video, of_video in json.loads(names).items():
            lists = {obj: [words] if isinstance(words, str) else words for obj, words in of_video.items()}
            named[video] = {obj: tuple(word.strip().lower() for word in words) for obj, words in lists.items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"the names are not json of the form {{video: {{object: word}}}}: {error!r}") from error
    for video in videos.values():
        said: dict[str, list[str]] = {}
        for expression in video.expressions:
            for name in expression.referents or ():
                said.setdefault(name, []).append(expression.text)
        for name, texts in said.items():
            words = named.get(video.video_id, {}).get(name)
            if not words or not all(words):
                raise ValueError(
                    f'{video.where}: the names lack what object {name} is called (a word or a list of words, as "dog" '
                    f'or ["dog", "animal"]); its sentences: {"; ".join(texts)}'
                )
    nouns = {video: {obj: words for obj, words in named[video].items() if words and obj != AROUND} for video in videos}
    around = {video: named[video].get(AROUND, ()) for video in videos}
    words = sorted({words[0] for of_video in nouns.values() for words in of_video.values()})
    held_out = {(word, COLORS[number % len(COLORS)]) for number, word in enumerate(words)}
    held_out |= {(word, HELD_OUT_MOTIONS[number % len(HELD_OUT_MOTIONS)]) for number, word in enumerate(words)}
    objects = tuple((video, obj) for video, of_video in nouns.items() for obj in of_video)
    return Catalog(videos, nouns, around, objects, frozenset(held_out))


def _encode_jpeg(frame: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=92, subsampling=0)
    return buffer.getvalue()


def _composite_row(
    catalog: Catalog, split: str, index: int, seed: int, height: int, width: int, num_frames: int
) -> dict[str, Any]:
    composite, sentences = make_composite(catalog, split, index, seed, height, width, num_frames)
    frames, masks = render(composite)
    video_id = f"{split}_{index:06d}"
    return {
        "video_id": video_id,
        "video": None,
        "frames": [{"bytes": _encode_jpeg(frame), "path": f"{t:05d}.jpg"} for t, frame in enumerate(frames)],
        "num_frames": num_frames,
        "height": height,
        "width": width,
        "fps": None,
        "annotated_frames": list(range(num_frames)),
        "evaluation_frames": None,
        "instance_ids": [
            *(f"{m}:{obj.video}/{obj.object_id}" for m, obj in enumerate(composite.objects)),
            *(f"background:{composite.video}/{name}" for name in composite.background_ids),
        ],
        "masks": [encode_masks(of_frame) for of_frame in masks],
        "sentences": [
            {
                "sentence_id": f"{video_id}/{number}",
                "text": sentence.text,
                "instances": list(sentence.instances),
                "kind": sentence.kind,
            }
            for number, sentence in enumerate(sentences)
        ],
    }


def _real_row(catalog: Catalog, video_id: str, second: bool) -> tuple[dict[str, Any] | None, list[Problem]]:
    """Half of a source video as it is: its sentences (kind "expression") and "the <noun>" (kind "noun") of each object
    whose name is that of nothing else in the video."""
    video = catalog.videos[video_id]
    half = _half_names(video, second)
    if not half:
        return None, []
    _, height, width = read_frame_files([video.frames / f"{half[0]}.jpg"])
    shown, _, _ = read_palette_masks(video, half, height, width)
    nouns = catalog.nouns[video_id]
    expressions = [expression for expression in video.expressions if shown.issuperset(expression.referents)]
    for name in sorted(shown & nouns.keys()):
        others = {word for other, words in nouns.items() if other != name for word in words}
        others.update(catalog.around[video_id])
        if nouns[name][0] not in others:
            expressions.append(Expression(f"noun-{name}", f"the {nouns[name][0]}", (name,)))
    if not expressions:
        return None, []
    row, left = convert_folder(replace(video, names=half, expressions=tuple(expressions)), read_palette_masks)
    for sentence in row["sentences"] if row else ():
        sentence["kind"] = "noun" if "/noun-" in sentence["sentence_id"] else "expression"
    return row, left


def _convert(
    item: tuple[str, int | str], source: Path, names: str, seed: int, height: int, width: int, num_frames: int
) -> dict[str, Any] | tuple[dict[str, Any] | None, list[Problem]]:
    split, which = item
    catalog = read_catalog(source, names)
    if isinstance(which, str):
        return _real_row(catalog, which, second=split == "real")
    return _composite_row(catalog, split, which, seed, height, width, num_frames)


def write_composites(
    source: str | Path,
    output: str | Path,
    names: Mapping[str, Mapping[str, str | list[str]]],
    splits: dict[str, int],
    seed: int = 0,
    height: int = 96,
    width: int = 160,
    num_frames: int = 8,
    num_proc: int = 1,
) -> None:
    """Writes composites, and the halves of the source's videos as they are, as a folder that `load_dataset` loads.

    Args:
        source: a folder in the layout of Refer-YouTube-VOS, or one split of it; see `read_catalog`. Where only some
            frames are annotated, these are the frames of the video.
        output: the folder to write, must not exist.
        names: video -> object -> what it is called, a word or several that are all true of it.
        splits: split ("train", "validation", "test", "heldout") -> how many composites; besides, real_train and real
            are always written.
        seed: the same seed gives the same bytes.
        height, width: pixels of the composites; the real videos keep theirs.
        num_frames: frames of a composite, at least 2.
        num_proc: processes.

    Raises:
        FileExistsError: `output` exists.
        FileNotFoundError, ValueError: naming what is wrong in the source, the names or the arguments.
    """
    unknown = [split for split in splits if split not in SPLITS]
    if unknown:
        raise ValueError(f"unknown split {unknown[0]!r}, splits are {', '.join(SPLITS)}")
    negative = [split for split, count in splits.items() if count < 0]
    if negative:
        raise ValueError(f"split {negative[0]!r} must have 0 or more clips, got {splits[negative[0]]}")
    check_sizes(height, width, num_frames)
    if num_proc < 1:
        raise ValueError(f"num_proc must be at least 1, got {num_proc}")
    source, text = Path(source).resolve(), json.dumps(names, sort_keys=True)
    catalog = read_catalog(source, text)
    items: dict[str, list] = {split: [(split, index) for index in range(count)] for split, count in splits.items()}
    for split in ("real_train", "real"):
        items[split] = [(split, video) for video in catalog.videos]
    convert = functools.partial(
        _convert, source=source, names=text, seed=seed, height=height, width=width, num_frames=num_frames
    )
    write_dataset(Path(output), items, convert, CARD, num_proc=num_proc)
