"""The card that `cvls report` writes."""

import pytest
from transformers import TrainerState

import cvls


@pytest.mark.slow
def test_the_card_holds_the_command_that_measured(checkpoint, tmp_path):
    raw, dataset, metrics = tmp_path / "raw", tmp_path / "dataset", tmp_path / "metrics.json"
    TrainerState(log_history=[{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]).save_to_json(
        str(checkpoint / "trainer_state.json")
    )
    measure = (
        f"cvls eval --model {checkpoint} --dataset {dataset} --split test --protocol a2d --presence-threshold 0.25"
    )
    for command in (
        f"cvls synthesize --test 2 --output {raw}",
        f"cvls convert a2d_sentences --source {raw} --output {dataset}",
        f"{measure} --output {metrics}",
        f"cvls report --model {checkpoint} --dataset {dataset} --metrics {metrics} --output {tmp_path / 'report'}",
    ):
        cvls.main(command.split()[1:])
    assert f"`{measure}`" in (checkpoint / "README.md").read_text()
