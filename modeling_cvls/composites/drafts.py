"""Which objects a composite shows, before anything is cut out: look-alikes, and what is to be done to each."""

from dataclasses import dataclass, replace

import numpy as np

from ..synthetic.sentences import pick
from .catalog import COLORS, MOTIONS, PEOPLE, Catalog

NATURAL_SHARE = 0.5  # of the objects that no sentence has to tell from another by its color
# Which thing tells the first look-alike from its original, and the later ones from theirs.
CHANGE_SHARES = {"size": 0.2, "color": 0.25, "motion": 0.35, "position": 0.2}
# What a further object is: another object of the same name, a look-alike of an earlier one, or anything.
FURTHER_SHARES = {"same noun": 0.4, "look-alike": 0.3, "any": 0.3}
# The extent of an object as a share of the picture's shorter side. Of two that differ in size, one is that many times
# as large as the other.
EXTENT = (0.2, 0.9)
SIZE_RATIO = (1.6, 2.1)
MIN_DRAFT_EXTENT = 0.14
COVERED = 0.55  # of the picture, at most, by all objects together
STEPS, STEP_SHARES = (0, 1, 2), (0.1, 0.6, 0.3)  # source frames per frame; 0: the object is frozen
TURN = 15  # degrees, to either side at most, that an object of a still turns by in a clip
GROWTH = 0.2  # the share that it grows or shrinks by at most


@dataclass(frozen=True)
class Draft:
    """An object before it is cut out: which one, and what is to be done to it.

    Attributes:
        source, object_id: where it is cut out.
        extent: its size, a share of the picture's shorter side.
        color: the tint, None to leave it as it was filmed.
        motion: of `MOTIONS`.
        mirrored: left to right.
        start, step: where in the footage (0 to 1) it begins, and how many frames of it pass per frame.
        natural_color: whether a sentence may name the color that it has as it was filmed.
        turn, growth: of a still: degrees, and a share of its extent, by the end of the clip.
    """

    source: str
    object_id: str
    extent: float
    color: str | None
    motion: str
    mirrored: bool
    start: float
    step: int
    natural_color: bool
    turn: float
    growth: float


def _draw(catalog: Catalog, rng: np.random.Generator, source: str, object_id: str) -> Draft:
    nouns = catalog.nouns[source][object_id]
    while True:
        color = None if rng.random() < NATURAL_SHARE else pick(rng, COLORS)
        motion = pick(rng, MOTIONS)
        if not catalog.is_held_out(nouns, color, motion):
            break
    still = catalog.sources[source].is_still
    return Draft(
        source=source,
        object_id=object_id,
        extent=float(np.exp(rng.uniform(*np.log(EXTENT)))),
        color=color,
        motion=motion,
        mirrored=bool(rng.random() < 0.5),
        start=rng.random(),
        step=pick(rng, STEPS, STEP_SHARES),
        natural_color=not PEOPLE.intersection(nouns),
        turn=rng.uniform(-TURN, TURN) if still else 0.0,
        growth=rng.uniform(-GROWTH, GROWTH) if still else 0.0,
    )


def _change(catalog: Catalog, rng: np.random.Generator, draft: Draft, name: str) -> Draft:
    """A look-alike: the same but for one thing, which is not held out; for "position" it need only lie elsewhere."""
    if name == "position":
        return draft
    if name == "size":
        ratio = rng.uniform(*SIZE_RATIO)
        larger = draft.extent * ratio <= EXTENT[1] and (rng.random() < 0.5 or draft.extent / ratio < EXTENT[0])
        return replace(draft, extent=draft.extent * ratio if larger else draft.extent / ratio)
    nouns = catalog.nouns[draft.source][draft.object_id]
    values = {"color": COLORS, "motion": MOTIONS}[name]
    options = [value for value in values if value != getattr(draft, name) and not catalog.is_held_out(nouns, value)]
    return replace(draft, **{name: pick(rng, options)})


def _any_object(catalog: Catalog, rng: np.random.Generator, split: str) -> tuple[str, str]:
    """An object that the split may show; of a noun with many objects not as many times as often."""
    of_noun = catalog.shown_objects(split)
    nouns = list(of_noun)
    return pick(rng, of_noun[pick(rng, nouns, [len(of_noun[noun]) ** 0.5 for noun in nouns])])


def _further(catalog: Catalog, rng: np.random.Generator, split: str, drafts: list[Draft]) -> Draft | None:
    """One more object beside the first two; None: draw again."""
    what = pick(rng, list(FURTHER_SHARES), list(FURTHER_SHARES.values()))
    if what == "same noun":
        noun = catalog.nouns[drafts[0].source][drafts[0].object_id][0]
        return _draw(catalog, rng, *pick(rng, catalog.shown_objects(split)[noun]))
    if what == "any":
        return _draw(catalog, rng, *_any_object(catalog, rng, split))
    original = pick(rng, drafts)
    name = pick(rng, list(CHANGE_SHARES), list(CHANGE_SHARES.values()))
    return None if name == "color" and original.color is None else _change(catalog, rng, original, name)


def draw_look_alikes(
    catalog: Catalog, rng: np.random.Generator, split: str, aspect: float, still: bool = False
) -> tuple[list[Draft], str] | None:
    """Two to four objects, the first two of them look-alikes, and what these differ in; None where they find no room.

    In the split "heldout" the first one shows what is held out.

    Args:
        aspect: width over height of the picture.
        still: nothing moves, as in a clip of one frame.
    """
    source, object_id = _any_object(catalog, rng, split)
    first = _draw(catalog, rng, source, object_id)
    nouns = catalog.nouns[source][object_id]
    if split == "heldout":
        _, value = pick(rng, sorted(pair for pair in catalog.held_out if pair[0] in nouns))
        difference = "color" if value in COLORS else "motion"
        first = replace(first, **{difference: value})
    else:
        difference = pick(rng, list(CHANGE_SHARES), list(CHANGE_SHARES.values()))
        if difference == "color" and first.color is None:
            options = [value for value in COLORS if not catalog.is_held_out(nouns, value)]
            first = replace(first, color=pick(rng, options))
    drafts = [first, _change(catalog, rng, first, difference)]
    while len(drafts) < 4 and rng.random() < 0.7:
        further = _further(catalog, rng, split, drafts)
        if further is not None:
            drafts.append(further)
    if still:
        drafts = [replace(draft, motion="still") for draft in drafts]
        shown = (catalog.nouns[draft.source][draft.object_id] for draft in drafts)
        if difference == "motion" or (split != "heldout" and any(catalog.is_held_out(of, "still") for of in shown)):
            return None
    shrink = min(1.0, (COVERED * aspect / sum(draft.extent**2 for draft in drafts)) ** 0.5)
    drafts = [replace(draft, extent=shrink * draft.extent) for draft in drafts]
    return None if min(draft.extent for draft in drafts) < MIN_DRAFT_EXTENT else (drafts, difference)
