"""The segmenter: what its outputs may depend on, its switches, saving and loading, pretrained parts."""

import pytest
import torch
from transformers import AutoBackbone, AutoConfig, AutoModel

from factories import random_batch, tiny_config
from modeling_cvls import CVLSModel, CVLSOutput

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


def pad(batch, **sizes):
    """The batch with every dimension named in `sizes` padded at its end, with noise where no mask says "valid"."""
    axes = {
        "pixel_values_videos": {1: "frames", 3: "height", 4: "width"},
        "frame_mask": {1: "frames"},
        "input_ids": {1: "sentences", 2: "words"},
        "attention_mask": {1: "sentences", 2: "words"},
        "sentence_mask": {1: "sentences"},
        "instance_masks": {1: "frames", 2: "instances", 3: "height", 4: "width"},
        "annotated_frames": {1: "frames"},
        "annotated_instances": {1: "frames", 2: "instances"},
        "referents": {1: "sentences", 2: "instances"},
    }
    padded = dict(batch)
    for name, dims in axes.items():
        shape = [sizes.get(dims.get(axis), size) for axis, size in enumerate(batch[name].shape)]
        is_mask = batch[name].dtype == torch.bool or name == "attention_mask"
        value = torch.zeros(shape, dtype=batch[name].dtype) if is_mask else torch.full(shape, 3.0).to(batch[name].dtype)
        value[tuple(slice(size) for size in batch[name].shape)] = batch[name]
        padded[name] = value
    return padded


def test_output_shapes(make_model):
    output = make_model()(**random_batch(clips=2, frames=3, height=64, width=96, sentences=5))
    assert output.mask_logits.shape == output.similarity.shape == (2, 5, 3, 16, 24)
    assert output.presence_logits.shape == (2, 5)
    assert output.similarity.abs().max() <= 1 + 1e-6
    assert set(output.losses) == {"bce", "dice", "presence", "contrast", "alignment"}


def test_loss_is_the_weighted_sum(make_model):
    weights = {"bce": 2.0, "dice": 3.0, "presence": 0.25, "contrast": 0.5, "alignment": 1.5}
    model = make_model(**{f"{name}_weight": weight for name, weight in weights.items()})
    output = model(**random_batch())
    parts = {name: value.item() for name, value in output.losses.items()}
    assert output.loss.item() == pytest.approx(sum(weights[name] * parts[name] for name in parts), rel=1e-6)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_sentence_is_independent_of_the_others(make_model, attention):
    model, batch = make_model(), random_batch(sentences=3)
    model.set_attn_implementation({"": attention})  # the backbone has its own
    together = model(**batch)
    names = ("input_ids", "attention_mask", "sentence_mask", "referents")
    for k in range(3):
        alone = model(**{**batch, **{name: batch[name][:, k : k + 1] for name in names}})
        for output in ("mask_logits", "presence_logits", "similarity"):
            torch.testing.assert_close(alone[output][:, 0], together[output][:, k], **TOLERANCE)


@pytest.mark.slow
def test_a_clip_is_independent_of_the_others(make_model):
    model, batch = make_model(), random_batch(clips=3)
    together = model(**batch)
    for b in range(3):
        alone = model(**{name: value[b : b + 1] for name, value in batch.items()})
        for output in ("mask_logits", "presence_logits", "similarity"):
            torch.testing.assert_close(alone[output][0], together[output][b], **TOLERANCE)


@pytest.mark.parametrize(
    "sizes",
    [
        {"frames": 7},
        {"sentences": 5},
        {"words": 9},
        {"instances": 4},
        {"height": 96, "width": 128},
        {"frames": 6, "sentences": 4, "words": 8, "instances": 3, "height": 96, "width": 96},
    ],
    ids=lambda sizes: "+".join(sizes),
)
def test_padding_changes_nothing(make_model, sizes):
    model, batch = make_model(), random_batch(clips=2, frames=4, height=64, width=64)
    plain, padded = model(**batch), model(**pad(batch, **sizes))
    k, t, h, w = plain.mask_logits.shape[1:]
    for output in ("mask_logits", "similarity"):
        torch.testing.assert_close(padded[output][:, :k, :t, :h, :w], plain[output], **TOLERANCE)
    torch.testing.assert_close(padded.presence_logits[:, :k], plain.presence_logits, **TOLERANCE)
    for name, value in plain.losses.items():
        torch.testing.assert_close(padded.losses[name], value, **TOLERANCE, msg=name)


def test_clips_of_different_sizes_in_one_batch(make_model):
    """Each clip of a mixed batch gives what it gives alone: the padded smaller one, and the larger one."""
    model = make_model()
    small, large = (
        random_batch(clips=1, height=64, width=64, seed=1),
        random_batch(clips=1, height=96, width=64, seed=2),
    )
    mixed = {name: torch.cat([value, large[name]]) for name, value in pad(small, height=96).items()}
    together = model(**mixed)
    assert together.mask_logits.shape[-2:] == (24, 16)
    torch.testing.assert_close(together.mask_logits[0, ..., :16, :], model(**small).mask_logits[0], **TOLERANCE)
    torch.testing.assert_close(together.mask_logits[1], model(**large).mask_logits[0], **TOLERANCE)


def test_the_clip_is_encoded_once(make_model):
    """Late fusion: the backbone runs once, on the frames alone, whatever the number of sentences."""
    model, seen = make_model(), []
    model.vision.backbone.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape))
    model(**random_batch(clips=2, frames=4, sentences=7))
    assert seen == [(2 * 4, 3, 64, 64)]


@pytest.mark.slow
def test_features_of_a_clip_take_the_place_of_its_frames(make_model):
    """One encoding answers any sentences, for clips of different sizes and lengths too, and gradients flow into it."""
    model = make_model()
    small, large = (random_batch(clips=1, height=size, width=64, seed=size) for size in (64, 96))
    batch = {name: torch.cat([value, large[name]]) for name, value in pad(small, height=96).items()}
    batch["frame_mask"][0, 3] = False
    expected = model(**batch)
    video = {name: batch.pop(name) for name in ("pixel_values_videos", "frame_mask", "frame_sizes")}
    features = model.get_video_features(**video)
    for names in (list(batch), [name for name in batch if name != "referents"]):
        output = model(video_features=features, **{name: batch[name] for name in names})
        for name in ("mask_logits", "presence_logits", "similarity"):
            assert torch.equal(output[name], expected[name])
    features = model.get_video_features(**video)
    model(video_features=features, **batch).loss.backward()
    assert model.vision.backbone.embedder.embedder.convolution.weight.grad.any()


def test_a_long_video_in_steps(make_model):
    """Frames by themselves, motion piece by piece with one frame of the neighbors, attention over a window: together
    the features of the clip."""
    model = make_model()
    frames = random_batch(clips=1, frames=7)["pixel_values_videos"]
    expected = model.get_video_features(frames)
    with torch.no_grad():
        each = [model.vision.get_frame_features(frames[:, t : t + 1]) for t in range(7)]
        pixels = torch.cat([features.pixel_features for features in each], dim=1)
        tokens = torch.cat([features.token_features for features in each], dim=1)
        motion = [
            model.vision.get_motion_features(pixels[:, :5])[:, :4],
            model.vision.get_motion_features(pixels[:, 3:])[:, 1:],
        ]
        window = model.vision.get_window_features(tokens, torch.cat(motion, dim=1))
    torch.testing.assert_close(pixels, expected.pixel_features, **TOLERANCE)
    torch.testing.assert_close(window.last_hidden_state, expected.last_hidden_state, **TOLERANCE)


def test_motion_is_the_difference_of_neighbors_that_are_frames(make_model):
    """A padding frame is no neighbor, the first frame has none before it, the last one none after it."""
    motion = make_model().vision.motion
    pixels = torch.randn(1, 4, 16, 8, 8, generator=torch.Generator().manual_seed(1))
    mask = torch.tensor([[True, True, True, False]])
    torch.testing.assert_close(motion(pixels, mask)[:, :3], motion(pixels[:, :3]), **TOLERANCE)
    found = motion(pixels)[0]
    for t in range(4):
        before = pixels[0, t] - pixels[0, t - 1] if t > 0 else torch.zeros(16, 8, 8)
        after = pixels[0, t + 1] - pixels[0, t] if t < 3 else torch.zeros(16, 8, 8)
        alone = motion.down(torch.cat([before, after])[None])[0]
        torch.testing.assert_close(found[t].movedim(-1, 0), alone, **TOLERANCE)


def test_tuples_in_place_of_outputs(make_model):
    model, batch = make_model(), random_batch()
    expected = model(**batch)
    found = model(**batch, return_dict=False)
    assert isinstance(found, tuple)
    for value, of_output in zip(found, expected.to_tuple(), strict=True):
        if not isinstance(value, dict):
            torch.testing.assert_close(value, of_output, equal_nan=True)
    for config in (model.config, model.config.text_config):
        config.return_dict = False
    assert isinstance(model(**batch), tuple) and isinstance(model(**batch, return_dict=True), CVLSOutput)


def test_the_contrast_changes_no_other_weight_at_the_start(make_model):
    """Runs of an ablation start alike: what the baseline has too is drawn alike."""
    full, baseline = make_model().state_dict(), make_model(contrast_weight=0).state_dict()
    own = {
        name
        for name in full
        if name.startswith(
            ("contrast.", "alignment.", "frame_query.", "clip_query.", "presence_query.", "similarity_scale", "choice_")
        )
    }
    assert own and set(full) - set(baseline) == own
    for name, value in baseline.items():
        assert torch.equal(value, full[name]), name


@pytest.mark.slow
def test_switches_are_a_matter_of_the_config(make_model):
    batch = random_batch()
    full, alone = make_model()(**batch), make_model(similarity_in_masks=False)(**batch)
    baseline = make_model(contrast_weight=0)
    output = baseline(**batch)
    assert output.similarity is None and set(output.losses) == {"bce", "dice", "presence"}
    parts = ("contrast", "alignment", "frame_query", "clip_query", "presence_query", "similarity", "choice")
    assert not any(name.startswith(parts) for name, _ in baseline.named_parameters())
    assert "alignment" not in make_model(alignment_weight=0)(**batch).losses
    unfiltered = make_model(channel_filter=False)(**batch).losses["alignment"]
    assert unfiltered.item() != pytest.approx(full.losses["alignment"].item(), rel=1e-4)
    for changes in (
        {"hard_instances": False},
        {"across_frames": False},
        {"hard_temperature": 0.01},
        {"temperature": 1.0},
    ):
        changed = make_model(**changes)(**batch)
        assert changed.losses["contrast"].item() != pytest.approx(full.losses["contrast"].item(), rel=1e-4), changes
        apart = make_model(similarity_in_masks=False, **changes)(**batch)  # presence reads the choice
        assert apart.losses["presence"].item() == alone.losses["presence"].item()
    assert not torch.equal(alone.mask_logits, full.mask_logits)


@pytest.mark.parametrize("changes", [{}, {"contrast_weight": 0}, {"similarity_in_masks": False}])
def test_every_parameter_learns(make_model, changes):
    """A parameter without a gradient would end a training on several devices."""
    model = make_model(**changes).train()
    model(**random_batch()).loss.backward()
    without = {n for n, p in model.named_parameters() if p.grad is None and "pooler" not in n}
    assert without == set()


def test_masks_may_come_at_a_quarter_of_the_size(make_model):
    model, batch = make_model(), random_batch()
    batch["instance_masks"] = torch.rand(2, 4, 2, 16, 16) > 0.5
    assert model(**batch).loss.isfinite()


def test_a_referent_that_is_not_annotated_in_a_frame_is_left_out(make_model):
    """What the loss cannot know it must not count: the masks of such a frame may be anything."""
    model, batch = make_model(), random_batch(clips=1, sentences=1, instances=2)
    batch["referents"] = torch.tensor([[[True, False]]])
    batch["annotated_instances"][0, 1, 0] = False
    before = model(**batch).losses
    batch["instance_masks"][0, 1, 0] ^= True
    after = model(**batch).losses
    for name in ("bce", "dice"):
        assert after[name].item() == before[name].item()


@pytest.mark.slow
def test_wrong_shapes_are_named(make_model):
    model, batch = make_model(), random_batch(height=64, width=64)
    with pytest.raises(ValueError, match="multiples of 32, got 60 x 64"):
        model(**{**batch, "pixel_values_videos": batch["pixel_values_videos"][..., :60, :]})
    with pytest.raises(ValueError, match="`input_ids` is of 1 clips"):
        model(**{**batch, "input_ids": batch["input_ids"][:1]})
    with pytest.raises(ValueError, match="`referents` needs"):
        model(**{**batch, "annotated_frames": None})
    features = model.get_video_features(batch["pixel_values_videos"])
    with pytest.raises(ValueError, match="either `pixel_values_videos` or `video_features`"):
        model(**batch, video_features=features)
    with pytest.raises(ValueError, match="either `pixel_values_videos` or `video_features`"):
        model(input_ids=batch["input_ids"])
    with pytest.raises(ValueError, match="`video_features` hold `frame_mask` and `frame_sizes`"):
        model(input_ids=batch["input_ids"], video_features=features, frame_mask=batch["frame_mask"])
    with pytest.raises(ValueError, match="`input_ids` .* are needed"):
        model(pixel_values_videos=batch["pixel_values_videos"])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden_size", 20),
        ("token_stride", 12),
        ("kept_channels", 0.0),
        ("temperature", 0.0),
        ("contrast_weight", -1.0),
    ],
)
def test_wrong_configurations_are_named(field, value):
    with pytest.raises(Exception, match=field):
        tiny_config(**{field: value})


def test_a_backbone_with_one_feature_map_is_named():
    with pytest.raises(ValueError, match="`backbone_config` gives one feature map.*`out_features`"):
        CVLSModel(tiny_config(backbone_config={"model_type": "resnet", **BACKBONES["resnet"]}))


def test_default_configuration_is_of_resnet50_and_roberta_base_size():
    from modeling_cvls import CVLSConfig

    config = CVLSConfig()
    with torch.device("meta"):
        model = CVLSModel(config)
    backbone = sum(p.numel() for p in model.vision.backbone.parameters())
    text = sum(p.numel() for p in model.language.encoder.parameters())
    assert backbone == 23_508_032  # ResNet-50 without its classifier
    assert 120e6 < text < 126e6  # RoBERTa-base


def test_save_and_load_with_auto_model(make_model, tmp_path):
    model, batch = make_model(), random_batch()
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").exists()
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is CVLSModel
    assert loaded.config.to_dict()["kept_channels"] == model.config.kept_channels
    assert torch.equal(loaded(**batch).mask_logits, model(**batch).mask_logits)


BACKBONES = {
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "layer_type": "basic"},
    "convnext": {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]},
    "swin": {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 2, "image_size": 64},
    "dinov2": {"hidden_size": 16, "num_hidden_layers": 8, "num_attention_heads": 2, "patch_size": 16, "image_size": 64},
}
TEXT_ENCODERS = {
    "bert": {"vocab_size": 17, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
    "roberta": {"vocab_size": 17, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2},
}


@pytest.mark.parametrize(
    ("vision", "text"), [("resnet", "roberta"), ("convnext", "bert"), ("swin", "bert"), ("dinov2", "bert")]
)
def test_pretrained_parts_saved_locally(vision, text, tmp_path):
    saved = AutoBackbone.from_config(AutoConfig.for_model(vision, **BACKBONES[vision]))
    saved.save_pretrained(tmp_path / "vision")
    AutoModel.from_config(AutoConfig.for_model(text, **TEXT_ENCODERS[text])).save_pretrained(tmp_path / "text")
    model = CVLSModel.from_vision_text_pretrained(
        str(tmp_path / "vision"), str(tmp_path / "text"), hidden_size=16, pixel_size=8, num_attention_heads=2
    ).eval()
    weights = saved.state_dict()
    own = model.vision.backbone.state_dict()
    assert all(torch.equal(own[name], value) for name, value in weights.items())
    weights = AutoModel.from_pretrained(tmp_path / "text").state_dict()
    own = model.language.encoder.state_dict()  # without the pooler, which nothing reads
    assert set(own) == {name for name in weights if not name.startswith("pooler.")}
    assert all(torch.equal(value, weights[name]) for name, value in own.items())

    batch = random_batch(clips=1, frames=2)
    output = model(**batch)
    assert output.mask_logits.shape == (1, 3, 2, 16, 16) and output.loss.isfinite()
    model.save_pretrained(tmp_path / "saved")
    again = AutoModel.from_pretrained(tmp_path / "saved")
    assert torch.equal(again(**batch).mask_logits, output.mask_logits)
