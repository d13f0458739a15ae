"""Sentences about composites: what was done, in words, so that each fits one object alone or none at all."""

import numpy as np

from ..synthetic.sentences import MOTION_PHRASES, POSITION_PHRASES, Sentence, article, pick
from .catalog import COLORS, MOTIONS, Catalog
from .compositing import Composite

# What the sentences of a kind may state besides a noun; of each, the smallest set that tells an object from all others.
_STATED = {
    "appearance": [(), ("size",), ("color",), ("size", "color")],
    "spatial": [("position",), ("relation",)],
    "temporal": [("motion",)],
    "several": [("color", "motion"), ("size", "motion"), ("color", "position"), ("size", "color", "motion")],
}
_KIND_WEIGHT = {"appearance": 1.2, "spatial": 1.0, "temporal": 2.0, "several": 1.5}
_VALUES = {"size": ("small", "large"), "position": ("left", "right")}
_RELATIVE = ("size", "position")
_SIZE_WORDS = {"small": ("smaller", "small", "smallest"), "large": ("larger", "bigger", "large", "big", "largest")}
# The limbs of what stays in place may well move.
_MOTION_WORDS = MOTION_PHRASES | {"still": ("staying in place", "that stays in place", "not moving to any side")}
#: A relation is one of these and the noun of another object, as in "left bus": "to the left of the bus".
_RELATION_WORDS = {
    "left": ("left of the {}", "to the left of the {}", "on the left of the {}"),
    "right": ("right of the {}", "to the right of the {}", "on the right of the {}"),
    "above": ("above the {}", "over the {}", "higher than the {}"),
    "below": ("below the {}", "under the {}", "lower than the {}"),
}
_OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}


def _may_be(composite: Composite, index: int, noun: str) -> bool:
    obj = composite.objects[index]
    return noun in obj.nouns or noun in obj.possible_nouns


def possible_referents(composite: Composite, predicate: dict[str, str]) -> list[int]:
    """Indices of the objects that a predicate may be true of: what is not known to be false counts.

    An object whose color is not known may be of any color. Size and position are relative: among the objects that the
    rest fits, the one that is clearly the smallest, or the outermost; with one such object they say nothing. A relation
    is false of what lies clearly on the other side of its landmark, and of the landmark.
    """
    fitting = [
        index
        for index, obj in enumerate(composite.objects)
        if _may_be(composite, index, predicate["noun"])
        and ("color" not in predicate or obj.color in (predicate["color"], None))
        and ("motion" not in predicate or obj.motion == predicate["motion"])
    ]
    if "relation" in predicate:
        side, noun = predicate["relation"].split(" ", 1)
        landmarks = [index for index in range(len(composite.objects)) if _may_be(composite, index, noun)]
        fitting = [
            index
            for index in fitting
            if any(index != other and not composite.beyond[_OPPOSITE[side]][index, other] for other in landmarks)
        ]
    for name in _RELATIVE:
        if name in predicate and len(fitting) > 1:
            beyond = composite.beyond[predicate[name]]
            return [index for index in fitting if all(beyond[index, other] for other in fitting if other != index)]
    return fitting


def _is_true(composite: Composite, index: int, predicate: dict[str, str]) -> bool:
    """Whether what may be true of an object surely is: its color is known, its landmark is one object, and it lies
    clearly on that side of it."""
    obj = composite.objects[index]
    if "color" in predicate and obj.color is None:
        return False
    if "relation" in predicate:
        side, noun = predicate["relation"].split(" ", 1)
        landmarks = [other for other in range(len(composite.objects)) if _may_be(composite, other, noun)]
        return len(landmarks) == 1 and bool(composite.beyond[side][index, landmarks[0]])
    return True


def _values(composite: Composite, index: int, name: str) -> list[str]:
    """What a predicate on an object may state under a name."""
    if name == "relation":
        nouns = {obj.nouns[0] for obj in composite.objects} - composite.background_nouns
        return [f"{side} {noun}" for noun in sorted(nouns) for side in _RELATION_WORDS]
    if name in _VALUES:
        return list(_VALUES[name])
    value = getattr(composite.objects[index], name)
    return [] if value is None else [value]


def distinguishing_predicates(composite: Composite, index: int, kind: str) -> list[dict[str, str]]:
    """The predicates of a kind with the fewest statements that fit `composite.objects[index]` alone, for each noun.

    Nothing but the noun could be dropped: what is left would fit others too.
    """
    found = []
    for noun in composite.objects[index].nouns:
        shortest: list[dict[str, str]] = []
        for names in _STATED[kind]:
            if shortest and len(names) + 1 > len(shortest[0]):
                break
            predicates = [{"noun": noun}]
            for name in names:
                values = _values(composite, index, name)
                predicates = [rest | {name: value} for rest in predicates for value in values]
            for predicate in predicates:
                without = [{key: predicate[key] for key in predicate if key != name} for name in names]
                if (
                    possible_referents(composite, predicate) == [index]
                    and _is_true(composite, index, predicate)
                    and all(possible_referents(composite, rest) != [index] for rest in without)
                ):
                    shortest.append(predicate)
        found += shortest
    return found


def say(predicate: dict[str, str], rng: np.random.Generator) -> str:
    """Words for a predicate on a composite, in one of several wordings."""
    adjectives = [pick(rng, _SIZE_WORDS[predicate["size"]])] if "size" in predicate else []
    adjectives += [predicate["color"]] if "color" in predicate else []
    tail = ""
    if "motion" in predicate:
        tail = pick(rng, _MOTION_WORDS[predicate["motion"]])
    elif "relation" in predicate:
        side, noun = predicate["relation"].split(" ", 1)
        tail = pick(rng, _RELATION_WORDS[side]).format(noun)
    elif "position" in predicate:
        if rng.random() < 0.25:
            adjectives.insert(0, f"{predicate['position']}most")
        else:
            tail = pick(rng, POSITION_PHRASES[predicate["position"]])
    noun = " ".join([*adjectives, predicate["noun"]])
    # What is relative picks one of several, so it takes the definite article.
    definite = any(name in predicate for name in (*_RELATIVE, "relation"))
    return " ".join(part for part in (article(noun, rng, definite), noun, tail) if part)


def _absent_predicate(
    composite: Composite, predicate: dict[str, str], catalog: Catalog, rng: np.random.Generator, held_out: bool
) -> dict[str, str] | None:
    """The predicate with one statement changed so that no object may fit, nor one of the background.

    Size and position stay; what they are about fits no object. A relation stays, or is turned around.
    """
    shown = {getattr(obj, name) for obj in composite.objects for name in ("color", "motion")}
    shown |= {noun for obj in composite.objects for noun in obj.nouns}
    changes, weights = [], []
    for name, values in (("noun", catalog.all_nouns), ("color", COLORS), ("motion", MOTIONS)):
        for value in values if name in predicate else ():
            changed = predicate | {name: value}
            absolute = {key: changed[key] for key in changed if key not in (*_RELATIVE, "relation")}
            # Training must not teach that what is held out has no referent.
            untaught = any((changed["noun"], other) in catalog.held_out for other in absolute.values())
            if (
                changed["noun"] not in composite.background_nouns
                and not possible_referents(composite, absolute)
                and (held_out or not untaught)
            ):
                changes.append(changed)
                # What the clip shows elsewhere is harder; and there are many nouns.
                weights.append((3.0 if value in shown else 1.0) / (len(catalog.all_nouns) if name == "noun" else 1))
    if "relation" in predicate:
        side, noun = predicate["relation"].split(" ", 1)
        turned = predicate | {"relation": f"{_OPPOSITE[side]} {noun}"}
        if not possible_referents(composite, turned):
            changes.append(turned)
            weights.append(3.0)
    return pick(rng, changes, weights) if changes else None


def describe_composite(
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
        for predicate in distinguishing_predicates(composite, index, kind)
        if predicate["noun"] not in composite.background_nouns
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
        kind = pick(rng, kinds, [_KIND_WEIGHT[kind] for kind in kinds])
        _, index, predicate = pick(rng, [candidate for candidate in eligible if candidate[0] == kind])
        sentences.append(Sentence(say(predicate, rng), kind, (index,), predicate))
        candidates = [candidate for candidate in candidates if candidate[:2] != (kind, index)]

    if sentences and rng.random() < none_share:
        for position in rng.permutation(len(sentences)):
            predicate = _absent_predicate(composite, sentences[position].predicate, catalog, rng, held_out)
            if predicate is not None:
                sentences.append(Sentence(say(predicate, rng), "none", (), predicate))
                break
    return sentences
