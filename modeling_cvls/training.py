"""Training: transformers' Trainer with the parts of the loss logged, and evaluation by the project's own metric."""

import time
from collections import defaultdict
from typing import Any

from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import speed_metrics

from .data import ClipSampler
from .evaluation import evaluate_segmenter, flatten_results


class NewClipsEachEpoch(TrainerCallback):
    """Tells the clip sampler the epoch, so that each epoch sees other clips of the same videos."""

    def __init__(self, sampler: ClipSampler):
        self.sampler = sampler

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.sampler.epoch = int(state.epoch or 0)


class CVLSTrainer(Trainer):
    """transformers' `Trainer` for [`CVLSModel`].

    Rows of video sentences become batches in the data collator (`modeling_cvls.data.ClipCollator`). Evaluation segments
    whole videos with `evaluate_segmenter`, so that a number seen in training is the number of the final evaluation.
    Needs `data_collator` (such a collator) and `processing_class` (a [`CVLSProcessor`]).
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.add_callback(NewClipsEachEpoch(self.data_collator.sampler))
        self._parts: dict[str, list] = defaultdict(list)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The model's loss. Raises `FloatingPointError` when it is not finite, naming the step and the part."""
        outputs = model(**inputs)
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
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
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
