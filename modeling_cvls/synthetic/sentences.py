"""Sentences that refer to one object of a scene, each the shortest true description of its kind."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .scenes import ATTRIBUTES, POSITIONS, Scene, is_held_out

KINDS = ("appearance", "spatial", "temporal", "several")

# What the sentences of a kind may state; of each, the smallest set that tells the object from all others is taken.
_STATED = {
    "appearance": [("size",), ("color",), ("shape",), ("size", "color"), ("size", "shape"), ("color", "shape")]
    + [("size", "color", "shape")],
    "spatial": [("position",), ("shape", "position")],
    "temporal": [("motion",), ("shape", "motion")],
    "several": [
        (*noun, tail)
        for noun in (("size",), ("color",), ("size", "color"), ("size", "shape"), ("color", "shape"))
        + (("size", "color", "shape"),)
        for tail in ("motion", "position")
    ],
}
# How often a kind is drawn while it has descriptions left: some are rarer than others, and this evens them out.
_KIND_WEIGHT = {"appearance": 1.4, "spatial": 0.6, "temporal": 3.5, "several": 1.2}

_WORDS = {
    "small": ("small", "little"),
    "large": ("large", "big"),
    "circle": ("circle", "disc"),
    None: ("object", "shape", "thing"),
}
MOTION_PHRASES = {
    "left": ("moving left", "moving to the left", "going left", "heading to the left", "that moves left"),
    "right": ("moving right", "moving to the right", "going right", "heading to the right", "that moves right"),
    "up": ("moving up", "moving upwards", "going up", "heading upwards", "that moves up"),
    "down": ("moving down", "moving downwards", "going down", "heading downwards", "that moves down"),
    "still": ("standing still", "not moving", "staying in place", "that does not move", "that stands still"),
    "circling": ("going round in circles", "moving in circles", "circling around", "that moves in circles"),
}
POSITION_PHRASES = {
    "left": ("on the left", "on the left side", "on the far left"),
    "right": ("on the right", "on the right side", "on the far right"),
    "top": ("at the top", "at the top of the picture", "at the very top"),
    "bottom": ("at the bottom", "at the bottom of the picture", "at the very bottom"),
}
ANNOTATORS = 4  # that describe each object in Ref-DAVIS17
# Sentences on all objects that share a value of an attribute.
_TOGETHER = {value: f"all {value} objects" for name in ("size", "color") for value in ATTRIBUTES[name]} | {
    "circle": "all circles",
    "square": "all squares",
    "triangle": "all triangles",
    "cross": "all crosses",
    "left": "all objects moving left",
    "right": "all objects moving right",
    "up": "all objects moving up",
    "down": "all objects moving down",
    "still": "all objects standing still",
    "circling": "all objects moving in circles",
}
_SUPERLATIVES = {"left": "leftmost", "right": "rightmost", "top": "highest", "bottom": "lowest"}


@dataclass(frozen=True)
class Sentence:
    """A sentence about a scene.

    Attributes:
        text: lower case, no punctuation.
        kind: one of `KINDS`, or "none" for a sentence without a referent.
        instances: indices into `scene.objects` of what it refers to; empty for "none".
        predicate: what it states: attribute name ("size", "color", "shape", "motion", "position") -> value.
    """

    text: str
    kind: str
    instances: tuple[int, ...]
    predicate: dict[str, str]


def referents(scene: Scene, predicate: dict[str, str]) -> list[int]:
    """Indices of the objects that a predicate is true of.

    A position is relative: among the objects that the rest of the predicate fits, the outermost one in that direction
    (see `Scene.beyond`). With two or more of them and none clearly outermost, it fits no object; with
    one, it says nothing.
    """
    fitting = [
        index
        for index, obj in enumerate(scene.objects)
        if all(getattr(obj, name) == value for name, value in predicate.items() if name != "position")
    ]
    if "position" not in predicate or len(fitting) < 2:
        return fitting
    beyond = scene.beyond[predicate["position"]]
    return [index for index in fitting if all(beyond[index, other] for other in fitting if other != index)]


def shortest_descriptions(scene: Scene, index: int, kind: str) -> list[dict[str, str]]:
    """The predicates of a kind with the fewest attributes that are true of `scene.objects[index]` alone.

    None of them has an attribute that could be dropped: what is left would not refer to this object alone.
    """
    found: list[dict[str, str]] = []
    for names in sorted(_STATED[kind], key=len):
        if found and len(names) > len(found[0]):
            break
        noun = {name: getattr(scene.objects[index], name) for name in names if name != "position"}
        tails = [{"position": value} for value in POSITIONS] if "position" in names else [{}]
        for tail in tails:
            predicate = noun | tail
            if referents(scene, predicate) != [index]:
                continue
            shorter = (dict(rest) for rest in itertools.combinations(predicate.items(), len(predicate) - 1))
            if all(referents(scene, rest) != [index] for rest in shorter):
                found.append(predicate)
    return found


def pick(rng: np.random.Generator, options: Sequence, weights: Sequence[float] | None = None):
    """One of the options, each as often as its weight says; without weights, each as often as any other."""
    if weights is None:
        return options[int(rng.integers(len(options)))]
    steps = np.cumsum(weights)
    return options[int(np.searchsorted(steps, rng.random() * steps[-1], side="right"))]


def article(noun: str, rng: np.random.Generator, definite: bool) -> str:
    """An article for a noun with its adjectives: "the", or now and then, unless it must be definite, "a" or "an"."""
    if not definite and rng.random() < 0.2:
        return "an" if noun[0] in "aeiou" else "a"
    return "the"


def phrase(predicate: dict[str, str], rng: np.random.Generator) -> str:
    """Words for a predicate, in one of several wordings."""

    def word(value: str | None) -> str:
        return pick(rng, _WORDS.get(value, (value,)))

    head = word(predicate.get("shape"))
    adjectives = [word(predicate[name]) for name in ("size", "color") if name in predicate]
    tail = ""
    if "motion" in predicate:
        tail = pick(rng, MOTION_PHRASES[predicate["motion"]])
        if not tail.startswith("that ") and rng.random() < 0.2:
            tail = f"that is {tail}"
    elif "position" in predicate:
        if rng.random() < 0.3:
            adjectives.insert(0, _SUPERLATIVES[predicate["position"]])
        else:
            tail = pick(rng, POSITION_PHRASES[predicate["position"]])
            if rng.random() < 0.2:
                tail = f"that is {tail}"
    elif rng.random() < 0.2:
        tail = "in the video"
    elif adjectives and rng.random() < 0.25:
        tail = f"that is {' and '.join(adjectives)}"
        adjectives = []
    noun = " ".join([*adjectives, head])
    # A position picks one of several, so it takes the definite article.
    return " ".join(part for part in (article(noun, rng, "position" in predicate), noun, tail) if part)


def _without_referent(
    scene: Scene, predicate: dict[str, str], rng: np.random.Generator, allow_held_out: bool
) -> dict[str, str] | None:
    """The predicate with one attribute changed so that no object fits, or None if there is no such change.

    A position stays, and the noun phrase alone fits no object: "the circle on the left" of a scene without circles,
    for which a shape is added where there is a position only.
    """
    changes, weights = [], []
    for name in [name for name in predicate if name != "position"] or ["shape"]:
        shown = {getattr(obj, name) for obj in scene.objects}
        for value in ATTRIBUTES[name]:
            changed = predicate | {name: value}
            noun = {key: val for key, val in changed.items() if key != "position"}
            # Training must not teach that a held-out combination has no referent.
            if not referents(scene, noun) and (allow_held_out or not is_held_out(noun)):
                changes.append(changed)
                weights.append(3.0 if value in shown else 1.0)  # what the scene shows elsewhere is harder
    if not changes:
        return None
    return pick(rng, changes, weights)


def look_alikes(scene: Scene, index: int, predicate: dict[str, str]) -> list[int]:
    """Indices of the objects that differ from `scene.objects[index]` in exactly one attribute, which the predicate
    names; where it names a position, also those that differ in none."""
    found = []
    for other, obj in enumerate(scene.objects):
        different = [name for name in ATTRIBUTES if getattr(obj, name) != getattr(scene.objects[index], name)]
        alike = "position" in predicate if not different else len(different) == 1 and different[0] in predicate
        if other != index and alike:
            found.append(other)
    return found


def describe(
    scene: Scene,
    rng: np.random.Generator,
    max_sentences: int = 6,
    none_share: float = 0.5,
    min_look_alikes: int = 0,
) -> list[Sentence]:
    """Sentences about a scene.

    Args:
        scene: the scene.
        rng: the only source of chance.
        max_sentences: at most so many sentences with a referent, one for each object and kind that can be had.
        none_share: the share of scenes with one more sentence that has no referent.
        min_look_alikes: a sentence's referent has at least so many `look_alikes`.

    Returns:
        The sentences in the order drawn. In a scene with objects of a held-out combination, the first one refers to
        such an object; the list is empty if no sentence does, or if no object can be told apart.
    """
    candidates = [
        (kind, index, predicate)
        for kind, index in itertools.product(KINDS, range(len(scene.objects)))
        for predicate in shortest_descriptions(scene, index, kind)
        if len(look_alikes(scene, index, predicate)) >= min_look_alikes
    ]
    held_out = any(obj.held_out for obj in scene.objects)

    sentences: list[Sentence] = []
    while len(sentences) < max_sentences:
        eligible = [
            candidate for candidate in candidates if sentences or not held_out or scene.objects[candidate[1]].held_out
        ]
        if not eligible:
            break
        kinds = [kind for kind in KINDS if any(candidate[0] == kind for candidate in eligible)]
        kind = pick(rng, kinds, [_KIND_WEIGHT[kind] for kind in kinds])
        eligible = [candidate for candidate in eligible if candidate[0] == kind]
        # Longer descriptions and those with a motion are rarer, and harder.
        weights = [len(predicate) * (3 if "motion" in predicate else 1) for _, _, predicate in eligible]
        _, index, predicate = pick(rng, eligible, weights)
        sentences.append(Sentence(phrase(predicate, rng), kind, (index,), predicate))
        candidates = [candidate for candidate in candidates if candidate[:2] != (kind, index)]

    if sentences and rng.random() < none_share:
        for position in rng.permutation(len(sentences)):
            predicate = _without_referent(scene, sentences[position].predicate, rng, allow_held_out=held_out)
            if predicate is not None:
                sentences.append(Sentence(phrase(predicate, rng), "none", (), predicate))
                break
    return sentences


def describe_by_annotators(scene: Scene, rng: np.random.Generator) -> list[Sentence]:
    """Four sentences on each object that can be told apart, object by object, as Ref-DAVIS17 has them.

    They differ in what they state as far as there are descriptions, and otherwise in their wording, if at all.
    """
    sentences = []
    for index in range(len(scene.objects)):
        options = [(kind, predicate) for kind in KINDS for predicate in shortest_descriptions(scene, index, kind)]
        if options:
            for number in [*rng.permutation(len(options)), *rng.integers(len(options), size=ANNOTATORS)][:ANNOTATORS]:
                kind, predicate = options[number]
                sentences.append(Sentence(phrase(predicate, rng), kind, (index,), predicate))
    return sentences


def describe_together(scene: Scene, rng: np.random.Generator) -> list[Sentence]:
    """At most one sentence with several referents: all objects that share one attribute."""
    shared = [
        (name, value, fitting)
        for name, values in ATTRIBUTES.items()
        for value in values
        if len(fitting := referents(scene, {name: value})) > 1
    ]
    if not shared:
        return []
    name, value, fitting = shared[int(rng.integers(len(shared)))]
    return [Sentence(_TOGETHER[value], "several referents", tuple(fitting), {name: value})]
