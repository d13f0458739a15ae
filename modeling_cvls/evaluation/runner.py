"""Evaluation: every sentence of a data set through the pipeline that users call, into the metric, frame by frame."""

import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from time import perf_counter
from typing import Any

import evaluate
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from tqdm.auto import tqdm

from ..atomic import only_one
from ..data import check_dataset, video_of
from ..features_cvls import fingerprint
from ..modeling_cvls import CVLSModel
from ..pipeline_cvls import CVLSPipeline
from ..processing_cvls import CVLSProcessor
from .protocols import Protocol, protocol_named
from .records import Prediction, object_records, pair_records, sentences_by_annotator
from .submission import Submission, dataset_digest, frame_names_of

METRICS = Path(__file__).parents[1] / "metrics"
RECORDS = {"video_language_segmentation": pair_records, "region_and_boundary": object_records}


def evaluate_segmenter(
    model: CVLSModel,
    processor: CVLSProcessor,
    dataset: Dataset,
    presence_threshold: float | None = None,
    progress: bool = True,
    protocol: str | Protocol = "custom",
    submission: str | Path | None = None,
    allow_urls: bool = False,
    **segmentation: Any,
) -> dict[str, Any]:
    """Measures a segmenter on a data set of video sentences.

    Videos are shared out among the processes of Accelerate, in consecutive parts; each is segmented once, by one
    process, and its masks go to the metric as soon as they are made, so that memory does not grow with the set.

    Args:
        model: the segmenter, on the device where it is to run; left in the mode it came in.
        processor: its processor.
        dataset: rows of the project's schema (`modeling_cvls.data.FEATURES`).
        presence_threshold: masks are empty where the presence probability is below this; default: the protocol's.
        progress: show a progress bar, on the first process.
        protocol: one of `PROTOCOLS` or its name: what is measured, on which frames. For each sentence of Ref-DAVIS17
            against its own object, take "mevis".
        submission: a folder for the masks of all frames, see `Submission`. An evaluation that was killed goes on where
            it was, unless the set has annotated frames: all is measured then.
        allow_urls: let a row's video be at a URL, which is fetched.
        segmentation: `batch_size` and `window`, as the pipeline takes them.

    Returns:
        The metric's results (see `modeling_cvls/metrics`), the same on every process; empty without annotated frames.

    Raises:
        ValueError: an unknown protocol; neither truth nor a submission; what is wrong with a row, naming its video.
        BlockingIOError: another evaluation is writing the submission.
    """
    protocol = protocol_named(protocol)
    check_dataset(dataset, "the evaluation set")
    threshold = protocol.presence_threshold if presence_threshold is None else presence_threshold
    segmentation = {**segmentation, "presence_threshold": threshold}
    state = PartialState()
    has_truth = _has_truth(dataset, submission)
    with _only_evaluation(submission, state):
        run = _Run(
            CVLSPipeline(model=model, processor=processor, device=model.device),
            protocol,
            segmentation,
            _start_submission(submission, model, dataset, protocol, segmentation, state) if submission else None,
            _load_metric(protocol, state) if has_truth else None,
            allow_urls,
        )
        run.evaluate(dataset, state, progress)
    results = [run.metric.compute() if run.metric is not None else {}]
    broadcast_object_list(results)
    return results[0]


def _only_evaluation(submission: str | Path | None, state: PartialState) -> AbstractContextManager[None]:
    if submission is None or not state.is_main_process:
        return nullcontext()
    another = BlockingIOError(f"another evaluation is writing to {submission}")
    return only_one(Path(submission) / ".lock", another)


def _has_truth(dataset: Dataset, submission: str | Path | None) -> bool:
    if any(dataset.select_columns("annotated_frames")["annotated_frames"]):
        return True
    if submission is None:
        raise ValueError(
            "the evaluation set has no annotated frame to measure masks on; a submission for the benchmark's server is "
            "what can be made of it (--submission FOLDER)"
        )
    return False


def _start_submission(
    folder: str | Path,
    model: CVLSModel,
    dataset: Dataset,
    protocol: Protocol,
    segmentation: Mapping[str, Any],
    state: PartialState,
) -> Submission:
    settings = {
        "model": model.config._name_or_path,
        "weights": fingerprint(model),
        "dataset": dataset_digest(dataset),
        "protocol": protocol.name,
        **{name: value for name, value in segmentation.items() if name != "batch_size"},  # which changes no mask
    }
    submission = Submission(folder, settings)
    submission.check()
    state.wait_for_everyone()  # all have looked before one writes
    if state.is_main_process:
        submission.begin()
    state.wait_for_everyone()
    return submission


def _load_metric(protocol: Protocol, state: PartialState) -> evaluate.Metric:
    run = [uuid.uuid4().hex]
    broadcast_object_list(run)
    path = str(METRICS / protocol.metric)
    return evaluate.load(path, num_process=state.num_processes, process_id=state.process_index, experiment_id=run[0])


@dataclass
class _Run:
    """One evaluation in one process."""

    pipeline: CVLSPipeline
    protocol: Protocol
    segmentation: Mapping[str, Any]
    submission: Submission | None
    metric: evaluate.Metric | None
    allow_urls: bool

    def evaluate(self, dataset: Dataset, state: PartialState, progress: bool) -> None:
        """Evaluates this process's part of the rows, and finishes the submission when the others have done theirs."""
        model = self.pipeline.model
        was_training = model.training
        model.eval()
        self.evaluate_share(dataset, state, progress)
        model.train(was_training)
        state.wait_for_everyone()  # the metric waits for no more than 100 seconds
        if self.submission and state.is_main_process:
            self.submission.finish(self.protocol)

    def evaluate_share(self, dataset: Dataset, state: PartialState, progress: bool) -> None:
        """Evaluates this process's part of the rows.

        Raises:
            ValueError: what is wrong with a row, naming its video.
        """
        frames = [
            self._frames(row)
            for row in dataset.select_columns(["video_id", "num_frames", "annotated_frames", "evaluation_frames"])
        ]
        shares = [
            range(len(dataset) * i // state.num_processes, len(dataset) * (i + 1) // state.num_processes)
            for i in range(state.num_processes)
        ]
        counts = [sum(len(frames[index]) for index in share) for share in shares]
        share = shares[state.process_index]
        with _Progress(counts[state.process_index], max(counts), progress and state.is_main_process) as bar:
            for index in share:
                row = dataset[index]
                try:
                    self._evaluate_row(row, frames[index])
                except (ValueError, OSError) as error:
                    name = f"video {row['video_id']!r}"
                    raise ValueError(str(error) if str(error).startswith(name) else f"{name}: {error}") from error
                bar.update(len(frames[index]))

    def _frames(self, row: Mapping[str, Any]) -> Sequence[int]:
        """The frames of a video that have to be segmented."""
        if self.submission is None:
            return self.protocol.evaluated_frames(row)
        is_done = self.metric is None and self.submission.has(row["video_id"])
        return range(0 if is_done else row["num_frames"])

    def _evaluate_row(self, row: Mapping[str, Any], frames: Sequence[int]) -> None:
        if self.submission:
            frame_names_of(row)  # before the masks are made
        predictions = self._segment(row, frames)
        if self.submission:
            self.submission.write(row, predictions)
        if self.metric is not None:
            for prediction, reference in RECORDS[self.protocol.metric](row, self.protocol, frames, predictions):
                self.metric.add(prediction=prediction, reference=reference)

    def _segment(self, row: Mapping[str, Any], frames: Sequence[int]) -> list[list[Prediction]]:
        """Predictions [sentence][frame] as the metrics take them; only a few windows are ever in memory unencoded."""
        if not frames or not row["sentences"]:
            return [[] for _ in row["sentences"]]
        results = self.pipeline.stream(
            video_of(row, self.allow_urls),
            [sentence["text"] for sentence in row["sentences"]],
            frame_indices=list(frames),
            on_damage="error",
            passes=2,
            mask_format="rle",
            exclusive=list(sentences_by_annotator(row).values()) if self.protocol.by_annotator else None,
            **self.segmentation,
        )
        of_frame = {}
        for result in results:
            height, width = result["masks"][0]["size"]
            if (height, width) != (row["height"], row["width"]):
                raise ValueError(
                    f"its frames are {height} x {width} pixels (height x width), but the row says {row['height']} x "
                    f"{row['width']}"
                )
            of_frame[result["frame_index"]] = [
                {**mask, "score": score} for mask, score in zip(result["masks"], result["frame_scores"], strict=True)
            ]
        return [[of_frame[frame][sentence] for frame in frames] for sentence in range(len(row["sentences"]))]


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
        self.seconds_per_frame: deque[float] = deque(maxlen=self.recent)
        self.last = perf_counter()

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *exception) -> None:
        self.bar.close()

    def update(self, frames: int) -> None:
        """A video of so many frames is done."""
        now = perf_counter()
        if frames:
            self.seconds_per_frame.append((now - self.last) / frames)
            self.left -= frames
            slowest = timedelta(seconds=round(self.left * max(self.seconds_per_frame)))
            self.bar.set_postfix_str(f"{slowest} left at the slowest recent speed", refresh=False)
            self.bar.update(frames)
        self.last = now
