"""Two machines with a shared file system, played by two nodes of `torchrun` on loopback with one process each, and by
two processes of one group."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from PIL import Image

import cvls
from factories import ROOT, run_program, tiny_config, tiny_tokenizer
from modeling_cvls import CVLSModel, CVLSProcessor, CVLSVideoProcessor
from modeling_cvls.synthetic import write_a2d_sentences
from modeling_cvls.visualization import write_video

SENTENCES = ["the red circle", "the blue square"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Untrained, with a bias under which masks are neither empty nor full."""
    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    model = CVLSModel(tiny_config()).eval()
    with torch.no_grad():
        model.mask_bias.fill_(0.05)
    model.save_pretrained(folder)
    processor = CVLSProcessor(CVLSVideoProcessor(size={"shortest_edge": 64, "longest_edge": 64}), tiny_tokenizer())
    processor.save_pretrained(folder)
    return folder


def run_on_two_nodes(*command, **environment) -> list[subprocess.CompletedProcess]:
    """Runs a command (of Python, as after `python`) on both nodes; what became of each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nodes = []
    for rank in range(2):
        torchrun = ["-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", "--node-rank", str(rank)]
        address = ["--master-addr", "127.0.0.1", "--master-port", str(port)]
        nodes.append(
            subprocess.Popen(
                [sys.executable, *torchrun, *address, *map(str, command)],
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    try:
        outputs = [node.communicate(timeout=240) for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    return [
        subprocess.CompletedProcess(node.args, node.returncode, *output)
        for node, output in zip(nodes, outputs, strict=True)
    ]


@pytest.mark.slow
def test_evaluation_gives_the_same_numbers(checkpoint, tmp_path):
    write_a2d_sentences(tmp_path / "raw", {"test": 5}, seed=5)
    cvls.main(["convert", "a2d_sentences", "--source", str(tmp_path / "raw"), "--output", str(tmp_path / "dataset")])
    evaluate = ["eval", "--model", checkpoint, "--dataset", tmp_path / "dataset", "--split", "test", "--output"]
    cvls.main([*map(str, evaluate), str(tmp_path / "one.json")])
    for node in run_on_two_nodes("-m", "cvls", *evaluate, tmp_path / "two.json"):
        assert node.returncode == 0, node.stderr[-3000:]
    one, two = (json.loads((tmp_path / name).read_text()) for name in ("one.json", "two.json"))
    assert one.keys() == two.keys() and one["num_pairs"] == two["num_pairs"] > 0
    numbers = {name: value for name, value in one.items() if isinstance(value, int | float)}
    assert {name: two[name] for name in numbers} == pytest.approx(numbers, abs=1e-6)


@pytest.mark.slow
def test_a_folder_is_shared_out_and_a_killed_share_is_done_by_the_next_run(checkpoint, tmp_path):
    videos = tmp_path / "videos"
    names = [f"clip{number}" for number in range(6)]
    for number, name in enumerate(names):
        frames = np.random.default_rng(number).integers(0, 255, (5, 48, 64, 3), dtype=np.uint8)
        write_video(videos / f"{name}.mp4", frames, 8)

    def segment(output):
        options = ["--model", checkpoint, "--output", tmp_path / output, "--presence-threshold", 0, "--cutouts"]
        return [*map(str, [videos, *SENTENCES, *options])]

    def pictures(output):
        paths = sorted((tmp_path / output).rglob("*.png"))
        return {path.relative_to(tmp_path / output): np.asarray(Image.open(path)) for path in paths}

    cvls.main(["segment", *segment("one")])
    expected = pictures("one")
    assert len(expected) == 6 * 5 * 2
    runs = [
        [segment(name), str(tmp_path / name), killed] for name, killed in (("two", None), ("bad", 1), ("bad", None))
    ]
    (tmp_path / "runs.json").write_text(json.dumps(runs))
    program = "distributed/programs/counted_segment.py"
    both, one_killed, again = json.loads(run_program(program, tmp_path / "runs.json").splitlines()[-1])

    statuses, begun, _ = both
    assert statuses == [0, 0]
    assert sorted(name for _, name in begun) == names and {rank for rank, _ in begun} == {0, 1}
    statuses, begun, files = one_killed
    assert statuses[1] != 0
    first, done = {name for _, name in begun}, {file[:-4] for file in files if file.endswith(".mp4")}
    assert {"clip0", "clip1"} <= done <= first < set(names)
    statuses, begun, _ = again
    assert statuses == [0, 0]
    assert sorted(name for _, name in begun) == sorted(set(names) - done)
    for output in ("two", "bad"):
        found = pictures(output)
        assert found.keys() == expected.keys()
        assert all(np.array_equal(found[name], picture) for name, picture in expected.items())


@pytest.mark.parametrize("name", ["ddp", "fsdp2"])
def test_the_recipes_are_configurations_of_accelerate(name):
    config = load_config_from_file(str(ROOT / "configs" / "accelerate" / f"{name}.yaml"))
    assert config.num_machines == 2 and config.num_processes == 16 and config.mixed_precision == "bf16"
    if name == "fsdp2":
        assert config.fsdp_config["fsdp_version"] == 2
