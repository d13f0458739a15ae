"""Adapters (LoRA) through PEFT: as docs/guides/lora.md adds them, and by the keys of `cvls train`."""

import importlib.util
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

from factories import ROOT, random_batch
from modeling_cvls import CVLSModel
from modeling_cvls.data import ClipCollator, ClipSampler
from modeling_cvls.launch import check_checkpoint
from modeling_cvls.training import CVLSTrainer, CVLSTrainingArguments, DataArguments, ModelArguments, train

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


@pytest.mark.slow
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


# By the keys of `cvls train`

RANK = 3
HEADS = {
    "contrast", "alignment", "pixel_query", "token_query", "frame_query", "clip_query", "presence_query", "presence",
}  # fmt: skip


@pytest.fixture
def base(make_model, processor, tmp_path):
    """A checkpoint to start from."""
    make_model().save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def make_adapted(base, processor, square_rows, tmp_path):
    """A function: name of the output's folder and further arguments -> a trainer with an adapter."""

    def make(output: str, **arguments) -> CVLSTrainer:
        steps = {"max_steps": 3, "save_strategy": "steps", "save_steps": 1, "learning_rate": 0.01}
        args = CVLSTrainingArguments(
            output_dir=str(tmp_path / output), per_device_train_batch_size=2, use_cpu=True, report_to="none",
            disable_tqdm=True, **{"lora_rank": RANK, **steps, **arguments},
        )  # fmt: skip
        torch.manual_seed(5)  # of the matrices
        return CVLSTrainer(
            CVLSModel.from_pretrained(base), args, train_dataset=square_rows, eval_dataset=square_rows,
            data_collator=ClipCollator(processor, ClipSampler(4)), processing_class=processor,
        )  # fmt: skip

    return make


def by_hand() -> int:
    """The trained numbers of the tiny model: a matrix of (in x rank) and one of (rank x out) per linear layer, and the
    heads. All widths are 16 but the 32 in the middle of the segmenter's own feed-forward networks."""
    square, ff = RANK * (16 + 16), 2 * RANK * (16 + 32)
    encoder = 4 * square + 2 * square  # one layer: query, key, value and output, and a feed-forward network of 16
    own = 4 * square + ff
    adapter = encoder + 1 * own + 2 * 2 * own  # one temporal layer, and two layers of the fusion with two each
    linear = 16 * 16 + 16
    contrast = 3 * (16 * 12 + 12)  # of pixels, tokens and the sentence, to 12 channels
    queries = 4 * linear + (17 * 16 + 16)  # pixel, token, frame and clip; presence sees a similarity too
    presence = linear + (16 + 1)
    return adapter + 2 * contrast + queries + presence  # the alignment is as large as the contrast


@pytest.mark.slow
def test_what_is_trained_and_counted_by_hand(make_adapted, base):
    trainer = make_adapted("out")
    learning = {name: p for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert sum(p.numel() for p in learning.values()) == by_hand()
    assert {name.split(".")[0] for name in learning if "lora" not in name} == HEADS
    before = load_file(base / "model.safetensors")
    trainer.train()
    after = trainer.model.state_dict()
    assert after.keys() == before.keys()  # merged: there is no adapter any more
    moved = {name for name, value in before.items() if not torch.equal(after[name], value)}
    parts = {name.split(".")[0] for name in moved}
    assert {"language", "vision", "fusion", "presence"} <= parts <= {"language", "vision", "fusion"} | HEADS
    assert not [name for name in moved if "backbone" in name or "norm" in name.lower() or "embeddings" in name]
    assert all(name.endswith("weight") for name in moved if name.split(".")[0] not in HEADS)


@pytest.mark.slow
def test_a_checkpoint_is_the_merged_model_and_the_adapter_is_beside_it(make_adapted, base, tmp_path):
    trainer = make_adapted("out", eval_strategy="steps", eval_steps=1)
    trainer.train()
    assert [entry["step"] for entry in trainer.state.log_history if "eval_mean_iou" in entry] == [1, 2, 3]
    trainer.save_model()
    for folder in (tmp_path / "out" / "checkpoint-2", tmp_path / "out"):
        model, loading = AutoModel.from_pretrained(folder, output_loading_info=True)
        assert type(model) is CVLSModel and not any(loading.values())
        beside = peft.PeftModel.from_pretrained(CVLSModel.from_pretrained(base), folder / "adapter")
        assert beside.peft_config["default"].base_model_name_or_path == str(base)
        alone = AutoModel.from_pretrained(folder / "adapter")  # which puts it beside the checkpoint that it names
        torch.testing.assert_close(masks_of(alone), masks_of(beside), rtol=1e-5, atol=1e-5)
        with pytest.raises(ValueError, match="--model .*adapter holds an adapter .LoRA. alone"):
            check_checkpoint(folder / "adapter", "--model")
        torch.testing.assert_close(masks_of(model), masks_of(beside), rtol=1e-5, atol=1e-5)
        assert not torch.allclose(masks_of(model), masks_of(CVLSModel.from_pretrained(base)), atol=1e-3)
    torch.testing.assert_close(masks_of(trainer.model), masks_of(model), rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("more", [{}, {"ema_decay": 0.5, "bf16": True}])
def test_an_adapter_resumes_exactly(make_adapted, tmp_path, more):
    """Three steps, and two steps and one more: the same weights, and the same adapter."""
    make_adapted("whole", **more).train()
    make_adapted("again", **more).train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    for name in ("model.safetensors", "adapter/adapter_model.safetensors"):
        whole, again = (load_file(tmp_path / folder / "checkpoint-3" / name) for folder in ("whole", "again"))
        assert whole.keys() == again.keys()
        assert all(torch.equal(again[key], value) for key, value in whole.items()), name


@pytest.mark.slow
def test_the_best_adapter_is_loaded(make_adapted, tmp_path, monkeypatch):
    scores = iter([0.2, 0.9, 0.1])
    monkeypatch.setattr(
        "modeling_cvls.training.trainer.evaluate_segmenter", lambda *_, **__: {"mean_iou": next(scores)}
    )
    best = {"load_best_model_at_end": True, "metric_for_best_model": "eval_mean_iou", "greater_is_better": True}
    trainer = make_adapted("out", eval_strategy="steps", eval_steps=1, **best)
    trainer.train()
    saved = load_file(tmp_path / "out" / "checkpoint-2" / "model.safetensors")
    assert all(torch.equal(trainer.model.state_dict()[name], value) for name, value in saved.items())


def test_a_regular_expression_chooses_the_layers(make_adapted):
    trainer = make_adapted("out", lora_target_modules=r"fusion\..*\.(query|value)", lora_alpha=7)
    adapted = {name.split(".lora_A")[0] for name, _ in trainer.model.named_parameters() if ".lora_A" in name}
    layers = [f"fusion.{n}.{part}.attention" for n in (0, 1) for part in ("tokens_to_words", "sentence_to_tokens")]
    assert adapted == {f"{layer}.{name}" for layer in layers for name in ("query", "value")}
    assert trainer._adapter.peft_config["default"].lora_alpha == 7


def test_a_frozen_text_encoder_gets_no_adapter(make_adapted):
    names = [name for name, _ in make_adapted("out", freeze_text_encoder=True).model.named_parameters()]
    assert any("lora" in name for name in names) and not any("lora" in name and "language" in name for name in names)


@pytest.mark.slow
def test_what_does_not_fit_is_named(make_adapted, base, tmp_path):
    make_adapted("out", max_steps=1).train()
    checkpoint = str(tmp_path / "out" / "checkpoint-1")
    with pytest.raises(ValueError, match=r"has other matrices than this training: `training.lora_rank`"):
        make_adapted("other", lora_rank=2).train(resume_from_checkpoint=checkpoint)
    where = {"use_cpu": True, "report_to": "none", "resume_from_checkpoint": checkpoint}
    start = ModelArguments(checkpoint=str(base)), DataArguments(dataset="none")
    with pytest.raises(ValueError, match="it was written with `lora_rank`"):
        train(*start, CVLSTrainingArguments(output_dir=str(tmp_path / "new"), **where))
    shutil.rmtree(tmp_path / "out" / "checkpoint-1" / "adapter")
    with pytest.raises(ValueError, match="adapter_model.safetensors is missing; it was written without `lora_rank`"):
        train(*start, CVLSTrainingArguments(output_dir=str(tmp_path / "new"), lora_rank=3, **where))
    with pytest.raises(ValueError, match=r"`training.lora_target_modules` \('nothing'\) matches"):
        make_adapted("out", lora_target_modules="nothing")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lora_rank": 0}, "`training.lora_rank` is a number above 0, or null, got 0"),
        ({"lora_rank": 2, "lora_alpha": -1.0}, "`training.lora_alpha` is a number above 0, or null, got -1.0"),
        ({"lora_rank": 2, "fsdp": True}, "`training.lora_rank` works where each process holds all weights"),
    ],
)
def test_wrong_values_are_named(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        CVLSTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **arguments)


def test_a_checkpoint_is_needed(tmp_path):
    args = CVLSTrainingArguments(output_dir=str(tmp_path / "out"), use_cpu=True, report_to="none", lora_rank=2)
    with pytest.raises(ValueError, match=r"give `model.checkpoint`"):
        train(ModelArguments(), DataArguments(dataset="none"), args)


def test_a_missing_peft_is_named(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "peft" else find(name, *rest))
    with pytest.raises(ImportError, match=r'peft is not installed.*pip install "modeling-cvls\[peft\]"'):
        CVLSTrainingArguments(output_dir=str(tmp_path), use_cpu=True, lora_rank=2)
