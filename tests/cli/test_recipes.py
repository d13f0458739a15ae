"""The ready recipes: complete files with the published numbers."""

import pytest

from factories import ROOT
from modeling_cvls.training import parse_training

FOLDER = ROOT / "configs" / "recipes"
SHORT = list(range(288, 513, 32))

#: rest, backbone and text encoder; frozen stages, batch norm and text encoder; length, milestones, factor; clips in a
#: step; frames, sampling; short sides in training, short and long side.
TABLE = {
    "refcoco_pretrain": (1e-4, 5e-5, 1e-5, 1, True, False, 12, [8, 10], 0.1, 16, 1, "consecutive", SHORT, 360, 640),
    "refer_youtube_vos": (1e-4, 5e-5, None, 1, True, True, 6, [3, 5], 0.1, 8, 5, "sparse", SHORT, 360, 640),
    "joint": (1e-4, 5e-5, None, 1, True, True, 12, [8, 10], 0.1, 8, 5, "sparse", SHORT, 360, 640),
    "a2d": (1e-4, 1e-5, None, 0, False, True, 70, [50], 0.4, 6, 10, "consecutive", [], 320, 576),
    "a2d_finetune": (5e-5, 5e-6, None, 1, True, True, 6, [3, 5], 0.1, 16, 5, "sparse", SHORT, 360, 640),
    "mevis": (5e-5, 5e-6, None, 0, False, True, 100_000, [40_000, 85_000], 0.1, 8, 8, "nearby", SHORT, 448, 768),
}

#: weight decay and gradient norm of the same files
REGULARIZATION = {"a2d": (1e-4, 0.1), "mevis": (0.05, 0.01)}


def test_every_recipe_is_in_the_table():
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(TABLE)


@pytest.mark.parametrize("name", TABLE)
def test_recipes_have_the_published_numbers(name):
    path = FOLDER / f"{name}.yaml"
    model, data, training = parse_training([str(path), "--training.bf16", "false", "--training.use_cpu", "true"])
    length = training.max_steps if training.max_steps > 0 else training.num_train_epochs
    assert (
        training.learning_rate, training.backbone_learning_rate, training.text_encoder_learning_rate,
        training.freeze_backbone_stages, training.freeze_batch_norm, training.freeze_text_encoder,
        length, training.lr_milestones, training.lr_milestone_factor, training.per_device_train_batch_size,
        model.config["num_frames"], data.sampling, data.train_shortest_edges, data.shortest_edge, data.longest_edge,
    ) == TABLE[name]  # fmt: skip
    assert (training.weight_decay, training.max_grad_norm) == REGULARIZATION.get(name, (5e-4, 0.1))
    assert bool(model.checkpoint) != bool(model.vision and model.text)
    comment = path.read_text().split("model:")[0]
    assert "20" in comment and "GPU" in comment, "from whom it is, and what it takes"
