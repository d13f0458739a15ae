"""DDP and FSDP2 with two processes on the CPU: the same training as in one, and a checkpoint that one process loads."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest
import torch
from transformers import AutoModel

from factories import ROOT

PROGRAM = ROOT / "tests" / "distributed" / "programs" / "engines.py"
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(scope="module")
def in_one_process():
    """The losses of both processes' clips, and the model after them, by one process."""
    spec = importlib.util.spec_from_file_location("engines", PROGRAM)
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    model = program.new_model()
    optimizer = program.optimizer_of(model)
    losses = []
    for step in range(program.STEPS):
        optimizer.zero_grad()
        both = [model(**program.batch_of(step, rank)).loss for rank in range(2)]
        (sum(both) / 2).backward()
        optimizer.step()
        losses.append([loss.item() for loss in both])
    return losses, model


@pytest.fixture(scope="module")
def in_two_processes(tmp_path_factory):
    """The folder of what both engines gave."""
    folder = tmp_path_factory.mktemp("engines")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    subprocess.run([*torchrun, PROGRAM, folder], env=environment, check=True, timeout=240)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ddp", "fsdp"])
def test_two_processes_train_as_one(in_one_process, in_two_processes, engine):
    """Also a step without any referent; with FSDP2, the last step is repeated from a checkpoint."""
    expected, trained = in_one_process
    reports = [json.loads((in_two_processes / engine / f"{rank}.json").read_text()) for rank in range(2)]
    for step, of_step in enumerate(expected):
        assert [report["losses"][step] for report in reports] == pytest.approx(of_step, rel=1e-4)
    if engine == "fsdp":
        assert [report["resumed"][0] for report in reports] == pytest.approx(expected[-1], rel=1e-4)
    assert (in_two_processes / engine / "model" / "model.safetensors").is_file()
    loaded = AutoModel.from_pretrained(in_two_processes / engine / "model")
    for (name, found), value in zip(loaded.state_dict().items(), trained.state_dict().values(), strict=True):
        torch.testing.assert_close(found, value, **TOLERANCE, msg=name)
