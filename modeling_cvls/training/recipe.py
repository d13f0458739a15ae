"""How the parts of a segmenter learn: what is frozen, learning rates by part, the schedule, averaged weights."""

import bisect
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ..modeling_cvls import CVLSModel
from .arguments import CVLSTrainingArguments


def parts_of(model: CVLSModel) -> dict[str, nn.Module]:
    """The parts of a segmenter with learning rates of their own: the pretrained ones, "backbone" and "text_encoder",
    and "state", which carries a state, where there is one."""
    parts = {"backbone": model.vision.backbone, "text_encoder": model.language.encoder}
    return {**parts, "state": model.carry} if model.config.carry_state else parts


def freeze_parts(model: CVLSModel, args: CVLSTrainingArguments) -> list[nn.Module]:
    """Takes what `args` freezes out of the training.

    Returns:
        The modules that must stay in evaluation mode: all that learn nothing. Their dropout is off, and their batch
        norm keeps its statistics.
    """
    parts = parts_of(model)
    if args.freeze_text_encoder:
        parts["text_encoder"].requires_grad_(False)
    if args.freeze_backbone:
        parts["backbone"].requires_grad_(False)
    for parameter in parameters_of_stages(parts["backbone"], args.freeze_backbone_stages):
        parameter.requires_grad_(False)
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if args.freeze_batch_norm:
        for module in norms:
            module.requires_grad_(False)
    still = [
        module
        for module in model.modules()
        if any(True for _ in module.parameters()) and not any(p.requires_grad for p in module.parameters())
    ]
    return still + norms * args.freeze_batch_norm


def parameters_of_stages(backbone: nn.Module, number: int) -> list[nn.Parameter]:
    """The parameters that the first `number` feature maps of a backbone depend on: those of the stem and its first
    stages, whatever the architecture calls them.

    Raises:
        ValueError: the backbone has fewer feature maps.
    """
    if number == 0:
        return []
    if number > len(backbone.channels):
        raise ValueError(
            f"`training.freeze_backbone_stages` is {number}, but the backbone has {len(backbone.channels)} feature maps"
        )
    parameters = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
    if not parameters:
        return []
    training = backbone.training
    backbone.eval()
    with torch.enable_grad():
        frames = torch.zeros(1, 3, 64, 64, device=parameters[0].device, dtype=parameters[0].dtype)
        maps = backbone(frames).feature_maps[:number]
        gradients = torch.autograd.grad(sum(map_.sum() for map_ in maps), parameters, allow_unused=True)
    backbone.train(training)
    return [parameter for parameter, gradient in zip(parameters, gradients, strict=True) if gradient is not None]


def set_learning_rates(optimizer: torch.optim.Optimizer, model: CVLSModel, args: CVLSTrainingArguments) -> None:
    """Splits the groups of a new optimizer, so that the parts have the learning rates of `args`."""
    rates = {
        "backbone": args.backbone_learning_rate,
        "text_encoder": args.text_encoder_learning_rate,
        "state": 10 * args.learning_rate if args.state_learning_rate is None else args.state_learning_rate,
    }
    members = {
        id(parameter): name
        for name, part in parts_of(model).items()
        if rates[name] is not None
        for parameter in part.parameters()
    }
    groups = list(optimizer.param_groups)
    optimizer.param_groups.clear()
    for name in (None, *rates):  # the first group's rate is the one that is logged
        for group in groups:
            parameters = [parameter for parameter in group["params"] if members.get(id(parameter)) == name]
            if parameters:
                rate = group["lr"] if name is None else rates[name]
                optimizer.add_param_group({**group, "params": parameters, "lr": rate})


def milestone_schedule(
    optimizer: torch.optim.Optimizer, args: CVLSTrainingArguments, num_training_steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """Learning rates that rise over the warm-up steps and are multiplied by `lr_milestone_factor` at each milestone."""
    scale = 1 if args.max_steps > 0 else num_training_steps / args.num_train_epochs
    milestones = [round(milestone * scale) for milestone in sorted(args.lr_milestones)]
    warmup = args.get_warmup_steps(num_training_steps)

    def factor(step: int) -> float:
        warm = min(1.0, step / warmup) if warmup else 1.0
        return warm * args.lr_milestone_factor ** bisect.bisect_right(milestones, step)

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


class WeightAverage:
    """The exponential moving average of a model's weights and statistics, which is what is evaluated and saved.

    Args:
        model: its weights now are the average's first value.
        decay: share of the average that a step keeps. It is (1 + n) / (10 + n) after n steps where that is less, so
            that the first weights are soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.load(model)

    def load(self, model: nn.Module) -> None:
        """Takes the weights of a model as the average."""
        self.tensors = {name: value.clone() for name, value in _floating(model).items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Takes the weights after `step` steps in."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in _floating(model).items():
            self.tensors[name].lerp_(value, 1 - decay)

    @contextmanager
    def in_place_of_weights(self, model: nn.Module) -> Iterator[None]:
        """The model has the averaged weights inside the `with`, and its own ones again after it."""
        own = {name: value.clone() for name, value in _floating(model).items()}
        load_floating(model, self.tensors)
        try:
            yield
        finally:
            load_floating(model, own)


def _floating(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach() for name, value in model.state_dict().items() if value.is_floating_point()}


@torch.no_grad()
def load_floating(model: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Copies weights and statistics into a model, by name."""
    for name, value in _floating(model).items():
        value.copy_(tensors[name])
