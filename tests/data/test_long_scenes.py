"""Long scenes keep what they promise, by the geometry of what was drawn."""

import io
import itertools

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image
from scipy.ndimage import binary_dilation

from factories import parse
from modeling_cvls.conversion.scenes import scene_row
from modeling_cvls.data import FEATURES, check_rows, read_masks
from modeling_cvls.synthetic import (
    KINDS,
    Scene,
    SceneObject,
    make_long_scene,
    render,
    sample_long_scene,
)

DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}


@pytest.fixture(scope="module")
def scenes():
    return [make_long_scene(3, index) for index in range(60)]


@pytest.fixture(scope="module")
def drawn(scenes):
    """Scene, sentences, frames, masks of some of them."""
    return [(scene, sentences, *render(scene)) for scene, sentences in scenes[:16]]


def centers(masks):
    """(T, 2) mean x and y of the pixels of masks (T, H, W); not a number where there are none or the border cuts."""
    found = np.full((len(masks), 2), np.nan)
    for t, mask in enumerate(masks):
        rows, columns = np.nonzero(mask)
        if len(rows) and min(rows.min(), columns.min()) > 0 and max(rows.max(), columns.max()) < len(mask) - 1:
            found[t] = columns.mean(), rows.mean()
    return found


@pytest.mark.slow
def test_only_in_its_part_does_an_object_move_as_the_sentence_says(drawn):
    motions = set()
    for scene, sentences, _, masks in drawn:
        of_objects = [centers(masks[:, m]) for m in range(masks.shape[1])]
        for sentence in sentences:
            meaning = parse(sentence.text)
            motions.add(meaning["motion"])
            (referent,) = sentence.instances
            start, stop = scene.parts[referent]
            assert 8 <= start and stop <= scene.num_frames - 8 and 8 <= stop - start <= 14
            for m, center in enumerate(of_objects):
                if "shape" in meaning and scene.objects[m].shape != meaning["shape"]:
                    continue
                steps = center[3:] - center[:-3]  # three frames: pixels are whole, centers nearly so
                if meaning["motion"] == "circling":
                    moves = np.hypot(*steps.T) > 3 * 1.9
                else:
                    moves = steps @ np.array(DIRECTIONS[meaning["motion"]]) > 3 * 1.5
                if m == referent:
                    inside = slice(start, stop - 3)
                    known = ~np.isnan(steps[inside, 0])
                    assert moves[inside][known].mean() > (0.5 if meaning["motion"] == "circling" else 0.99)
                # its own part, or that of another one, which may go round or along a line as fast
                if scene.parts[m] and (m == referent or "circling" in (meaning["motion"], scene.objects[m].motion)):
                    moves[scene.parts[m][0] - 3 : scene.parts[m][1]] = False
                assert not moves.any()
    assert len(motions) >= 4


@pytest.mark.slow
def test_an_object_that_moves_stands_nearly_still_at_all_other_times(drawn):
    """Also slower than half of the slowest motion of 2 pixels per frame when it leaves or comes back."""
    for scene, _, _, masks in drawn:
        for m, part in enumerate(scene.parts):
            steps = np.hypot(*np.diff(centers(masks[:, m]), axis=0).T)
            if part is not None:
                steps[part[0] : part[1] - 1] = np.nan
            assert np.nan_to_num(steps).max() < 1.8  # 1.0, the sway, and what whole pixels round


def test_look_alikes_are_drawn_alike(drawn):
    compared = 0
    for scene, _, frames, masks in drawn:
        groups = {}
        for m, obj in enumerate(scene.objects):
            groups.setdefault((obj.color, obj.shape), []).append(m)
        group = max(groups.values(), key=len)
        assert len(group) == 3
        areas, colors = [], []
        for m in group:
            whole = ~np.isnan(centers(masks[:, m])[:, 0])  # an object may stand at the border all the time
            if whole.any():
                areas.append(masks[whole, m].sum(axis=(1, 2)).mean())
                colors.append(np.median(frames[whole][masks[whole, m]], axis=0))
        compared += len(areas)
        assert not areas or np.ptp(areas) < 0.1 * np.mean(areas), "size"
        assert not colors or np.ptp(colors, axis=0).max() < 6, "color"
    assert compared > 2 * len(drawn)


def test_no_two_touch_and_no_two_are_away_at_once_and_all_come_back(drawn):
    left = 0
    for _, _, _, masks in drawn:
        seen = masks.any(axis=(2, 3))
        assert ((~seen).sum(axis=1) <= 1).all()
        assert seen[0].all() and seen[-1].all()
        left += (~seen).any(axis=0).sum()
        for first, second in itertools.combinations(range(masks.shape[1]), 2):
            for t in range(0, len(masks), 5):
                assert not (binary_dilation(masks[t, first]) & masks[t, second]).any()
    assert left > len(drawn) / 3


def test_an_object_comes_back_where_it_left(drawn):
    for _, _, _, masks in drawn:
        for m in range(masks.shape[1]):
            seen = masks[:, m].any(axis=(1, 2))
            if not seen.all():
                (away,) = np.split(np.flatnonzero(~seen), np.flatnonzero(np.diff(np.flatnonzero(~seen)) > 1) + 1)
                assert len(away) >= 6
                before, after = (np.argwhere(masks[t, m]).mean(axis=0) for t in (away[0] - 1, away[-1] + 1))
                assert np.hypot(*(before - after)) < 6


def test_lengths_sentences_and_attributes(scenes):
    lengths = [scene.num_frames for scene, _ in scenes]
    assert 64 <= min(lengths) < 90 and 220 < max(lengths) <= 256
    strangers = 0
    for scene, sentences in scenes:
        assert sentences and all(sentence.kind == "temporal" in KINDS for sentence in sentences)
        assert not any(obj.held_out for obj in scene.objects)
        moving = [obj for obj, part in zip(scene.objects, scene.parts, strict=True) if part]
        assert all(obj.motion != "still" for obj in moving)
        strangers += len(scene.objects) == 4
        for sentence in sentences:
            meaning = parse(sentence.text)
            assert meaning["motion"] == scene.objects[sentence.instances[0]].motion
            fits = [obj for obj in moving if all(getattr(obj, name) == value for name, value in meaning.items())]
            assert fits == [scene.objects[sentence.instances[0]]]
    assert len(scenes) / 4 < strangers < 3 * len(scenes) / 4


def test_the_same_numbers_give_the_same_scene():
    one, other = (make_long_scene(5, 1, num_frames=64) for _ in range(2))
    assert one[1] == other[1]
    for first, second in zip(render(one[0]), render(other[0]), strict=True):
        np.testing.assert_array_equal(first, second)
    assert not np.array_equal(render(make_long_scene(5, 2, num_frames=64)[0])[1], render(one[0])[1])


def test_a_part_is_drawn_as_in_the_whole():
    scene, _ = make_long_scene(5, 1, num_frames=96)
    frames, masks = render(scene)
    part_frames, part_masks = render(scene.cut(40, 50))
    np.testing.assert_array_equal(part_masks, masks[40:50])
    difference = part_frames.astype(float) - frames[40:50]
    assert abs(difference.mean()) < 0.1 and difference.std() < 2**0.5 * 6.5  # noise of 6 on both


def test_rows_are_those_of_a_data_set():
    scene, sentences = make_long_scene(5, 1, num_frames=64)
    rows = Dataset.from_list([scene_row("a", scene, sentences)], features=FEATURES)
    check_rows(rows, "long scenes")
    frames, masks = render(scene)
    np.testing.assert_array_equal(Image.open(io.BytesIO(rows[0]["frames"][9]["bytes"])), frames[9])
    np.testing.assert_array_equal(read_masks(rows[0], range(64))[0], masks)
    assert [s["text"] for s in rows[0]["sentences"]] == [s.text for s in sentences]


def test_an_object_outside_the_picture_is_not_drawn():
    """Wherever it is: the picture is that of the same scene without it."""
    rgb = np.array([250.0, 0, 0])
    inside = SceneObject("small", "red", "circle", "still", 6.0, rgb, np.full((9, 2), 30.0))
    outside = np.array([[x, y] for x in (-40, 32, 110) for y in (-40, 32, 110)], dtype=float)
    outside[4] = [32, -9.5]  # just out of sight
    other = SceneObject("small", "red", "circle", "still", 6.0, rgb, outside)
    frames, masks = render(Scene(64, 64, 9, 1, (inside, other)))
    alone, _ = render(Scene(64, 64, 9, 1, (inside,)))
    assert not masks[:, 1].any()
    np.testing.assert_array_equal(frames, alone)


@pytest.mark.parametrize("sizes", [(64, 40, 128), (64, 64, 63)])
def test_what_is_too_small_or_too_short_is_refused(sizes):
    with pytest.raises(ValueError, match="at least"):
        sample_long_scene(np.random.default_rng(0), *sizes)
