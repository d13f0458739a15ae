"""Metrics of segmenting in a video what a sentence refers to, as an `evaluate` module."""

from array import array
from typing import Any

import datasets
import evaluate
import numpy as np
from pycocotools import mask as rle_ops

_DESCRIPTION = """\
Video-language segmentation, evaluated on pairs of a sentence and an annotated frame: precision@X, mean and overall IoU
and mAP as usual for A2D Sentences and J-HMDB Sentences; referent accuracy, which asks whether the prediction lies on
the object meant rather than on another one of the frame; and the accuracy on sentences without a referent. Everything
is computed from run-length encodings: no mask is rasterized. Each pair is measured when it is added, and a few numbers
are kept of it.
"""

_CITATION = """\
@inproceedings{gavrilyuk2018actor,
  title = {Actor and Action Video Segmentation from a Sentence},
  author = {Gavrilyuk, Kirill and Ghodrati, Amir and Li, Zhenyang and Snoek, Cees G. M.},
  booktitle = {IEEE Conference on Computer Vision and Pattern Recognition},
  year = {2018}
}
@inproceedings{lin2014microsoft,
  title = {Microsoft {COCO}: Common Objects in Context},
  author = {Lin, Tsung-Yi and Maire, Michael and Belongie, Serge and Hays, James and Perona, Pietro and Ramanan, Deva
            and Doll{\\'a}r, Piotr and Zitnick, C. Lawrence},
  booktitle = {European Conference on Computer Vision},
  year = {2014}
}
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: one per pair,
        size (`list[int]`): height and width of the frame in pixels;
        counts (`str`): COCO compressed RLE of the predicted mask at that size;
        score (`float`): the confidence by which mAP ranks the predictions, any finite number.
    references: one per pair,
        size (`list[int]`): height and width of the frame in pixels;
        instances (`list[str]`): COCO compressed RLE counts of the instances annotated in the frame;
        referents (`list[int]`): indices into `instances` of what the sentence refers to, empty for a sentence without
            referent. The truth of the pair is the union of these instances;
        kind (`str`): the kind of the sentence, "" where none is given.
Returns: a dict. All of it but the last three entries is over the pairs with a referent, and absent if there are none.
    precision@0.5, precision@0.6, ... precision@0.9 (`float`): share of pairs whose IoU is strictly above the number.
    mean_iou (`float`): mean IoU. The IoU of two empty masks is 1, here as in precision@X.
    overall_iou (`float`): sum of the intersections over sum of the unions, 1 if every mask is empty.
    mAP (`float`): COCO's mask AP averaged over the IoU thresholds 0.50:0.05:0.95, each pair an image with one
        prediction, as pycocotools' COCOeval gives it. There an empty truth is never found, not even by an empty
        prediction, and equal scores rank in the order the pairs were added (process by process, if several add).
    referent_accuracy (`float`): share of pairs whose prediction has strictly more pixels in common with the truth than
        with any other instance of the frame, and at least one.
    no_referent_accuracy (`float`): share of the pairs without referent whose predicted mask is empty; absent if there
        is no such pair.
    num_pairs (`float`): number of pairs, with and without referent.
    per_kind (`dict`): for each kind of sentence other than "", the dict of the above for the pairs of that kind alone.
Raises:
    ValueError, when a pair is added, naming it (counted from 0 in the order of adding, in each process): sizes that
    differ between prediction and reference, a mask whose runs do not fill its size, a referent that is not an index
    into `instances`, a score that is not finite. When the results are asked for: nothing was added.
Examples:
    >>> metric = evaluate.load("modeling_cvls/metrics/video_language_segmentation")
    >>> left_half, right_half = "066", "66"  # of a frame 3 high and 4 wide
    >>> metric.add(
    ...     prediction={"size": [3, 4], "counts": left_half, "score": 0.9},
    ...     reference={"size": [3, 4], "instances": [left_half, right_half], "referents": [0], "kind": "spatial"},
    ... )
    >>> metric.compute()["mean_iou"]
    1.0
"""

# COCOeval's own expressions: an IoU or recall that equals a threshold is decided by the last bit of these numbers.
_IOU_THRESHOLDS = np.linspace(0.5, 0.95, int(np.round((0.95 - 0.5) / 0.05)) + 1, endpoint=True)
_RECALL_THRESHOLDS = np.linspace(0.0, 1.0, int(np.round((1.0 - 0.0) / 0.01)) + 1, endpoint=True)

_PAIR = np.dtype(
    [
        ("has_referent", bool),
        ("predicted", np.int64),  # this and the next three in pixels
        ("intersection", np.int64),
        ("union", np.int64),
        ("other", np.int64),  # the largest intersection with an instance that is not a referent
        ("score", np.float64),
    ]
)


def _run_lengths(counts: str) -> np.ndarray | None:
    """Lengths in pixels of the runs of a COCO compressed RLE, zeros first; None if `counts` is not such a code.

    A run is a string of characters of 5 bits, lowest first, bit 6 set in all but the last, whose top bit is the sign;
    from the fourth on a run is stored as its difference to the last but one before it (`rleToString` in COCO's
    maskApi.c).
    """
    code = np.frombuffer(counts.encode(), np.uint8).astype(np.int64) - 48
    if code.size == 0 or code.min() < 0 or code.max() > 63 or code[-1] & 32:
        return None
    ends = np.flatnonzero((code & 32) == 0)
    starts = np.concatenate(([0], ends[:-1] + 1))
    widths = ends - starts + 1
    if widths.max() > 7:  # 35 bits, more than a length of 32 bits takes
        return None
    shifts = 5 * (np.arange(code.size) - np.repeat(starts, widths))
    runs = np.add.reduceat((code & 31) << shifts, starts)
    runs -= np.where(code[ends] & 16, 1 << (5 * widths), 0)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs


def _rle(counts: str | None, size: list[int], where: str) -> dict[str, Any]:
    """`counts` as pycocotools takes it, checked: masks of unequal length would make its loops run for ever."""
    if counts is None:
        raise ValueError(f"{where}: there is no mask; leave out an instance that is not annotated in the frame.")
    runs = _run_lengths(counts) if isinstance(counts, str) else None
    if runs is None or (runs < 0).any():
        raise ValueError(
            f"{where}: counts {counts[:40]!r} are not a COCO compressed RLE; give the `counts` of "
            "pycocotools.mask.encode, decoded from bytes to str."
        )
    if runs.sum() != size[0] * size[1]:
        raise ValueError(
            f"{where}: the RLE holds {runs.sum()} pixels, but a frame of size {size} (height, width) has "
            f"{size[0] * size[1]}; encode the mask at the frame's own size."
        )
    if not runs[1:-1].all():
        raise ValueError(
            f"{where}: the RLE holds a run of length 0 between others, at which pycocotools may stop reading; join the "
            "runs beside it, as pycocotools.mask.encode does."
        )
    return {"size": size, "counts": counts}


def _intersection(a: dict[str, Any], b: dict[str, Any]) -> int:
    return int(rle_ops.area(rle_ops.merge([a, b], intersect=True)))


def _measure(index: int, prediction: dict[str, Any], reference: dict[str, Any]) -> tuple:
    """The fields of `_PAIR` for one pair."""
    size = list(reference["size"])
    if list(prediction["size"]) != size or len(size) != 2 or min(size) < 1:
        raise ValueError(
            f"Pair {index}: the prediction's size is {list(prediction['size'])}, the reference's {size}; both must be "
            "the frame's [height, width] in pixels."
        )
    if prediction["score"] is None or not np.isfinite(prediction["score"]):
        raise ValueError(f"Pair {index}: the prediction's score is {prediction['score']}; it must be a finite number.")
    count = len(reference["instances"])
    for referent in reference["referents"]:
        if not 0 <= referent < count:
            raise ValueError(
                f"Pair {index}: referent {referent} is not an index into the reference's instances, of which there are "
                f"{count}."
            )
    predicted = _rle(prediction["counts"], size, f"Pair {index}, prediction")
    instances = [
        _rle(counts, size, f"Pair {index}, reference, instance {i}") for i, counts in enumerate(reference["instances"])
    ]
    area = int(rle_ops.area(predicted))
    referents = set(reference["referents"])
    if not referents:
        return False, area, 0, 0, 0, prediction["score"]
    truth = rle_ops.merge([instances[i] for i in referents])
    intersection = _intersection(predicted, truth)
    union = area + int(rle_ops.area(truth)) - intersection
    others = (_intersection(predicted, instances[i]) for i in range(count) if i not in referents)
    return True, area, intersection, union, max(others, default=0), prediction["score"]


def _average_precision(iou: np.ndarray, score: np.ndarray) -> float:
    """COCO AP over `_IOU_THRESHOLDS`, from the IoU and the score of each image's only prediction, both (N,)."""
    ranked = iou[np.argsort(-score, kind="mergesort")]
    rank = np.arange(1, len(ranked) + 1)
    precision_at_recall = np.zeros((len(_IOU_THRESHOLDS), len(_RECALL_THRESHOLDS)))
    for row, threshold in zip(precision_at_recall, _IOU_THRESHOLDS, strict=True):
        found = np.cumsum(ranked >= threshold)
        precision = found / (rank + np.spacing(1))
        precision = np.maximum.accumulate(precision[::-1])[::-1]
        position = np.searchsorted(found / len(ranked), _RECALL_THRESHOLDS, side="left")
        reached = position < len(ranked)
        row[reached] = precision[position[reached]]
    return float(precision_at_recall.mean())


def _summarize(pairs: np.ndarray) -> dict[str, float]:
    """All metrics of `pairs`, a non-empty array (N,) of `_PAIR`."""
    result = {}
    referred, unreferred = pairs[pairs["has_referent"]], pairs[~pairs["has_referent"]]
    if len(referred):
        intersection, union = referred["intersection"], referred["union"]
        coco_iou = intersection / np.maximum(union, 1)  # 0 for two empty masks
        iou = np.where(union == 0, 1.0, coco_iou)
        for threshold in (0.5, 0.6, 0.7, 0.8, 0.9):
            result[f"precision@{threshold}"] = float((iou > threshold).mean())
        result["mean_iou"] = float(iou.mean())
        result["overall_iou"] = float(intersection.sum() / union.sum()) if union.any() else 1.0
        result["mAP"] = _average_precision(coco_iou, referred["score"])
        result["referent_accuracy"] = float((intersection > referred["other"]).mean())
    if len(unreferred):
        result["no_referent_accuracy"] = float((unreferred["predicted"] == 0).mean())
    result["num_pairs"] = float(len(pairs))
    return result


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class VideoLanguageSegmentation(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        # What is kept, one record of each process; what is added is described above.
        kept = {"numbers": datasets.List(datasets.Value("float64"))}
        kinds = {"kinds": datasets.List(datasets.Value("string"))}
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": kept, "references": kinds}),
            reference_urls=["https://github.com/cocodataset/cocoapi"],
        )

    def add(self, *, prediction: dict[str, Any], reference: dict[str, Any]) -> None:
        """Measures one pair and keeps its numbers."""
        numbers, kinds = self._kept()
        numbers.extend(_measure(len(kinds), prediction, reference))
        kinds.append(reference["kind"] or "")

    def add_batch(self, *, predictions: list[dict[str, Any]], references: list[dict[str, Any]]) -> None:
        """Measures several pairs and keeps their numbers."""
        for prediction, reference in zip(predictions, references, strict=True):
            self.add(prediction=prediction, reference=reference)

    def compute(self, *, predictions: list | None = None, references: list | None = None) -> dict[str, Any] | None:
        """The results over all that was added, by this process and the others; None but in process 0."""
        if predictions is not None or references is not None:
            self.add_batch(predictions=predictions, references=references)
        numbers, kinds = self._kept()
        del self._pairs
        evaluate.Metric.add_batch(self, predictions=[{"numbers": list(numbers)}], references=[{"kinds": kinds}])
        return evaluate.Metric.compute(self)

    def _kept(self) -> tuple[array, list[str]]:
        """The fields of `_PAIR`, pair after pair, and the kind of each."""
        if not hasattr(self, "_pairs"):
            self._pairs = array("d"), []
        return self._pairs

    def _compute(self, predictions: list[dict], references: list[dict]) -> dict[str, Any]:
        numbers = np.concatenate([record["numbers"] for record in predictions]).reshape(-1, len(_PAIR))
        if not len(numbers):
            raise ValueError("There is no pair to evaluate: add at least one prediction with its reference.")
        pairs = np.zeros(len(numbers), dtype=_PAIR)
        for name, column in zip(_PAIR.names, numbers.T, strict=True):
            pairs[name] = column
        kinds = np.array([kind for record in references for kind in record["kinds"]])
        per_kind = {str(kind): _summarize(pairs[kinds == kind]) for kind in np.unique(kinds) if kind}
        return {**_summarize(pairs), "per_kind": per_kind}
