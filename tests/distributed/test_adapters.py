"""An adapter (LoRA) trained by two processes: a whole checkpoint, from which the training goes on."""

import json

import pytest
import torch
import yaml
from transformers import AutoModel

from factories import random_batch, run_program
from modeling_cvls import CVLSModel

peft = pytest.importorskip("peft")


@pytest.mark.slow
def test_two_processes_train_an_adapter(make_model, processor, square_rows, tmp_path):
    (tmp_path / "dataset").mkdir()
    square_rows.to_parquet(tmp_path / "dataset" / "train-0.parquet")
    make_model().save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    training = {
        "output_dir": str(tmp_path / "out"), "lora_rank": 2, "learning_rate": 0.01, "max_steps": 2, "use_cpu": True,
        "per_device_train_batch_size": 1, "save_strategy": "steps", "save_steps": 1, "report_to": "none",
        "ddp_find_unused_parameters": False,
    }  # fmt: skip
    sections = {
        "model": {"checkpoint": str(tmp_path / "base")},
        "data": {"dataset": str(tmp_path / "dataset")},
        "training": training,
    }
    (tmp_path / "lora.yaml").write_text(yaml.safe_dump(sections))
    train = ["train", str(tmp_path / "lora.yaml")]
    again = [*train, "--training.max_steps", "3", "--training.resume_from_checkpoint", "true"]
    (tmp_path / "commands.json").write_text(json.dumps([train, again]))
    program, modules = "distributed/programs/commands_in_two.py", ("modeling_cvls.training", "peft")
    run_program(program, tmp_path / "commands.json", *modules)
    assert {path.name for path in (tmp_path / "out").glob("checkpoint-*")} == {f"checkpoint-{n}" for n in (1, 2, 3)}
    model, loading = AutoModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(loading.values())
    base = CVLSModel.from_pretrained(tmp_path / "base")
    beside = peft.PeftModel.from_pretrained(CVLSModel.from_pretrained(tmp_path / "base"), tmp_path / "out" / "adapter")
    batch = random_batch(clips=1, frames=2)
    with torch.no_grad():
        found, expected, before = (each.eval()(**batch).mask_logits for each in (model, beside, base))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found, before, atol=1e-3)
