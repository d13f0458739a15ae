"""J&F as an evaluate module, against versions written from the definition: loops, and dilation by a disk."""

import json

import evaluate
import numpy as np
import pytest
from pycocotools import mask as rle_ops

from factories import ROOT, brute_force, run_program

METRIC = str(ROOT / "modeling_cvls" / "metrics" / "region_and_boundary")


@pytest.fixture
def metric(tmp_path):
    return evaluate.load(METRIC, cache_dir=str(tmp_path))


def record(predicted, truth, name="a", group=""):
    predicted, truth = (rle_ops.encode(np.asfortranarray(mask, dtype=np.uint8)) for mask in (predicted, truth))
    prediction = {"size": list(predicted["size"]), "counts": predicted["counts"].decode()}
    reference = {"size": list(truth["size"]), "counts": truth["counts"].decode(), "object": name, "group": group}
    return prediction, reference


def evaluated(metric, *frames):
    for frame in frames:
        prediction, reference = record(*frame)
        metric.add(prediction=prediction, reference=reference)
    return metric.compute()


def blob(rng, shape):
    y, x = np.indices(shape)
    mask = np.zeros(shape, bool)
    for _ in range(rng.integers(1, 4)):
        cy, cx, ry, rx = (rng.uniform(0, side) for side in (*shape, *shape))
        mask |= ((y - cy) / (ry / 2 + 1)) ** 2 + ((x - cx) / (rx / 2 + 1)) ** 2 <= 1
    return mask


@pytest.mark.parametrize("seed", range(25))
def test_random_masks_against_brute_force(metric, seed):
    rng = np.random.default_rng(seed)
    # Up to 300 x 400: tolerances of 1 to 4 pixels.
    shape = tuple(int(side) for side in rng.integers((20, 20), (300, 400) if seed % 5 == 0 else (90, 120)))
    truth = blob(rng, shape)
    options = [blob(rng, shape), np.roll(truth, rng.integers(-4, 5, 2), (0, 1)), truth ^ (rng.random(shape) < 0.01)]
    predicted = options[seed % 3]
    result = evaluated(metric, (predicted, truth))
    j, f = brute_force(predicted, truth)
    assert result["J"] == pytest.approx(j, abs=1e-6) and result["F"] == pytest.approx(f, abs=1e-6)
    assert result["J&F"] == pytest.approx((j + f) / 2, abs=1e-6)


def degenerate_masks(shape):
    pixel, corner, column = np.zeros((3, *shape), bool)
    pixel[shape[0] // 2, shape[1] // 2] = corner[-1, -1] = True
    column[:, : (shape[1] + 1) // 2] = True
    return {
        "empty": np.zeros(shape, bool),
        "full": np.ones(shape, bool),
        "pixel": pixel,
        "corner": corner,
        "column": column,
    }


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 3), (20, 150), (150, 20), (33, 33)])
def test_degenerate_masks_against_brute_force(metric, shape):
    masks = degenerate_masks(shape)
    for predicted in masks.values():
        for truth in masks.values():
            result = evaluated(metric, (predicted, truth))
            assert (result["J"], result["F"]) == pytest.approx(brute_force(predicted, truth), abs=1e-6)


def test_what_the_conventions_are(metric):
    """By hand, on 10 x 10 pixels (tolerance 1): empty, full (whose outline is empty), one pixel."""
    masks = degenerate_masks((10, 10))
    expected = {
        ("empty", "empty"): (1, 1),
        ("empty", "full"): (0, 1),
        ("full", "full"): (1, 1),
        ("empty", "pixel"): (0, 0),
        ("pixel", "empty"): (0, 0),
        ("pixel", "full"): (0.01, 0),
        ("pixel", "pixel"): (1, 1),
    }
    for (predicted, truth), (j, f) in expected.items():
        result = evaluated(metric, (masks[predicted], masks[truth]))
        assert (result["J"], result["F"]) == (j, f)


def test_tolerance_is_rounded_up(metric):
    """A vertical edge d columns off is within tolerance up to ceil(0.008 x diagonal) columns."""
    for shape in [(60, 80), (300, 400), (301, 400)]:  # diagonals 100, 500 and 500.6: 0.8, 4 and 4.005 pixels
        tolerance = {60: 1, 300: 4, 301: 5}[shape[0]]
        truth = np.zeros(shape, bool)
        truth[:, :20] = True
        for shift in (tolerance, tolerance + 1):
            assert evaluated(metric, (np.roll(truth, shift, 1) | truth, truth))["F"] == (shift == tolerance)


def test_means_over_frames_then_objects_then_groups(metric):
    full, empty, half = np.ones((4, 4), bool), np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    half[:, :2] = True
    result = evaluated(
        metric,
        (full, full, "v 0", "annotator 1"),  # J 1
        (full, half, "v 0", "annotator 1"),  # J 0.5
        (empty, full, "v 1", "annotator 1"),  # J 0
        (full, half, "v 0", "annotator 2"),  # J 0.5
        (full, full, "w 0", "annotator 2"),
        (full, full, "w 0", "annotator 2"),
        (full, full, "w 0", "annotator 2"),
    )
    groups = result["per_group"]
    assert groups["annotator 1"]["J"] == pytest.approx((0.75 + 0) / 2)
    assert groups["annotator 2"]["J"] == pytest.approx((0.5 + 1) / 2)
    assert result["J"] == pytest.approx((0.375 + 0.75) / 2)
    # Whole frame and no pixel have no outline either: F 1; the half has one where the whole has none: F 0.
    assert groups["annotator 1"]["F"] == pytest.approx((0.5 + 1) / 2)
    assert groups["annotator 2"]["F"] == pytest.approx((0 + 1) / 2)
    assert result["F"] == pytest.approx((0.75 + 0.5) / 2)
    assert result["J&F"] == pytest.approx((result["J"] + result["F"]) / 2)
    assert result["num_objects"] == 4 and result["num_frames"] == 7 and groups["annotator 2"]["num_frames"] == 4


def test_the_same_name_in_two_groups_is_two_objects(metric):
    full, empty = np.ones((4, 4), bool), np.zeros((4, 4), bool)
    frames = [(full, full, "a", "1"), (full, full, "a", "1"), (full, full, "a", "1"), (empty, full, "a", "2")]
    assert evaluated(metric, *frames)["J"] == 0.5


def test_nothing_is_left_of_an_earlier_evaluation(metric):
    full, empty = np.ones((4, 4), bool), np.zeros((4, 4), bool)
    assert evaluated(metric, (empty, full))["J"] == 0
    assert evaluated(metric, (full, full))["J"] == 1
    predictions, references = zip(record(full, full), record(empty, full, "b"), strict=True)
    metric.add_batch(predictions=list(predictions), references=list(references))
    assert metric.compute(predictions=list(predictions), references=list(references))["num_frames"] == 4


def test_example_of_the_docstring(metric):
    half = np.zeros((3, 4), bool)
    half[:, :2] = True
    result = evaluated(metric, (half, ~half))
    assert (result["J"], result["F"], result["J&F"]) == (0.0, 1.0, 0.5)
    assert [record(mask, mask)[0]["counts"] for mask in (half, ~half)] == ["066", "66"]
    assert '"066", "66"' in metric.inputs_description and "perazzi2016benchmark" in metric.citation


@pytest.mark.slow
def test_two_processes(metric, tmp_path):
    """Also where one object's frames lie on both."""
    rng = np.random.default_rng(1)
    frames = [(blob(rng, (20, 30)), blob(rng, (20, 30)), f"object {i // 3}", f"group {i % 2}") for i in range(12)]
    alone = evaluated(metric, *frames)
    shares = [[record(*frame) for frame in part] for part in (frames[:7], frames[7:])]
    result, nothing = json.loads(
        run_program("unit/programs/measure_in_two.py", METRIC, tmp_path, input=json.dumps(shares))
    )
    assert result.pop("per_group") == {
        name: pytest.approx(values, abs=1e-12) for name, values in alone.pop("per_group").items()
    }
    assert result == pytest.approx(alone, abs=1e-12)
    assert nothing is None


GOOD = {"size": [3, 4], "counts": "066"}


@pytest.mark.parametrize(
    ("prediction", "reference", "message"),
    [
        ({"size": [4, 3]}, {}, r"object 'a': the prediction's size is \[4, 3\], the reference's \[3, 4\]"),
        ({"counts": "065"}, {}, "object 'a': the prediction's RLE holds 11 pixels.* 3 x 4 .* 12"),
        ({}, {"counts": ""}, "object 'a': the reference's counts '' are not a COCO compressed RLE"),
        ({}, {"counts": "06P"}, "the reference's counts '06P' are not"),
        ({"counts": "660I"}, {}, "the prediction's counts '660I' are not"),  # a run of -1
        ({"counts": "0 6 6"}, {}, "the prediction's counts '0 6 6' are not"),
    ],
)
def test_a_bad_frame_is_named(metric, prediction, reference, message):
    with pytest.raises(ValueError, match=message):
        metric.add(prediction=GOOD | prediction, reference=GOOD | {"object": "a", "group": ""} | reference)


def test_no_frame(metric):
    with pytest.raises(ValueError, match="no frame to evaluate"):
        metric.compute()
