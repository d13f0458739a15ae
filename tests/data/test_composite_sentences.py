"""What sentences about composites say, against what can be measured of the objects as they were placed."""

import colorsys
import re

import numpy as np
import pytest

from factories import catalog_of, on_sources
from modeling_cvls.composites import (
    make_composite,
)


def whole_mask(obj, t, height, width) -> np.ndarray:
    """Where an object would show were it alone, in a picture with a wide margin around it."""
    margin = 200
    alone = np.zeros((height + 2 * margin, width + 2 * margin), dtype=bool)
    (x, y), patch = obj.corners[t] + margin, obj.patches[t]
    alone[y : y + patch.shape[0], x : x + patch.shape[1]] = patch[..., 3] >= 128
    return alone


NEAREST = {"red": 0, "yellow": 50, "green": 126, "blue": 225, "purple": 285}  # degrees of hue
SIZES = {"small": "small", "smaller": "small", "smallest": "small"} | dict.fromkeys(
    ("large", "larger", "largest", "big", "bigger"), "large"
)


def parse(text: str, nouns: set[str]) -> dict[str, str]:
    """What a sentence states, from its words alone."""
    stated = {}
    relation = re.search(r"(left|right) of the (.*)|(above|over|higher than|below|under|lower than) the (.*)", text)
    if relation:
        side = relation[1] or ("above" if relation[3] in ("above", "over", "higher than") else "below")
        text, landmark = text[: relation.start()], relation[2] or relation[4]
        return parse(text, nouns) | {"side": side, "landmark": landmark}
    if re.search(r"mov|going|heading|stay", text):
        direction = re.search(r"left|right|up|down", text)
        stated["motion"] = direction[0] if direction else "still"
    elif side := re.search(r"left|right", text):
        stated["position"] = side[0]
    for word in text.split():
        if word in SIZES:
            stated["size"] = SIZES[word]
        if word in NEAREST:
            stated["color"] = word
        if word in nouns:
            stated["noun"] = word
    return stated


def looks(rgb: np.ndarray, color: str) -> bool:
    """Whether the mean color (0 to 1) of an object as it was filmed may be called so."""
    hue, saturation, value = colorsys.rgb_to_hsv(*rgb.tolist())
    if color in NEAREST:
        return saturation > 0.25 and min(abs(360 * hue - NEAREST[color]), 360 - abs(360 * hue - NEAREST[color])) < 45
    return {
        "white": value > 0.6 and saturation < 0.3,
        "black": value < 0.4,
        "gray": 0.2 < value < 0.75 and saturation < 0.3,
        "brown": value < 0.75 and 5 < 360 * hue < 50,
        "orange": value > 0.5 and 5 < 360 * hue < 50,
    }[color]


def seen(obj) -> dict:
    """What can be measured of an object as it was placed."""
    masks = [whole_mask(obj, t, 96, 160) for t in range(len(obj.patches))]
    centers = np.array([np.argwhere(mask).mean(axis=0) for mask in masks])
    shift = centers[-1] - centers[0]
    axis = int(np.abs(shift).argmax())
    steps = np.diff(centers[:, axis])
    if np.abs(shift).max() < 3:
        motion = "still"
    else:
        assert (np.sign(shift[axis]) * steps > 0.2).all()  # all the time
        assert np.abs(shift[1 - axis]) < 3  # and nowhere else
        motion = (("up", "down"), ("left", "right"))[axis][int(shift[axis] > 0)]
    pixels = np.concatenate([patch[patch[..., 3] >= 250][:, :3] for patch in obj.patches])
    hue = 360 * colorsys.rgb_to_hsv(*(pixels.mean(axis=0) / 255).tolist())[0]
    nearest = min(NEAREST, key=lambda name: min(abs(hue - NEAREST[name]), 360 - abs(hue - NEAREST[name])))
    color = nearest if obj.tinted else obj.color
    assert obj.color is None or obj.tinted or looks(pixels.mean(axis=0) / 255, obj.color)
    return {
        "motion": motion,
        "color": color,
        "x": centers[:, 1],
        "y": centers[:, 0],
        "areas": np.array([m.sum() for m in masks]),
    }


def fits(stated: dict, measured: list[dict], nouns: list) -> list[int]:
    """The objects that a sentence may mean."""
    fitting = [
        m
        for m, properties in enumerate(measured)
        if stated["noun"] in nouns[m]
        and properties["motion"] == stated.get("motion", properties["motion"])
        and (properties["color"] is None or properties["color"] == stated.get("color", properties["color"]))
    ]
    if "side" in stated:
        (landmark,) = (m for m in range(len(measured)) if stated["landmark"] in nouns[m])
        axis, sign = {"left": ("x", 1), "right": ("x", -1), "above": ("y", 1), "below": ("y", -1)}[stated["side"]]
        of = measured[landmark][axis]
        return [m for m in fitting if m != landmark and (sign * (of - measured[m][axis]) > 0).all()]
    if len(fitting) > 1 and "size" in stated:
        sign = 1 if stated["size"] == "small" else -1
        return [fitting[np.argmin([sign * measured[m]["areas"].mean() for m in fitting])]]
    if len(fitting) > 1 and "position" in stated:
        sign = 1 if stated["position"] == "left" else -1
        return [fitting[np.argmin([sign * measured[m]["x"].mean() for m in fitting])]]
    return fitting


@pytest.mark.slow
@on_sources("several", "davis")
@pytest.mark.parametrize("split", ["train", "heldout"])
def test_every_sentence_fits_its_referent_and_nothing_else(source, split):
    catalog = catalog_of(source)
    all_nouns = {noun for objects in catalog.nouns.values() for nouns in objects.values() for noun in nouns}
    kinds = set()
    for index in range(15):
        composite, sentences = make_composite(catalog, split, index)
        nouns = [catalog.nouns[obj.source][obj.object_id] for obj in composite.objects]
        named = source[1][composite.source].values()
        of_background = {noun for own in named for noun in ([own] if isinstance(own, str) else own)}
        measured = [seen(obj) for obj in composite.objects]
        for properties, obj in zip(measured, composite.objects, strict=True):
            pairs = {(noun, value) for noun in obj.nouns for value in (obj.color, obj.motion)} & catalog.held_out
            assert not pairs or split == "heldout"
            assert (properties["motion"], properties["color"]) == (obj.motion, obj.color)
        for number, sentence in enumerate(sentences):
            stated = parse(sentence.text, all_nouns)
            assert fits(stated, measured, nouns) == list(sentence.instances), (index, sentence.text)
            assert stated["noun"] not in of_background
            kinds.add(sentence.kind)
            pairs = {(stated["noun"], stated.get(name)) for name in ("color", "motion")} & catalog.held_out
            assert not pairs or split == "heldout"
            if number == 0:  # tells the look-alikes apart, by what is held out where something is
                first, second, difference = composite.pair
                assert sentence.instances[0] in (first, second) and difference in stated
                assert fits({"noun": stated["noun"]}, measured, nouns) != list(sentence.instances)
                owner = composite.objects[sentence.instances[0]]
                held_out = {(noun, getattr(owner, difference, None)) for noun in owner.nouns} & catalog.held_out
                assert bool(held_out) == (split == "heldout")
    assert kinds >= {"appearance", "spatial", "temporal", "none"}


@pytest.mark.slow
@on_sources("several", "davis")
def test_look_alikes_differ_in_one_thing(source):
    catalog = catalog_of(source)
    differences = set()
    for index in range(12):
        composite, _ = make_composite(catalog, "train", index)
        one, other = (composite.objects[m] for m in composite.pair[:2])
        differences.add(composite.pair[2])
        assert (one.source, one.object_id, one.frames) == (other.source, other.object_id, other.frames)
        same = {
            "size": one.areas.max() < 1.5 * other.areas.min()
            and other.areas.max() < 1.5 * one.areas.min()
            or (one.areas == other.areas).all(),
            "color": one.color == other.color,
            "motion": one.motion == other.motion,
        }
        assert [name for name in same if not same[name]] == [name for name in same if name == composite.pair[2]]
        if composite.pair[2] in ("motion", "position"):
            assert all((a == b).all() for a, b in zip(one.patches, other.patches, strict=True))
        assert composite.source not in {obj.source for obj in composite.objects}
    assert len(differences) > 2
