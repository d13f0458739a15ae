"""Adapters (LoRA) through PEFT, as docs/guides/lora.md adds them: train, save, load, merge."""

import re
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

from factories import ROOT, random_batch
from modeling_cvls import CVLSModel

peft = pytest.importorskip("peft")
CHECKPOINT = ROOT / "tests" / "checkpoint_0_1"


@pytest.fixture
def adapted(tmp_path, monkeypatch):
    """The model that the guide's first example makes, from the checkpoint of the tests."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(CHECKPOINT, tmp_path / "outputs" / "demo" / "checkpoint")
    page = (ROOT / "docs" / "guides" / "lora.md").read_text(encoding="utf-8")
    names: dict = {}
    exec(compile(re.search(r"```python\n(.*?)```", page, re.DOTALL).group(1), "lora.md", "exec"), names)
    return names["model"]


def masks_of(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**random_batch(clips=1, frames=2)).mask_logits


@pytest.mark.filterwarnings("ignore:`.*gradient_checkpointing:FutureWarning")
def test_train_save_load_and_merge(adapted, tmp_path):
    untrained = CVLSModel.from_pretrained(CHECKPOINT)
    assert torch.equal(masks_of(adapted), masks_of(untrained))  # an adapter starts as nothing
    buffers = {name: value.clone() for name, value in adapted.named_buffers()}
    batch = random_batch(clips=2, frames=2)
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=3e-3)
    adapted.train()
    adapted.gradient_checkpointing_enable()
    losses = []
    for _ in range(6):
        loss = adapted(**batch).loss
        loss.backward()
        assert all(p.grad is not None for p in adapted.parameters() if p.requires_grad)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(torch.equal(value, buffers[name]) for name, value in adapted.named_buffers())
    base = untrained.state_dict()
    for name, value in adapted.get_base_model().state_dict().items():
        plain = name.replace(".base_layer", "")
        if plain in base and "modules_to_save" not in name:
            assert torch.equal(value, base[plain]), name

    expected = masks_of(adapted)
    adapted.save_pretrained(tmp_path / "adapter")
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert saved and not any("backbone" in name or "word_embeddings" in name for name in saved)
    loaded = peft.PeftModel.from_pretrained(CVLSModel.from_pretrained(CHECKPOINT), tmp_path / "adapter")
    assert torch.equal(masks_of(loaded), expected)
    loaded.merge_and_unload().save_pretrained(tmp_path / "merged")
    merged = AutoModel.from_pretrained(tmp_path / "merged")
    assert type(merged) is CVLSModel and set(merged.state_dict()) == set(base)
    torch.testing.assert_close(masks_of(merged), expected, rtol=1e-4, atol=1e-4)
