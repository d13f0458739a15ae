"""Protocols, submissions, and that numbers do not hang on batches and processes; on rows made here, untrained model."""

import io
import json
import os
import shutil
import subprocess
import sys
from itertools import permutations

import numpy as np
import pytest
import torch
from noise import PROGRAMS, SENTENCES, close, counts, make_row, make_set, measured
from PIL import Image
from pycocotools import mask as rle_ops

from factories import ROOT, brute_force
from modeling_cvls import CVLSPipeline
from modeling_cvls.data import video_of
from modeling_cvls.evaluation import PROTOCOLS, evaluate_segmenter, results_table, runner


def probabilities_of_row(model, processor, row):
    """(K, T, H, W) straight from the model, all frames in one clip."""
    frames = np.stack([np.asarray(Image.open(io.BytesIO(cell["bytes"]))) for cell in row["frames"]])
    inputs = processor(videos=frames, text=[sentence["text"] for sentence in row["sentences"]])
    with torch.no_grad():
        logits = model(**inputs).mask_logits[0]
    padded = [4 * side for side in logits.shape[-2:]]
    logits = torch.nn.functional.interpolate(logits, padded, mode="bilinear")
    return torch.nn.functional.interpolate(logits, frames.shape[1:3], mode="bilinear").sigmoid().numpy()


def truth_of(row, sentence):
    """(A, H, W) bool, in the annotated frames."""
    truth = np.zeros((len(row["annotated_frames"]), row["height"], row["width"]), bool)
    for mask, of_frame in zip(truth, row["masks"], strict=True):
        for instance in sentence["instances"]:
            mask |= rle_ops.decode({"size": list(mask.shape), "counts": of_frame[instance]}).astype(bool)
    return truth


@pytest.mark.slow
def test_j_and_f_of_whole_videos_equal_the_direct_model_call(model, processor, rows):
    expected = []
    for row in rows:
        masks = probabilities_of_row(model, processor, row)[:, row["annotated_frames"]] > 0.5
        for sentence, of_sentence in zip(row["sentences"], masks, strict=True):
            truth = truth_of(row, sentence)
            expected.append(np.mean([brute_force(m, t) for m, t in zip(of_sentence, truth, strict=True)], axis=0))
    j, f = np.mean(expected, axis=0)
    assert 0.02 < j < 0.98
    for protocol in ("mevis", "refer_youtube_vos"):
        for window in (7, 100):
            results = measured(model, processor, rows, protocol=protocol, window=window)
            assert (results["J"], results["F"]) == pytest.approx((j, f), abs=1e-6)
            assert results["J&F"] == pytest.approx((j + f) / 2, abs=1e-6)
            assert results["num_objects"] == 9 and results["num_frames"] == 3 * 4 + 3 * 2 + 2 * 3


@pytest.mark.parametrize("protocol", ["a2d", "ref_davis17"])
@pytest.mark.parametrize("window", [1, 2, 3, 100])
def test_batches_change_nothing(model, processor, rows, protocol, window):
    """7 frames in windows of 1, 2 or 3, by 2, 3 or all: the last batch is incomplete in most."""
    one, *others = (
        measured(model, processor, rows, protocol=protocol, window=window, batch_size=size) for size in (1, 2, 3, 8)
    )
    for other in others:
        close(one, other)


def test_pipeline_takes_batch_size_and_window(model, processor, rows):
    video, sentences = video_of(rows[1]), SENTENCES[:2]
    one = CVLSPipeline(model=model, processor=processor)(video, sentences, window=2, presence_threshold=0)
    several = CVLSPipeline(model=model, processor=processor, batch_size=3)
    whole = several(video, sentences, window=7, presence_threshold=0)
    for results in (several(video, sentences, window=2, presence_threshold=0),
                    several(video, sentences, window=2, presence_threshold=0, batch_size=2)):  # fmt: skip
        for result, expected in zip(results, one, strict=True):
            np.testing.assert_array_equal(result["masks"], expected["masks"])
            assert result["frame_scores"] == pytest.approx(expected["frame_scores"], abs=1e-6)
    assert any((a["masks"] != b["masks"]).any() for a, b in zip(one, whole, strict=True))


def test_exclusive_sentences_share_no_pixel(model, processor, rows):
    pipeline = CVLSPipeline(model=model, processor=processor)
    video, sentences = video_of(rows[0]), SENTENCES
    free = [result["masks"] for result in pipeline(video, sentences, presence_threshold=0)]
    parted = pipeline(video, sentences, presence_threshold=0, exclusive=[[0, 1, 2]])
    parted = [result["masks"] for result in parted]
    assert (free[0] & free[1]).any()
    assert (sum(mask.astype(int) for mask in parted[:3]) == (free[0] | free[1] | free[2])).all()
    np.testing.assert_array_equal(parted[3], free[3])


def test_batches_are_as_large_as_asked_for(model, processor, rows, monkeypatch):
    seen = []
    forward = model.forward
    monkeypatch.setattr(
        model,
        "forward",
        lambda **inputs: seen.append(inputs["video_features"].pixel_features.shape[:2]) or forward(**inputs),
    )
    measured(model, processor, [{**rows[1], "annotated_frames": list(range(7)), "masks": [rows[1]["masks"][0]] * 7}],
             window=2, batch_size=3)  # fmt: skip
    assert seen == [(3, 2), (1, 2)]


@pytest.mark.slow
def test_ref_davis17_as_published_results_are_computed(model, processor):
    """Object 0 has three sentences, object 1 two, not in the order of the annotators. Written down from the published
    procedure: one label map an annotator, each pixel the most probable object's; then the best assignment of labels to
    objects, found by trying all; then the means over frames, objects, annotators."""
    with torch.no_grad():  # sentences that differ in their masks
        model.pixel_query.weight.mul_(3)
        model.token_query.weight.mul_(3)
        model.similarity_scale.zero_()  # untrained, it only lifts all of them to where float32 ends, and they tie
    rows = [
        make_row("a", 3, (64, 64), [[0], [1], [0], [0], [1]], seed=6),
        make_row("b", 4, (64, 96), [[1], [0], [1], [0]], annotated=[0, 1, 3], seed=7),
    ]
    objects = {"annotator 1": [], "annotator 2": [], "annotator 3": []}
    sentences = {"a": [[0, 1], [2, 4], [3]], "b": [[0, 1], [2, 3]]}
    overlap, crossed = 0, 0
    for row in rows:
        probabilities = probabilities_of_row(model, processor, row)[:, row["annotated_frames"]]
        for annotator, numbers in zip(objects, sentences[row["video_id"]], strict=False):
            confident = np.where(probabilities[numbers] > 0.5, probabilities[numbers], 0)
            overlap += ((confident > 0).sum(axis=0) > 1).sum()
            labels = np.concatenate([np.full_like(confident[:1], 0.1), confident]).argmax(axis=0)
            truths = [truth_of(row, row["sentences"][number]) for number in numbers]
            scores = np.array(
                [
                    [
                        np.mean([brute_force(m == label, t) for m, t in zip(labels, truth, strict=True)], axis=0)
                        for truth in truths
                    ]
                    for label in range(1, len(numbers) + 1)
                ]
            )
            orders = list(permutations(range(len(numbers))))
            best = max(orders, key=lambda order: sum(scores[i, j].sum() for j, i in enumerate(order)))
            crossed += best != tuple(range(len(numbers)))
            objects[annotator] += [scores[i, j] for j, i in enumerate(best)]
    assert overlap > 50 and crossed > 0

    results = measured(model, processor, rows, protocol="ref_davis17", window=4)
    means = {annotator: np.mean(values, axis=0) for annotator, values in objects.items()}
    for annotator, (j, f) in means.items():
        group = results["per_group"][annotator]
        assert (group["J"], group["F"]) == pytest.approx((j, f), abs=1e-6)
        assert group["num_objects"] == len(objects[annotator])
    assert (results["J"], results["F"]) == pytest.approx(tuple(np.mean(list(means.values()), axis=0)), abs=1e-6)
    table = results_table(results)
    assert "J&F" in table and "| annotator 3 |" in table


def test_sentences_alone_are_not_exclusive(model, processor):
    """Where each annotator speaks of one object there is nothing to share out or to match."""
    row = make_row("a", 3, (64, 64), [[0], [0], [0]], seed=4)
    davis, mevis = (measured(model, processor, [row], protocol=name) for name in ("ref_davis17", "mevis"))
    assert davis["J&F"] == pytest.approx(mevis["J&F"], abs=1e-9) and davis["J"] > 0


def test_an_instance_that_is_not_annotated_is_absent_for_j_and_f_and_skipped_for_pairs(model, processor, rows):
    null = {**rows[0], "masks": [[None, rows[0]["masks"][0][1]], *rows[0]["masks"][1:]]}
    empty = {**rows[0], "masks": [[counts(np.zeros((64, 64))), rows[0]["masks"][0][1]], *rows[0]["masks"][1:]]}
    assert measured(model, processor, [null], protocol="mevis") == measured(model, processor, [empty], protocol="mevis")
    pairs = [measured(model, processor, [row], protocol="a2d")["num_pairs"] for row in (null, empty)]
    assert pairs == [10, 12]


def test_jhmdb_takes_the_frames_that_the_set_names_or_three_evenly_spaced_ones(model, processor, rows):
    long = make_row("long", 9, (64, 64), [[0]], seed=6)
    named = {**long, "evaluation_frames": [1, 4, 7]}
    assert PROTOCOLS["jhmdb"].evaluated_frames(long) == [1, 4, 7]
    assert PROTOCOLS["a2d"].evaluated_frames(long) == list(range(9))
    assert measured(model, processor, [long], protocol="jhmdb") == measured(model, processor, [named], protocol="jhmdb")
    assert PROTOCOLS["jhmdb"].evaluated_frames(make_row("short", 2, (64, 64), [[0]])) == [0, 1]
    assert PROTOCOLS["jhmdb"].note_on_frames(make_set(named)) == "evaluated on the frames that the set names"
    note = PROTOCOLS["jhmdb"].note_on_frames(make_set(named, long))
    assert "three" not in note and "3 evenly spaced" in note and "1 and 1 videos" in note
    assert PROTOCOLS["mevis"].note_on_frames(make_set(long)) == "evaluated on every annotated frame"


def test_columns_of_the_table(model, processor, rows):
    table = results_table(measured(model, processor, rows, protocol="a2d"))
    for column in ("P@0.5", "P@0.6", "P@0.7", "P@0.8", "P@0.9", "mAP", "overall IoU", "mean IoU"):
        assert f"| {column} |" in table


@pytest.mark.slow
def test_two_processes_give_the_same_numbers(model, processor, rows, tmp_path):
    """The script under `torchrun`: five videos on two processes, and one video, so that one has nothing."""
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    rows = [*rows, make_row("fourth", 3, (64, 64), [[0]]), make_row("fifth", 3, (64, 64), [[0], [1]], seed=9)]
    for name, some in (("five", rows), ("one", rows[:1])):
        (tmp_path / name).mkdir()
        make_set(*some).to_parquet(tmp_path / name / "test.parquet")
    common = f"--model {tmp_path}/model --batch-size 2 --presence-threshold 0"
    (tmp_path / "commands").write_text(
        f"{common} --dataset {tmp_path}/five --protocol ref_davis17 --split test --output {tmp_path}/davis.json "
        f"--submission {tmp_path}/submission\n"
        f"{common} --dataset {tmp_path}/one --window 3 --output {tmp_path}/a2d.json\n"
    )
    worker = shutil.copy(PROGRAMS / "evaluate_commands.py", tmp_path)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    result = subprocess.run(
        [*launch, worker, tmp_path / "commands"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert [(tmp_path / f"evaluate_commands.py.{rank}").read_text() for rank in (0, 1)] == 2 * ["in the group: False\n"]
    found = json.loads((tmp_path / "davis.json").read_text())
    assert (found.pop("protocol"), found.pop("presence_threshold")) == ("ref_davis17", 0)
    assert found.pop("frames") == "evaluated on every annotated frame"
    close(found, measured(model, processor, rows, protocol="ref_davis17"))
    assert "| annotator 2 |" in result.stdout and "left at the slowest recent speed" in result.stderr
    assert len(list((tmp_path / "submission").rglob("*.png"))) == 4 * 5 + 2 * 7 + 3 * 2 + 3 + 2 * 3

    found = json.loads((tmp_path / "a2d.json").read_text())
    assert found.pop("protocol") == "custom" and found.pop("frames") and found.pop("presence_threshold") == 0
    close(found, measured(model, processor, rows[:1], protocol="a2d", window=3))


@pytest.mark.slow
def test_a_set_ten_times_larger_takes_the_same_memory(model, processor, tmp_path):
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    make_set(*[make_row(f"{i}", 4, (64, 64), [[0], [1]], seed=i) for i in range(100)]).save_to_disk(tmp_path / "set")
    result = subprocess.run(
        [sys.executable, PROGRAMS / "evaluation_memory.py", tmp_path / "model", tmp_path / "set"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    peaks = [int(line) for line in result.stdout.split()]
    assert len(peaks) == 4 and peaks[1] < 1.1 * peaks[0] and peaks[3] < 1.1 * peaks[0], peaks


@pytest.mark.slow
def test_equal_scores_rank_by_the_order_of_the_set(model, processor, rows, monkeypatch):
    """mAP with all scores the same: the shares of three processes, one after another, are the set in its order."""
    added = []

    class Metric:
        def add(self, prediction, reference):
            added.append((prediction["counts"], reference["size"]))

        def compute(self):
            return {}

    class State:
        num_processes, is_main_process = 1, True

        def wait_for_everyone(self):
            pass

    monkeypatch.setattr(runner, "_load_metric", lambda protocol, state: Metric())
    monkeypatch.setattr(runner, "PartialState", State)
    orders = []
    for number in (1, 2, 3, 4):
        State.num_processes = number
        for State.process_index in range(number):
            measured(model, processor, rows)
        orders.append(added.copy())
        added.clear()
    assert len(orders[0]) == 4 * 3 + 2 * 3 + 3 * 2 and orders[1:] == orders[:1] * 3


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        (
            {"frames": [{"bytes": b"x", "path": "00000.png"}] * 7},
            {},
            "video 'second': .*frame 0 of .*cannot be decoded",
        ),
        ({"height": 50}, {}, "video 'second': its frames are 48 x 80 pixels .* but the row says 50 x 80"),
        ({"evaluation_frames": [3]}, {}, "video 'second': frame 3 is to be evaluated, but is not one"),
        ({"masks": [["11", "11"]] * 3}, {}, "video 'second': Pair 12, reference, instance 0: the RLE holds 2 pixels"),
        ({"masks": [["11", "11"]] * 3}, {"protocol": "mevis"}, "^video 'second', frame 1, .*has 2 pixels"),
        ({"frames": None}, {}, "video 'second': the row has neither video nor frames"),
        ({"annotated_frames": [1, 2, 7]}, {}, "video 'second': frame_indices holds 7"),
    ],
)
def test_an_error_names_the_video(model, processor, rows, changes, arguments, message):
    with pytest.raises(ValueError, match=message):
        measured(model, processor, [rows[0], {**rows[1], **changes}], **arguments)


def test_wrong_arguments(model, processor, rows, tmp_path):
    hidden = [{**row, "annotated_frames": [], "masks": []} for row in rows]
    with pytest.raises(ValueError, match="no annotated frame.*--submission"):
        measured(model, processor, hidden, protocol="mevis")
    with pytest.raises(ValueError, match="unknown protocol 'davis'; there are custom, a2d, jhmdb"):
        measured(model, processor, rows, protocol="davis")
    with pytest.raises(ValueError, match="window is a number of at least 1, not 0"):
        measured(model, processor, rows, window=0)
    with pytest.raises(ValueError, match="presence_threshold is a probability"):
        evaluate_segmenter(model, processor, make_set(*rows), 1.5, progress=False)
    with pytest.raises(ValueError, match="batch_size is a number of at least 1, not -1"):
        measured(model, processor, rows, batch_size=-1)
    nameless = [{**rows[0], "frames": [{**cell, "path": None} for cell in rows[0]["frames"]]}]
    with pytest.raises(ValueError, match="video 'first': a submission is named after the source's frames"):
        measured(model, processor, nameless, submission=tmp_path)


def test_time_left_is_that_of_the_slowest_video_and_the_longest_share(monkeypatch, capsys):
    clock = iter([0.0, 10.0, 70.0, 75.0])  # 1 s, 6 s and 0.5 s per frame
    monkeypatch.setattr(runner, "perf_counter", lambda: next(clock))
    with runner._Progress(40, 130, True) as bar:
        shown = []
        for _ in range(3):
            bar.update(10)
            shown.append(bar.bar.postfix.split()[0])
    # 130 frames in the longest share: 120 x 1 s, 110 x 6 s, 100 x 6 s
    assert shown == ["0:02:00", "0:11:00", "0:10:00"]
    capsys.readouterr()
