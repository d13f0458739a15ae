"""Long scenes in which look-alikes are told apart by what one of them did at one time, and by nothing before or after.

A viewer who watched the video knows at any time which object is meant; one who sees a few frames of it knows only while
the object does what the sentence says.
"""

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from .scenes import (
    CIRCLING_RADIUS,
    CIRCLING_TURN,
    COLORS,
    MAX_DRIFT,
    RADIUS,
    REFERENCE_SIZE,
    RGB,
    SHAPES,
    SPEED,
    Scene,
    SceneObject,
    check_sizes,
    is_held_out,
)
from .sentences import Sentence, phrase, pick, shortest_descriptions

LOOK_ALIKES = 3
MIN_FRAMES = 64
PART = (8, 15)  # frames in which an object moves as its motion says, the last number excluded
LEAD = 8  # frames at least before the first and after the last such part
AWAY = (6, 17)  # frames without an object that left, the last number excluded
# In pixels of a 64-pixel picture, as in scenes.py; less than half of the slowest motion.
LEAVING_SPEED = (0.7 * MAX_DRIFT, MAX_DRIFT)
SWAY, SWAY_PERIOD = (1.0, 3.0), (48.0, 96.0)  # pixels, frames
APART = 1.25  # times the sum of the radii


@dataclass(frozen=True)
class LongScene(Scene):
    """A long video before it is drawn.

    Attributes:
        parts: of each object, the frames (start, stop), `stop` excluded, in which it moves as its `motion` says; None
            for one that never does, whose motion is "still".
        trips: of each object, the frames from when it starts to leave the picture until it is back; None for one that
            stays. No two are away at the same time.
    """

    parts: tuple[tuple[int, int] | None, ...] = ()
    trips: tuple[tuple[int, int] | None, ...] = ()

    def cut(self, start: int, stop: int) -> Scene:
        """The frames `start` to `stop` (excluded) as a scene of their own, so that a clip can be drawn alone. Its noise
        is another."""
        objects = tuple(dataclasses.replace(obj, trajectory=obj.trajectory[start:stop]) for obj in self.objects)
        return Scene(self.height, self.width, stop - start, self.seed, objects)


def sample_long_scene(rng: np.random.Generator, height: int = 64, width: int = 64, num_frames: int = 128) -> LongScene:
    """Draws a long scene.

    Three objects look exactly alike. At least one of them moves, once, for 8 to 14 frames: along one axis of the
    picture, or in circles; each of them in a way of its own. In half of the scenes there is one more object of another
    shape, which may move as one of the three does. Before and after, all stand still, or sway together a little along
    the other axis. Some leave the picture along that axis, slowly, one at a time, and come back by the same way. No two
    ever touch.

    Args:
        rng: the only source of chance.
        height, width: pixels, at least 48.
        num_frames: T, at least 64.

    Returns:
        A scene without objects of a held-out combination.
    """
    check_sizes(height, width, num_frames)
    if min(height, width) < 48 or num_frames < MIN_FRAMES:
        raise ValueError(
            f"a long scene has at least 48 x 48 pixels and {MIN_FRAMES} frames, got {height} x {width} and {num_frames}"
        )
    while True:
        axis = int(rng.integers(2))
        attributes = _attributes(rng, axis)
        if attributes is None:
            continue
        placed = _Placing(rng, axis, height, width, num_frames)
        if all(placed.add(values) for values in attributes):
            return LongScene(
                height,
                width,
                num_frames,
                int(rng.integers(2**32)),
                tuple(placed.objects),
                parts=tuple(placed.parts),
                trips=tuple(placed.trips),
            )


def describe_parts(scene: LongScene, rng: np.random.Generator) -> list[Sentence]:
    """One sentence of the kind "temporal" on each object that moves in a part of the video; it holds for all of it."""
    sentences = []
    for index, part in enumerate(scene.parts):
        options = shortest_descriptions(scene, index, "temporal") if part else []
        if options:
            predicate = pick(rng, options)
            sentences.append(Sentence(phrase(predicate, rng), "temporal", (index,), predicate))
    return sentences


def make_long_scene(seed: int, index: int, size: int = 64, num_frames: int | None = None):
    """The long scene number `index` and its sentences, at least one, the same for the same arguments.

    Args:
        size: height and width in pixels.
        num_frames: T; None: drawn from 64 to 256.

    Returns:
        [`LongScene`], list of [`Sentence`].
    """
    rng = np.random.default_rng((seed, index))
    number = int(rng.integers(MIN_FRAMES, 4 * MIN_FRAMES + 1)) if num_frames is None else num_frames
    while True:
        scene = sample_long_scene(rng, size, size, number)
        sentences = describe_parts(scene, rng)
        if sentences:
            return scene, sentences


def _attributes(rng: np.random.Generator, axis: int) -> list[dict[str, str]] | None:
    """Attributes of the look-alikes, and perhaps of a stranger, in random order; None where they do not work out."""
    color, shape, other = str(rng.choice(COLORS)), *map(str, rng.choice(SHAPES, 2, replace=False))
    motions = [(("left", "right"), ("up", "down"))[axis][i] for i in rng.permutation(2)] + ["circling"]
    motions = [motions[i] for i in rng.permutation(3)]
    moving = int(rng.integers(1, LOOK_ALIKES + 1))
    look = {"size": "small", "color": color, "shape": shape}
    objects = [look | {"motion": motions[i] if i < moving else "still"} for i in range(LOOK_ALIKES)]
    if rng.random() < 0.5:
        stranger = look | {"shape": other, "color": str(rng.choice(COLORS))}
        objects.append(stranger | {"motion": str(rng.choice([*motions, "still"]))})
    if any(is_held_out(values) for values in objects):
        return None
    return [objects[i] for i in rng.permutation(len(objects))]


class _Placing:
    """Objects that are placed one after another, each with its way through the whole video."""

    def __init__(self, rng: np.random.Generator, axis: int, height: int, width: int, num_frames: int):
        self.rng, self.axis, self.num_frames = rng, axis, num_frames
        self.size = np.array([width, height])
        self.scale = min(height, width) / REFERENCE_SIZE
        self.objects: list[SceneObject] = []
        self.parts: list[tuple[int, int] | None] = []
        self.trips: list[tuple[int, int] | None] = []
        self._looks: dict[tuple[str, str], tuple[float, np.ndarray]] = {}
        self._sway = np.zeros((num_frames, 2))
        if rng.random() < 0.5:
            angle = 2 * math.pi * (rng.random() + np.arange(num_frames) / rng.uniform(*SWAY_PERIOD))
            self._sway[:, 1 - axis] = rng.uniform(*SWAY) * self.scale * np.sin(angle)

    def add(self, values: dict[str, str]) -> bool:
        """Places an object with these attributes; false where no place is found for it."""
        radius, rgb = self._look(values)
        for _ in range(20):
            part = None if values["motion"] == "still" else self._part()
            trajectory = self._stay(values["motion"], part, radius)
            trip = self._leave(trajectory, part, radius) if self.rng.random() < 0.8 else None
            if all(
                np.hypot(*(trajectory - other.trajectory).T).min() > APART * (radius + other.radius)
                for other in self.objects
            ):
                self.objects.append(SceneObject(**values, radius=radius, rgb=rgb, trajectory=trajectory))
                self.parts.append(part)
                self.trips.append(trip)
                return True
        return False

    def _look(self, values: dict[str, str]) -> tuple[float, np.ndarray]:
        """Radius and color: the same for all that are alike."""
        key = values["color"], values["shape"]
        if key not in self._looks:
            rgb = np.clip(np.array(RGB[values["color"]]) + self.rng.uniform(-10, 10, 3), 0, 255)
            self._looks[key] = self.rng.uniform(*RADIUS[values["size"]]) * self.scale, rgb
        return self._looks[key]

    def _part(self) -> tuple[int, int]:
        length = int(self.rng.integers(*PART))
        start = int(self.rng.integers(LEAD, self.num_frames - LEAD - length + 1))
        return start, start + length

    def _stay(self, motion: str, part: tuple[int, int] | None, radius: float) -> np.ndarray:
        """(T, 2) centers of an object that moves in its part, and is wholly in the picture all the time."""
        rng, offsets = self.rng, self._sway.copy()
        if part is not None:
            moved = np.clip(np.arange(self.num_frames) - part[0], 0, part[1] - part[0] - 1)
            if motion == "circling":
                turn = math.radians(rng.uniform(*CIRCLING_TURN)) * rng.choice([-1, 1])
                angles = rng.uniform(0, 2 * math.pi) + turn * moved
                around = np.stack([np.cos(angles), np.sin(angles)], axis=1)
                offsets += rng.uniform(*CIRCLING_RADIUS) * self.scale * around
            else:
                sign = -1 if motion in ("left", "up") else 1
                offsets[:, self.axis] += sign * rng.uniform(*SPEED) * self.scale * moved
        margin = 1.1 * radius
        low, high = margin - offsets.min(axis=0), self.size - margin - offsets.max(axis=0)
        return rng.uniform(np.minimum(low, high), high) + offsets

    def _leave(self, trajectory: np.ndarray, part: tuple[int, int] | None, radius: float) -> tuple[int, int] | None:
        """Lets an object leave by the nearer edge and come back, while it does nothing else and all others are there;
        changes its `trajectory`. None where there is no time for that."""
        rng, across = self.rng, 1 - self.axis
        busy = [(start - 4, stop + 4) for start, stop in filter(None, [part, *self.trips])]
        times = np.arange(self.num_frames)
        for _ in range(10):
            speed, away = rng.uniform(*LEAVING_SPEED) * self.scale, int(rng.integers(*AWAY))
            start = int(rng.integers(2, self.num_frames))
            place, size = trajectory[start, across], self.size[across]
            sign = -1 if place < size / 2 else 1
            gap = (place if sign < 0 else size - place) + 1.5 * radius + np.abs(self._sway).max()
            steps = math.ceil(gap / speed)
            stop = start + 2 * steps + away
            if stop <= self.num_frames - 2 and all(stop <= before or after <= start for before, after in busy):
                trajectory[:, across] += sign * speed * np.clip(np.minimum(times - start, stop - 1 - times), 0, steps)
                return start, stop
        return None


__all__ = ["LongScene", "describe_parts", "make_long_scene", "sample_long_scene"]
