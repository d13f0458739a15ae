"""Evaluation: every sentence of a data set through the pipeline that users call, into the metric, frame by frame."""

import uuid
import zipfile
from collections import deque
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from time import perf_counter
from typing import Any

import evaluate
import numpy as np
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from PIL import Image
from scipy.optimize import linear_sum_assignment
from tqdm.auto import tqdm

from .data import check_dataset, read_masks, video_of
from .metrics.region_and_boundary.region_and_boundary import measure
from .modeling_cvls import CVLSModel
from .pipeline_cvls import CVLSPipeline
from .processing_cvls import CVLSProcessor
from .rle_cvls import decode_mask, encode_masks

METRICS = Path(__file__).parent / "metrics"

#: What a benchmark is measured by. "pairs": precision@X, IoU and mAP over pairs of a sentence and a frame;
#: "sentences": J&F of each sentence; "annotators": J&F of each annotator's sentences, averaged over the annotators.
PROTOCOLS = {
    "a2d": "pairs",
    "jhmdb": "pairs",
    "ref_davis17": "annotators",
    "refer_youtube_vos": "sentences",
    "mevis": "sentences",
}

# Frames of a video that are evaluated on J-HMDB where the set names none, as many as published results have.
JHMDB_FRAMES = 3


def evaluate_segmenter(
    model: CVLSModel,
    processor: CVLSProcessor,
    dataset,
    presence_threshold: float = 0.5,
    progress: bool = True,
    protocol: str = "a2d",
    batch_size: int = 1,
    window: int | None = None,
    submission: str | Path | None = None,
) -> dict[str, Any]:
    """Measure a segmenter on a data set of video sentences.

    Videos are shared out among the processes of Accelerate, in consecutive parts; each is segmented once, by one
    process, and its masks go to the metric as soon as they are made, so that memory does not grow with the set.

    Args:
        model: the segmenter, on the device where it is to run; left in the mode it came in.
        processor: its processor.
        dataset: rows of the project's schema (`modeling_cvls.data.FEATURES`).
        presence_threshold: below it a sentence's masks are empty.
        progress: show a progress bar, on the first process.
        protocol: one of `PROTOCOLS`. "a2d" and "jhmdb" evaluate the pairs of a sentence and a frame in which all its
            referents are annotated, "jhmdb" on three evenly spaced annotated frames of a video where the set names no
            `evaluation_frames`. The others evaluate every annotated frame, the first and the last one included; an
            instance that is not annotated there counts as absent, as in the benchmarks' own code. "ref_davis17" is what
            published results are computed by: the n-th sentence of an object, in the order of the row, is annotator
            n's; where masks of an annotator's objects overlap, the most probable one keeps the pixel; and each object
            is measured by the mask that fits it best, one to one (DAVIS's unsupervised protocol). For each sentence
            against its own object, take "mevis".
        batch_size: windows of a video that go through the model together.
        window: frames of a window, default `model.config.num_frames`.
        submission: a folder for the masks of all frames as the competition servers take them, binary images
            `Annotations/<video>/<expression>/<frame>.png` (0 and 255), and for `submission.zip`, the same zipped (for
            MeViS without `Annotations/`).

    Returns:
        The metric's results (see `modeling_cvls/metrics`), the same on every process; empty where the set has no
        annotated frame and a submission is all there is to be had.

    Raises:
        ValueError: an unknown protocol; a set without truth where no submission is asked for; what is wrong with a row,
            naming its video.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"unknown protocol {protocol!r}; there are {', '.join(PROTOCOLS)}")
    check_dataset(dataset, "the evaluation set")
    state = PartialState()
    shares = [range(len(dataset) * i // state.num_processes, len(dataset) * (i + 1) // state.num_processes)
              for i in range(state.num_processes)]  # fmt: skip
    frames = [
        range(row["num_frames"]) if submission else evaluated_frames(row, protocol)
        for row in dataset.select_columns(["num_frames", "annotated_frames", "evaluation_frames"])
    ]
    has_truth = any(annotated for annotated in dataset.select_columns("annotated_frames")["annotated_frames"])
    if not has_truth and not submission:
        raise ValueError(
            "the evaluation set has no annotated frame to measure masks on; a submission for the benchmark's server is "
            "what can be made of it (--submission FOLDER)"
        )
    if submission:
        submission = Path(submission)
        if (submission / "Annotations").exists():
            raise ValueError(
                f"{submission / 'Annotations'} exists already; give a new folder, so that nothing is mixed"
            )
        state.wait_for_everyone()  # all have looked before one writes

    metric = _load_metric(protocol, state) if has_truth else None
    pipeline = CVLSPipeline(model=model, processor=processor, device=model.device)
    records = _pairs if PROTOCOLS[protocol] == "pairs" else _object_frames
    was_training = model.training
    model.eval()
    counts = [sum(len(frames[index]) for index in share) for share in shares]
    share = shares[state.process_index]
    with _Progress(counts[state.process_index], max(counts), progress and state.is_main_process) as bar:
        for index in share:
            row = dataset[index]
            try:
                predictions = _segment(
                    pipeline,
                    row,
                    frames[index],
                    batch_size=batch_size,
                    window=window,
                    presence_threshold=presence_threshold,
                    exclusive=list(_annotators(row).values()) if PROTOCOLS[protocol] == "annotators" else None,
                )
                if submission:
                    _write_masks(submission, row, predictions)
                for prediction, reference in records(row, protocol, frames[index], predictions):
                    metric.add(prediction=prediction, reference=reference)
            except (ValueError, OSError) as error:
                name = f"video {row['video_id']!r}"
                raise ValueError(str(error) if str(error).startswith(name) else f"{name}: {error}") from error
            bar.update(len(frames[index]))
    model.train(was_training)
    state.wait_for_everyone()  # the metric waits for no more than 100 seconds
    if submission and state.is_main_process:
        # the server of MeViS takes the folders of the videos without one around them (its README, as of 2025)
        _zip(submission, root=submission / "Annotations" if protocol == "mevis" else submission)
    results = [metric.compute() if has_truth else {}]
    broadcast_object_list(results)
    return results[0]


def _load_metric(protocol: str, state: PartialState) -> evaluate.Metric:
    name = "video_language_segmentation" if PROTOCOLS[protocol] == "pairs" else "region_and_boundary"
    run = [uuid.uuid4().hex]
    broadcast_object_list(run)
    return evaluate.load(
        str(METRICS / name), num_process=state.num_processes, process_id=state.process_index, experiment_id=run[0]
    )


def evaluated_frames(row: dict[str, Any], protocol: str) -> list[int]:
    """The frames (0-based) of a row on which the protocol measures; see `evaluate_segmenter`."""
    annotated = row["annotated_frames"]
    if row["evaluation_frames"]:
        return row["evaluation_frames"]
    if protocol == "jhmdb" and len(annotated) > JHMDB_FRAMES:
        return [annotated[(2 * i + 1) * len(annotated) // (2 * JHMDB_FRAMES)] for i in range(JHMDB_FRAMES)]
    return annotated


def note_on_frames(dataset, protocol: str) -> str:
    """One line on which frames `evaluate_segmenter` measures."""
    rows = len(dataset)
    named = sum(bool(frames) for frames in dataset.select_columns("evaluation_frames")["evaluation_frames"])
    rest = "every annotated frame"
    if protocol == "jhmdb":
        rest = f"{JHMDB_FRAMES} evenly spaced annotated frames a video, not the published choice"
    parts = ["the frames that the set names"] if named else []
    parts += [rest] if named < rows else []
    counts = f" ({named} and {rows - named} videos)" if 0 < named < rows else ""
    return f"evaluated on {' and on '.join(parts)}{counts}"


def _segment(
    pipeline: CVLSPipeline, row: dict[str, Any], frames: list[int] | range, **arguments
) -> list[list[dict[str, Any]]]:
    """Predictions [sentence][frame] as the metrics take them; only a few windows are ever in memory unencoded."""
    if not frames or not row["sentences"]:
        return [[None] * len(frames) for _ in row["sentences"]]
    sentences = [sentence["text"] for sentence in row["sentences"]]
    of_frame = {}
    for result in pipeline.stream(video_of(row), sentences, frame_indices=list(frames), mask_format="rle", **arguments):
        height, width = result["masks"][0]["size"]
        if (height, width) != (row["height"], row["width"]):
            raise ValueError(
                f"its frames are {height} x {width} pixels (height x width), but the row says {row['height']} x "
                f"{row['width']}"
            )
        of_frame[result["frame_index"]] = [
            {**mask, "score": score} for mask, score in zip(result["masks"], result["frame_scores"], strict=True)
        ]
    return [[of_frame[frame][sentence] for frame in frames] for sentence in range(len(sentences))]


def _pairs(
    row: dict[str, Any], protocol: str, frames: list[int] | range, predictions: list[list[dict[str, Any]]]
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """(prediction, reference) for precision@X, IoU and mAP: each sentence on each evaluated frame known of it."""
    evaluated = _evaluated_positions(row, protocol, frames)
    for sentence, of_sentence in zip(row["sentences"], predictions, strict=True):
        for frame, position in evaluated.items():
            masks = row["masks"][row["annotated_frames"].index(frame)]
            if any(masks[instance] is None for instance in sentence["instances"]):
                continue  # its referent is not annotated here
            known = [instance for instance, mask in enumerate(masks) if mask is not None]
            yield (
                of_sentence[position],
                {
                    "size": [row["height"], row["width"]],
                    "instances": [masks[instance] for instance in known],
                    "referents": [known.index(instance) for instance in sentence["instances"]],
                    "kind": sentence["kind"] or "",
                },
            )


def _object_frames(
    row: dict[str, Any], protocol: str, frames: list[int] | range, predictions: list[list[dict[str, Any]]]
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """(prediction, reference) for J&F: each sentence, which is an object there, on each evaluated frame."""
    evaluated = _evaluated_positions(row, protocol, frames)
    predictions = [[of_sentence[position] for position in evaluated.values()] for of_sentence in predictions]
    annotators = _annotators(row) if PROTOCOLS[protocol] == "annotators" else {"": range(len(predictions))}
    group_of = {number: group for group, numbers in annotators.items() for number in numbers}
    references: list[list[dict[str, Any]]] = [[] for _ in predictions]
    for frame in evaluated:
        instances, _, _ = read_masks(row, [frame])
        for number, sentence in enumerate(row["sentences"]):
            truth = instances[0, sentence["instances"]].any(axis=0)
            references[number].append(
                {
                    "size": [row["height"], row["width"]],
                    "counts": encode_masks(truth[None])[0],
                    "object": f"{row['video_id']} {sentence['sentence_id']}",
                    "group": group_of[number],
                }
            )
    for numbers in annotators.values():
        matched = list(numbers)
        if PROTOCOLS[protocol] == "annotators" and len(matched) > 1 and evaluated:
            matched = [matched[i] for i in _match([predictions[i] for i in matched], [references[i] for i in matched])]
        for number, prediction in zip(numbers, matched, strict=True):
            yield from zip(predictions[prediction], references[number], strict=True)


def _match(predictions: list[list[dict[str, Any]]], references: list[list[dict[str, Any]]]) -> list[int]:
    """For each object the prediction that it is measured by, so that the sum of all objects' J&F is largest: DAVIS's
    unsupervised protocol, by which the results on Ref-DAVIS17 are published."""
    quality = [
        [np.mean([measure(*pair) for pair in zip(prediction, reference, strict=True)]) for prediction in predictions]
        for reference in references
    ]
    return linear_sum_assignment(quality, maximize=True)[1].tolist()


def _evaluated_positions(row: dict[str, Any], protocol: str, frames: list[int] | range) -> dict[int, int]:
    """The evaluated frames, each with its position among the predicted `frames`."""
    evaluated = evaluated_frames(row, protocol)
    for frame in evaluated:
        if frame not in row["annotated_frames"]:
            raise ValueError(f"frame {frame} is to be evaluated, but is not one of the annotated_frames")
    position = {frame: i for i, frame in enumerate(frames)}
    return {frame: position[frame] for frame in evaluated}


def _annotators(row: dict[str, Any]) -> dict[str, list[int]]:
    """Annotator -> numbers of their sentences: the n-th on an object, in the order of the row, is annotator n's."""
    seen: dict[tuple[int, ...], int] = {}
    sentences: dict[str, list[int]] = {}
    for number, sentence in enumerate(row["sentences"]):
        referents = tuple(sorted(sentence["instances"]))
        seen[referents] = seen.get(referents, 0) + 1
        sentences.setdefault(f"annotator {seen[referents]}", []).append(number)
    return sentences


def _write_masks(folder: Path, row: dict[str, Any], predictions: list[list[dict[str, Any]]]) -> None:
    """`Annotations/<video>/<expression>/<frame>.png` for every sentence and frame of a row.

    The expression is the sentence's id without the video's before it; frames are called as in the source.
    """
    names = [Path(cell["path"] or "").stem for cell in row["frames"] or []]
    if not names or not all(names):
        raise ValueError("a submission is named after the source's frames, but the row's frames have no `path`")
    for sentence, of_sentence in zip(row["sentences"], predictions, strict=True):
        expression = sentence["sentence_id"].removeprefix(f"{row['video_id']}/")
        path = folder / "Annotations" / row["video_id"] / expression
        path.mkdir(parents=True)
        for name, prediction in zip(names, of_sentence, strict=True):
            mask = decode_mask(prediction["counts"], *prediction["size"])
            Image.fromarray(mask * np.uint8(255)).save(path / f"{name}.png")


def _zip(folder: Path, root: Path) -> None:
    """folder/Annotations -> folder/submission.zip, named from `root` on. Stored: PNG files are compressed already."""
    with zipfile.ZipFile(folder / "submission.zip", "w") as archive:
        for path in sorted((folder / "Annotations").rglob("*.png")):
            archive.write(path, path.relative_to(root))


class _Progress:
    """A bar over frames that also says how long it takes at most: the frames left at the slowest recent speed.

    Args:
        total: frames of this process.
        longest: frames of the process that has most of them, for all are waited for.
        show: whether to show anything.
    """

    recent = 20  # videos

    def __init__(self, total: int, longest: int, show: bool):
        self.bar = tqdm(total=total, desc="evaluating", unit="frame", disable=not show)
        self.left = longest
        self.seconds_a_frame: deque[float] = deque(maxlen=self.recent)
        self.last = perf_counter()

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *exception) -> None:
        self.bar.close()

    def update(self, frames: int) -> None:
        """A video of so many frames is done."""
        now = perf_counter()
        if frames:
            self.seconds_a_frame.append((now - self.last) / frames)
            self.left -= frames
            slowest = timedelta(seconds=round(self.left * max(self.seconds_a_frame)))
            self.bar.set_postfix_str(f"{slowest} left at the slowest recent speed", refresh=False)
            self.bar.update(frames)
        self.last = now


def flatten_results(results: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """{"mean_iou": a, "per_kind": {"spatial": {"mean_iou": b}}} -> {"mean_iou": a, "spatial/mean_iou": b}."""
    parts = ("per_kind", "per_group")
    flat = {f"{prefix}{name}": value for name, value in results.items() if name not in parts}
    for part, values in [item for name in parts for item in results.get(name, {}).items()]:
        flat.update({f"{prefix}{part}/{name}": value for name, value in values.items()})
    return flat


def results_table(results: dict[str, Any]) -> str:
    """The results as a table in Markdown: a row over all, a row a kind of sentence or a row an annotator."""
    if "J&F" in results:
        columns = {"J&F": "J&F", "J": "J", "F": "F", "sentences": "num_objects", "frames": "num_frames"}
    else:
        columns = {
            **{f"P@0.{i}": f"precision@0.{i}" for i in range(5, 10)},
            "mAP": "mAP",
            "overall IoU": "overall_iou",
            "mean IoU": "mean_iou",
            "referent accuracy": "referent_accuracy",
            "no referent: empty": "no_referent_accuracy",
            "pairs": "num_pairs",
        }
    lines = ["| sentences | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    parts = results.get("per_kind") or results.get("per_group") or {}
    for part, values in {"all": results, **parts}.items():
        cells = []
        for name in columns.values():
            value = values.get(name)
            cells.append("-" if value is None else f"{value:.0f}" if name.startswith("num_") else f"{value:.3f}")
        lines.append(f"| {part} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
