"""Training: transformers' Trainer with the parts of the loss logged, and evaluation by the project's own metric."""

import shutil
import time
from collections import defaultdict
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from accelerate.utils import broadcast
from torch import nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import (
    PREFIX_CHECKPOINT_DIR,
    IntervalStrategy,
    TrainOutput,
    rotate_checkpoints,
    speed_metrics,
)

from ..carrying_cvls import starts_of_windows
from ..data import ClipSampler
from ..evaluation import evaluate_segmenter, flatten_results
from ..model_card import make_card
from ..modeling_cvls import CVLSModel
from .adapters import ADAPTER, add_adapter, load_adapter, merged
from .arguments import CVLSTrainingArguments
from .checkpoints import TRAINING_WEIGHTS, UNFINISHED, finish, full_disk_is_named
from .recipe import WeightAverage, freeze_parts, load_floating, milestone_schedule, set_learning_rates
from .stopping import StopOnSignal, TrainingStopped

#: What a batch holds of each frame.
PER_FRAME = ("pixel_values_videos", "frame_mask", "instance_masks", "annotated_frames", "annotated_instances")


class NewClipsEachEpoch(TrainerCallback):
    """Tells the clip sampler the epoch, so that each epoch sees other clips of the same videos."""

    def __init__(self, sampler: ClipSampler):
        self.sampler = sampler

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.sampler.epoch = int(state.epoch or 0)


class AverageWeights(TrainerCallback):
    """Takes the weights of each step into their average."""

    def __init__(self, average: WeightAverage):
        self.average = average

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.average.update(model, state.global_step)


class MissedEvaluation(TrainerCallback):
    """Evaluates what a resumed training was evaluating, or was about to, when a signal stopped it."""

    def __init__(self, trainer: "CVLSTrainer"):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        step = state.global_step
        due = {
            IntervalStrategy.STEPS: step > 0 and step % max(1, state.eval_steps or 1) == 0,
            IntervalStrategy.EPOCH: step > 0 and state.epoch == int(state.epoch),
            IntervalStrategy.NO: False,
        }[args.eval_strategy]
        done = any(
            entry["step"] == step and any(key.startswith("eval_") for key in entry) for entry in state.log_history
        )
        if due and not done and args.eval_delay <= (step if args.eval_strategy == "steps" else state.epoch):
            self.trainer.evaluate_for_best()


class CVLSTrainer(Trainer):
    """transformers' `Trainer` for [`CVLSModel`].

    Rows of video sentences become batches in the data collator (`modeling_cvls.data.ClipCollator`). Evaluation segments
    whole videos with `evaluate_segmenter`, so that a number seen in training is the number of the final evaluation.

    Args:
        model: the segmenter; what `args` freezes learns nothing from then on. With `lora_rank`, it gets an adapter.
        args: [`CVLSTrainingArguments`], or transformers' own `TrainingArguments`.
        kwargs: as in `Trainer`; `data_collator` (such a collator) and `processing_class` (a [`CVLSProcessor`]) are
            needed.
    """

    def __init__(self, model: CVLSModel, args: TrainingArguments, **kwargs):
        args = CVLSTrainingArguments.of(args)
        self._adapter = add_adapter(model, args) if args.lora_rank else None
        self._still = freeze_parts(model, args)
        super().__init__(model, args, **kwargs)
        self.add_callback(NewClipsEachEpoch(self.data_collator.sampler))
        self._average = WeightAverage(self.model, args.ema_decay) if args.ema_decay else None
        if self._average:
            self.add_callback(AverageWeights(self._average))
        self.stop = StopOnSignal()
        self.add_callback(self.stop)
        self.add_callback(MissedEvaluation(self))
        self._unfinished: str | None = None
        self._parts: dict[str, list] = defaultdict(list)

    def get_train_dataloader(self) -> DataLoader:
        """As inherited, with random numbers of its own: the loader draws seeds for its processes, more often where they
        do not stay, and what the model draws for its dropout must not depend on that."""
        loader = super().get_train_dataloader()
        getattr(loader, "base_dataloader", loader).generator = torch.Generator()
        return loader

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """All parameters but those of norms, biases and single numbers: these have no more than one dimension."""
        return [name for name, parameter in model.named_parameters() if parameter.ndim > 1]

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """As inherited, with the learning rates of the parts."""
        made = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if made:
            set_learning_rates(optimizer, self.model, self.args)
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None):
        """As inherited, or the one of `lr_milestones`."""
        if self.lr_scheduler is None and self.args.lr_milestones:
            self.lr_scheduler = milestone_schedule(optimizer or self.optimizer, self.args, num_training_steps)
        return super().create_scheduler(num_training_steps, optimizer)

    def train(self, *args, **kwargs) -> TrainOutput:
        """As inherited. With `ema_decay`, the model has the averaged weights afterwards, and with `lora_rank` the
        merged ones, the adapter being saved in `output_dir`. Where a signal asks the process to end, a checkpoint of
        the step is saved, and `stop.received` is the signal."""
        try:
            with self.stop:
                output = super().train(*args, **kwargs)
        except TrainingStopped:
            if not (Path(self.args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}").exists():
                self._save_checkpoint(self.model, None)
            return TrainOutput(self.state.global_step, float("nan"), {})
        if self._average:
            if not (self.args.load_best_model_at_end and self.state.best_model_checkpoint):
                load_floating(self.model, self._average.tensors)  # those of the best checkpoint are averaged ones
            self._average = None
        if self._adapter:
            if self.args.should_save:
                self._adapter.save_pretrained(str(Path(self.args.output_dir) / ADAPTER))
            self._adapter.merge_and_unload()
            self._adapter = None
        return output

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The model's loss. Raises `FloatingPointError` when it is not finite, naming the step and the part."""
        for module in self._still:
            module.eval()
        outputs = model(**(self._in_windows(inputs) if self.model.config.carry_state else inputs))
        for name, value in outputs.losses.items():
            self._parts[name].append(value.detach())
        if not outputs.loss.isfinite():
            parts = ", ".join(f"{name} {value.item():.4g}" for name, value in outputs.losses.items())
            raise FloatingPointError(
                f"the loss became {outputs.loss.item()} at step {self.state.global_step + 1} ({parts}). The last "
                f"checkpoint in {self.args.output_dir} is from before. A lower `learning_rate` "
                f"(now {self.args.learning_rate}), a tighter `max_grad_norm` (now {self.args.max_grad_norm}) or bf16 "
                "in place of fp16 keep it finite; if it is the very first step, look for infinite values in the data"
            )
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def _in_windows(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Clips that are gone through in windows, forward in one step and backward in the next one."""
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            # Processes that share weights wait for each other in every window, so all must have as many of them.
            padded = {name: self.accelerator.pad_across_processes(inputs[name], dim=1) for name in PER_FRAME}
            inputs = {**inputs, **padded}
        num_frames, backward = inputs["pixel_values_videos"].shape[1], self.state.global_step % 2 == 1
        return {**inputs, "window_starts": starts_of_windows(self.model.config, num_frames, backward)}

    def averaged_weights(self) -> AbstractContextManager[None]:
        """The model has the averaged weights inside the `with`, if `ema_decay` asks for an average."""
        return self._average.in_place_of_weights(self.model) if self._average else nullcontext()

    def _get_output_dir(self, trial) -> str:
        # the Trainer's hook for where checkpoints are written
        return self._unfinished or super()._get_output_dir(trial)

    def _save_checkpoint(self, model, trial) -> None:
        """As inherited, but a checkpoint appears whole or not at all, and only then do the oldest ones go."""
        folder = Path(super()._get_output_dir(trial))
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        written, final = folder / UNFINISHED / name, folder / name
        if self.args.should_save:
            shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
            written.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        self._unfinished = str(written.parent)
        try:
            with full_disk_is_named(folder, self._checkpoint_bytes()):
                super()._save_checkpoint(model, trial)
                if self.state.best_global_step == self.state.global_step:
                    self.state.best_model_checkpoint = str(final)
                if self.args.should_save:
                    self.state.save_to_json(str(written / TRAINER_STATE_NAME))
                    if self._average:
                        safetensors.torch.save_model(self.model, str(written / TRAINING_WEIGHTS))
                self.accelerator.wait_for_everyone()
                if self.args.should_save:
                    finish(written, final)
        finally:
            self._unfinished = None
        self.accelerator.wait_for_everyone()
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(final))
        if self.args.should_save:
            limit, best = self.args.save_total_limit, self.state.best_model_checkpoint
            rotate_checkpoints(str(folder), limit, best, use_mtime=True)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if not self._unfinished:  # a checkpoint goes to the Hub when it has its name
            super()._push_from_checkpoint(checkpoint_folder)

    def _checkpoint_bytes(self) -> int:
        """About what a checkpoint takes: the weights, two moments of those that learn, and another set if averaged."""
        weights = sum(value.nbytes for value in self.model.state_dict().values())
        moments = sum(2 * value.nbytes for value in self.model.parameters() if value.requires_grad)
        return weights * (2 if self._average else 1) + moments * (not self.args.save_only_model)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if self._adapter is None:
            super()._save(output_dir, state_dict)
        elif self.args.should_save:
            # a checkpoint is one that every command takes, and holds what the training goes on from beside it
            own, self.model = self.model, merged(self._adapter)
            try:
                super()._save(output_dir)
            finally:
                self.model = own
            self._adapter.save_pretrained(str(Path(output_dir or self.args.output_dir) / ADAPTER))

    def _load_best_model(self) -> None:
        if self._adapter:
            load_adapter(self._adapter, self.state.best_model_checkpoint)
        else:
            super()._load_best_model()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self._adapter:
            load_adapter(self._adapter, resume_from_checkpoint)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self._average:
            self._average.load(self.model)
            safetensors.torch.load_model(self.model, Path(resume_from_checkpoint) / TRAINING_WEIGHTS)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As inherited; with `ema_decay`, the averaged weights."""
        with self.averaged_weights():
            super().save_model(output_dir, _internal_call)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the mean of each part of the loss since the last report."""
        if "loss" in logs:
            for name, values in self._parts.items():
                logs[f"loss_{name}"] = sum(value.item() for value in values) / len(values)
            self._parts.clear()
        super().log(logs, start_time)

    def evaluate(
        self, eval_dataset=None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, Any]:
        """The metric on `eval_dataset` (default: the trainer's), flat, each key with the prefix."""
        start = time.time()
        # each process has the batch statistics of its own last batches; those that are saved are the first one's
        for buffer in self.model.buffers():
            broadcast(buffer)
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        with self.averaged_weights(), self.stop.during_evaluation():
            results = evaluate_segmenter(
                self.accelerator.unwrap_model(self.model),
                self.processing_class,
                dataset,
                progress=not self.args.disable_tqdm,
            )
        metrics = flatten_results(results, f"{metric_key_prefix}_")
        metrics.update(speed_metrics(metric_key_prefix, start, num_samples=len(dataset)))
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def evaluate_for_best(self) -> None:
        """Evaluates the checkpoint of this step, and notes it where it is the best one."""
        if self._determine_best_metric(self.evaluate(), None):
            name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            self.state.best_model_checkpoint = str(Path(self.args.output_dir) / name)

    def create_model_card(
        self,
        language: str | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        tasks: str | list[str] | None = None,
        dataset_tags: str | list[str] | None = None,
        dataset: str | None = None,
        dataset_args: str | None = None,
    ) -> None:
        """Writes README.md from model_card.md, with the results of the last evaluation; `push_to_hub` calls this.

        Args:
            dataset: name of the evaluation's data set; default: as the evaluation set says.
            dataset_args: its split; default: as the evaluation set says.
            language, license, tags, finetuned_from, tasks, dataset_tags: metadata in place of the card's own; tags are
                added.
        """
        if not self.is_world_process_zero():
            return
        evaluations = [entry for entry in self.state.log_history if any(key.startswith("eval_") for key in entry)]
        results = {key.removeprefix("eval_"): value for key, value in evaluations[-1].items()} if evaluations else None
        known = getattr(self.eval_dataset, "info", None)
        card = make_card(
            self.accelerator.unwrap_model(self.model),
            name=self.hub_model_id or model_name or self.args.output_dir,
            results=results,
            dataset=dataset or (known and known.dataset_name),
            split=dataset_args or (str(self.eval_dataset.split) if known and self.eval_dataset.split else None),
            state=self.state,
        )
        given = {"language": language, "license": license, "base_model": finetuned_from, "pipeline_tag": tasks}
        for key, value in {**given, "datasets": dataset_tags}.items():
            if value is not None:
                card.data[key] = value
        for tag in [tags] if isinstance(tags, str) else tags or []:
            if tag not in card.data.tags:
                card.data.tags.append(tag)
        card.save(Path(self.args.output_dir) / "README.md")
