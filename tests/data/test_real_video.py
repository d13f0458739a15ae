"""What benchmarks/real is made of: its backbone against a convolution by hand, its sentences against its sources."""

import numpy as np
import pytest
import torch
from transformers import AutoBackbone, AutoConfig, BertConfig, BertModel

from factories import ROOT
from modeling_cvls import CVLSModel


@pytest.fixture(autouse=True)
def folder(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks" / "real"))


@pytest.mark.parametrize(("kernel", "size"), [(3, 8), (3, 9), (5, 12), (5, 7)])
def test_strided_convolutions_pad_as_tensorflow_does(kernel, size):
    from efficientnet_lite import ConvNorm

    torch.manual_seed(0)
    layer = ConvNorm(1, 1, kernel, stride=2, linear=True).eval()
    picture = torch.randn(size, size)
    # "same": as many outputs as every second input, what is lacking padded half before and, where odd, one more after
    outputs = -(-size // 2)
    before = max((outputs - 1) * 2 + kernel - size, 0) // 2
    weight, expected = layer[0].weight[0, 0], torch.zeros(outputs, outputs)
    for row, column, y, x in np.ndindex(outputs, outputs, kernel, kernel):
        i, j = 2 * row - before + y, 2 * column - before + x
        if 0 <= i < size and 0 <= j < size:
            expected[row, column] += (weight[y, x] * picture[i, j]).item()
    with torch.no_grad():
        torch.testing.assert_close(layer(picture[None, None])[0, 0], expected / (1 + 1e-3) ** 0.5)


@pytest.mark.slow
def test_the_backbone_serves_as_any_other(tmp_path):
    from efficientnet_lite import EfficientNetLiteBackbone, EfficientNetLiteConfig

    config = EfficientNetLiteConfig(out_features=["stage1", "stage2", "stage3", "stage4"])
    backbone = EfficientNetLiteBackbone(config).eval()
    frames = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        maps = backbone(frames).feature_maps
    assert [tuple(each.shape) for each in maps] == [
        (1, 24, 16, 24), (1, 40, 8, 12), (1, 112, 4, 6), (1, 320, 2, 3)
    ]  # fmt: skip
    backbone.save_pretrained(tmp_path / "vision")
    assert type(AutoBackbone.from_config(AutoConfig.from_pretrained(tmp_path / "vision"))) is EfficientNetLiteBackbone
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=30, **sizes)).save_pretrained(tmp_path / "text")
    model = CVLSModel.from_vision_text_pretrained(
        str(tmp_path / "vision"), str(tmp_path / "text"), hidden_size=16, pixel_size=16, num_attention_heads=2
    ).eval()
    with torch.no_grad():
        for one, other in zip(maps, model.vision.backbone(frames).feature_maps, strict=True):
            torch.testing.assert_close(one, other)


def test_views_say_what_they_show(stills):
    from sayings import group_of
    from sources import read_stills
    from views import ViewSampler

    sources = list(read_stills(stills))
    assert [len(source.nouns) for source in sources] == [2] * 16
    # one of them becomes a video of three frames that somebody described
    first = sources[0]
    video = type(first)(
        "video", first.frames * 3, first.labels * 3, {1: ("horse",)}, frozenset(), (("the horse that jumps", 1),)
    )
    sampler = ViewSampler([video], sources[1:], 2, 64, 96)
    rng = np.random.default_rng(0)
    nouns = {noun for source in [video, *sources] for words in source.nouns.values() for noun in words}
    present = absent = 0
    for _ in range(60):
        view = sampler(rng)
        assert view.frames.shape == (2, 64, 96, 3) and view.labels.max() <= view.number
        assert 0 < len(view.sentences) <= 4
        shown = [int((view.labels == index + 1).sum()) for index in range(view.number)]
        for text, referents in view.sentences:
            named = [word for word in text.split() if word in nouns]
            assert named or text.endswith(("animal", "that jumps")) or "animal" in text
            present += len(referents)
            absent += not referents
            assert len(referents) <= 1 and all(shown[index] >= 50 for index in referents)
            red = [view.frames[view.labels == index + 1].reshape(-1, 3) for index in referents]
            if "red" in text.split() and red:
                mean = np.concatenate(red).mean(axis=0)
                assert mean[0] > mean[1] + 60
    assert present > 40 and absent > 20
    assert group_of({"horse"}) == {"horse", "animal"}


def test_trainings_share_what_is_drawn(tmp_path):
    from train import Batches, Recipe
    from views import View

    class Clips:
        def __init__(self, **recipe):
            self.recipe, self.drawn = Recipe(seed=3, **recipe), 0

        def draw(self, step):
            self.drawn += 1
            frames = np.random.default_rng(step).integers(0, 255, (2, 8, 12, 3), dtype=np.uint8)
            labels = np.zeros((2, 8, 12), np.uint8)
            labels[:, :4, :8] = 1
            return [View(frames, labels, [("the dog", (0,)), ("the cat", ())], 1)]

    def processor(text):
        return {"sentence_mask": torch.ones(len(text), len(text[0]), dtype=torch.bool)}

    alone, clips = Batches(Clips(), processor, None)[5], Clips()
    shared = [Batches(clips, processor, tmp_path)[5] for _ in range(2)]
    same, other = Clips(rate=1e-4, config={"contrast_weight": 0}), Clips(pictures=7)
    for each in (same, other):
        Batches(each, processor, tmp_path)[5]
    assert (clips.drawn, same.drawn, other.drawn) == (1, 0, 1)
    for batch in shared:
        assert batch.keys() == alone.keys()
        assert all(torch.equal(value, alone[name]) for name, value in batch.items())
    assert alone["pixel_values_videos"].dtype == torch.uint8
    assert alone["instance_masks"].tolist() == [[[[[True, True, False], [False] * 3]]] * 2]
    assert alone["referents"].tolist() == [[[True], [False]]]
