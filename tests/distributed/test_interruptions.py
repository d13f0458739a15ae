"""Trainings that are killed, stopped by signals, run out of disk, or are started twice: nothing is lost."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

import cvls
from factories import ROOT, tiny_sections
from modeling_cvls.synthetic import write_a2d_sentences

SAVES = [["file", share] for share in (0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)]
HALVES = [
    ["half", name] for name in ("model.safetensors", "training_weights.safetensors", "optimizer.pt", "rng_state.pth")
]
STEPS = [["step", step] for step in (1, 2, 3, 5, 6)]
SIGNALS = [["SIGTERM", 3], ["SIGUSR1", 4], ["evaluation", 2]]


def run(*command) -> subprocess.CompletedProcess:
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    threads = str(torch.get_num_threads())  # the same sums, to the bit
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "PYTHONPATH": path, "TOKENIZERS_PARALLELISM": "false"}
    return subprocess.run(
        [sys.executable, *map(str, command)], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1500
    )


@pytest.fixture(scope="module")
def config_file(tmp_path_factory) -> Path:
    """Six steps, three saves, three evaluations, averaged weights, one checkpoint besides the best one."""
    folder = tmp_path_factory.mktemp("interruptions")
    write_a2d_sentences(folder / "raw", {"train": 7, "validation": 1}, seed=5)
    cvls.main(["convert", "a2d_sentences", "--source", str(folder / "raw"), "--output", str(folder / "dataset")])
    sections = tiny_sections(
        folder / "dataset", eval_steps=2, save_steps=2, save_total_limit=1, report_to="none", ema_decay=0.5
    )
    (folder / "tiny.yaml").write_text(yaml.safe_dump(sections))
    return folder / "tiny.yaml"


def losses(folder: Path) -> dict[int, float]:
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return {entry["step"]: entry["loss"] for entry in history if "loss" in entry}


def evaluations(folder: Path) -> dict[int, float]:
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return {entry["step"]: entry["eval_mean_iou"] for entry in history if "eval_mean_iou" in entry}


def assert_same_training(folder: Path, whole: Path) -> None:
    """The last weights to the bit, and what was logged on the way; the first steps of a run that left no checkpoint are
    logged by the one that went on."""
    found, expected = load_file(folder / "model.safetensors"), load_file(whole / "model.safetensors")
    assert found.keys() == expected.keys()
    assert all(found[name].equal(value) for name, value in expected.items())
    assert losses(folder) == losses(whole) and evaluations(folder) == evaluations(whole)
    assert not (folder / "_unfinished").exists()


@pytest.mark.slow
def test_a_training_that_is_interrupted_goes_on_to_the_same_weights(config_file, tmp_path):
    moments = [*SAVES, *HALVES, *STEPS, *SIGNALS]
    (tmp_path / "moments.json").write_text(json.dumps(moments))
    program = ROOT / "tests" / "distributed" / "programs" / "interrupt_trainings.py"
    done = run(program, config_file, tmp_path / "runs", tmp_path / "moments.json")
    assert done.returncode == 0, done.stderr[-3000:]
    (whole, _), *statuses = json.loads(done.stdout.splitlines()[-1])
    assert whole == 0, done.stderr[-3000:]
    for number, ((kind, value), (status, again)) in enumerate(zip(moments, statuses, strict=True)):
        ended = {"SIGTERM": 128 + signal.SIGTERM, "SIGUSR1": 128 + signal.SIGUSR1, "evaluation": 128 + signal.SIGTERM}
        assert status == ended.get(kind, -signal.SIGKILL), (kind, value)
        assert again == 0, (kind, value, done.stderr[-3000:])
        assert_same_training(tmp_path / "runs" / str(number), tmp_path / "runs" / "whole")


@pytest.mark.slow
def test_a_full_disk_is_named_and_the_last_checkpoint_stays(config_file, tmp_path):
    """A file system in memory that holds one checkpoint and a half; then a larger one, and the training goes on."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["train", str(config_file), "--training.save_total_limit", "3", "--training.output_dir"]
    cvls.main([*command, str(tmp_path / "whole")])
    size = sum(path.stat().st_size for path in (tmp_path / "whole" / "checkpoint-2").iterdir())
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={int(1.5 * size)}", "tmpfs", disk]).returncode:
        pytest.skip("a file system can be mounted by root alone")
    try:
        stopped = run("-m", "cvls", *command, disk / "run")
        assert stopped.returncode == 2 and "Traceback" not in stopped.stderr
        assert "the disk is full: a checkpoint takes about" in stopped.stderr.splitlines()[-1]
        names = {path.name for path in (disk / "run").iterdir()}
        assert "checkpoint-2" in names and not names & {"checkpoint-4", "_unfinished"}
        subprocess.run(["mount", "-o", f"remount,size={10 * size}", disk], check=True)
        cvls.main([*command, str(disk / "run"), "--training.resume_from_checkpoint", "true"])
        assert_same_training(disk / "run", tmp_path / "whole")
    finally:
        subprocess.run(["umount", disk], check=True)
