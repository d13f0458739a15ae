"""Evaluation: every sentence of a data set through the pipeline that users call, into the metric, frame by frame."""

import uuid
from pathlib import Path
from typing import Any

import evaluate
import numpy as np
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from pycocotools import mask as rle
from tqdm.auto import tqdm

from .data import check_dataset, video_of
from .modeling_cvls import CVLSModel
from .pipeline_cvls import CVLSPipeline
from .processing_cvls import CVLSProcessor

METRIC = Path(__file__).parent / "metrics" / "video_language_segmentation"


def evaluate_segmenter(
    model: CVLSModel, processor: CVLSProcessor, dataset, presence_threshold: float = 0.5, progress: bool = True
) -> dict[str, Any]:
    """Measure a segmenter on a data set of video sentences.

    Videos are shared out among the processes of Accelerate; each is segmented once, by one process, and its masks go to
    the metric as soon as they are made, so that memory does not grow with the set.

    Args:
        model: the segmenter, on the device where it is to run; left in the mode it came in.
        processor: its processor.
        dataset: rows of the project's schema (`modeling_cvls.data.FEATURES`).
        presence_threshold: below it a sentence's masks are empty.
        progress: show a progress bar, on the first process.

    Returns:
        The metric's results (see `modeling_cvls/metrics/video_language_segmentation`), the same on every process.
    """
    check_dataset(dataset, "the evaluation set")
    state = PartialState()
    run = [uuid.uuid4().hex]
    broadcast_object_list(run)
    metric = evaluate.load(
        str(METRIC), num_process=state.num_processes, process_id=state.process_index, experiment_id=run[0]
    )
    pipeline = CVLSPipeline(model=model, processor=processor, device=model.device)
    was_training = model.training
    model.eval()
    indices = range(state.process_index, len(dataset), state.num_processes)
    for index in tqdm(indices, desc="evaluating", unit="video", disable=not (progress and state.is_main_process)):
        for prediction, reference in _segment_row(pipeline, dataset[index], presence_threshold):
            metric.add(prediction=prediction, reference=reference)
    model.train(was_training)
    results = [metric.compute()]
    broadcast_object_list(results)
    return results[0]


def _segment_row(pipeline: CVLSPipeline, row: dict[str, Any], presence_threshold: float):
    """The (prediction, reference) pairs of the metric: each sentence on each evaluated frame that is known of it."""
    annotated = row["annotated_frames"]
    evaluated = row["evaluation_frames"] or annotated
    results = pipeline(
        video_of(row),
        [sentence["text"] for sentence in row["sentences"]],
        frame_indices=evaluated,
        presence_threshold=presence_threshold,
    )
    for sentence, result in zip(row["sentences"], results, strict=True):
        for position, frame in enumerate(evaluated):
            masks = row["masks"][annotated.index(frame)]
            if any(masks[instance] is None for instance in sentence["instances"]):
                continue  # its referent is not annotated here
            known = [instance for instance, mask in enumerate(masks) if mask is not None]
            encoded = rle.encode(np.asfortranarray(result["masks"][position], dtype=np.uint8))
            prediction = {
                "size": list(encoded["size"]),
                "counts": encoded["counts"].decode("ascii"),
                "score": result["frame_scores"][position],
            }
            reference = {
                "size": [row["height"], row["width"]],
                "instances": [masks[instance] for instance in known],
                "referents": [known.index(instance) for instance in sentence["instances"]],
                "kind": sentence["kind"] or "",
            }
            yield prediction, reference


def flatten_results(results: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """{"mean_iou": a, "per_kind": {"spatial": {"mean_iou": b}}} -> {"mean_iou": a, "spatial/mean_iou": b}."""
    flat = {f"{prefix}{name}": value for name, value in results.items() if name != "per_kind"}
    for kind, values in results.get("per_kind", {}).items():
        flat.update({f"{prefix}{kind}/{name}": value for name, value in values.items()})
    return flat


def results_table(results: dict[str, Any]) -> str:
    """The results as a table in Markdown: a row over all, a row a kind of sentence."""
    columns = {
        "mean IoU": "mean_iou",
        "overall IoU": "overall_iou",
        "mAP": "mAP",
        "P@0.5": "precision@0.5",
        "referent accuracy": "referent_accuracy",
        "no referent: empty": "no_referent_accuracy",
        "pairs": "num_pairs",
    }
    lines = ["| sentences | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for kind, values in {"all": results, **results.get("per_kind", {})}.items():
        cells = []
        for name in columns.values():
            value = values.get(name)
            cells.append("-" if value is None else f"{value:.0f}" if name == "num_pairs" else f"{value:.3f}")
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
