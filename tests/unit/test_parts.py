"""Pretrained parts by name: architectures that can serve, with random weights, and errors for those that cannot."""

import importlib
import logging

import pytest
import torch
import transformers
from transformers import AutoModel

from factories import ROOT
from modeling_cvls import CVLSConfig, CVLSModel
from modeling_cvls.training.recipe import parameters_of_stages

SIZES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
WINDOWS = {"image_size": 64, "embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 2, 2]}
LAYERS = {"hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 2}
TOWER = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 50}
SEEING = {**TOWER, "image_size": 32, "patch_size": 16}
del SEEING["vocab_size"]

#: name -> configuration, its fields, the class whose weights are saved
BACKBONES = {
    "resnet": ("ResNetConfig", {"embedding_size": 8, **SIZES}, "ResNetForImageClassification"),
    "convnext": ("ConvNextConfig", SIZES, "ConvNextForImageClassification"),
    "swin": ("SwinConfig", {"window_size": 4, **WINDOWS}, "SwinForImageClassification"),
    "hiera": ("HieraConfig", {**WINDOWS, "image_size": [64, 64]}, "HieraForImageClassification"),
    "dinov2": ("Dinov2Config", {"image_size": 56, "patch_size": 14, **LAYERS}, "Dinov2Model"),
    "dinov3_convnext": ("DINOv3ConvNextConfig", SIZES, "DINOv3ConvNextModel"),
}
ENCODERS = {
    "roberta": ("RobertaConfig", {**TOWER, "max_position_embeddings": 40}, "RobertaForMaskedLM"),
    "minilm": ("BertConfig", TOWER, "BertModel"),
    "clip": ("CLIPConfig", {"text_config": TOWER, "vision_config": SEEING}, "CLIPModel"),
    "siglip": ("SiglipConfig", {"text_config": TOWER, "vision_config": SEEING}, "SiglipModel"),
    "siglip2": ("Siglip2Config", {"text_config": TOWER, "vision_config": SEEING}, "Siglip2Model"),
}
OTHERS = {
    "vit": ("ViTConfig", {**LAYERS, "intermediate_size": 16, "image_size": 32}, "ViTModel"),
    "t5": ("T5Config", {"d_model": 16, "num_layers": 1, "num_heads": 2, "d_ff": 16, "vocab_size": 50}, "T5Model"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A function: name -> the folder of its weights, made when first asked for."""
    root = tmp_path_factory.mktemp("parts")

    def make(name: str) -> str:
        if not (root / name).exists():
            config, fields, model = {**BACKBONES, **ENCODERS, **OTHERS}[name]
            torch.manual_seed(0)
            made = getattr(transformers, model)(getattr(transformers, config)(**fields))
            made.save_pretrained(root / name)
        return str(root / name)

    return make


FIELDS = {"hidden_size": 16, "pixel_size": 16, "contrast_size": 8, "num_temporal_layers": 1, "num_fusion_layers": 1}
INPUTS = {
    "pixel_values_videos": torch.randn(1, 2, 3, 64, 64, generator=torch.Generator().manual_seed(0)),
    "input_ids": torch.tensor([[[5, 9, 13, 2], [7, 8, 2, 2]]]),
    "attention_mask": torch.tensor([[[1, 1, 1, 1], [1, 1, 1, 0]]]),
}


def build(folder, vision="resnet", text="minilm", **changes) -> CVLSModel:
    fields = {**FIELDS, "num_attention_heads": 2, "num_frames": 2, **changes}
    return CVLSModel.from_vision_text_pretrained(folder(vision), folder(text), **fields).eval()


@pytest.mark.parametrize(
    ("vision", "text"), [*((name, "minilm") for name in BACKBONES), *(("resnet", name) for name in ENCODERS)]
)
def test_parts_by_name(folder, tmp_path, caplog, vision, text):
    """Their weights are the saved ones; the whole is saved and loaded, and gives the same; no table of weights."""
    with caplog.at_level(logging.WARNING, "transformers"):
        model = build(folder, vision, text)
    assert "MISSING" not in caplog.text and "UNEXPECTED" not in caplog.text
    whole = AutoModel.from_pretrained(folder(text))
    saved = dict(getattr(whole, "text_model", whole).named_parameters())
    own = dict(model.language.encoder.named_parameters())
    shared = [name for name in own if name.removeprefix("text_model.") in saved]
    assert len(shared) > 5 and all(torch.equal(own[name], saved[name.removeprefix("text_model.")]) for name in shared)
    with torch.no_grad():
        masks = model(**INPUTS).mask_logits
        model.save_pretrained(tmp_path)
        again = AutoModel.from_pretrained(tmp_path).eval()(**INPUTS).mask_logits
    assert masks.shape == (1, 2, 2, 16, 16) and torch.equal(masks, again)
    first = parameters_of_stages(model.vision.backbone, 1)
    assert 0 < len(first) < len(list(model.vision.backbone.parameters()))


def test_backbone_has_the_weights_of_the_checkpoint(folder):
    saved = getattr(transformers, BACKBONES["swin"][2]).from_pretrained(folder("swin")).swin.state_dict()
    own = build(folder, "swin").vision.backbone.state_dict()
    common = [name for name in own if name.removeprefix("swin.") in saved]
    assert len(common) > 20 and all(torch.equal(own[name], saved[name.removeprefix("swin.")]) for name in common)


@pytest.mark.parametrize(
    ("vision", "text", "message"),
    [
        (
            "vit",
            "minilm",
            "holds a vit, which is no backbone that gives several feature maps; some .* are ResNet, Conv",
        ),
        ("minilm", "minilm", "holds a bert, which is no backbone"),
        ("resnet", "t5", "holds a t5, which is no text encoder; some that can serve are BERT, RoBERTa"),
        ("resnet", "resnet", "holds a resnet, which is no text encoder"),
    ],
)
def test_parts_that_cannot_serve_are_named(folder, vision, text, message):
    with pytest.raises(ValueError, match=message):
        build(folder, vision, text)


def test_stages_that_do_not_exist_are_named(folder):
    with pytest.raises(ValueError, match="has no stages stage7; it has stage1, stage2, stage3, stage4"):
        build(folder, vision_features=["stage1", "stage7"])


def test_a_checkpoint_without_the_weights_is_an_error(folder, tmp_path):
    """A configuration of one model over the weights of another."""
    model = transformers.ResNetModel(transformers.ResNetConfig(embedding_size=8, **SIZES))
    model.save_pretrained(tmp_path)
    transformers.ConvNextConfig(**SIZES).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="lacks [0-9]+ of the weights of its convnext, such as"):
        CVLSModel.from_vision_text_pretrained(str(tmp_path), folder("minilm"), **FIELDS)


def test_models_of_timm_serve(tmp_path):
    timm = pytest.importorskip("timm", reason="timm is no dependency of the project")
    backbone = {"model_type": "timm_backbone", "backbone": "resnet18", "features_only": True}
    text = {"model_type": "bert", **TOWER}
    with pytest.raises(ValueError, match="gives one feature map, .* or its `out_indices`"):
        CVLSModel(CVLSConfig(backbone_config=backbone, text_config=text, num_attention_heads=2, **FIELDS))
    backbone["out_indices"] = [1, 2, 3, 4]
    model = CVLSModel(CVLSConfig(backbone_config=backbone, text_config=text, num_attention_heads=2, **FIELDS)).eval()
    assert (
        model.vision.backbone.channels == timm.create_model("resnet18", features_only=True).feature_info.channels()[1:]
    )
    model.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(again(**INPUTS).mask_logits, model(**INPUTS).mask_logits)


def test_the_guide_s_own_backbone_serves(folder, tmp_path, monkeypatch):
    """The file in docs/guides/backbone.md, as it stands there."""
    guide = (ROOT / "docs" / "guides" / "backbone.md").read_text(encoding="utf-8")
    (tmp_path / "my_backbone.py").write_text(guide.split("```python\n")[1].split("```")[0])
    monkeypatch.syspath_prepend(tmp_path)
    my_backbone = importlib.import_module("my_backbone")
    backbone = my_backbone.MyBackbone(my_backbone.MyConfig())
    backbone.save_pretrained(tmp_path / "saved")
    model = CVLSModel.from_vision_text_pretrained(str(tmp_path / "saved"), folder("minilm"), **FIELDS)
    assert type(model.vision.backbone) is my_backbone.MyBackbone
    assert all(
        torch.equal(a, b) for a, b in zip(model.vision.backbone.parameters(), backbone.parameters(), strict=True)
    )
    assert model(**INPUTS).mask_logits.shape == (1, 2, 2, 16, 16)
