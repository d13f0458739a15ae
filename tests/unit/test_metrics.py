"""The evaluate module against pycocotools' COCOeval, a brute-force version on dense masks, and hand-worked numbers."""

import contextlib
import io
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import evaluate
import numpy as np
import pytest
from pycocotools import mask as rle_ops
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from factories import ROOT, run_program

METRIC = str(ROOT / "modeling_cvls" / "metrics" / "video_language_segmentation")
KINDS = ("", "appearance", "temporal")


@pytest.fixture
def metric(tmp_path):
    return evaluate.load(METRIC, cache_dir=str(tmp_path))


def encode(mask):
    return rle_ops.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"].decode()


def rectangle(shape, top, bottom, left, right):
    mask = np.zeros(shape, bool)
    mask[top:bottom, left:right] = True
    return mask


def random_rectangle(rng, shape):
    top, left = (rng.integers(side) for side in shape)
    return rectangle(shape, top, rng.integers(top, shape[0]) + 1, left, rng.integers(left, shape[1]) + 1)


def disturbed(rng, mask):
    """`mask` shifted by a few pixels, with some of its pixels flipped: IoU anywhere between 0 and 1."""
    shifted = np.roll(mask, rng.integers(-1, 2, size=2) * rng.integers(0, 3), axis=(0, 1))
    return shifted ^ (rng.random(mask.shape) < rng.choice([0, 0, 0.02, 0.1]))


def random_pairs(seed, count, referent_share=0.8):
    """Dense pairs: dicts of predicted (H, W), score, instances (M, H, W), referents, kind. Every oddity occurs."""
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(count):
        shape = tuple(rng.choice([1, 2, 5, 12, 20, 31], size=2))
        instances = np.array([random_rectangle(rng, shape) for _ in range(rng.integers(1, 5))])
        instances[rng.random(len(instances)) < 0.1] = False
        instances[rng.random(len(instances)) < 0.05] = True
        referents = np.flatnonzero(rng.random(len(instances)) < 0.4).tolist()
        if rng.random() > referent_share:
            referents = []
        elif not referents:
            referents = [int(rng.integers(len(instances)))]
        truth = instances[referents].any(0)
        wrong = instances[rng.integers(len(instances))]
        pixel = np.arange(truth.size).reshape(shape) == rng.integers(truth.size)
        empty, full = np.zeros(shape, bool), np.ones(shape, bool)
        options = [truth, disturbed(rng, truth), disturbed(rng, truth), wrong, pixel, empty, full]
        pairs.append(
            {
                "predicted": options[rng.choice(7, p=[0.1, 0.3, 0.3, 0.1, 0.05, 0.1, 0.05])],
                "score": float(rng.integers(5) / 4 if rng.random() < 0.5 else rng.random()),
                "instances": instances,
                "referents": referents,
                "kind": str(rng.choice(KINDS)),
            }
        )
    return pairs


def records(pair):
    size = list(pair["predicted"].shape)
    prediction = {"size": size, "counts": encode(pair["predicted"]), "score": pair["score"]}
    instances = [encode(mask) for mask in pair["instances"]]
    return prediction, {"size": size, "instances": instances, "referents": pair["referents"], "kind": pair["kind"]}


def evaluated(metric, pairs):
    for pair in pairs:
        prediction, reference = records(pair)
        metric.add(prediction=prediction, reference=reference)
    return metric.compute()


def coco_map(pairs):
    """mAP of `pairs` by COCOeval, each pair an image with one annotation and one detection."""
    images, annotations, detections = [], [], []
    for number, pair in enumerate(pairs, start=1):  # an annotation of id 0 would count as never found
        height, width = pair["predicted"].shape
        truth = pair["instances"][pair["referents"]].any(0)
        common = {"image_id": number, "category_id": 1}
        images.append({"id": number, "height": height, "width": width})
        annotations.append(
            {
                **common,
                "id": number,
                "segmentation": {"size": [height, width], "counts": encode(truth)},
                "area": int(truth.sum()),
                "iscrowd": 0,
            }
        )
        segmentation = {"size": [height, width], "counts": encode(pair["predicted"])}
        detections.append({**common, "segmentation": segmentation, "score": pair["score"]})
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "referent"}]}
        truth.createIndex()
        coco = COCOeval(truth, truth.loadRes(detections), "segm")
        coco.evaluate()
        coco.accumulate()
        coco.summarize()
    return coco.stats[0]


def brute_force(pairs):
    """Everything but mAP, pair by pair on dense masks."""
    ious, intersections, unions, hits, empties = [], 0, 0, [], []
    for pair in pairs:
        predicted = pair["predicted"]
        if not pair["referents"]:
            empties.append(not predicted.any())
            continue
        truth = np.zeros(predicted.shape, bool)
        for i in pair["referents"]:
            truth |= pair["instances"][i]
        intersection, union = (predicted & truth).sum(), (predicted | truth).sum()
        intersections += intersection
        unions += union
        ious.append(intersection / union if union else 1.0)
        overlaps = [(predicted & m).sum() for i, m in enumerate(pair["instances"]) if i not in pair["referents"]]
        hits.append(intersection > 0 and all(intersection > overlap for overlap in overlaps))
    result = {"num_pairs": len(pairs)}
    if ious:
        for threshold in (0.5, 0.6, 0.7, 0.8, 0.9):
            result[f"precision@{threshold}"] = sum(iou > threshold for iou in ious) / len(ious)
        result["mean_iou"] = sum(ious) / len(ious)
        result["overall_iou"] = intersections / unions if unions else 1.0
        result["referent_accuracy"] = sum(hits) / len(hits)
    if empties:
        result["no_referent_accuracy"] = sum(empties) / len(empties)
    return result


def expected(pairs):
    result = brute_force(pairs)
    referred = [pair for pair in pairs if pair["referents"]]
    return {**result, "mAP": coco_map(referred)} if referred else result


def pair_of(predicted, instances, referents, score=0.5, kind=""):
    masks = np.array(instances, dtype=bool).reshape(-1, *predicted.shape)
    return {"predicted": predicted, "score": score, "instances": masks, "referents": referents, "kind": kind}


@pytest.mark.parametrize("count", [1, 2, 3, 7, 40, 250])
@pytest.mark.parametrize("seed", range(4))
def test_random_pairs_against_cocoeval_and_brute_force(metric, seed, count):
    pairs = random_pairs(1000 * seed + count, count)
    result = evaluated(metric, pairs)
    per_kind = result.pop("per_kind")
    assert result == pytest.approx(expected(pairs), abs=1e-9, rel=0)
    assert set(per_kind) == {pair["kind"] for pair in pairs} - {""}
    for kind, values in per_kind.items():
        assert values == pytest.approx(expected([p for p in pairs if p["kind"] == kind]), abs=1e-9, rel=0)
    assert all(type(value) is float for values in [result, *per_kind.values()] for value in values.values())


def test_random_pairs_hold_what_they_promise():
    pairs = [pair for pair in random_pairs(0, 250) if pair["referents"]]
    ious = [
        (p["predicted"] & t).sum() / max((p["predicted"] | t).sum(), 1)
        for p in pairs
        for t in [p["instances"][p["referents"]].any(0)]
    ]
    truths = [pair["instances"][pair["referents"]].any(0) for pair in pairs]
    assert len({pair["score"] for pair in pairs}) < len(pairs) - 50
    assert any(not p["predicted"].any() and t.any() for p, t in zip(pairs, truths, strict=True))
    assert any(p["predicted"].any() and not t.any() for p, t in zip(pairs, truths, strict=True))
    assert any(not p["predicted"].any() and not t.any() for p, t in zip(pairs, truths, strict=True))
    assert any(t.all() and t.size > 1 for t in truths) and any(t.sum() == 1 for t in truths)
    assert any(len(pair["referents"]) > 1 for pair in pairs)
    assert all(any(low < iou < low + 0.1 for iou in ious) for low in np.arange(0.1, 1, 0.1))


def test_map_at_iou_exactly_on_every_threshold(metric):
    """20 pixels, 10 to 19 of them found: IoU 0.50 to 0.95, each exactly a threshold, and all scores the same."""
    truth = np.ones((4, 5), bool)
    pairs = [pair_of((np.arange(20) < found).reshape(4, 5), [truth], [0]) for found in range(10, 20)]
    result = evaluated(metric, pairs)
    result.pop("per_kind")
    assert result == pytest.approx(expected(pairs), abs=1e-9, rel=0)
    # Strictly above: of 0.50, 0.55 .. 0.95 nine lie above 0.5, seven above 0.6, and one above 0.9.
    assert [result[f"precision@0.{x}"] for x in (5, 6, 7, 8, 9)] == pytest.approx([0.9, 0.7, 0.5, 0.3, 0.1])


def test_order_decides_between_equal_scores(metric):
    truth, empty = np.ones((3, 4), bool), np.zeros((3, 4), bool)
    found, missed = pair_of(truth, [truth], [0]), pair_of(empty, [truth], [0])
    # Found first: precision 1 up to recall 1/2, that is at 51 of the 101 recalls; missed first: 1/2 there.
    assert evaluated(metric, [found, missed])["mAP"] == pytest.approx(51 / 101)
    assert evaluated(metric, [missed, found])["mAP"] == pytest.approx(51 / 202)


def test_hand_worked_frame(metric):
    shape = (4, 6)
    left, middle, right = (rectangle(shape, 0, 4, x, x + 2) for x in (0, 2, 4))
    predicted = rectangle(shape, 0, 4, 1, 4)  # 4 pixels of left, 8 of middle
    instances = [left, middle, right]
    result = evaluated(metric, [pair_of(predicted, instances, [0, 2]), pair_of(predicted, instances, [0, 1])])
    assert result["mean_iou"] == pytest.approx((4 / 24 + 12 / 16) / 2)
    assert result["overall_iou"] == pytest.approx(16 / 40)
    assert result["precision@0.7"] == 0.5 and result["precision@0.8"] == 0
    assert result["referent_accuracy"] == 0.5
    assert result["per_kind"] == {}


@pytest.mark.parametrize(
    ("predicted", "others", "correct"),
    [
        ("truth", [], 1.0),
        ("empty", [], 0.0),
        ("empty", ["elsewhere"], 0.0),
        ("elsewhere", [], 0.0),
        ("both", ["elsewhere"], 0.0),  # as much of the one as of the other
        ("truth", ["truth"], 0.0),
        ("truth", ["empty"], 1.0),
    ],
)
def test_referent_accuracy(metric, predicted, others, correct):
    shape = (3, 8)
    masks = {"truth": rectangle(shape, 0, 2, 0, 3), "elsewhere": rectangle(shape, 1, 3, 5, 8)}
    masks |= {"both": masks["truth"] | masks["elsewhere"], "empty": np.zeros(shape, bool)}
    pair = pair_of(masks[predicted], [masks["truth"], *(masks[other] for other in others)], [0])
    assert evaluated(metric, [pair])["referent_accuracy"] == correct


def test_two_empty_masks_agree_except_for_coco(metric):
    empty = np.zeros((3, 4), bool)
    result = evaluated(metric, [pair_of(empty, [empty], [0])])
    assert result["mean_iou"] == result["overall_iou"] == result["precision@0.9"] == 1
    assert result["mAP"] == coco_map([pair_of(empty, [empty], [0])]) == 0
    assert result["referent_accuracy"] == 0


def test_sentences_without_referent(metric):
    truth, empty = np.ones((3, 4), bool), np.zeros((3, 4), bool)
    without = [pair_of(mask, [truth], [], kind="none") for mask in (empty, truth, empty)] + [pair_of(empty, [], [])]
    values = {"no_referent_accuracy": 0.75, "num_pairs": 4.0}
    none = {"no_referent_accuracy": pytest.approx(2 / 3), "num_pairs": 3.0}
    assert evaluated(metric, without) == {**values, "per_kind": {"none": none}}
    result = evaluated(metric, [pair_of(truth, [truth], [0], kind="spatial"), *without])
    assert result["mean_iou"] == 1 and result["no_referent_accuracy"] == 0.75 and result["num_pairs"] == 5
    assert result["per_kind"]["none"] == none
    assert "no_referent_accuracy" not in result["per_kind"]["spatial"]


def test_large_masks(metric):
    """Codes of several characters per run, and more pixels in all than 32 bits hold."""
    shape = (2000, 3000)
    pairs = [pair_of(rectangle(shape, 0, 2000, 0, 2999), [np.ones(shape, bool)], [0])]
    pairs.append(pair_of(rectangle(shape, 3, 1999, 1500, 1502), [rectangle(shape, 3, 1997, 1500, 1502)], [0]))
    predictions, references = zip(*(records(pair) for pair in pairs), strict=True)
    metric.add_batch(predictions=list(predictions) * 800, references=list(references) * 800)
    result = metric.compute()
    assert result["mean_iou"] == pytest.approx((2999 / 3000 + 1994 / 1996) / 2)
    assert result["overall_iou"] == pytest.approx((2000 * 2999 + 2 * 1994) / (2000 * 3000 + 2 * 1996))


def test_add_and_add_batch_mix(metric):
    pairs = random_pairs(7, 30)
    predictions, references = (list(column) for column in zip(*map(records, pairs), strict=True))
    metric.add_batch(predictions=predictions[:11], references=references[:11])
    metric.add(prediction=predictions[11], reference=references[11])
    metric.add_batch(predictions=predictions[12:], references=references[12:])
    result = metric.compute()
    result.pop("per_kind")
    assert result == pytest.approx(expected(pairs), abs=1e-9, rel=0)


def test_example_of_the_docstring(metric):
    mask = rectangle((3, 4), 0, 3, 0, 2)
    assert (encode(mask), encode(~mask)) == ("066", "66")
    assert '"066", "66"' in metric.inputs_description
    assert metric.description and "gavrilyuk2018actor" in metric.citation


@pytest.mark.slow
def test_two_processes(tmp_path):
    pairs = random_pairs(3, 25)
    shares = [[records(pair) for pair in share] for share in (pairs[:14], pairs[14:])]
    result, nothing = json.loads(
        run_program("unit/programs/measure_in_two.py", METRIC, tmp_path, input=json.dumps(shares))
    )
    result.pop("per_kind")
    assert result == pytest.approx(expected(pairs), abs=1e-9, rel=0)
    assert nothing is None


GOOD_PREDICTION = {"size": [3, 4], "counts": "066", "score": 0.5}
GOOD_REFERENCE = {"size": [3, 4], "instances": ["066", "66"], "referents": [0], "kind": ""}


@pytest.mark.parametrize(
    ("prediction", "reference", "message"),
    [
        ({"size": [4, 3]}, {}, r"Pair 1: the prediction's size is \[4, 3\], the reference's \[3, 4\]"),
        ({"size": [12]}, {"size": [12]}, r"Pair 1: .*\[height, width\]"),
        ({}, {"referents": [0, 2]}, "Pair 1: referent 2 is not an index .* of which there are 2"),
        ({}, {"referents": [-1]}, "Pair 1: referent -1 is not an index .* of which there are 2"),
        ({}, {"referents": [0], "instances": []}, "Pair 1: referent 0 is not an index .* of which there are 0"),
        ({"score": float("nan")}, {}, "Pair 1: the prediction's score is nan"),
        ({"score": None}, {}, "Pair 1: the prediction's score is None"),
        ({"counts": "065"}, {}, r"Pair 1, prediction: the RLE holds 11 pixels.* \[3, 4\] .* 12"),
        ({"counts": ""}, {}, "Pair 1, prediction: counts '' are not a COCO compressed RLE"),
        ({"counts": "0 6 6"}, {}, "Pair 1, prediction: counts '0 6 6' are not a COCO compressed RLE"),
        ({"counts": "0660"}, {}, "Pair 1, prediction: the RLE holds 18 pixels"),
        ({"counts": "06P"}, {}, "Pair 1, prediction: counts '06P' are not"),  # a character that announces another
        ({"counts": "2046"}, {}, "Pair 1, prediction: the RLE holds a run of length 0"),
        ({"counts": "660I"}, {}, "Pair 1, prediction: counts '660I' are not"),  # a run of -1
        ({}, {"instances": ["066", "67"]}, "Pair 1, reference, instance 1: the RLE holds 13 pixels"),
        ({}, {"instances": ["066", None]}, "Pair 1, reference, instance 1: there is no mask"),
    ],
)
def test_bad_pair_is_named(metric, prediction, reference, message):
    metric.add(prediction=GOOD_PREDICTION, reference=GOOD_REFERENCE)
    with pytest.raises(ValueError, match=message):
        metric.add(prediction={**GOOD_PREDICTION, **prediction}, reference={**GOOD_REFERENCE, **reference})
    assert metric.compute()["num_pairs"] == 1


def test_bytes_are_refused(metric):
    with pytest.raises(ValueError, match="b'066'"):
        metric.add(prediction={**GOOD_PREDICTION, "counts": b"066"}, reference=GOOD_REFERENCE)


def test_bytes_further_down_a_batch_are_refused(metric):
    predictions = [GOOD_PREDICTION, {**GOOD_PREDICTION, "counts": b"066"}]
    with pytest.raises(ValueError, match="Pair 1, prediction: counts .* decoded from bytes to str"):
        metric.add_batch(predictions=predictions, references=[GOOD_REFERENCE] * 2)


def test_no_pair(metric):
    metric.add_batch(predictions=[], references=[])
    with pytest.raises(ValueError, match="no pair to evaluate"):
        metric.compute()


FROM_SPACES = """
import evaluate
frame = {"size": [3, 4], "counts": "066"}
pairs = evaluate.load("someone/video_language_segmentation")
truth = {"size": [3, 4], "instances": ["066"], "referents": [0], "kind": ""}
pairs.add(prediction=frame | {"score": 1.0}, reference=truth)
objects = evaluate.load("someone/region_and_boundary")
objects.add(prediction=frame, reference=frame | {"object": "a", "group": ""})
print(pairs.compute()["mean_iou"], objects.compute()["J&F"])
"""


@pytest.mark.slow
def test_both_modules_load_from_a_space(tmp_path):
    """From a Hub on this machine that has nothing but each script, in a process that cannot see the package."""

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.answer()

        def do_GET(self):
            self.wfile.write(self.answer())

        def answer(self):
            _, spaces, user, name, resolve, _, file = (self.path + "/" * 6).split("/")[:7]
            found = (spaces, user, resolve, file) == ("spaces", "someone", "resolve", f"{name}.py")
            content = (Path(METRIC).parent / name / file).read_bytes() if found else b""
            self.send_response(200 if found else 404)
            self.send_header("ETag", '"1"')
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            return content

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment |= {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path)}
        environment |= {
            "HF_HUB_OFFLINE": "0",
            "HF_EVALUATE_OFFLINE": "0",
            "HF_UPDATE_DOWNLOAD_COUNTS": "0",
            "NO_PROXY": "127.0.0.1",
        }
        result = subprocess.run(
            [sys.executable, "-c", FROM_SPACES],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        server.shutdown()
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.split() == ["1.0", "1.0"]
