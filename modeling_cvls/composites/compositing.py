"""Objects are cut out along their masks, scaled, tinted, moved, and placed on the frames of another source."""

import functools
import math
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from .catalog import TINTS, Catalog, Footage, read_footage
from .drafts import Draft, draw_look_alikes

SPEED = (0.03, 0.045)  # shares of the picture's shorter side per frame
MIN_EXTENT = 0.1  # in every frame: what is much smaller there than in others of the clip is not cut out
MIN_VISIBLE = 0.5
MIN_SOURCE_PIXELS = 100  # an object that its source shows smaller than this is not cut out
INSIDE = 0.85  # of the way from an object's center to its edge must lie in the picture
# To be "the smaller" of several, an object must have at most this share of another one's pixels, in every frame; to be
# "on the left" its center must lie this share of the picture's width (for above and below, height) beyond another
# one's, in every frame.
AREA_MARGIN = 0.5
POSITION_MARGIN = 0.12
CLEAR_SHARE = 0.6  # of an object's pixels must be of one color for that to be its color
ZOOM = 0.75  # a still as a background shows at least this share of what would fill the picture


@dataclass(frozen=True)
class CompositeObject:
    """One object that was placed.

    Attributes:
        source, object_id: where it was cut out.
        nouns: what it is called.
        possible_nouns: what it may also be called.
        color: what a sentence may call it; None: it may be of any color.
        tinted: whether it was painted in that color.
        motion: of `MOTIONS`, in the picture.
        frames: (T,) names of the source frames.
        patches: T times (h, w, 4) uint8, colors and cover (0 to 255).
        corners: (T, 2) int, where the upper left pixel of each patch lies (x, y).
        centers: (T, 2) float, the center of the whole mask (x, y) in pixels.
        areas: (T,) int, pixels of the whole mask.
    """

    source: str
    object_id: str
    nouns: tuple[str, ...]
    possible_nouns: frozenset[str]
    color: str | None
    tinted: bool
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
        source: whose frames are the background.
        background: (T, H, W, 3) uint8.
        background_frames: (T,) names of them in the source.
        background_ids: ids of the N objects that the source shows itself.
        background_masks: (T, N, H, W) bool, with nothing in front of them.
        background_nouns: what something in the background may be called.
        objects: those placed, furthest first, so later ones hide earlier ones.
        pair: two of them that are look-alikes, and the one thing they differ in: "size", "color", "motion" or, where
            it is only where they are, "position".
    """

    source: str
    background: np.ndarray
    background_frames: tuple[str, ...]
    background_ids: tuple[str, ...]
    background_masks: np.ndarray
    background_nouns: frozenset[str]
    objects: tuple[CompositeObject, ...]
    pair: tuple[int, int, str]

    @functools.cached_property
    def beyond(self) -> dict[str, np.ndarray]:
        """For left, right, above, below, small and large (M, M) bool: object i is clearly more so than j, in every
        frame."""
        centers = np.stack([obj.centers for obj in self.objects])
        areas = np.stack([obj.areas for obj in self.objects])
        gaps = (centers[None] - centers[:, None]).min(axis=2)  # of j beyond i, in (x, y)
        height, width = self.background.shape[1:3]
        left, above = gaps[..., 0] >= POSITION_MARGIN * width, gaps[..., 1] >= POSITION_MARGIN * height
        small = (areas[:, None] <= AREA_MARGIN * areas[None]).all(axis=2)
        return {"left": left, "right": left.T, "above": above, "below": above.T, "small": small, "large": small.T}


@dataclass(frozen=True)
class CutOut:
    """An object, cut out of T frames: their names, and of each the patch (h, w, 4) uint8, the center (x, y) of its mask
    in the patch, the pixels of its mask, and its color, where that is clear."""

    frames: tuple[str, ...]
    patches: tuple[np.ndarray, ...]
    centers: np.ndarray
    areas: np.ndarray
    color: str | None


def to_and_fro(start: int, step: int, length: int, count: int) -> np.ndarray:
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


def natural_color(pixels: np.ndarray) -> str | None:
    """What (N, 3) uint8 pixels are called, if most of them are clearly of one color: one of those that objects are
    tinted with, or "white", "black", "gray", "brown", "orange"."""
    values = pixels.astype(np.float32)
    high, low = values.max(axis=1), values.min(axis=1)
    chroma = high - low
    red, green, blue = values.T
    with np.errstate(divide="ignore", invalid="ignore"):
        sixths = (green - blue) / chroma % 6, (blue - red) / chroma + 2, (red - green) / chroma + 4
    hue = 60 * np.nan_to_num(np.select([high == red, high == green], sixths[:2], sixths[2]))
    plain = (chroma < 30) | (chroma < 0.18 * high)
    vivid = (chroma > 60) & (chroma > 0.4 * high) & (high > 70)
    warm = (hue >= 12) & (hue < 42)
    shares = {
        "white": plain & (low > 185),
        "black": high < 60,
        "gray": plain & (high > 85) & (high < 165),
        "brown": ~plain & warm & (high < 170) & (high > 60),
        "orange": vivid & warm & (high > 205),
        "red": vivid & ((hue < 10) | (hue > 345)),
        "yellow": vivid & (hue >= 46) & (hue < 66),
        "green": vivid & (hue >= 80) & (hue < 160),
        "blue": vivid & (hue >= 200) & (hue < 250),
        "purple": vivid & (hue >= 265) & (hue < 310),
    }
    name, share = max(((name, of.mean()) for name, of in shares.items()), key=lambda item: item[1])
    return name if share >= CLEAR_SHARE else None


def _extent(mask: np.ndarray) -> float:
    """How large a mask is, in pixels. Long things may be longer, so that they show enough; the outermost twentieths do
    not count, which may be a rope or a rod."""
    sides = []
    for axis in (1, 0):
        below = np.cumsum(np.count_nonzero(mask, axis=axis))
        low, high = np.searchsorted(below, (0.05 * below[-1], 0.95 * below[-1]))
        sides.append((high - low) / 0.9)
    return max(np.count_nonzero(mask) ** 0.5, sides[0] / 1.7, sides[1] / 2.2)


def _scaled(crop: np.ndarray, mask: np.ndarray, scale: float) -> Image.Image:
    """A crop (h, w, 3) with its mask, scaled, as a picture whose colors are weighed by the cover, so that nothing of
    the old surroundings gets in at the edge."""
    layer = np.concatenate([crop, 255 * mask[..., None]], axis=2).round().astype(np.uint8)
    size = tuple(max(round(side * scale), 1) for side in mask.shape[::-1])
    return Image.fromarray(layer).convert("RGBa").resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)


def _turned(layer: Image.Image, scale: float, degrees: float) -> Image.Image:
    """The picture, turned and scaled about its center by a little."""
    width, height = layer.size
    cosine, sine = math.cos(math.radians(degrees)) / scale, math.sin(math.radians(degrees)) / scale
    wide, tall = (
        math.ceil(scale**2 * (abs(cosine) * a + abs(sine) * b)) for a, b in ((width, height), (height, width))
    )
    x = width / 2 - cosine * wide / 2 - sine * tall / 2
    y = height / 2 + sine * wide / 2 - cosine * tall / 2
    return layer.transform(
        (wide, tall), Image.Transform.AFFINE, (cosine, sine, x, -sine, cosine, y), Image.Resampling.BILINEAR
    )


def _cut_out(footage: Footage, draft: Draft, shorter: int, num_frames: int, rgb: np.ndarray | None) -> CutOut | None:
    """None if the footage does not show the object well enough."""
    if draft.object_id not in footage.ids:
        return None
    number = footage.ids.index(draft.object_id)
    usable = np.flatnonzero(footage.areas[number] >= MIN_SOURCE_PIXELS)
    if not len(usable):
        return None
    frames = usable[to_and_fro(int(draft.start * len(usable)), draft.step, len(usable), num_frames)]
    crops, masks = {}, {}
    for t in np.unique(frames).tolist():
        top, bottom, left, right = footage.boxes[number, t]
        crops[t] = footage.picture(t)[top:bottom, left:right]
        masks[t] = footage.labels(t)[top:bottom, left:right] == int(draft.object_id)
    color = draft.color
    if rgb is not None:
        crops = dict(zip(crops, _tint(list(crops.values()), list(masks.values()), rgb), strict=True))
    elif draft.natural_color:
        color = natural_color(np.concatenate([crops[t][masks[t]] for t in crops]))
    # One scale for the clip, so that what comes nearer grows.
    scale = draft.extent * shorter / max(_extent(mask) for mask in masks.values())
    layers = {t: _scaled(crops[t], masks[t], scale) for t in crops}
    patches = []
    if draft.turn or draft.growth:
        (layer,) = layers.values()
        for share in np.linspace(-0.5, 0.5, num_frames):
            patches.append(_turned(layer, 1 + draft.growth * share, draft.turn * share))
    else:
        patches = [layers[t] for t in frames.tolist()]
    made = {id(layer): np.asarray(layer.convert("RGBA")) for layer in patches}
    patches = [made[id(layer)][:, ::-1] if draft.mirrored else made[id(layer)] for layer in patches]
    covers = [patch[..., 3] >= 128 for patch in patches]
    areas = np.array([np.count_nonzero(cover) for cover in covers])
    if areas.min() < (MIN_EXTENT * shorter) ** 2:
        return None
    centers = np.array([_center(cover) for cover in covers])
    return CutOut(tuple(footage.names[t] for t in frames), tuple(patches), centers, areas, color)


def _center(mask: np.ndarray) -> tuple[float, float]:
    """The center (x, y) of a mask, a pixel's center lying half a pixel from its index."""
    counts = np.count_nonzero(mask, axis=0), np.count_nonzero(mask, axis=1)
    return tuple(float((of @ np.arange(len(of))) / of.sum() + 0.5) for of in counts)


def _path(rng: np.random.Generator, cut: CutOut, motion: str, height: int, width: int) -> np.ndarray | None:
    """(T, 2) int corners of the patches, whose centers move evenly; None if there is no room for that."""
    sizes = np.array([patch.shape[1::-1] for patch in cut.patches])
    low = INSIDE * cut.centers.max(axis=0)
    high = (width, height) - INSIDE * (sizes - cut.centers).max(axis=0)
    offsets = np.zeros((len(sizes), 2))
    if motion != "still":
        axis, sign = {"left": (0, -1), "right": (0, 1), "up": (1, -1), "down": (1, 1)}[motion]
        # A long clip is crossed more slowly, so that the object is in the picture to the end.
        longest = 0.9 * (high - low)[axis] / max(len(sizes) - 1, 1)
        speed = min(rng.uniform(*SPEED) * min(height, width), longest)
        if speed * (len(sizes) - 1) < 0.1 * min(height, width):
            return None
        offsets[:, axis] = sign * speed * np.arange(len(sizes))
    low, high = low - offsets.min(axis=0), high - offsets.max(axis=0)
    if (low > high).any():
        return None
    return np.round(rng.uniform(low, high) + offsets - cut.centers).astype(int)


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


def filling_box(
    of_height: int, of_width: int, height: int, width: int, share: float = 1.0, at: tuple[float, float] = (0.5, 0.5)
) -> tuple[float, float, float, float]:
    """The part of a picture that is cut out to fill another of height x width pixels.

    Args:
        share: of the largest part that there is.
        at: where in the picture it lies, (0, 0) at the upper left and (1, 1) at the lower right.

    Returns:
        left, top, right, bottom in pixels, inside the picture.
    """
    scale = max(height / of_height, width / of_width) / share
    # The quotients may exceed the sides by a rounding.
    tall, wide = min(height / scale, of_height), min(width / scale, of_width)
    left, top = max(at[0] * (of_width - wide), 0.0), max(at[1] * (of_height - tall), 0.0)
    return left, top, min(left + wide, of_width), min(top + tall, of_height)


def _background(
    rng: np.random.Generator, footage: Footage, num_frames: int, height: int, width: int
) -> tuple[np.ndarray, tuple[str, ...], np.ndarray]:
    """(T, H, W, 3) uint8 frames that fill the picture, their names, (T, N, H, W) masks; a still pans and zooms."""
    frames = to_and_fro(int(rng.random() * len(footage.names)), 1, len(footage.names), num_frames)
    shares, at = np.ones((2, 1)), np.full((2, 2), 0.5)
    if footage.source.is_still:
        shares, at = rng.uniform(ZOOM, 1, (2, 1)), rng.random((2, 2))
    pictures, masks = [], []
    for number, t in enumerate(frames.tolist()):
        part = number / max(num_frames - 1, 1)
        share, *place = ((1 - part) * np.hstack([shares, at])[0] + part * np.hstack([shares, at])[1]).tolist()
        box = filling_box(footage.height, footage.width, height, width, share, tuple(place))
        image = Image.fromarray(footage.picture(t))
        pictures.append(np.asarray(image.resize((width, height), Image.Resampling.BILINEAR, box, reducing_gap=2.0)))
        labels = Image.fromarray(footage.labels(t)).resize((width, height), Image.Resampling.NEAREST, box)
        masks.append(np.asarray(labels) == np.array(footage.ids, dtype=np.uint8)[:, None, None])
    return np.stack(pictures), tuple(footage.names[t] for t in frames), np.stack(masks)


def _read(catalog: Catalog, name: str, split: str, shorter: int) -> Footage:
    source = catalog.sources[name]
    footage = read_footage(source, *source.part(split, catalog.divide), 3 * shorter)
    for obj in footage.ids:
        if obj not in catalog.nouns[name]:
            raise ValueError(
                f"{source.where}: object {obj} has a mask but no name; name it in the names, as "
                f'{{"{name}": {{"{obj}": "dog"}}}}'
            )
    return footage


def _choose_background(catalog: Catalog, rng: np.random.Generator, split: str, drafts: list[Draft]) -> str | None:
    """A source that none of the objects is from and that shows nothing of the same name."""
    used = {draft.source for draft in drafts}
    nouns = {noun for draft in drafts for noun in catalog.possible_nouns[draft.source][draft.object_id]}
    names = [name for name in catalog.shown(split) if name not in used and not nouns & catalog.background_nouns[name]]
    if not names:
        return None
    # Videos move: they serve as often as all stills together.
    videos = sum(not catalog.sources[name].is_still for name in names)
    weights = [1 / max(len(names) - videos, 1) if catalog.sources[name].is_still else 1 / videos for name in names]
    at = np.searchsorted(np.cumsum(weights), rng.random() * sum(weights))
    return names[min(int(at), len(names) - 1)]


def _place(
    rng: np.random.Generator, catalog: Catalog, drafts: list[Draft], cut: list[CutOut], height: int, width: int
) -> tuple[list[CompositeObject], list[int]] | None:
    """The objects, furthest first, each on a path on which enough of it shows, and whose draft each is."""
    order = [int(index) for index in rng.permutation(len(drafts))]
    objects = []
    for index in order:
        draft, of = drafts[index], cut[index]
        objects.append(
            CompositeObject(
                source=draft.source,
                object_id=draft.object_id,
                nouns=catalog.nouns[draft.source][draft.object_id],
                possible_nouns=catalog.possible_nouns[draft.source][draft.object_id],
                color=of.color,
                tinted=draft.color is not None,
                motion=draft.motion,
                frames=of.frames,
                patches=of.patches,
                corners=np.zeros((0, 2), int),
                centers=of.centers,
                areas=of.areas,
            )
        )
    areas = np.stack([obj.areas for obj in objects], axis=1)
    for _ in range(12):
        paths = [_path(rng, cut[index], drafts[index].motion, height, width) for index in order]
        if any(path is None for path in paths):
            return None
        placed = [
            replace(obj, corners=path, centers=path + cut[index].centers)
            for obj, path, index in zip(objects, paths, order, strict=True)
        ]
        if (_visible(placed, height, width).sum(axis=(2, 3)) >= MIN_VISIBLE * areas).all():
            return placed, order
    return None


def try_composite(
    catalog: Catalog, rng: np.random.Generator, split: str, height: int, width: int, num_frames: int
) -> Composite | None:
    """A composite, or None where what was drawn cannot be put together."""
    drawn = draw_look_alikes(catalog, rng, split, width / height, still=num_frames == 1)
    background = drawn and _choose_background(catalog, rng, split, drawn[0])
    if not background:
        return None
    drafts, difference = drawn
    shorter = min(height, width)
    # Things of the same color are of exactly the same.
    tints = {name: np.clip(np.array(rgb) + rng.uniform(-16, 16, 3), 0, 255) for name, rgb in TINTS.items()}
    made: dict[Draft, CutOut | None] = {}
    for draft in drafts:
        key = replace(draft, motion="still")
        if key not in made:
            footage = _read(catalog, draft.source, split, shorter)
            made[key] = _cut_out(footage, draft, shorter, num_frames, tints.get(draft.color))
        cut = made[key]
        if cut is None:
            return None
        nouns = catalog.nouns[draft.source][draft.object_id]
        if draft.color is None and split != "heldout" and catalog.is_held_out(nouns, cut.color):
            return None
    cuts = [made[replace(draft, motion="still")] for draft in drafts]
    placed = _place(rng, catalog, drafts, cuts, height, width)
    if placed is None:
        return None
    footage = _read(catalog, background, split, shorter)
    pictures, names, masks = _background(rng, footage, num_frames, height, width)
    objects, order = placed
    return Composite(
        source=background,
        background=pictures,
        background_frames=names,
        background_ids=footage.ids,
        background_masks=masks,
        background_nouns=catalog.background_nouns[background],
        objects=tuple(objects),
        pair=(order.index(0), order.index(1), difference),
    )


def render_composite(composite: Composite) -> tuple[np.ndarray, np.ndarray]:
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
