"""Scenes of moving look-alike shapes: what is in them, where it moves, and how it is drawn."""

import functools
import math
from dataclasses import dataclass

import numpy as np

# The number of a split is part of the seed of all that it shows; A2D Sentences itself has `subset` 0 and 1.
SPLITS = {"train": 0, "test": 1, "validation": 2, "heldout": 3}
SHAPES = ("circle", "square", "triangle", "cross")
COLORS = ("red", "green", "blue", "yellow", "purple", "white")
SIZES = ("small", "large")
MOTIONS = ("left", "right", "up", "down", "still", "circling")
ATTRIBUTES = {"size": SIZES, "color": COLORS, "shape": SHAPES, "motion": MOTIONS}

# Combinations that only scenes of the held-out split contain. No pair has the motion "left" or "right": a training
# clip that is flipped would show the mirrored pair.
HELD_OUT_COLOR_SHAPE = frozenset({("red", "cross"), ("green", "triangle"), ("blue", "square"), ("purple", "circle")})
HELD_OUT_SHAPE_MOTION = frozenset({("square", "up"), ("triangle", "circling"), ("circle", "down")})

RGB = {
    "red": (222, 42, 38),
    "green": (44, 178, 60),
    "blue": (40, 90, 232),
    "yellow": (238, 214, 46),
    "purple": (164, 52, 196),
    "white": (242, 242, 240),
}
MIN_VISIBLE = 0.4
# Which attribute tells a look-alike from its original. Motion more often than the others: it is the only one that a
# sentence of the kind "temporal" can speak of.
CHANGE_SHARES = {"size": 0.17, "color": 0.18, "shape": 0.2, "motion": 0.45}
# In the look-alikes benchmark: what alone tells three objects of a scene apart. Shape most often: it is what a noun
# names, and what is hard. By size, color and motion alone a network without any contrast is soon right nearly always.
CONTESTED_SHARES = {"size": 0.08, "color": 0.12, "shape": 0.4, "motion": 0.28, "place": 0.12}
MIN_VISIBLE_LOOK_ALIKES = 0.3
# Lengths are in pixels of a 64-pixel picture; they grow with the picture's shorter side.
RADIUS = {"small": (6.0, 7.0), "large": (10.0, 11.0)}
SPEED = (2.0, 3.0)
CIRCLING_RADIUS = (5.0, 6.0)
CIRCLING_TURN = (50.0, 80.0)  # degrees per frame
MAX_DRIFT = 1.0  # a frame, less than half of the slowest object's speed
REFERENCE_SIZE = 64
# How far the outermost object must lie beyond another one, in every frame, to be "on the left" and the like.
POSITION_MARGIN = 4.0
POSITIONS = {"left": (0, -1), "right": (0, 1), "top": (1, -1), "bottom": (1, 1)}  # axis of the trajectory, sign


@dataclass(frozen=True)
class SceneObject:
    """One moving shape.

    Attributes:
        size, color, shape, motion: values of `ATTRIBUTES`.
        radius: pixels; the radius of a circle of this size, other shapes are drawn of similar area.
        rgb: (3,) float, 0 to 255, the color with its jitter.
        trajectory: (T, 2) float, the center (x, y) in pixels in every frame.
    """

    size: str
    color: str
    shape: str
    motion: str
    radius: float
    rgb: np.ndarray
    trajectory: np.ndarray

    @property
    def held_out(self) -> bool:
        """Whether training scenes never contain this combination of attributes."""
        return is_held_out({"color": self.color, "shape": self.shape, "motion": self.motion})


@dataclass(frozen=True)
class Scene:
    """A clip before it is drawn.

    Attributes:
        height, width: pixels.
        num_frames: T.
        seed: of the background and the noise.
        objects: furthest first, so later ones hide earlier ones.
        drift: pixels (x, y) that the camera's motion shifts the picture by from frame to frame; the objects'
            trajectories contain it.
        clutter: number of streaks that lie on the background.
        flicker: how far the light of a clip and of each of its frames strays from 1, as a share.
    """

    height: int
    width: int
    num_frames: int
    seed: int
    objects: tuple[SceneObject, ...]
    drift: tuple[float, float] = (0.0, 0.0)
    clutter: int = 0
    flicker: float = 0.0

    @property
    def scale(self) -> float:
        """Pixels of this picture to one of a 64-pixel picture."""
        return min(self.height, self.width) / REFERENCE_SIZE

    @functools.cached_property
    def beyond(self) -> dict[str, np.ndarray]:
        """For each of `POSITIONS`, (M, M) bool: object i is clearly further in that direction than j in every frame."""
        centers = np.stack([obj.trajectory for obj in self.objects])
        gaps = (centers[:, None] - centers[None]).transpose(3, 2, 0, 1)  # axis, frame, i, j
        margin = POSITION_MARGIN * self.scale
        return {name: (sign * gaps[axis]).min(axis=0) >= margin for name, (axis, sign) in POSITIONS.items()}


def is_held_out(attributes: dict[str, str]) -> bool:
    """Whether the attributes (all or some of them) name a held-out combination."""
    shape = attributes.get("shape")
    return (attributes.get("color"), shape) in HELD_OUT_COLOR_SHAPE or (
        shape,
        attributes.get("motion"),
    ) in HELD_OUT_SHAPE_MOTION


def _draw_attributes(rng: np.random.Generator, held_out: bool) -> dict[str, str]:
    while True:
        attributes = {name: str(rng.choice(values)) for name, values in ATTRIBUTES.items()}
        if is_held_out(attributes) == held_out:
            return attributes


def _look_alikes(rng: np.random.Generator, count: int, held_out: bool) -> list[dict[str, str]]:
    """Attributes of `count` objects, each but the first one attribute away from an earlier one, no two equal."""
    objects = [_draw_attributes(rng, held_out)]
    while len(objects) < count:
        attributes = dict(objects[rng.integers(len(objects))])
        name = str(rng.choice(list(CHANGE_SHARES), p=list(CHANGE_SHARES.values())))
        attributes[name] = str(rng.choice([value for value in ATTRIBUTES[name] if value != attributes[name]]))
        if attributes not in objects and (held_out or not is_held_out(attributes)):
            objects.append(attributes)
    return objects


def _trajectory(
    rng: np.random.Generator,
    motion: str,
    radius: float,
    height: int,
    width: int,
    num_frames: int,
    drift: tuple[float, float] = (0.0, 0.0),
) -> np.ndarray:
    """(T, 2) centers that stay inside the picture by most of the object's radius."""
    scale = min(height, width) / REFERENCE_SIZE
    margin = 0.75 * radius
    low, high = np.array([margin, margin]), np.array([width - margin, height - margin])
    if motion == "still":
        offsets = np.zeros((num_frames, 2))
    elif motion == "circling":
        turn = math.radians(rng.uniform(*CIRCLING_TURN)) * rng.choice([-1, 1])
        angles = rng.uniform(0, 2 * math.pi) + turn * np.arange(num_frames)
        offsets = rng.uniform(*CIRCLING_RADIUS) * scale * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    else:
        axis, sign = {"left": (0, -1), "right": (0, 1), "up": (1, -1), "down": (1, 1)}[motion]
        # A long clip is crossed more slowly, so that the object is in the picture to the end.
        longest = 0.9 * (high - low)[axis] / max(num_frames - 1, 1) - abs(drift[axis])
        offsets = np.zeros((num_frames, 2))
        offsets[:, axis] = sign * min(rng.uniform(*SPEED) * scale, longest) * np.arange(num_frames)
    offsets += np.outer(np.arange(num_frames), drift)
    start = rng.uniform(low - offsets.min(axis=0), high - offsets.max(axis=0))
    return start + offsets


def check_sizes(height: int, width: int, num_frames: int) -> None:
    """Raises ValueError for a clip too small or too short to show what sentences speak of."""
    if min(height, width) < 32:
        raise ValueError(f"height and width must be at least 32 pixels, got {height} x {width}")
    if num_frames < 2:
        raise ValueError(f"num_frames must be at least 2 (one frame shows no motion), got {num_frames}")


def sample_scene(
    rng: np.random.Generator,
    height: int = 64,
    width: int = 64,
    num_frames: int = 8,
    min_objects: int = 3,
    max_objects: int = 5,
    held_out: bool = False,
) -> Scene:
    """Draws a scene of look-alikes.

    Args:
        rng: the only source of chance.
        height, width: pixels, at least 32.
        num_frames: T, at least 2 (one frame shows no motion).
        min_objects, max_objects: how many objects, inclusive.
        held_out: the scene contains an object of a held-out combination; otherwise it contains none.

    Returns:
        A scene in which every object shows at least `MIN_VISIBLE` of itself in every frame.
    """
    check_sizes(height, width, num_frames)
    if not 2 <= min_objects <= max_objects <= 5:
        raise ValueError(
            f"min_objects and max_objects must be 2 to 5 with min <= max, got {min_objects} and {max_objects}"
        )
    while True:
        attributes = _look_alikes(rng, int(rng.integers(min_objects, max_objects + 1)), held_out)
        rng.shuffle(attributes)  # otherwise the object that the others were copied from would be the furthest
        objects = _place(rng, attributes, height, width, num_frames)
        if objects is None:
            continue
        scene = Scene(height, width, num_frames, int(rng.integers(2**32)), objects)
        if _is_seen(scene, MIN_VISIBLE):
            return scene


def _place(
    rng: np.random.Generator,
    attributes: list[dict[str, str]],
    height: int,
    width: int,
    num_frames: int,
    distance: float = 0.65,
    color_jitter: float = 10,
    drift: tuple[float, float] = (0.0, 0.0),
) -> tuple[SceneObject, ...] | None:
    """Objects with these attributes whose centers keep `distance` (a share of the radii's sum); None if no place is
    found for one."""
    objects: list[SceneObject] = []
    for values in attributes:
        radius = rng.uniform(*RADIUS[values["size"]]) * min(height, width) / REFERENCE_SIZE
        for _ in range(20):
            trajectory = _trajectory(rng, values["motion"], radius, height, width, num_frames, drift)
            if all(
                np.hypot(*(trajectory - other.trajectory).T).min() > distance * (radius + other.radius)
                for other in objects
            ):
                break
        else:
            return None
        rgb = np.clip(np.array(RGB[values["color"]]) + rng.uniform(-color_jitter, color_jitter, 3), 0, 255)
        objects.append(SceneObject(**values, radius=radius, rgb=rgb, trajectory=trajectory))
    return tuple(objects)


def _is_seen(scene: Scene, share: float) -> bool:
    """Whether every object shows at least this share of itself in every frame."""
    _, whole, visible = _cover(scene)
    return bool((visible.sum((2, 3)) >= share * whole).all())


def _rivals(rng: np.random.Generator, held_out: bool) -> list[dict[str, str]]:
    """Attributes of 4 or 5 objects: three that differ in one attribute (or in their places) alone, and others that
    differ from one of those in another."""
    while True:
        first = _draw_attributes(rng, held_out)
        contested = str(rng.choice(list(CONTESTED_SHARES), p=list(CONTESTED_SHARES.values())))
        objects = [first, dict(first), dict(first)]
        if contested != "place":
            others = [value for value in ATTRIBUTES[contested] if value != first[contested]]
            if len(others) == 1:  # of sizes there are two: the two rivals of the one share the other
                others *= 2
            for rival, value in zip(objects[1:], rng.permutation(others), strict=False):
                rival[contested] = str(value)
        for _ in range(int(rng.integers(1, 3))):
            other = dict(objects[rng.integers(3)])
            names = [name for name in CHANGE_SHARES if name != contested]
            shares = np.array([CHANGE_SHARES[name] for name in names])
            name = str(rng.choice(names, p=shares / shares.sum()))
            other[name] = str(rng.choice([value for value in ATTRIBUTES[name] if value != other[name]]))
            objects.append(other)
        if held_out or not any(is_held_out(attributes) for attributes in objects):
            return objects


def sample_look_alikes(
    rng: np.random.Generator, height: int = 64, width: int = 64, num_frames: int = 8, held_out: bool = False
) -> Scene:
    """Draws a scene of the look-alikes benchmark, harder than those of `sample_scene`.

    Of 4 or 5 objects, three differ in a single attribute or in their places alone, so that one word of a sentence
    decides. They hide more of each other, their colors stray, the camera drifts, the light flickers, and streaks of
    all colors lie on the background.

    Args:
        rng: the only source of chance.
        height, width: pixels, at least 32.
        num_frames: T, at least 2.
        held_out: the scene contains an object of a held-out combination; otherwise it contains none.
    """
    check_sizes(height, width, num_frames)
    scale = min(height, width) / REFERENCE_SIZE
    while True:
        attributes = _rivals(rng, held_out)
        rng.shuffle(attributes)
        angle = rng.uniform(0, 2 * math.pi)
        # in long clips slower, so that what drifts stays in the picture
        speed = rng.uniform(0, min(MAX_DRIFT, MAX_DRIFT * 7 / (num_frames - 1))) * scale
        drift = (speed * math.cos(angle), speed * math.sin(angle))
        objects = _place(rng, attributes, height, width, num_frames, 0.5, 28, drift)
        if objects is None:
            continue
        clutter = int(rng.integers(8, 17))
        scene = Scene(height, width, num_frames, int(rng.integers(2**32)), objects, drift, clutter, flicker=0.1)
        if _is_seen(scene, MIN_VISIBLE_LOOK_ALIKES):
            return scene


def _signed_distance(shape: str, x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """Pixels to the outline, negative inside."""
    if shape == "circle":
        return np.sqrt(x * x + y * y) - radius
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - 0.89 * radius
    if shape == "triangle":  # equilateral, point up, inradius 0.66 of the circle's radius
        return np.maximum(y, np.abs(x) * (math.sqrt(3) / 2) - y * 0.5) - 0.66 * radius
    x, y = np.abs(x), np.abs(y)
    return np.minimum(np.maximum(x - 1.1 * radius, y - 0.4 * radius), np.maximum(y - 1.1 * radius, x - 0.4 * radius))


@dataclass(frozen=True)
class _Patch:
    """One object in one frame, cut to where it is: `rows`/`columns` slices, soft `cover`, `shade` to draw it with."""

    rows: slice
    columns: slice
    cover: np.ndarray
    shade: np.ndarray


def _patches(obj: SceneObject, height: int, width: int) -> list[_Patch]:
    reach = math.ceil(1.4 * obj.radius) + 1
    grid = np.arange(-reach, reach + 1, dtype=np.float32)
    whole = np.floor(obj.trajectory).astype(int)
    rest = (obj.trajectory - whole).astype(np.float32)
    # A pixel's center lies half a pixel from its index.
    x = np.broadcast_to((grid + 0.5 - rest[:, :1])[:, None, :], (len(whole), len(grid), len(grid)))
    y = np.broadcast_to((grid + 0.5 - rest[:, 1:])[:, :, None], x.shape)
    depth = -_signed_distance(obj.shape, x, y, obj.radius)
    cover = np.clip(0.5 + depth, 0, 1)
    # Lit from the upper left, with a dark rim: look-alikes that hide each other would melt into one without it.
    shade = (1 - 0.12 * (x + y) / (2 * obj.radius)) * (0.6 + 0.4 * np.clip(depth - 0.2, 0, 1))
    patches = []
    for t, (column, row) in enumerate(whole):
        top, left = row - reach, column - reach
        # an object that has left the picture has an empty patch
        rows = slice(min(max(top, 0), height), max(min(row + reach + 1, height), 0))
        columns = slice(min(max(left, 0), width), max(min(column + reach + 1, width), 0))
        inside = (slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left))
        patches.append(_Patch(rows, columns, cover[t][inside], shade[t][inside]))
    return patches


def _cover(scene: Scene) -> tuple[list[list[_Patch]], np.ndarray, np.ndarray]:
    """Patches [object][frame]; (T, M) pixels of every object were it alone; (T, M, H, W) bool visible masks."""
    shape = (scene.num_frames, len(scene.objects), scene.height, scene.width)
    visible = np.zeros(shape, dtype=bool)
    whole = np.zeros(shape[:2])
    patches = [_patches(obj, scene.height, scene.width) for obj in scene.objects]
    for m, frames in enumerate(patches):
        for t, patch in enumerate(frames):
            mask = patch.cover >= 0.5
            whole[t, m] = mask.sum()
            visible[t, :m, patch.rows, patch.columns] &= ~mask
            visible[t, m, patch.rows, patch.columns] = mask
    return patches, whole, visible


@functools.lru_cache(maxsize=16)
def _upsampling(points: int, length: int) -> np.ndarray:
    """(length, points) float32 weights of a smooth (cosine) interpolation between evenly spaced points."""
    at = np.linspace(0, points - 1, length)
    below = np.minimum(at.astype(int), points - 2)
    share = (1 - np.cos(np.pi * (at - below))) / 2
    weights = np.zeros((length, points), dtype=np.float32)
    weights[np.arange(length), below] = 1 - share
    weights[np.arange(length), below + 1] = share
    return weights


def _background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """(H, W, 3) float32, 0 to 255: smooth blotches of muted colors in two octaves."""
    picture = np.full((height, width, 3), 96, dtype=np.float32) + rng.uniform(-24, 24, 3).astype(np.float32)
    for points, gray, tint in ((5, 22, 12), (14, 12, 6)):
        coarse = rng.normal(0, gray, (points, points, 1)) + rng.normal(0, tint, (points, points, 3))
        rows, columns = _upsampling(points, height), _upsampling(points, width)
        picture += np.einsum("hp,pqc,wq->hwc", rows, coarse.astype(np.float32), columns, optimize=True)
    return picture


def _streaks(rng: np.random.Generator, picture: np.ndarray, count: int, scale: float) -> None:
    """Draws `count` short strokes of all colors into a picture (H, W, 3)."""
    rows, columns = np.mgrid[: picture.shape[0], : picture.shape[1]] + 0.5
    for _ in range(count):
        x, y = rng.uniform(0, picture.shape[1]), rng.uniform(0, picture.shape[0])
        angle, half, width = rng.uniform(0, math.pi), rng.uniform(3, 7) * scale, rng.uniform(0.5, 1) * scale
        along = (columns - x) * math.cos(angle) + (rows - y) * math.sin(angle)
        across = (rows - y) * math.cos(angle) - (columns - x) * math.sin(angle)
        distance = np.hypot(np.maximum(np.abs(along) - half, 0), across)
        cover = np.clip(0.5 + width - distance, 0, 1)[..., None]
        picture += cover * (rng.uniform(30, 225, 3) - picture)


def _backgrounds(rng: np.random.Generator, scene: Scene) -> np.ndarray:
    """(T, H, W, 3) float32: the background, seen by the drifting camera."""
    shifts = np.rint(np.outer(np.arange(scene.num_frames), scene.drift)).astype(int)
    tops, lefts = (shifts.max(axis=0) - shifts)[:, ::-1].T  # what shifts to the right was further left in the picture
    picture = _background(rng, scene.height + int(tops.max()), scene.width + int(lefts.max()))
    _streaks(rng, picture, scene.clutter, scene.scale)
    return np.stack(
        [picture[t : t + scene.height, x : x + scene.width] for t, x in zip(tops, lefts, strict=True)]
    ).astype(np.float32)


def render(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Draws a scene.

    Returns:
        frames: (T, H, W, 3) uint8.
        masks: (T, M, H, W) bool, the visible part of every object, in the order of `scene.objects`.
    """
    rng = np.random.default_rng(scene.seed)
    frames = _backgrounds(rng, scene)
    patches, _, visible = _cover(scene)
    for obj, in_frames in zip(scene.objects, patches, strict=True):
        rgb = obj.rgb.astype(np.float32)
        for frame, patch in zip(frames, in_frames, strict=True):
            region = frame[patch.rows, patch.columns]
            region += patch.cover[..., None] * (patch.shade[..., None] * rgb - region)
    if scene.flicker:
        light = rng.uniform(-1, 1, (1, 1, 1, 3)) + rng.uniform(-1, 1, (scene.num_frames, 1, 1, 1))
        frames *= (1 + scene.flicker * light).astype(np.float32)
    frames += 6 * rng.standard_normal(frames.shape, dtype=np.float32)
    return np.clip(frames + 0.5, 0, 255).astype(np.uint8), visible
