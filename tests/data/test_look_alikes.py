"""The look-alikes benchmark is what it says: rivals that one word decides between, drift, light, clutter, occlusion."""

import dataclasses
import itertools
from collections import Counter

import numpy as np
import pytest

from factories import fitting, parse
from modeling_cvls.synthetic import make_scene, render
from modeling_cvls.synthetic.scenes import Scene

ATTRIBUTES = ("size", "color", "shape", "motion")


@pytest.fixture(scope="module")
def scenes():
    return [make_scene("train", index, seed=2, look_alikes=True) for index in range(200)]


@pytest.mark.slow
def test_every_referent_has_two_rivals_that_differ_in_one_named_attribute_alone(scenes):
    heldout = [make_scene("heldout", index, seed=2, look_alikes=True) for index in range(40)]
    kinds = Counter()
    for scene, sentences in scenes + heldout:
        assert len(scene.objects) >= 4
        for sentence in sentences:
            kinds[sentence.kind] += 1
            meaning = parse(sentence.text)
            if sentence.kind == "none":
                meaning.pop("position", None)
                assert fitting(scene, meaning) == [], sentence
                continue
            assert fitting(scene, meaning) == list(sentence.instances), sentence
            referent = scene.objects[sentence.instances[0]]
            rivals = 0
            for other in scene.objects:
                differences = [name for name in ATTRIBUTES if getattr(other, name) != getattr(referent, name)]
                by_word = len(differences) == 1 and differences[0] in meaning
                by_place = differences == [] and "position" in meaning and other is not referent
                rivals += by_word or by_place
            assert rivals >= 2, sentence
    assert min(kinds[kind] for kind in ("appearance", "spatial", "temporal", "several", "none")) > 50
    assert all(any(obj.held_out for obj in scene.objects) for scene, _ in heldout)
    assert not any(obj.held_out for scene, _ in scenes for obj in scene.objects)


def test_in_every_scene_one_attribute_or_place_parts_three_objects_and_shape_often_does(scenes):
    parts = Counter()
    for scene, _ in scenes:
        differences = [
            {name for name in ATTRIBUTES if len({getattr(obj, name) for obj in three}) > 1}
            for three in itertools.combinations(scene.objects, 3)
        ]
        found = {name for names in differences if len(names) == 1 for name in names}
        assert found or set() in differences
        parts.update(found)
    assert all(parts[name] > 10 for name in ATTRIBUTES)
    assert parts["shape"] > max(parts["size"], parts["color"]) and parts["shape"] > 0.3 * len(scenes)


def test_motion_is_that_of_the_scene_and_the_camera_adds_its_drift(scenes):
    drifts = []
    for scene, _ in scenes:
        drifts.append(np.hypot(*scene.drift))
        for obj in scene.objects:
            steps = np.diff(obj.trajectory, axis=0) - scene.drift
            if obj.motion in ("left", "right", "up", "down"):
                axis, sign = {"left": (0, -1), "right": (0, 1), "up": (1, -1), "down": (1, 1)}[obj.motion]
                np.testing.assert_allclose(steps[:, 1 - axis], 0, atol=1e-9)
                assert (sign * steps[:, axis] > 1.5).all()
            elif obj.motion == "still":
                np.testing.assert_allclose(steps, 0, atol=1e-9)
    assert max(drifts) <= 1 and np.mean(drifts) > 0.3


@pytest.mark.slow
def test_objects_hide_each_other_in_part(scenes):
    hidden = []
    for scene, _ in scenes:
        _, masks = render(scene)
        for index, obj in enumerate(scene.objects):
            alone = dataclasses.replace(scene, objects=(obj,))
            whole = render(alone)[1][:, 0].sum(axis=(1, 2))
            share = masks[:, index].sum(axis=(1, 2)) / whole
            assert share.min() >= 0.3
            hidden.append(share.min() < 0.95)
    assert np.mean(hidden) > 0.25


def test_the_background_drifts_is_lit_and_cluttered():
    plain = Scene(64, 64, 4, seed=5, objects=())
    frames, _ = render(dataclasses.replace(plain, drift=(2.0, -1.0)))
    frames = frames.astype(float)
    follows = np.abs(frames[1][:-1, 2:] - frames[0][1:, :-2]).mean()  # two to the right, one up
    stays = np.abs(frames[1] - frames[0]).mean()
    assert follows < 8 < stays  # the noise alone differs by 6 * 2 / sqrt(pi) = 6.8

    lit, _ = render(dataclasses.replace(plain, flicker=0.1))
    light = lit.mean(axis=(1, 2, 3)) / render(plain)[0].mean(axis=(1, 2, 3))
    assert np.ptp(light) > 0.02 and np.abs(light - 1).max() < 0.25

    cluttered, _ = render(dataclasses.replace(plain, clutter=12))
    changed = (np.abs(cluttered[0].astype(int) - render(plain)[0][0]).max(axis=-1) > 50).mean()
    assert 0.01 < changed < 0.25


def test_the_same_seed_gives_the_same_scene():
    first, second, other = (make_scene("test", 3, seed, look_alikes=True) for seed in (1, 1, 2))
    assert first[1] == second[1]
    assert np.array_equal(render(first[0])[0], render(second[0])[0])
    assert not np.array_equal(render(first[0])[0], render(other[0])[0])
