"""Training: transformers' Trainer with the parts of the loss logged, and evaluation by the project's own metric."""

import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import speed_metrics

from .data import ClipSampler
from .evaluation import evaluate_segmenter, flatten_results
from .model_card import make_card


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
        # each process has the batch statistics of its own last batches; those that are saved are the first one's
        for buffer in self.model.buffers():
            broadcast(buffer)
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
