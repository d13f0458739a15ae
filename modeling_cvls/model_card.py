"""The model card that comes with a checkpoint: model_card.md filled with what was measured."""

import re
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers import TrainerState

from .evaluation import results_table
from .modeling_cvls import CVLSModel

TEMPLATE = Path(__file__).with_name("model_card.md")
METRICS = ("mean_iou", "overall_iou", "mAP", "precision@0.5", "referent_accuracy", "J&F", "J", "F")


def is_hub_name(name: str) -> bool:
    """Whether `name` can be a repository on the Hub: no folder here, and of the form USER/NAME."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return "/" in name and not Path(name).exists()


def make_card(
    model: CVLSModel,
    name: str,
    results: dict[str, Any] | None = None,
    dataset: str | None = None,
    dataset_name: str | None = None,
    split: str | None = None,
    state: TrainerState | None = None,
    **notes: str | None,
) -> ModelCard:
    """Fills model_card.md.

    Args:
        model: the trained segmenter.
        name: where it is loaded from, USER/NAME or a folder.
        results: what `evaluate_segmenter` returned; without it, or without `dataset`, the metadata hold no results.
        dataset: folder or Hub name of the data set that the results were measured on.
        dataset_name: its name for a reader; default: the last part of `dataset`.
        split: of that data set.
        state: of the training.
        notes: `evaluation_command`, what anyone can run to measure the same; `synthetic_size`, "H x W" of the frames,
            where the data are synthetic scenes: the card then says so.

    Returns:
        The card, with pipeline tag, library, license, data set, base models (as far as they are on the Hub) and the
        results in its metadata.
    """
    dataset_name = dataset_name or (Path(dataset).name if dataset else None)
    data = _metadata(model, name, results, dataset, dataset_name, split)
    return ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        model_name=data.model_name,
        model_id=name,
        training_summary=_training_summary(model, state),
        results_table=results_table(results) if results else None,
        dataset_name=dataset_name,
        split=split,
        evaluation_command=notes.get("evaluation_command"),
        synthetic_size=notes.get("synthetic_size"),
        num_frames=model.config.num_frames,
    )


def _metadata(
    model: CVLSModel,
    name: str,
    results: dict[str, Any] | None,
    dataset: str | None,
    dataset_name: str | None,
    split: str | None,
) -> ModelCardData:
    config = model.config
    data = ModelCardData(
        model_name=_title(name),
        language="en",
        license="apache-2.0",
        library_name="transformers",
        pipeline_tag="image-segmentation",  # of the Hub's own tasks the nearest: it has none for videos
        tags=["video-language-segmentation", "referring-video-object-segmentation", "cvls"],
    )
    parts = [config._name_or_path, config.backbone_config._name_or_path, config.text_config._name_or_path]
    base_models = [part for part in parts if is_hub_name(part)]
    if base_models and base_models[0] == config._name_or_path:
        del base_models[1:]  # fine-tuned from a whole segmenter
    if base_models:
        data.base_model = base_models
    if dataset:
        slug = dataset if is_hub_name(dataset) else re.sub(r"[^\w.]+", "-", dataset_name.lower()).strip("-")
        data.datasets = [slug]
        if results:
            data.eval_results = [
                EvalResult(
                    task_type="image-segmentation",
                    task_name="Video-language segmentation",
                    dataset_type=slug,
                    dataset_name=dataset_name,
                    dataset_split=split,
                    metric_type=metric,
                    metric_value=results[metric],
                )
                for metric in METRICS
                if metric in results
            ]
    return data


def _title(name: str) -> str:
    return name.split("/")[-1] if is_hub_name(name) else Path(name).resolve().name


def _training_summary(model: CVLSModel, state: TrainerState | None) -> str:
    config = model.config
    parts = {
        "contrastive objective": config.contrast_weight > 0,
        "channel filter (LCF)": config.contrast_weight > 0 and config.channel_filter,
        "hard instances (RHIC)": config.contrast_weight > 0 and config.hard_instances,
    }
    summary = (
        f"{model.num_parameters() / 1e6:.2f} M parameters, vision `{config.backbone_config.model_type}`, text "
        f"`{config.text_config.model_type}`. "
        + "; ".join(f"{part} {'on' if on else 'off'}" for part, on in parts.items())
        + ". All settings stand in `config.json`."
    )
    if state is not None and state.global_step:
        summary = (
            f"{state.global_step:,} steps of {state.train_batch_size} clips ({config.num_frames} frames each) per "
            f"process; best step by validation: {state.best_global_step or state.global_step:,}. {summary}"
        )
    return summary
