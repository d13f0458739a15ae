"""Each of the five layouts from end to end, through the scripts: raw -> dataset -> training -> evaluation."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import yaml

from factories import ROOT, SHARED, tiny_sections
from modeling_cvls import synthetic

REAL_DAVIS = SHARED / "real_data" / "ref_davis"
# layout: training split, evaluated split, a result of its protocol
LAYOUTS = {
    "a2d_sentences": ("train", "test", "mAP"),
    "jhmdb_sentences": ("test", "test", "mAP"),
    "refer_youtube_vos": ("train", "valid", "J&F"),
    "ref_davis17": ("train", "valid", "J&F"),
    "mevis": ("train", "valid_u", "J&F"),
}
PROTOCOLS = {"a2d_sentences": "a2d", "jhmdb_sentences": "jhmdb"}


@pytest.fixture
def script(monkeypatch):
    """Runs a script of the repository as `python SCRIPT ARGUMENTS` does, in this process."""

    def run(path: str, *arguments) -> None:
        monkeypatch.setattr(sys, "argv", [path, *map(str, arguments)])
        monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
        runpy.run_path(str(ROOT / path), run_name="__main__")

    return run


def train(script, dataset: Path, split: str, folder: Path) -> Path:
    sections = tiny_sections(dataset, max_steps=2, report_to="none")
    sections["data"] |= {"train_split": split, "eval_split": None}
    sections["training"] |= {"eval_strategy": "no", "load_best_model_at_end": False, "save_strategy": "no"}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(sections))
    script("scripts/train.py", folder / "tiny.yaml", "--training.output_dir", folder / "model")
    return folder / "model"


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_raw_to_results(layout, script, tmp_path):
    train_split, eval_split, result = LAYOUTS[layout]
    write = getattr(synthetic, f"write_{layout}")
    write(tmp_path / "raw", {"train": 3, "validation": 2, "test": 2}, seed=3)
    script(f"dataset_scripts/{layout}.py", "--source", tmp_path / "raw", "--output", tmp_path / "dataset")
    model = train(script, tmp_path / "dataset", train_split, tmp_path)
    script(
        "scripts/eval.py", "--model", model, "--dataset", tmp_path / "dataset", "--split", eval_split,
        "--protocol", PROTOCOLS.get(layout, layout), "--output", tmp_path / "results.json",
    )  # fmt: skip
    results = json.loads((tmp_path / "results.json").read_text())
    assert 0 <= results[result] <= 1


@pytest.mark.slow
@pytest.mark.skipif(not REAL_DAVIS.exists(), reason="../shared/real_data/ref_davis is absent")
def test_real_davis_videos(script, tmp_path):
    """Twelve real videos, converted, trained on and evaluated by the protocol of Ref-DAVIS17."""
    script("dataset_scripts/ref_davis17.py", "--source", REAL_DAVIS, "--output", tmp_path / "dataset")
    model = train(script, tmp_path / "dataset", "valid", tmp_path)
    script(
        "scripts/eval.py", "--model", model, "--dataset", tmp_path / "dataset", "--split", "valid",
        "--protocol", "ref_davis17", "--output", tmp_path / "results.json",
    )  # fmt: skip
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["J&F"] == pytest.approx((results["J"] + results["F"]) / 2)
