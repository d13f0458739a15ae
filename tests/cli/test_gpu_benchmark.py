"""benchmarks/gpu.py at a tiny size on CPU: every row is measured, and what there is no time for is said."""

import json

import pytest
import yaml

from factories import tiny_sections
from gpu import main


@pytest.fixture
def config_file(tmp_path):
    path, sections = tmp_path / "tiny.yaml", tiny_sections(tmp_path)
    sections["training"]["output_dir"] = str(tmp_path)
    path.write_text(yaml.safe_dump(sections))
    return str(path)


@pytest.mark.slow
def test_every_row_is_measured(config_file, tmp_path, capsys):
    output = tmp_path / "new" / "gpu.json"
    options = ["--device", "cpu", "--clips", "1", "--batches", "1", "--sentences", "1", "2", "--workers", "0"]
    main(["--config", config_file, *options, "--reads", "3", "--eager-only", "--output", str(output)])
    found, printed = json.loads(output.read_text()), capsys.readouterr().out
    rows = {row["what"]: row for row in found["rows"]}
    assert found["frames"] == 4 and found["height"] == 64
    for what in (
        "backbone alone, forward and backward",
        "training, 1 clips, eager, without checkpointing",
        "training, 1 clips, eager, with checkpointing",
        "inference, 1 sentences",
        "inference, 2 sentences",
        "data path, 0 processes",
        "... against the clips of the fastest training",
    ):
        assert rows[what]["value"] > 0, what
        assert f"| {what} | " in printed
    assert rows["peak memory of a training step, 1 clips, with checkpointing"]["note"] == "counted on CUDA only"


@pytest.mark.slow
def test_what_the_time_is_too_short_for_is_left_out(config_file, capsys):
    main(["--config", config_file, "--device", "cpu", "--seconds", "0", "--sentences", "1", "--batches", "1"])
    output = capsys.readouterr().out
    assert output.count("left out: the time is over") == 7
    assert "training, 4 clips, compiled, with checkpointing" in output
