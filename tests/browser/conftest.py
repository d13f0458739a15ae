"""A page that is served as in a Space, and clips for it."""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from factories import ROOT, declare_samples, tiny_config, tiny_tokenizer
from modeling_cvls import CVLSModel, CVLSProcessor, CVLSVideoProcessor
from modeling_cvls.synthetic import make_scene, render
from modeling_cvls.visualization import write_video


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Untrained, and always sure that the referent is there."""
    if "PAGE_MODEL" in os.environ:
        return Path(os.environ["PAGE_MODEL"]).resolve()
    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    model = CVLSModel(tiny_config())
    with torch.no_grad():
        model.presence[-1].bias.fill_(3)
    model.save_pretrained(folder)
    video_processor = CVLSVideoProcessor(size={"shortest_edge": 64, "longest_edge": 64})
    CVLSProcessor(video_processor, tiny_tokenizer()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A clip of 3 seconds, and four files that the page cannot take."""
    folder = tmp_path_factory.mktemp("clips")
    scene, _ = make_scene("test", 0, size=64, num_frames=12)
    write_video(folder / "good.mp4", render(scene)[0], fps=4)
    write_video(folder / "other.mp4", render(scene)[0][:6], fps=4)
    write_video(folder / "long.mp4", render(scene)[0], fps=1 / 6)
    (folder / "bomb.mp4").write_bytes(declare_samples((folder / "good.mp4").read_bytes(), 2_000_000_000))
    (folder / "notes.txt").write_text("no video")
    (folder / "renamed.mp4").write_text("no video either")
    with open(folder / "large.mp4", "wb") as file:
        file.truncate(51_000_000)
    return folder


@pytest.fixture(scope="module")
def server(checkpoint, tmp_path_factory):
    """The page's address, its process, and the folder for its temporary files."""
    space, temporary = tmp_path_factory.mktemp("space"), tmp_path_factory.mktemp("temporary")
    for file in ("scripts/demo.py", "cvls.py"):
        shutil.copy(ROOT / file, space)
    shutil.copytree(ROOT / "modeling_cvls", space / "modeling_cvls", ignore=shutil.ignore_patterns("__pycache__"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--model", str(checkpoint), "--port", str(port)]
    (space / "app.py").write_text(f'__import__("demo").main({options})\n')
    environment = {**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": "", "no_proxy": "127.0.0.1"}
    with open(space / "log", "w") as log:
        process = subprocess.Popen(
            [sys.executable, "app.py"], cwd=space, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        for _ in range(3000):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, (space / "log").read_text()
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}", process, temporary, space / "log"
    finally:
        process.kill()
        process.wait()
