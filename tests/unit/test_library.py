"""What a user of transformers, accelerate and torch expects of a model: loading, attention, states, memory, graphs."""

import pickle

import pytest
import torch
from accelerate import FullyShardedDataParallelPlugin, cpu_offload, disk_offload
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoModel, Trainer, TrainingArguments
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from factories import ROOT, random_batch, tiny_config
from modeling_cvls import CVLSModel, CVLSOutput

CHECKPOINT = ROOT / "tests" / "checkpoint_0_1"
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
STATES = ("vision", "temporal", "text", "fusion")
BACKBONES = {
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 8, 16, 16], "depths": [2, 1, 1, 1], "layer_type": "basic"},
    "convnext": {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]},
    "swin": {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 2, "image_size": 64},
    "dinov2": {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "patch_size": 16, "image_size": 64},
}
TEXT_ENCODERS = {
    "roberta": {"vocab_size": 17, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2},
    "distilbert": {"vocab_size": 17, "dim": 8, "n_layers": 1, "n_heads": 2, "hidden_dim": 8},
    "bart": {
        "vocab_size": 17, "d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8, "max_position_embeddings": 16,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2,
    },
}  # fmt: skip


def parts(vision: str = "resnet", text: str | None = None) -> dict:
    """Arguments of `tiny_config` with another backbone or text encoder."""
    stages = {"out_features": ["stage1", "stage2", "stage3", "stage4"]}
    config = {"backbone_config": AutoConfig.for_model(vision, **BACKBONES[vision], **stages)}
    if text is not None:
        config["text_config"] = AutoConfig.for_model(text, **TEXT_ENCODERS[text])
    return config


def outputs_of(model: nn.Module, batch: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    with torch.no_grad():
        output = model(**batch)
    return [output.mask_logits, output.presence_logits, output.similarity]


def inputs_alone(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    truth = ("instance_masks", "annotated_frames", "annotated_instances", "referents")
    return {name: value for name, value in batch.items() if name not in truth}


def test_each_parameter_can_be_divided(make_model):
    """Engines that shard parameters do so along the first dimension, block by block."""
    model = make_model()
    assert all(parameter.ndim > 0 for parameter in model.parameters())
    classes = {type(module).__name__ for module in model.modules()}
    assert {"CVLSLayer", "BertLayer"} <= set(model._no_split_modules) <= classes


@pytest.mark.parametrize(("vision", "text"), [("resnet", "roberta"), ("convnext", "distilbert"), ("swin", "bart")])
def test_accelerate_finds_what_to_shard(make_model, vision, text):
    """The configuration of FSDP2 that comes with the project, without the processes."""
    settings = load_config_from_file(str(ROOT / "configs" / "accelerate" / "fsdp2.yaml")).fsdp_config
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=settings["fsdp_version"], auto_wrap_policy=settings["fsdp_auto_wrap_policy"].lower()
    )
    model = make_model(**parts(vision, text))
    wraps = fsdp2_prepare_auto_wrap_policy(plugin, model)
    units = {type(module).__name__ for module in model.modules() if wraps(module)}
    assert units == set(model._no_split_modules)


@pytest.mark.slow
def test_weights_of_earlier_checkpoints(tmp_path):
    """Numbers without a dimension and a pooler, as version 0.1.0 wrote them: by `from_pretrained`, by `load_state_dict`
    as the trainer resumes, and saved again."""
    before = load_file(CHECKPOINT / "model.safetensors")
    assert before["mask_bias"].ndim == 0 and any("pooler" in name for name in before)
    model, loading = AutoModel.from_pretrained(CHECKPOINT, output_loading_info=True)
    assert not any(loading.values())
    other = CVLSModel(model.config)
    other.load_state_dict(before, strict=True)
    model.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name].view(value.shape))
        assert torch.equal(value, other.state_dict()[name]) and torch.equal(value, again.state_dict()[name])


def test_tied_weights_of_the_text_encoder_stay_tied(make_model, tmp_path):
    model, batch = make_model(**parts(text="bart")), random_batch()
    encoder = model.language.encoder
    nn.init.normal_(encoder.shared.weight)
    model.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path).eval()
    assert again.language.encoder.encoder.embed_tokens.weight is again.language.encoder.shared.weight
    for found, expected in zip(outputs_of(again, batch), outputs_of(model, batch), strict=True):
        assert torch.equal(found, expected)


def gradients(model: CVLSModel, batch: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], int]:
    """Gradients of the loss, and the bytes that were kept for the backward pass, weights excepted."""
    kept = {}
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    model.zero_grad()
    torch.manual_seed(0)  # dropout
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(**batch).loss
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}, sum(kept.values())


@pytest.fixture
def one_thread():
    """Several threads add numbers up in an order that changes from run to run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.parametrize("vision", BACKBONES)
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_:FutureWarning")
def test_gradient_checkpointing(make_model, vision, one_thread):
    """The same gradients and running statistics, with less memory, whether the backbone knows of it or not."""
    batch = random_batch(frames=2)
    models = [make_model(**parts(vision)).train() for _ in range(2)]
    models[1].gradient_checkpointing_enable()
    for _ in range(2):
        (expected, much), (found, little) = (gradients(model, batch) for model in models)
        assert set(found) == set(expected)
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, **TOLERANCE, msg=name)
        assert little < 0.75 * much
    for (name, expected), found in zip(models[0].named_buffers(), models[1].buffers(), strict=True):
        torch.testing.assert_close(found, expected, msg=name)
    models[1].gradient_checkpointing_disable()
    assert gradients(models[1], batch)[1] == pytest.approx(much, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("offload", ["cpu", "disk"])
def test_weights_may_lie_elsewhere(make_model, tmp_path, offload):
    model, batch = make_model(), random_batch()
    expected = outputs_of(model, batch)
    if offload == "cpu":
        cpu_offload(model, torch.device("cpu"))
    else:
        disk_offload(model, str(tmp_path), torch.device("cpu"))
    assert model.vision.position.project.weight.device.type == "meta"
    for found, value in zip(outputs_of(model, batch), expected, strict=True):
        torch.testing.assert_close(found, value, **TOLERANCE)


@pytest.mark.skipif(not hasattr(torch.ao.quantization, "quantize_dynamic"), reason="this torch has no quantization")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_weights_may_be_integers(make_model):
    """Weights in 8 bits, by torch's dynamic quantization: nothing takes its dtype from a weight."""
    model, batch = make_model(), random_batch()
    expected = outputs_of(model, batch)
    quantized = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    for found, value in zip(outputs_of(quantized, batch), expected, strict=True):
        assert found.dtype == torch.float32 and (found - value).abs().mean() < 0.1 * value.abs().mean()


def test_states_of_each_component(make_model):
    model = make_model()
    model.set_attn_implementation("eager")
    batch = inputs_alone(random_batch(clips=2, frames=4, sentences=3, words=5))
    plain = model(**batch)
    assert all(getattr(plain, f"{part}_{kind}") is None for part in STATES for kind in ("hidden_states", "attentions"))
    output = model(**batch, output_hidden_states=True, output_attentions=True)
    tokens = 4 * 8 * 8
    shapes = {name: [tuple(state.shape) for state in output[f"{name}_hidden_states"]] for name in STATES}
    assert shapes["vision"] == [(8, 8, 16, 16), (8, 8, 16, 16), (8, 16, 8, 8), (8, 16, 4, 4)]
    assert shapes["temporal"] == [(2, tokens, 16)] * 2
    assert shapes["text"] == [(6, 5, 16)] * 2
    assert shapes["fusion"] == [(6, tokens, 16)] * 3
    shapes = {name: [tuple(state.shape) for state in output[f"{name}_attentions"]] for name in STATES[1:]}
    assert shapes["temporal"] == [(2, 2, tokens, tokens)]
    assert shapes["text"] == [(6, 2, 5, 5)]
    assert shapes["fusion"] == [(6, 2, tokens, 6), (6, 2, 1, tokens)] * 2
    for name in STATES[1:]:
        for weights in output[f"{name}_attentions"]:
            torch.testing.assert_close(weights.sum(dim=-1), torch.ones(weights.shape[:-1]))
    model.config.output_hidden_states = model.config.output_attentions = True
    again = model(**batch)
    for name in STATES:
        for found, expected in zip(again[f"{name}_hidden_states"], output[f"{name}_hidden_states"], strict=True):
            assert torch.equal(found, expected)


def test_states_of_clips_of_different_sizes_are_refused(make_model):
    batch = inputs_alone(random_batch())
    batch["frame_sizes"] = torch.tensor([[64, 64], [32, 64]])
    with pytest.raises(ValueError, match="`output_hidden_states` and `output_attentions` need a batch of clips of one"):
        make_model()(**batch, output_hidden_states=True)


def test_embeddings_are_those_of_the_text_encoder(make_model):
    model, batch = make_model(), random_batch()
    expected = outputs_of(model, batch)
    assert model.get_input_embeddings() is model.language.encoder.embeddings.word_embeddings
    words = model.get_input_embeddings().weight.detach().clone()
    model.resize_token_embeddings(23)
    assert model.get_input_embeddings().num_embeddings == model.config.text_config.vocab_size == 23
    assert torch.equal(model.get_input_embeddings().weight[:17], words)
    for found, value in zip(outputs_of(model, batch), expected, strict=True):
        assert torch.equal(found, value)


def masks_given(model: CVLSModel, batch: dict[str, torch.Tensor], monkeypatch) -> list[torch.Tensor | None]:
    """The attention masks that the segmenter's own layers give to scaled dot product attention."""
    masks, attend = [], ALL_ATTENTION_FUNCTIONS["sdpa"]

    def spy(module, *args, **kwargs):
        if type(module).__name__ == "CVLSAttention":
            masks.append(kwargs["attention_mask"])
        return attend(module, *args, **kwargs)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "sdpa", spy)
    outputs_of(model, batch)
    return masks


def test_attention_implementations(make_model, monkeypatch):
    model, batch = make_model(), random_batch()
    batch["attention_mask"][:, 0, 3:] = 0
    batch["frame_mask"][0, 3:] = False
    assert model.config._attn_implementation == "sdpa"
    expected = outputs_of(model, batch)
    model.set_attn_implementation("eager")
    assert not masks_given(model, batch, monkeypatch)  # the segmenter's own layers have switched too
    for found, value in zip(outputs_of(model, batch), expected, strict=True):
        torch.testing.assert_close(found, value, **TOLERANCE)
    for unsupported in ("flash_attention_2", "flex_attention"):
        with pytest.raises((ValueError, ImportError), match="CVLSModel does not support"):
            model.set_attn_implementation(unsupported)


def test_there_is_no_mask_where_there_is_no_padding(make_model, monkeypatch):
    """The fast kernels take no mask; with padding there is one."""
    model, batch = make_model(), random_batch()
    masks = masks_given(model, batch, monkeypatch)
    assert len(masks) == 5 and all(mask is None for mask in masks)
    batch["attention_mask"][:, 0, 3:] = 0
    batch["frame_mask"][0, 3:] = False
    assert all(mask is not None for mask in masks_given(model, batch, monkeypatch))


@pytest.mark.slow
@pytest.mark.parametrize("without", [(), ("frame_sizes",), ("frame_sizes", "frame_mask", "sentence_mask")])
def test_one_graph(make_model, without):
    """Forward pass and loss of clips of one size are one graph without a break, whatever is left out."""
    model, batch = make_model(), random_batch(frames=2)
    batch["sentence_mask"][0, 2] = False
    batch["frame_mask"][1, 1:] = False
    batch = {name: value for name, value in batch.items() if name not in without}
    expected = model(**batch)
    torch.compiler.reset()
    found = torch.compile(model, backend="eager", fullgraph=True)(**batch)
    torch.testing.assert_close(found.loss, expected.loss, **TOLERANCE)
    torch.testing.assert_close(found.mask_logits, expected.mask_logits, **TOLERANCE)


@pytest.mark.slow
def test_a_graph_refuses_clips_of_different_sizes(make_model):
    """It cannot ask for their sizes; nothing is computed wrong without a word."""
    model, batch = make_model(), inputs_alone(random_batch(frames=2))
    batch["frame_sizes"] = torch.tensor([[64, 64], [32, 64]])
    torch.compiler.reset()
    with torch.no_grad(), pytest.raises(RuntimeError, match="clips of one size"):
        torch.compile(model, backend="eager", fullgraph=True)(**batch)


@pytest.mark.slow
def test_export_takes_all_that_the_processor_gives(make_model, processor):
    model = make_model()
    frames = [torch.randint(0, 256, (3, 48, 48, 3), dtype=torch.uint8)] * 2
    batch = dict(processor(videos=frames, text=[["the red circle", "the small square moving left"], ["a square"]]))
    program = torch.export.export(model, (), batch, strict=False)
    expected = outputs_of(model, batch)
    found = program.module()(**batch)
    torch.testing.assert_close(found.mask_logits, expected[0], **TOLERANCE)
    torch.testing.assert_close(found.presence_logits, expected[1], **TOLERANCE)


@pytest.mark.parametrize(
    ("vision", "text"), [("resnet", "roberta"), ("convnext", "distilbert"), ("swin", None), ("dinov2", "bart")]
)
def test_every_parameter_learns_or_is_frozen(make_model, vision, text):
    """A parameter without a gradient would end a training on several devices; also of a batch without a referent."""
    model, batch = make_model(**parts(vision, text)).train(), random_batch(frames=2)
    for referents in (batch["referents"], torch.zeros_like(batch["referents"])):
        model.zero_grad(set_to_none=True)
        model(**{**batch, "referents": referents}).loss.backward()
        assert {name for name, p in model.named_parameters() if p.requires_grad != (p.grad is not None)} == set()


class Clips(torch.utils.data.Dataset):
    """Single clips for the plain Trainer."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: value[0] for name, value in random_batch(clips=1, seed=index).items()}


def test_the_plain_trainer_evaluates_the_loss(make_model, tmp_path):
    model = make_model()
    arguments = TrainingArguments(tmp_path, per_device_eval_batch_size=2, report_to=[], use_cpu=True, disable_tqdm=True)
    metrics = Trainer(model, arguments, eval_dataset=Clips()).evaluate()
    with torch.no_grad():
        losses = [
            model(**{name: torch.stack([Clips()[i][name], Clips()[i + 1][name]]) for name in Clips()[0]}).loss.item()
            for i in (0, 2)
        ]
    assert metrics["eval_loss"] == pytest.approx(sum(losses) / 2, rel=1e-5)
    batch = random_batch()
    assert model(**batch, return_loss=False).loss is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(make_model, dtype):
    """Also clips of different sizes, whose padding is zero, and close to the full precision."""
    model, batch = make_model(), inputs_alone(random_batch(height=96))
    batch["frame_sizes"] = torch.tensor([[96, 64], [64, 64]])
    expected = outputs_of(model, batch)
    batch["pixel_values_videos"] = batch["pixel_values_videos"].to(dtype)
    for found, value in zip(outputs_of(model.to(dtype), batch), expected, strict=True):
        assert found.dtype == dtype and found.isfinite().all()
        assert (found.float() - value).abs().mean() < 0.05 * value.abs().mean()


def test_masks_may_be_integers(make_model):
    model, batch = make_model(), random_batch(sentences=3)
    batch["sentence_mask"][0, 2] = False
    batch["frame_mask"][1, 3] = False
    batch["attention_mask"][:, 1, 3:] = 0
    batch["annotated_frames"][0, 1] = False
    expected = model(**batch)
    integers = {name: value.long() if value.dtype == torch.bool else value for name, value in batch.items()}
    found = model(**integers)
    assert torch.equal(found.mask_logits, expected.mask_logits) and torch.equal(found.loss, expected.loss)
    integers["attention_mask"] = batch["attention_mask"].bool()
    assert torch.equal(model(**integers).loss, expected.loss)


def test_loading_as_the_library_does(make_model, tmp_path):
    """In shards, in half precision, and with parts of other sizes left out."""
    model, batch = make_model(), random_batch()
    model.save_pretrained(tmp_path, max_shard_size="50KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    for found, value in zip(
        outputs_of(AutoModel.from_pretrained(tmp_path), batch), outputs_of(model, batch), strict=True
    ):
        assert torch.equal(found, value)
    half = AutoModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    config = tiny_config(contrast_size=8)
    _, loading = CVLSModel.from_pretrained(
        tmp_path, config=config, ignore_mismatched_sizes=True, output_loading_info=True
    )
    assert {name.split(".")[0] for name, *_ in loading["mismatched_keys"]} == {"contrast", "alignment"}


def test_outputs_can_be_pickled(make_model):
    output = make_model()(**random_batch())
    again = pickle.loads(pickle.dumps(output))
    assert isinstance(again, CVLSOutput) and torch.equal(again.mask_logits, output.mask_logits)
    assert again.losses.keys() == output.losses.keys()
