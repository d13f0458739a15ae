"""A checkpoint that version 0.1.0 wrote, before any name in the code changed, still gives its own masks."""

import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoProcessor

import modeling_cvls  # noqa: F401  registers the model and the processor
from factories import ROOT

CHECKPOINT = ROOT / "tests" / "checkpoint_0_1"


def test_the_masks_are_bit_identical():
    expected = load_file(CHECKPOINT / "expected.safetensors")
    model, loading = AutoModel.from_pretrained(CHECKPOINT, output_loading_info=True)
    assert not any(loading[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    processor = AutoProcessor.from_pretrained(CHECKPOINT)
    sentences = ["the small red circle", "a large blue square moving left"]
    with torch.no_grad():
        outputs = model.eval()(**processor(videos=expected["frames"].numpy(), text=sentences))
    assert 0.2 < (expected["mask_logits"] > 0).float().mean() < 0.8
    assert torch.equal(outputs.mask_logits > 0, expected["mask_logits"] > 0)
    for name in ("mask_logits", "presence_logits", "similarity"):  # another processor may round otherwise
        torch.testing.assert_close(outputs[name], expected[name], rtol=1e-5, atol=1e-5)
