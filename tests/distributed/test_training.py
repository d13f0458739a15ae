"""From the scripts that users call: train, resume, two processes, evaluate, load in another process, bad input."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from datasets import load_dataset
from transformers import AutoModel, AutoProcessor, TrainingArguments, pipeline

import cvls
from factories import ROOT, SHARED, tiny_sections
from modeling_cvls import CVLSModel, CVLSProcessor, FrameReader
from modeling_cvls.data import ClipCollator, ClipSampler
from modeling_cvls.evaluation import evaluate_segmenter
from modeling_cvls.synthetic import write_a2d_sentences
from modeling_cvls.training import CVLSTrainer, DataArguments, load_train_set, parse_training

REAL_VIDEOS = sorted((SHARED / "real_data" / "videos").glob("*.mp4"))

SENTENCES = ["the red circle", "the object on the left"]
BEST_OFF = ["--training.load_best_model_at_end", "false"]


def run(*command, **environment) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture
def script(monkeypatch, capsys):
    """A function: runs a file of scripts/ in this process; its exit status, what it printed, what it said of errors."""

    def run_here(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        monkeypatch.chdir(ROOT)
        capsys.readouterr()
        try:
            runpy.run_path(name, run_name="__main__")
            status = 0
        except SystemExit as stopped:
            status = stopped.code or 0
        return (status, *capsys.readouterr())

    return run_here


@pytest.fixture
def short_ends(monkeypatch):
    """datasets sleeps for five seconds at the end of several streams, until threads of Arrow have ended."""
    monkeypatch.setattr("datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN", 0.2)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    """Synthetic scenes in the raw A2D layout, converted by the command."""
    folder = tmp_path_factory.mktemp("data")
    write_a2d_sentences(folder / "raw", {"train": 24, "validation": 3, "test": 4}, seed=5)
    cvls.main(["convert", "a2d_sentences", "--source", str(folder / "raw"), "--output", str(folder / "dataset")])
    return folder / "dataset"


@pytest.fixture(scope="module")
def config_file(dataset, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_sections(dataset)))
    return path


@pytest.fixture(scope="module")
def checkpoint(config_file, tmp_path_factory) -> Path:
    """What `accelerate launch scripts/train.py` leaves after six steps."""
    output = tmp_path_factory.mktemp("checkpoint")
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]
    result = run(*launch, "scripts/train.py", config_file, "--training.output_dir", output)
    assert result.returncode == 0, result.stderr[-3000:]
    return output


def log_history(folder: Path) -> list[dict]:
    return json.loads((folder / "trainer_state.json").read_text())["log_history"]


@pytest.mark.slow
def test_training_leaves_a_checkpoint_that_auto_classes_load(checkpoint):
    assert (checkpoint / "model.safetensors").exists()
    assert type(AutoModel.from_pretrained(checkpoint)) is CVLSModel
    assert type(AutoProcessor.from_pretrained(checkpoint)) is CVLSProcessor
    assert list(checkpoint.rglob("events.out.tfevents.*")), "no TensorBoard log"
    history = log_history(checkpoint)
    assert [entry["step"] for entry in history if "loss_contrast" in entry] == [1, 2, 3, 4, 5, 6]
    assert [entry["step"] for entry in history if "eval_referent_accuracy" in entry] == [3, 6]


@pytest.mark.slow
def test_the_best_checkpoint_is_the_one_that_is_kept(checkpoint):
    """The saved weights are those of the step with the highest validation IoU, and score what was logged for it."""
    logged = {entry["step"]: entry["eval_mean_iou"] for entry in log_history(checkpoint) if "eval_mean_iou" in entry}
    best = max(logged, key=logged.get)
    saved = AutoModel.from_pretrained(checkpoint / f"checkpoint-{best}").state_dict()
    final = AutoModel.from_pretrained(checkpoint).state_dict()
    assert all(torch.equal(final[name], value) for name, value in saved.items())


@pytest.mark.slow
def test_training_can_be_resumed(checkpoint, config_file, script, tmp_path):
    """Stopped at step 3 and resumed, training goes through the same steps to the same weights."""
    (tmp_path / "checkpoint-3").symlink_to(checkpoint / "checkpoint-3")
    status, _, error = script(
        "scripts/train.py", config_file, "--training.output_dir", tmp_path, "--training.resume_from_checkpoint", "true"
    )
    assert status == 0, error
    whole = {entry["step"]: entry["loss"] for entry in log_history(checkpoint) if "loss" in entry}
    resumed = {entry["step"]: entry["loss"] for entry in log_history(tmp_path) if "loss" in entry}
    assert resumed == pytest.approx(whole, rel=1e-4)


@pytest.mark.slow
def test_two_processes_train_and_evaluate(config_file, tmp_path):
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    result = run(
        *launch, "scripts/train.py", config_file, "--training.output_dir", tmp_path, "--training.max_steps", "3"
    )
    assert result.returncode == 0, result.stderr[-3000:]
    state = json.loads((tmp_path / "trainer_state.json").read_text())
    assert state["epoch"] == pytest.approx(3 * 2 * 2 / 24)  # steps x processes x clips per process over clips
    (evaluation,) = [entry for entry in state["log_history"] if "eval_num_pairs" in entry]

    dataset = yaml.safe_load(config_file.read_text())["data"]["dataset"]
    validation = load_dataset(dataset, split="validation")
    model, processor = AutoModel.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)
    alone = evaluate_segmenter(model, processor, validation, progress=False)
    assert evaluation["eval_num_pairs"] == alone["num_pairs"]
    assert evaluation["eval_mean_iou"] == pytest.approx(alone["mean_iou"], abs=1e-6)


@pytest.mark.slow
def test_accelerate_on_cpus_says_how_several_processes_are_started(config_file, tmp_path):
    """Accelerate would run one of the two, and say nothing."""
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    result = run(*launch, "scripts/train.py", config_file, "--training.output_dir", tmp_path)
    assert result.returncode != 0
    assert f"torchrun --nproc-per-node N scripts/train.py {config_file}" in result.stderr


@pytest.mark.slow
def test_evaluation_equals_a_plain_loop(checkpoint, dataset):
    """mean IoU and referent accuracy from clips through the model, without pipeline or metric: windows of 4 frames that
    share one with the next, the last one shifted back, their logits weighed 1, 2, 2, 1."""
    test = load_dataset(str(dataset), split="test")
    model, processor = AutoModel.from_pretrained(checkpoint), AutoProcessor.from_pretrained(checkpoint)
    model.presence[-1].bias.data.fill_(10.0)  # so that masks are drawn after so few steps
    model.mask_bias.data.fill_(4.0)
    found = evaluate_segmenter(model, processor, test, progress=False)

    from modeling_cvls.data import read_frames, read_masks

    ious, hits = [], []
    for row in test:
        instances, _, _ = read_masks(row, range(8))
        texts = [sentence["text"] for sentence in row["sentences"]]
        logits, weights = torch.zeros(len(texts), 8, 64, 64), torch.zeros(8, 1, 1)
        for start in (0, 3, 4):
            inputs = processor(videos=read_frames(row, range(start, start + 4)), text=texts)
            with torch.no_grad():
                coarse = model(**inputs).mask_logits[0]
            for offset, weight in enumerate((1, 2, 2, 1)):
                frame = torch.nn.functional.interpolate(coarse[:, offset : offset + 1], (64, 64), mode="bilinear")
                logits[:, start + offset] += weight * frame[:, 0]
                weights[start + offset] += weight
        masks = (logits / weights > 0).numpy()
        for sentence, mask in zip(row["sentences"], masks, strict=True):
            for frame in row["annotated_frames"] if sentence["instances"] else []:
                truth = instances[frame][sentence["instances"]].any(axis=0)
                union = (mask[frame] | truth).sum()
                ious.append((mask[frame] & truth).sum() / union if union else 1.0)
                overlaps = (instances[frame] & mask[frame]).sum(axis=(1, 2))
                own = overlaps[sentence["instances"][0]]
                hits.append(own > 0 and own > np.delete(overlaps, sentence["instances"][0]).max())
    assert 0.01 < np.mean(ious) < 0.99
    assert found["mean_iou"] == pytest.approx(np.mean(ious), abs=1e-9)
    assert found["referent_accuracy"] == pytest.approx(np.mean(hits), abs=1e-9)


@pytest.mark.slow
def test_another_process_gets_the_same_masks(checkpoint, dataset, tmp_path):
    """A process that never saw the training loads the checkpoint and segments bit for bit the same."""
    row = load_dataset(str(dataset), split="test")[0]
    (tmp_path / "clip.mp4").write_bytes(row["video"]["bytes"])
    program = ROOT / "tests" / "distributed" / "programs" / "segment_clip.py"
    result = run(program, checkpoint, tmp_path / "clip.mp4", tmp_path / "logits.npy", *SENTENCES)
    assert result.returncode == 0, result.stderr
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    model, processor = AutoModel.from_pretrained(checkpoint), AutoProcessor.from_pretrained(checkpoint)
    frames = FrameReader(tmp_path / "clip.mp4").read(range(4))
    with torch.no_grad():
        here = model(**processor(videos=frames, text=SENTENCES)).mask_logits
    torch.set_num_threads(threads)
    assert np.array_equal(np.load(tmp_path / "logits.npy"), here.numpy())


@pytest.mark.slow
def test_eval_and_report_scripts(checkpoint, dataset, script, tmp_path):
    metrics = tmp_path / "metrics.json"
    status, printed, error = script("scripts/eval.py", "--model", checkpoint, "--dataset", dataset, "--output", metrics)
    assert status == 0, error
    results = json.loads(metrics.read_text())
    names = {"mean_iou", "overall_iou", "mAP", "precision@0.5", "referent_accuracy"}
    assert names <= set(results)
    assert all(names <= set(values) for kind, values in results["per_kind"].items() if kind != "none")
    assert "| all |" in printed

    status, _, error = script(
        "scripts/report.py", "--model", checkpoint, "--dataset", dataset, "--metrics", metrics, "--output", tmp_path,
        "--synthetic",
    )  # fmt: skip
    assert status == 0, error
    for name in ("training_curves.png", "contact_sheet.png", "overlay.mp4"):
        assert (tmp_path / name).stat().st_size > 1000
    card = (checkpoint / "README.md").read_text()
    assert "model-index" in card and "synthetic" in card and f"{results['mean_iou']:.3f}" in card


@pytest.mark.slow
def test_pipeline_on_a_checkpoint(checkpoint, dataset):
    row = load_dataset(str(dataset), split="test")[0]
    segmenter = pipeline("video-language-segmentation", model=str(checkpoint))
    first, second = segmenter(row["video"]["bytes"], ["the red circle", "the object moving up"])
    assert first["sentence"] == "the red circle" and second["sentence"] == "the object moving up"
    assert first["masks"].shape == (8, 64, 64) and first["frame_indices"] == list(range(8))


@pytest.mark.slow
@pytest.mark.parametrize("streaming", [False, True])
def test_data_sets_are_mixed_by_their_weights(dataset, tmp_path, streaming, short_ends):
    """Three rows of one to one of the other, every row of both; loaded or streamed."""
    rows = load_dataset(str(dataset), split="train")
    for name, first in (("a", 0), ("b", 12)):
        part = rows.select(range(first, first + 12))
        part.to_parquet(tmp_path / name / "train.parquet")
    weights = {str(tmp_path / "a"): 3, str(tmp_path / "b"): 1}
    mixed = load_train_set(DataArguments(dataset=weights, streaming=streaming), seed=0)
    drawn = [row["video_id"] for row in mixed]
    assert set(drawn) == set(rows["video_id"])
    share = sum(name in set(rows["video_id"][:12]) for name in drawn) / len(drawn)
    assert 0.6 < share < 0.9


@pytest.mark.slow
@pytest.mark.parametrize("streaming", [False, True])
def test_data_sets_without_weights_are_all_there_once(dataset, tmp_path, streaming, short_ends):
    rows = load_dataset(str(dataset), split="train")
    for name, numbers in (("a", range(3)), ("b", range(3, 10))):
        rows.select(numbers).to_parquet(tmp_path / name / "train.parquet")
    both = load_train_set(DataArguments(dataset=[str(tmp_path / "a"), str(tmp_path / "b")], streaming=streaming), 0)
    assert sorted(row["video_id"] for row in both) == sorted(rows["video_id"][:10])


@pytest.mark.slow
@pytest.mark.parametrize("streaming", [False, True])
def test_an_epoch_can_show_several_clips_of_a_video(dataset, streaming, short_ends):
    args = DataArguments(dataset=str(dataset), clips_per_video=3, streaming=streaming, train_split="validation")
    names = [row["video_id"] for row in load_train_set(args, 0)]
    videos = load_dataset(str(dataset), split="validation")["video_id"]
    assert sorted(names) == sorted([*videos] * 3)
    sampler = ClipSampler(2, flip_probability=0)
    rows = [row for row in load_train_set(args, 0) if row["video_id"] == names[0]]
    clips = {sampler(row)["frames"].tobytes() for row in rows}
    assert len(clips) > 1 and sampler(rows[0])["frames"].tobytes() in clips


@pytest.mark.slow
def test_streamed_rows_train(config_file, script, tmp_path, short_ends):
    flags = ["--data.streaming", "true", "--training.max_steps", "2", "--training.output_dir", tmp_path]
    status, _, error = script("scripts/train.py", config_file, *flags, "--training.eval_strategy", "no", *BEST_OFF)
    assert status == 0, error
    assert json.loads((tmp_path / "trainer_state.json").read_text())["global_step"] == 2


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_training(make_model, processor, dataset, tmp_path):
    model = make_model()
    model.presence[-1].bias.data.fill_(float("nan"))
    arguments = TrainingArguments(
        str(tmp_path), max_steps=2, per_device_train_batch_size=2, use_cpu=True, report_to="none", disable_tqdm=True,
        remove_unused_columns=False,
    )  # fmt: skip
    trainer = CVLSTrainer(
        model, arguments, train_dataset=load_dataset(str(dataset), split="train"),
        data_collator=ClipCollator(processor, ClipSampler(4)), processing_class=processor,
    )  # fmt: skip
    with pytest.raises(FloatingPointError, match=r"became nan at step 1 \(.*presence nan.*learning_rate"):
        trainer.train()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--training.max_step", "3"], "there is no key training.max_step; did you mean training.max_steps?"),
        (["--model.config.contrast_wieght", "0"], "there is no key model.config.contrast_wieght"),
        (["--data.datasets", "x"], "there is no key data.datasets; did you mean data.dataset?"),
        (["--trainer.max_steps", "3"], "there is no key trainer.max_steps"),
        (["--max_steps", "3"], "there is no key max_steps"),
        (["--training.max_steps"], "--training.max_steps: expected one argument"),
    ],
)
def test_flags_that_do_not_exist_are_named(config_file, flags, message):
    with pytest.raises(ValueError) as error:
        parse_training([str(config_file), *flags])
    assert message in str(error.value)


@pytest.mark.parametrize("key", ["training.max_step", "model.config.contrast_wieght", "datas.dataset"])
def test_keys_of_the_file_that_do_not_exist_are_named(config_file, tmp_path, key):
    section = 3
    for name in reversed(key.split(".")):
        section = {name: section}
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(section))
    with pytest.raises(ValueError, match=f"wrong.yaml: there is no key {key}"):
        parse_training([str(tmp_path / "wrong.yaml")])


def test_flags_override_the_file(config_file):
    flags = {
        "model.config.contrast_weight": "0",
        "data.sentences_per_clip": "5",
        "data.dataset": "{a: 3, b: 0.5}",
        "training.learning_rate": "1e-2",
        "training.eval_strategy": "no",
        "training.load_best_model_at_end": "False",
        "training.output_dir": "elsewhere",
    }
    words = [word for name, value in flags.items() for word in (f"--{name}", value)]
    model, data, training = parse_training([str(config_file), *words])
    assert model.config["contrast_weight"] == 0 and model.config["num_frames"] == 4
    assert data.sentences_per_clip == 5 and data.dataset == {"a": 3, "b": 0.5}
    assert training.learning_rate == 0.01 and training.max_steps == 6
    assert training.eval_strategy == "no" and training.load_best_model_at_end is False


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--model.config.kept_channels", "1.5", "`kept_channels` is a share in (0, 1], got 1.5"),
        ("--model.config.num_frames", "four", "`model.config.num_frames` must be of type int | None, got four"),
        ("--training.eval_strategy", "maybe", "`training.eval_strategy` must be one of no, steps, epoch, got maybe"),
        ("--training.report_to", "wandb", "`training.report_to` names wandb, which cannot be used"),
        ("--data.eval_split", "dev", "dev"),
        ("--data.dataset", "{a: 1, b: 0}", "the weights in `data.dataset` must be above 0"),
    ],
)
def test_values_that_cannot_be_are_named(config_file, script, tmp_path, flag, value, message):
    status, _, error = script("scripts/train.py", config_file, "--training.output_dir", tmp_path, flag, value)
    assert status == 2 and error.splitlines()[-1].startswith("cvls train: error: ") and message in error


@pytest.mark.slow
def test_a_dataset_without_the_columns_is_named(config_file, script, tmp_path):
    from datasets import Dataset

    Dataset.from_dict({"video_id": ["a"], "text": ["b"]}).to_parquet(tmp_path / "train.parquet")
    flags = ["--data.dataset", tmp_path, "--training.output_dir", tmp_path / "out"]
    status, _, error = script("scripts/train.py", config_file, *flags)
    assert status != 0
    assert "Traceback" not in error
    assert str(tmp_path) in error and "sentences" in error


@pytest.mark.slow
def test_a_checkpoint_of_another_type_is_named(script, tmp_path):
    from transformers import BertConfig, BertModel

    BertModel(BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=9)).save_pretrained(
        tmp_path
    )
    with pytest.raises(ValueError, match="'bert'.*'cvls'"):
        CVLSModel.from_pretrained(tmp_path)
    status, _, error = script("scripts/eval.py", "--model", tmp_path, "--dataset", tmp_path)
    assert status != 0 and "Traceback" not in error
    assert str(tmp_path) in error and "'bert'" in error


@pytest.mark.slow
@pytest.mark.skipif(not REAL_VIDEOS, reason="../shared/real_data/videos is absent")
def test_segment_script_on_real_videos(checkpoint, script, tmp_path):
    """The path from a real video to the overlay; what a model of a few steps finds there is no matter."""
    for video in REAL_VIDEOS:
        output = tmp_path / f"{video.stem}.mp4"
        sentences = ["the animal on the left", "the large red thing"]
        status, _, error = script("scripts/segment.py", video, *sentences, "--model", checkpoint, "--output", output)
        assert status == 0, error
        source, drawn = FrameReader(video), FrameReader(output)
        assert len(drawn) == len(source) and drawn.fps == pytest.approx(source.fps, rel=1e-3)
        assert drawn.width == source.width and drawn.height > source.height  # the legend stands below
