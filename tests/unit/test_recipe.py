"""The parts of a training's recipe: what is frozen, learning rates, decay, milestones, averaged weights."""

import pytest
import torch
from transformers import AutoModel, TrainerCallback, TrainingArguments

from modeling_cvls.data import ClipCollator, ClipSampler
from modeling_cvls.training import CVLSTrainer, CVLSTrainingArguments
from modeling_cvls.training.recipe import parameters_of_stages


def state_of(model) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def changed(before: dict, after: dict) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


NORMS = (".normalization.",)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "frozen"),
    [
        ({}, ()),
        ({"freeze_text_encoder": True}, ("language.encoder.",)),
        ({"freeze_backbone": True}, ("vision.backbone.",)),
        ({"freeze_backbone": True, "freeze_backbone_stages": 2}, ("vision.backbone.",)),
        ({"freeze_backbone_stages": 2}, ("backbone.embedder.", "encoder.stages.0.", "encoder.stages.1.")),
        ({"freeze_batch_norm": True}, NORMS),
    ],
)
def test_what_is_frozen_stays_and_all_else_learns(make_trainer, arguments, frozen):
    trainer = make_trainer(**arguments)
    before = state_of(trainer.model)
    trainer.train()
    expected = {name for name in before if not any(part in name for part in frozen)}
    # what has no gradient where each clip has one object and one sentence
    unused = {name for name in before if any(part in name for part in ("pooler", "embeddings", "alignment"))}
    moved = changed(before, state_of(trainer.model))
    assert moved <= expected
    learned = {name for name in expected - unused if name.endswith("weight") and before[name].ndim > 1}
    assert learned <= moved
    if not frozen:
        assert any("running_mean" in name for name in moved)


def test_the_first_stages_are_those_that_their_maps_depend_on(make_model):
    backbone = make_model().vision.backbone
    names = {id(parameter): name for name, parameter in backbone.named_parameters()}
    for number in range(4):
        found = {names[id(parameter)] for parameter in parameters_of_stages(backbone, number)}
        starts = ("embedder.", *(f"encoder.stages.{stage}." for stage in range(number))) if number else ()
        assert found == {name for name in names.values() if name.startswith(starts or ("-",))}
    with pytest.raises(ValueError, match="freeze_backbone_stages` is 4, but the backbone has 3"):
        parameters_of_stages(backbone, 4)


def test_parts_have_their_rates_and_norms_no_decay(make_trainer):
    trainer = make_trainer(backbone_learning_rate=0.001, text_encoder_learning_rate=0.0001, weight_decay=0.5)
    optimizer = trainer.create_optimizer()
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    seen = []
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            seen.append(name)
            part = f"{name}.".split(".")[1]
            assert group["lr"] == {"backbone": 0.001, "encoder": 0.0001}.get(part, 0.01), name
            assert group["weight_decay"] == (0.5 if parameter.ndim > 1 else 0), name
    assert sorted(seen) == sorted(names.values())
    trainer.create_scheduler(10)
    assert trainer.lr_scheduler.get_last_lr()[0] == 0.01


@pytest.mark.parametrize("warmup", [0, 3])
def test_milestones_are_those_of_torch(make_trainer, warmup):
    """In steps where `max_steps` is given, in epochs (of two steps here) otherwise."""
    for arguments in (
        {"max_steps": 12, "lr_milestones": [8, 4]},
        {"max_steps": -1, "num_train_epochs": 6, "lr_milestones": [2, 4]},
    ):
        trainer = make_trainer(**arguments, lr_milestone_factor=0.5, warmup_steps=warmup, backbone_learning_rate=0.002)
        optimizer = trainer.create_optimizer()
        schedule = trainer.create_scheduler(12)
        parameter = torch.nn.Parameter(torch.zeros(1))
        own = torch.optim.SGD([parameter], 0.01)
        reference = torch.optim.lr_scheduler.MultiStepLR(own, [4, 8], 0.5)
        for step in range(12):
            expected = reference.get_last_lr()[0] * min(1, step / warmup if warmup else 1)
            assert schedule.get_last_lr()[0] == pytest.approx(expected)
            assert schedule.get_last_lr()[-1] == pytest.approx(expected / 5)  # the backbone's
            optimizer.step(), own.step(), schedule.step(), reference.step()


class Weights(TrainerCallback):
    """Keeps the weights after every step."""

    def __init__(self):
        self.seen = []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.seen.append(state_of(model))


@pytest.mark.slow
def test_averaged_weights_are_evaluated_and_saved(make_trainer, tmp_path, monkeypatch):
    trainer = make_trainer(
        max_steps=3, ema_decay=0.2, save_strategy="steps", save_steps=3, eval_strategy="steps", eval_steps=3
    )
    weights = Weights()
    trainer.add_callback(weights)
    evaluated = []
    monkeypatch.setattr(
        "modeling_cvls.training.trainer.evaluate_segmenter",
        lambda model, *_, **__: evaluated.append(state_of(model)) or {"mean_iou": 0.5},
    )
    average = state_of(trainer.model)
    trainer.train()
    for step, state in enumerate(weights.seen, start=1):
        kept = min(0.2, (1 + step) / (10 + step))
        average = {
            n: kept * v + (1 - kept) * state[n] if v.is_floating_point() else state[n] for n, v in average.items()
        }
    assert changed(weights.seen[0], weights.seen[1]) and changed(average, weights.seen[-1])
    saved = AutoModel.from_pretrained(tmp_path / "out" / "checkpoint-3").state_dict()
    trainer.save_model(str(tmp_path / "final"))
    final = AutoModel.from_pretrained(tmp_path / "final").state_dict()
    for state in (evaluated[0], saved, final, trainer.model.state_dict()):
        for name, value in average.items():
            torch.testing.assert_close(state[name], value, atol=1e-6, rtol=1e-5)


def test_arguments_of_other_trainers_serve(make_model, processor, square_rows, tmp_path):
    args = TrainingArguments(str(tmp_path), learning_rate=0.125, lr_scheduler_type="cosine", report_to=[], use_cpu=True)
    trainer = CVLSTrainer(make_model(), args, data_collator=ClipCollator(processor, ClipSampler(4)))
    assert isinstance(trainer.args, CVLSTrainingArguments) and trainer.args.learning_rate == 0.125
    assert trainer.args.lr_scheduler_type == "cosine" and not trainer.args.remove_unused_columns


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ema_decay": 1.0}, "`training.ema_decay` is a share between 0 and 1, got 1.0"),
        ({"freeze_backbone_stages": -1}, "`training.freeze_backbone_stages` is a number of stages, got -1"),
        ({"remove_unused_columns": True}, "`training.remove_unused_columns` must be false"),
    ],
)
def test_wrong_values_are_named(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        CVLSTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **arguments)
