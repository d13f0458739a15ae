"""Views: clips cut out of real pictures and videos as they are, alone or side by side, with sentences that hold.

The pretraining of the field is on pictures: a view is one crop of a source, or a mosaic of two to four, in T frames. A
video gives its own frames, a still is seen by a moving camera.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from PIL import Image
from sayings import Said, Speaker, Thing
from sources import Source

from modeling_cvls.composites import Catalog, make_composite, render_composite
from modeling_cvls.data.clips import flip_words
from modeling_cvls.synthetic.sentences import pick

MIN_PIXELS = 50  # an object of fewer pixels is no referent
MOST_THINGS = 12
MOSAICS, MOSAIC_SHARE = ((1, 2), (2, 1), (2, 2)), 0.35
#: How often a view shows a video, a picture of COCO, or any still.
POOL_SHARES = (0.5, 0.25, 0.25)
#: Sentences of a view at most, and how many of them hold where enough of the others are known not to.
SENTENCES, TRUE_SENTENCES = 4, 2


@dataclass
class View:
    """A clip: frames (T, H, W, 3) and labels (T, H, W, 0: none), uint8, and sentences (text, indices of referents).

    `number` is that of its objects; index i has the label i + 1.
    """

    frames: np.ndarray
    labels: np.ndarray
    sentences: list[Said]
    number: int

    def maybe_flipped(self, rng: np.random.Generator) -> "View":
        """Now and then mirrored, with the words left and right of its sentences."""
        if rng.random() < 0.5:
            return self
        said = [(flip_words(text), referents) for text, referents in self.sentences]
        return View(self.frames[:, :, ::-1], self.labels[:, :, ::-1], said, self.number)


def _camera(rng: np.random.Generator, source: Source, aspect: float, zoom: tuple[float, float]) -> np.ndarray:
    """(2, 4) left, top, right, bottom of what a camera sees first and last; it may zoom, and pans over stills."""
    height, width = source.labels[0].shape
    largest = min(height, width / aspect)
    tall = largest * rng.uniform(*zoom) * np.ones(2)
    if rng.random() < 0.5:
        tall[1] = np.clip(tall[0] * rng.uniform(0.85, 1.18), 0.3 * largest, largest)
    wide = aspect * tall
    start = rng.uniform(0, 1, 2) * (width - wide[0], height - tall[0])
    pans = len(source.frames) == 1 and rng.random() < 0.7
    move = rng.uniform(-0.12, 0.12, 2) * tall[0] * pans
    corners = np.stack([start, start + (wide[0] - wide[1]) / 2 * np.array([1, 1 / aspect]) + move])
    corners = np.clip(corners, 0, np.stack([width - wide, height - tall], axis=1))
    return np.concatenate([corners, corners + np.stack([wide, tall], axis=1)], axis=1)


def _kept(mask: np.ndarray, box: np.ndarray) -> float:
    """The share of a mask that lies in a box."""
    left, top, right, bottom = box.round().astype(int)
    total = np.count_nonzero(mask)
    return np.count_nonzero(mask[top:bottom, left:right]) / total if total else 0.0


def crop(
    rng: np.random.Generator, source: Source, num_frames: int, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """A crop of a source that keeps most of one of its objects: frames (T, H, W, 3) and labels (T, H, W), uint8."""
    times = np.zeros(num_frames, dtype=int)
    is_video = len(source.frames) > 1
    if is_video:
        step = min(int(rng.integers(1, 4)), (len(source.frames) - 1) // max(num_frames - 1, 1))
        times = rng.integers(len(source.frames) - step * (num_frames - 1)) + step * np.arange(num_frames)
    key = int(rng.choice(sorted(source.nouns)))
    ends = [source.labels[t] == key for t in (times[0], times[-1])]
    for _ in range(6):
        boxes = _camera(rng, source, width / height, (0.45 if is_video else 0.6, 1.0))
        if min(_kept(mask, box) for mask, box in zip(ends, boxes, strict=True)) > 0.6:
            break
    else:
        boxes = _camera(rng, source, width / height, (1.0, 1.0))
    frames, labels = [], []
    for t, share in zip(times, np.linspace(0, 1, num_frames), strict=True):
        # Rounding may lead out of the picture by next to nothing.
        box = np.clip((1 - share) * boxes[0] + share * boxes[1], 0, 2 * source.labels[0].shape[::-1])
        box = tuple(box.tolist())
        image = Image.fromarray(source.frames[t])
        frames.append(np.asarray(image.resize((width, height), Image.Resampling.BILINEAR, box=box)))
        image = Image.fromarray(source.labels[t])
        labels.append(np.asarray(image.resize((width, height), Image.Resampling.NEAREST, box=box)))
    return np.stack(frames), np.stack(labels)


class ViewSampler:
    """Draws views of videos and stills, each of `num_frames` frames of `height` x `width` pixels."""

    def __init__(self, videos: list[Source], stills: list[Source], num_frames: int, height: int, width: int):
        self.pools = [videos, [still for still in stills if not still.name.startswith("pet")], stills]
        self.shape = num_frames, height, width
        self.speaker = Speaker(videos, stills)

    def __call__(self, rng: np.random.Generator) -> View:
        while not (view := self._draw(rng)).sentences:
            pass
        return view

    def _draw(self, rng: np.random.Generator) -> View:
        num_frames, height, width = self.shape
        grid = pick(rng, MOSAICS) if rng.random() < MOSAIC_SHARE else (1, 1)
        frames = np.zeros((num_frames, height, width, 3), np.uint8)
        labels = np.zeros((num_frames, height, width), np.uint8)
        sources: list[Source] = []
        things: list[Thing] = []
        rows, columns = (
            np.linspace(0, side, parts + 1).astype(int) for side, parts in zip((height, width), grid, strict=True)
        )
        for top, bottom in pairwise(rows):
            for left, right in pairwise(columns):
                source = pick(rng, pick(rng, self.pools, POOL_SHARES))
                sources.append(source)
                part, own = crop(rng, source, num_frames, bottom - top, right - left)
                frames[:, top:bottom, left:right] = part
                for key in sorted(source.nouns):
                    here = own == key
                    if len(things) < MOST_THINGS and np.count_nonzero(here) >= MIN_PIXELS * num_frames:
                        things.append((source, key))
                        labels[:, top:bottom, left:right][here] = len(things)
        said = self._sentences(rng, sources, things, labels)
        return View(frames, labels, said, len(things)).maybe_flipped(rng)

    def _sentences(
        self, rng: np.random.Generator, sources: list[Source], things: list[Thing], labels: np.ndarray
    ) -> list[Said]:
        """Up to `SENTENCES`, mostly with as many that have no referent as have one."""
        true = self.speaker.true(rng, things, labels)
        said: dict[str, tuple[int, ...]] = {}
        room = TRUE_SENTENCES if rng.random() < 0.85 else SENTENCES - 1
        for number in rng.permutation(len(true)):
            if len(said) < room:
                said.setdefault(*true[number])
        for _ in range(4):
            text = self.speaker.false(rng, sources)
            if text is not None and len(said) < SENTENCES:
                said.setdefault(text, ())
        return list(said.items())


def composite_view(catalog: Catalog, rng: np.random.Generator, num_frames: int, height: int, width: int) -> View:
    """A new composite of what training may show, with some of its sentences, the first one among them."""
    index = int(rng.integers(2**31))
    composite, sentences = make_composite(catalog, "train", index, height=height, width=width, num_frames=num_frames)
    frames, masks = render_composite(composite)
    chosen = [0, *(1 + rng.permutation(len(sentences) - 1)[: SENTENCES - 1])]
    said = [(sentences[number].text, sentences[number].instances) for number in chosen]
    labels = (masks * np.arange(1, masks.shape[1] + 1, dtype=np.uint8)[:, None, None]).sum(axis=1, dtype=np.uint8)
    return View(frames, labels, said, masks.shape[1]).maybe_flipped(rng)


def jitter(rng: np.random.Generator, frames: np.ndarray) -> np.ndarray:
    """Brightness, contrast and saturation of a clip (uint8), within what leaves colors their names."""
    frames = frames.astype(np.float32)
    gray = frames.mean(axis=-1, keepdims=True)
    frames = gray + rng.uniform(0.7, 1.3) * (frames - gray)
    mean = frames.mean()
    frames = mean + rng.uniform(0.75, 1.25) * (frames - mean) + rng.uniform(-25, 25)
    return np.clip(frames.round(), 0, 255).astype(np.uint8)
