"""The ablation: tables against sums by hand, runs that differ in their switch alone, resuming, errors."""

import io
import json
import shutil
import statistics
import sys
import threading

import pytest
import torch
import yaml
from datasets import Dataset
from PIL import Image
from transformers import TrainingArguments, set_seed

import ablate
import cvls
from ablate import Ablation, tables
from factories import ROOT, tiny_config, tiny_sections, tiny_tokenizer
from modeling_cvls import CVLSConfig, CVLSModel, CVLSProcessor, CVLSVideoProcessor
from modeling_cvls.data import FEATURES, ClipCollator, ClipSampler
from modeling_cvls.training import CVLSTrainer, parse_training


def metrics(iou, accuracy):
    return {
        "mean_iou": iou,
        "overall_iou": iou / 2,
        "precision@0.5": 0.5,
        "referent_accuracy": accuracy,
        "no_referent_accuracy": 0.25,
        "per_kind": {"appearance": {"referent_accuracy": accuracy - 0.1}, "none": {"no_referent_accuracy": 0.25}},
    }


def test_tables_hold_means_deviations_and_paired_differences(tmp_path):
    found = {("a", 0): (0.50, 0.80), ("a", 1): (0.52, 0.84), ("b", 0): (0.57, 0.90), ("b", 1): (0.55, 0.88)}
    runs = [
        {"variant": variant, "seed": seed, "metrics": {"test": metrics(*values)}}
        for (variant, seed), values in found.items()
    ]
    config = {"train": "t.yaml", "output": "o", "scenes": {}, "seeds": [0, 1], "variants": {"a": {}, "b": {}}}
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump({**config, "comparisons": [["b", "a"]], "test_splits": ["test"]}))
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in tables(Ablation.read(path), runs).splitlines()]
    head = rows[2]
    assert head == ["", "mean IoU", "overall IoU", "P@0.5", "accuracy", "appearance", "rightly empty", "seeds"]
    by_name = {row[0]: dict(zip(head, row, strict=True)) for row in rows if len(row) == len(head) and row[0]}
    deviation = 100 * statistics.stdev([0.80, 0.84])
    assert by_name["a"]["accuracy"] == f"82.0 ± {deviation:.1f}" == "82.0 ± 2.8"
    assert by_name["b"]["mean IoU"] == "56.0 ± 1.4" and by_name["b"]["seeds"] == "2"
    # seed by seed: 10 and 4 points of accuracy, 7 and 3 of IoU
    assert by_name["b − a"]["accuracy"] == "7.0 ± 4.2"
    assert by_name["b − a"]["mean IoU"] == "5.0 ± 2.8"
    assert by_name["b − a"]["appearance"] == "7.0 ± 4.2"


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"contrast_weight": 0}, {"channel_filter": False, "hard_instances": False}])
def test_runs_of_a_seed_see_the_same_clips_in_the_same_order(tmp_path, changes):
    """What a variant draws besides must not change the order of the data, nor the clips."""
    seen = []

    class Collator(ClipCollator):
        def __call__(self, rows):
            batch = super().__call__(rows)
            seen[-1].append(([row["video_id"] for row in rows], batch["pixel_values_videos"], batch["input_ids"]))
            return batch

    frames = [{"bytes": _png(value), "path": None} for value in range(6)]
    row = {
        "video": None, "frames": frames, "num_frames": 6, "height": 32, "width": 32, "fps": 8.0,
        "annotated_frames": [0, 3], "evaluation_frames": None, "instance_ids": ["0"], "masks": [[None], [None]],
    }  # fmt: skip
    sentences = [{"sentence_id": str(n), "text": text, "instances": [0], "kind": None}
                 for n, text in enumerate(["the red circle", "the blue one on the left", "a dog"])]  # fmt: skip
    rows = [{**row, "video_id": str(n), "sentences": sentences} for n in range(7)]
    for flags in ({}, changes):
        seen.append([])
        set_seed(3)
        model = CVLSModel(tiny_config(**flags))
        processor = CVLSProcessor(CVLSVideoProcessor(size={"shortest_edge": 32, "longest_edge": 32}), tiny_tokenizer())
        arguments = TrainingArguments(
            str(tmp_path), max_steps=5, per_device_train_batch_size=2, seed=3, use_cpu=True, report_to="none",
            save_strategy="no", remove_unused_columns=False, disable_tqdm=True,
        )  # fmt: skip
        collator = Collator(processor, ClipSampler(4, 2, 0.5, seed=3))
        trainer = CVLSTrainer(
            model=model, args=arguments, train_dataset=Dataset.from_list(rows, features=FEATURES),
            data_collator=collator, processing_class=processor,
        )  # fmt: skip
        trainer.train()
    first, second = seen
    assert len(first) >= 5
    for (ids, pixels, words), (other_ids, other_pixels, other_words) in zip(first, second, strict=True):
        assert ids == other_ids
        assert torch.equal(pixels, other_pixels) and torch.equal(words, other_words)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("ablation_*.yaml")), ids=lambda path: path.stem)
def test_shipped_variants_switch_what_their_names_say(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    ablation = Ablation.read(path)
    for name, switches in ablation.variants.items():
        flags = {**ablation.flags, **switches, "training.use_cpu": True}
        words = [word for key, value in flags.items() for word in (f"--{key}", str(value))]
        model, _, training = parse_training([ablation.train, *words])
        config = CVLSConfig(**model.config)
        assert training.max_steps > 0
        assert (config.contrast_weight == 0) == name.startswith("baseline")
        if not name.startswith("baseline"):
            assert config.channel_filter == (name.startswith("full") or "LCF" in name)
            assert config.hard_instances == (name.startswith("full") or "RHIC" in name)
            assert config.across_frames == ("same frame" not in name)


def _png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((32, 32)).rotate(37 * value).convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.slow
def test_ablation_runs_resumes_and_reports(tmp_path, monkeypatch):
    """Two variants from scenes to tables; the second call does nothing anew, a run that is missing is made.

    The scenes are made in a process of their own, as all is that an ablation runs; the rest in this one, in turns."""
    sections = tiny_sections(tmp_path / "unused", max_steps=2, eval_strategy="no", save_steps=1, report_to="none")
    sections["training"].update(load_best_model_at_end=False)
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(sections))
    config = {
        "train": str(tmp_path / "train.yaml"),
        "output": str(tmp_path / "out"),
        "scenes": {"train": 4, "test": 2},
        "seeds": [0],
        "more_seeds": {"base": [1]},
        "test_splits": ["test"],
        "variants": {"base": {"model.config.contrast_weight": 0}, "full": {}},
        "comparisons": [["full", "base"]],
        "jobs": 2,
    }
    path = tmp_path / "ablation.yaml"
    path.write_text(yaml.safe_dump(config))

    called, turns, call = [], threading.Lock(), ablate.call

    def call_here(arguments, log, environment=None):
        called.append(arguments[0])
        if arguments[0] == "synthesize":
            call(arguments, log, environment)
        else:
            assert arguments[0] == "convert" or environment["OMP_NUM_THREADS"] == "1"
            with turns:
                cvls.main(arguments)

    monkeypatch.setattr(ablate, "call", call_here)
    monkeypatch.setattr(sys, "argv", ["ablate.py", str(path)])
    monkeypatch.chdir(ROOT)
    ablate.main()
    assert called[:2] == ["synthesize", "convert"] and sorted(called[2:]) == 3 * ["eval"] + 3 * ["train"]
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [(run["variant"], run["seed"]) for run in results["runs"]] == [("base", 0), ("base", 1), ("full", 0)]
    assert all(set(run["machine"]) >= {"commit", "cores", "torch"} for run in results["runs"])
    assert "full − base" in (tmp_path / "out" / "results.md").read_text()
    assert (tmp_path / "out" / "results.png").read_bytes()[:4] == b"\x89PNG"
    folders = {name: tmp_path / "out" / "runs" / name / "seed0" for name in ("base", "full")}
    weights = {
        name: json.loads((f / "checkpoint" / "config.json").read_text())["contrast_weight"]
        for name, f in folders.items()
    }
    assert weights == {"base": 0, "full": 0.3}

    # stopped after its training's first checkpoint: it goes on from there, and the other run is left alone
    (folders["full"] / "run.json").unlink()
    shutil.rmtree(folders["full"] / "checkpoint" / "checkpoint-2")
    before = (folders["base"] / "run.json").stat().st_mtime_ns
    called.clear()
    ablate.main()
    assert called == ["train", "eval"]
    assert (folders["base"] / "run.json").stat().st_mtime_ns == before
    assert json.loads((folders["full"] / "run.json").read_text())["resumed"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sedes": [1]}, "unknown keys ['sedes']"),
        ({"comparisons": [["full", "nothing"]]}, "`comparisons` names nothing"),
        ({"more_seeds": {"nothing": [1]}}, "`more_seeds` names nothing"),
        ({"dataset": "d"}, "either `scenes`, to make them, or the `dataset`"),
    ],
)
def test_wrong_configs_are_named(tmp_path, change, message):
    config = {"train": "t", "output": "o", "scenes": {}, "seeds": [0], "variants": {"full": {}}, **change}
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(config))
    with pytest.raises(ValueError, match=message.replace("[", r"\[").replace("]", r"\]")):
        Ablation.read(path)
