"""Protocols, submissions, and that numbers do not hang on batches and processes; on rows made here, untrained model."""

import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from itertools import permutations

import numpy as np
import pytest
import torch
from datasets import Dataset, load_dataset
from PIL import Image
from pycocotools import mask as rle_ops

from factories import ROOT, brute_force
from modeling_cvls import CVLSPipeline
from modeling_cvls.data import FEATURES, video_of
from modeling_cvls.evaluation import PROTOCOLS, evaluate_segmenter, results_table, runner

PROGRAMS = ROOT / "tests" / "distributed" / "programs"
SENTENCES = ["the red circle", "the small blue square", "a circle moving left", "the green square on the right"]


def counts(mask):
    return rle_ops.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"].decode()


def make_row(video_id, num_frames, size, referents, annotated=None, seed=0, **changes):
    """A video of noise with two rectangles; `referents`: the instances of each sentence."""
    rng = np.random.default_rng(seed)
    height, width = size
    frames, masks = [], []
    for number in range(num_frames):
        picture = rng.integers(0, 120, (height, width, 3), dtype=np.uint8)
        instances = np.zeros((2, height, width), bool)
        instances[0, 5 : height // 2, number + 3 : number + width // 2] = True
        instances[1, height // 2 :, width // 3 : width - number] = True
        picture[instances[0]] //= 4
        picture[instances[1]] += 100
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "png")
        frames.append({"bytes": buffer.getvalue(), "path": f"{5 * number:05d}.png"})
        masks.append([counts(mask) for mask in instances])
    annotated = list(range(num_frames)) if annotated is None else annotated
    return {
        "video_id": video_id,
        "video": None,
        "frames": frames,
        "num_frames": num_frames,
        "height": height,
        "width": width,
        "fps": None,
        "annotated_frames": annotated,
        "evaluation_frames": None,
        "instance_ids": ["1", "2"],
        "masks": [masks[frame] for frame in annotated],
        "sentences": [
            {"sentence_id": f"{video_id}/{i}", "text": SENTENCES[i % 4], "instances": instances, "kind": None}
            for i, instances in enumerate(referents)
        ],
        **changes,
    }


def make_set(*rows):
    return Dataset.from_list(list(rows), features=FEATURES)


@pytest.fixture
def model(make_model):
    """Untrained, with a bias under which masks are neither empty nor full."""
    model = make_model()
    with torch.no_grad():
        model.mask_bias.fill_(0.05)
    return model


@pytest.fixture
def rows():
    """Three videos of different sizes and lengths; sentences with one, two and no referents."""
    return [
        make_row("first", 5, (64, 64), [[0], [1], [0, 1], []], annotated=[0, 2, 4], seed=1),
        make_row("second", 7, (48, 80), [[1], [0]], annotated=[1, 2, 6], seed=2),
        make_row("third", 2, (90, 60), [[0], [0], [1]], seed=3),
    ]


def measured(model, processor, rows, **arguments):
    return evaluate_segmenter(model, processor, make_set(*rows), 0.0, progress=False, **arguments)


def close(results, others):
    results, others = dict(results), dict(others)
    for name in ("per_kind", "per_group"):
        parts, other_parts = results.pop(name, {}), others.pop(name, {})
        assert parts.keys() == other_parts.keys()
        assert all(parts[part] == pytest.approx(other_parts[part], abs=1e-6) for part in parts)
    assert results == pytest.approx(others, abs=1e-6)


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
        model, "forward", lambda **inputs: seen.append(inputs["pixel_values_videos"].shape[:2]) or forward(**inputs)
    )
    measured(model, processor, [{**rows[1], "annotated_frames": list(range(7)), "masks": [rows[1]["masks"][0]] * 7}],
             window=2, batch_size=3)  # fmt: skip
    assert seen == [(3, 2), (1, 2)]


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


@pytest.mark.parametrize(("protocol", "root"), [("refer_youtube_vos", "Annotations/"), ("mevis", "")])
def test_submission_reads_back(model, processor, rows, tmp_path, protocol, root):
    """A set without truth, through Parquet: the exact files, each the mask that the pipeline gives."""
    hidden = [
        {**row, "annotated_frames": [], "masks": [], "instance_ids": [],
         "sentences": [{**sentence, "instances": []} for sentence in row["sentences"]]}
        for row in rows
    ]  # fmt: skip
    make_set(*hidden).to_parquet(tmp_path / "valid.parquet")
    dataset = load_dataset(str(tmp_path), split="validation", cache_dir=str(tmp_path / "cache"))
    folder = tmp_path / "submission"
    arguments = {"protocol": protocol, "submission": folder, "batch_size": 2, "progress": False}
    assert evaluate_segmenter(model, processor, dataset, 0.0, **arguments) == {}

    pipeline = CVLSPipeline(model=model, processor=processor)
    expected = {}
    for row in dataset:
        results = pipeline(video_of(row), [s["text"] for s in row["sentences"]], presence_threshold=0)
        for expression, result in enumerate(results):
            for frame, mask in enumerate(result["masks"]):
                expected[f"Annotations/{row['video_id']}/{expression}/{5 * frame:05d}.png"] = mask
    assert {str(path.relative_to(folder)) for path in folder.rglob("*.png")} == set(expected)
    with zipfile.ZipFile(folder / "submission.zip") as archive:
        assert sorted(f"Annotations/{name.removeprefix(root)}" for name in archive.namelist()) == sorted(expected)
        assert all(name.startswith(root) for name in archive.namelist()) and archive.testzip() is None
        for name, mask in expected.items():
            assert archive.read(root + name.removeprefix("Annotations/")) == (folder / name).read_bytes()
            with Image.open(folder / name) as image:
                assert image.format == "PNG" and image.mode == "L"
                np.testing.assert_array_equal(np.asarray(image), np.where(mask, 255, 0))
    assert any(mask.any() and not mask.all() for mask in expected.values())
    with pytest.raises(ValueError, match="submission/Annotations exists already"):
        evaluate_segmenter(model, processor, dataset, 0.5, **arguments)
    (folder / "settings.json").unlink()
    with pytest.raises(ValueError, match="submission/Annotations exists already"):
        evaluate_segmenter(model, processor, dataset, 0.0, **arguments)


def test_a_submission_that_was_killed_goes_on(model, processor, rows, tmp_path, monkeypatch):
    """Killed while the second video's masks are written: the third run segments what is left, and ends the same."""
    hidden = [{**row, "annotated_frames": [], "masks": []} for row in rows]
    dataset, arguments = make_set(*hidden), {"protocol": "mevis", "progress": False}
    evaluate_segmenter(model, processor, dataset, submission=tmp_path / "whole", **arguments)

    class Killed(BaseException):
        pass

    save, saved = Image.Image.save, []

    def save_some(image, *of):
        saved.append(of)
        if len(saved) == 25:
            raise Killed
        save(image, *of)

    monkeypatch.setattr(Image.Image, "save", save_some)
    with pytest.raises(Killed):
        evaluate_segmenter(model, processor, dataset, submission=tmp_path / "killed", **arguments)
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "killed" / "Annotations").iterdir()] == ["first"]
    assert not (tmp_path / "killed" / "submission.zip").exists()

    segmented = []
    stream = CVLSPipeline.stream
    monkeypatch.setattr(
        CVLSPipeline,
        "stream",
        lambda self, video, *of, **more: segmented.append(len(video)) or stream(self, video, *of, **more),
    )
    for _ in range(2):  # the last run finds everything
        evaluate_segmenter(model, processor, dataset, submission=tmp_path / "killed", **arguments)
    assert segmented == [7, 2]
    whole, killed = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.png")}
        for folder in (tmp_path / "whole", tmp_path / "killed")
    )
    assert whole == killed
    with zipfile.ZipFile(tmp_path / "killed" / "submission.zip") as archive:
        assert len(archive.namelist()) == len(whole)


@pytest.mark.parametrize("name", ["../../x", "/x", "..", "a/b", "a\\b", "C:x", "", "a\0b", "x" * 300])
def test_a_submission_stays_in_its_folder(model, processor, rows, tmp_path, name):
    """Ids that lead elsewhere are refused, for videos and for sentences."""
    folder = tmp_path / "a" / "b" / "submission"
    video = {**rows[2], "video_id": name}
    sentences = [{**sentence, "sentence_id": f"third/{name}"} for sentence in rows[2]["sentences"]]
    for row in (video, {**rows[2], "sentences": sentences}):
        with pytest.raises(ValueError, match="must be a plain name"):
            measured(model, processor, [row], protocol="mevis", submission=folder)
    assert not list(tmp_path.rglob("*.png"))


def test_submission_and_truth_together(model, processor, rows, tmp_path):
    plain = measured(model, processor, rows, protocol="mevis")
    both = measured(model, processor, rows, protocol="mevis", submission=tmp_path)
    close(plain, both)
    assert len(list(tmp_path.rglob("*.png"))) == 4 * 5 + 2 * 7 + 3 * 2


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
    clock = iter([0.0, 10.0, 70.0, 75.0])  # 1 s, 6 s and 0.5 s a frame
    monkeypatch.setattr(runner, "perf_counter", lambda: next(clock))
    with runner._Progress(40, 130, True) as bar:
        shown = []
        for _ in range(3):
            bar.update(10)
            shown.append(bar.bar.postfix.split()[0])
    # 130 frames in the longest share: 120 x 1 s, 110 x 6 s, 100 x 6 s
    assert shown == ["0:02:00", "0:11:00", "0:10:00"]
    capsys.readouterr()
