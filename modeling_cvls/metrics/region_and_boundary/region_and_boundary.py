"""Region similarity J and boundary accuracy F of DAVIS, as an `evaluate` module."""

import math
from collections import defaultdict
from typing import Any

import datasets
import evaluate
import numpy as np
from scipy.spatial import cKDTree

_DESCRIPTION = """\
J&F of the DAVIS benchmark, by which Ref-DAVIS17, Refer-YouTube-VOS and MeViS are measured: the region similarity J, the
IoU of predicted and true mask, and the boundary accuracy F, the F-measure of their outlines at a tolerance of 0.008 of
the frame's diagonal; both averaged over the frames of an object, then over objects, then over groups (the annotators of
Ref-DAVIS17), where there are any. Each frame is measured when it is added, so that memory grows with the number of
objects only.
"""

_CITATION = """\
@inproceedings{perazzi2016benchmark,
  title = {A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation},
  author = {Perazzi, Federico and Pont-Tuset, Jordi and McWilliams, Brian and Van Gool, Luc and Gross, Markus and
            Sorkine-Hornung, Alexander},
  booktitle = {IEEE Conference on Computer Vision and Pattern Recognition},
  year = {2016}
}
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: one per frame of an object,
        size (`list[int]`): height and width of the frame in pixels;
        counts (`str`): COCO compressed RLE of the predicted mask at that size.
    references: one per frame of an object,
        size (`list[int]`): height and width of the frame in pixels;
        counts (`str`): COCO compressed RLE of the true mask;
        object (`str`): what the frame counts for, for example video and sentence;
        group (`str`): the objects' group, "" where there are none. Objects of different groups are different objects.
Returns: a dict,
    J&F (`float`): the mean of J and F;
    J (`float`): IoU (1 for two empty masks), averaged over frames, objects and groups;
    F (`float`): 2PR / (P + R), averaged in the same way. P is the share of the predicted outline's pixels that have a
        pixel of the true outline within ceil(0.008 sqrt(height^2 + width^2)) pixels, R the same with the two exchanged.
        If one outline alone is empty, F is 0; if both are, 1. A pixel is on the outline if its right, lower, or lower
        right neighbor differs from it; DAVIS draws outlines so.
    num_objects (`float`), num_frames (`float`): how many were averaged, over all groups;
    per_group (`dict`): for each group other than "", the dict of the above for its objects alone.
Raises:
    ValueError, when a frame is added: sizes that differ between prediction and reference, or counts that are not a COCO
    compressed RLE of that size. When the results are asked for: nothing was added.
Examples:
    >>> metric = evaluate.load("modeling_cvls/metrics/region_and_boundary")
    >>> left_half, right_half = "066", "66"  # of a frame 3 high and 4 wide
    >>> metric.add(
    ...     prediction={"size": [3, 4], "counts": left_half},
    ...     reference={"size": [3, 4], "counts": right_half, "object": "a", "group": ""},
    ... )
    >>> results = metric.compute()
    >>> results["J"], results["F"], results["J&F"]
    (0.0, 1.0, 0.5)
"""

TOLERANCE = 0.008


def _decode(counts: str, height: int, width: int, what: str) -> np.ndarray:
    """COCO compressed RLE -> bool (height, width).

    A run is a string of characters of 5 bits, lowest first, bit 6 set in all but the last, whose top bit is the sign;
    from the fourth on a run is stored as its difference to the last but one before it (`rleToString` in COCO's
    maskApi.c). Runs go down the columns, zeros first.
    """
    code = np.frombuffer(counts.encode(), np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero((code & 32) == 0)
    starts = np.concatenate(([0], ends[:-1] + 1))
    widths = ends - starts + 1
    valid = code.size and code.min() >= 0 and code.max() <= 63 and not code[-1] & 32 and widths.max() <= 7
    if valid:
        shifts = 5 * (np.arange(code.size) - np.repeat(starts, widths))
        runs = np.add.reduceat((code & 31) << shifts, starts)
        runs -= np.where(code[ends] & 16, 1 << (5 * widths), 0)
        runs[1::2] = np.cumsum(runs[1::2])
        runs[2::2] = np.cumsum(runs[2::2])
    if not valid or (runs < 0).any():
        raise ValueError(
            f"the {what}'s counts {counts[:40]!r} are not a COCO compressed RLE; give the `counts` of "
            "pycocotools.mask.encode, decoded from bytes to str"
        )
    if runs.sum() != height * width:
        raise ValueError(
            f"the {what}'s RLE holds {runs.sum()} pixels, but a frame of {height} x {width} (height x width) has "
            f"{height * width}; encode the mask at the frame's own size"
        )
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def _outline(mask: np.ndarray) -> np.ndarray:
    """Bool (H, W) -> coordinates (N, 2) of the pixels of its outline; the frame's own edge is none."""
    # Beyond the last row and column the mask goes on as it is there.
    beyond = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    return np.argwhere((mask != beyond[1:, :-1]) | (mask != beyond[:-1, 1:]) | (mask != beyond[1:, 1:]))


def _region_similarity(predicted: np.ndarray, truth: np.ndarray) -> float:
    union = np.count_nonzero(predicted | truth)
    return np.count_nonzero(predicted & truth) / union if union else 1.0


def _boundary_accuracy(predicted: np.ndarray, truth: np.ndarray) -> float:
    outlines = _outline(predicted), _outline(truth)
    if not len(outlines[0]) or not len(outlines[1]):
        return float(len(outlines[0]) == len(outlines[1]))
    tolerance = math.ceil(TOLERANCE * np.linalg.norm(predicted.shape))
    # Within a disk's radius of the other outline: on the other outline dilated by that disk, as DAVIS says it.
    precision, recall = (
        (cKDTree(other).query(own)[0] <= tolerance).mean() for own, other in (outlines, reversed(outlines))
    )
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def measure(prediction: dict[str, Any], reference: dict[str, Any]) -> tuple[float, float]:
    """J and F of one frame; see `RegionAndBoundary` for what is given and raised."""
    size = list(reference["size"])
    if list(prediction["size"]) != size or len(size) != 2 or min(size) < 1:
        raise ValueError(
            f"object {reference['object']!r}: the prediction's size is {list(prediction['size'])}, the reference's "
            f"{size}; both must be the frame's [height, width] in pixels"
        )
    try:
        predicted = _decode(prediction["counts"], *size, "prediction")
        truth = _decode(reference["counts"], *size, "reference")
    except ValueError as error:
        raise ValueError(f"object {reference['object']!r}: {error}") from None
    return _region_similarity(predicted, truth), _boundary_accuracy(predicted, truth)


def _summarize(objects: list[tuple[float, float, int]]) -> dict[str, float]:
    """Sums of J and F and the number of frames of each object -> means over objects. Exact whatever the order."""
    j, f = (math.fsum(sums[i] / sums[2] for sums in objects) / len(objects) for i in (0, 1))
    return {
        "J&F": (j + f) / 2,
        "J": j,
        "F": f,
        "num_objects": float(len(objects)),
        "num_frames": float(sum(frames for *_, frames in objects)),
    }


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class RegionAndBoundary(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        # What is kept of an object, one record of each process that saw it; what is added is described above.
        kept = {"J": datasets.Value("float64"), "F": datasets.Value("float64"), "frames": datasets.Value("int64")}
        names = {"object": datasets.Value("string"), "group": datasets.Value("string")}
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": kept, "references": names}),
            reference_urls=["https://github.com/davisvideochallenge/davis2017-evaluation"],
        )

    def add(self, *, prediction: dict[str, Any], reference: dict[str, Any]) -> None:
        """Measures one frame and keeps its J and F."""
        values = measure(prediction, reference)
        sums = self._sums()[reference["group"] or "", reference["object"]]
        for i, value in enumerate((*values, 1)):
            sums[i] += value

    def add_batch(self, *, predictions: list[dict[str, Any]], references: list[dict[str, Any]]) -> None:
        """Measures several frames and keeps their J and F."""
        for prediction, reference in zip(predictions, references, strict=True):
            self.add(prediction=prediction, reference=reference)

    def compute(self, *, predictions: list | None = None, references: list | None = None) -> dict[str, Any] | None:
        """Means over all that was added, by this process and the others; None but in process 0."""
        if predictions is not None or references is not None:
            self.add_batch(predictions=predictions, references=references)
        sums = self._sums()
        kept = [{"J": j, "F": f, "frames": frames} for j, f, frames in sums.values()]
        names = [{"object": name, "group": group} for group, name in sums]
        del self._objects
        evaluate.Metric.add_batch(self, predictions=kept, references=names)
        return evaluate.Metric.compute(self)

    def _sums(self) -> dict[tuple[str, str], list]:
        """(group, object) -> sum of J, sum of F, number of frames."""
        if not hasattr(self, "_objects"):
            self._objects = defaultdict(lambda: [0.0, 0.0, 0])
        return self._objects

    def _compute(self, predictions: list[dict], references: list[dict]) -> dict[str, Any]:
        if not predictions:
            raise ValueError("There is no frame to evaluate: add at least one prediction with its reference.")
        groups: dict[str, dict[str, list]] = defaultdict(lambda: defaultdict(lambda: [0.0, 0.0, 0]))
        for kept, names in zip(predictions, references, strict=True):
            sums = groups[names["group"]][names["object"]]
            for i, field in enumerate(("J", "F", "frames")):
                sums[i] += kept[field]
        results = {group: _summarize([tuple(sums) for sums in groups[group].values()]) for group in sorted(groups)}
        j, f = (math.fsum(result[name] for result in results.values()) / len(results) for name in ("J", "F"))
        return {
            "J&F": (j + f) / 2,
            "J": j,
            "F": f,
            **{name: sum(result[name] for result in results.values()) for name in ("num_objects", "num_frames")},
            "per_group": {group: result for group, result in results.items() if group},
        }
