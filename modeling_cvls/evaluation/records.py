"""What the metrics are given: predictions with what is true, sentence by sentence and frame by frame."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from ..data import read_masks
from ..metrics.region_and_boundary.region_and_boundary import measure
from ..rle_cvls import encode_masks
from .protocols import Protocol

#: {"size": [height, width], "counts": COCO compressed RLE, "score": float}
Prediction = dict[str, Any]
Record = tuple[Prediction, dict[str, Any]]


def pair_records(
    row: Mapping[str, Any], protocol: Protocol, frames: Sequence[int], predictions: Sequence[Sequence[Prediction]]
) -> Iterator[Record]:
    """(prediction, reference) for precision@X, IoU and mAP: each sentence on each evaluated frame known of it.

    Args:
        row: a row with the columns of `FEATURES`.
        protocol: which of the frames are evaluated.
        frames: F frame numbers, 0-based, which the predictions are of.
        predictions: of each sentence F predictions.

    Raises:
        ValueError: a frame that is to be evaluated is not annotated.
    """
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


def object_records(
    row: Mapping[str, Any], protocol: Protocol, frames: Sequence[int], predictions: Sequence[Sequence[Prediction]]
) -> Iterator[Record]:
    """(prediction, reference) for J&F: each sentence, which is an object there, on each evaluated frame.

    Args and raises as `pair_records`.
    """
    evaluated = _evaluated_positions(row, protocol, frames)
    predictions = [[of_sentence[position] for position in evaluated.values()] for of_sentence in predictions]
    annotators = sentences_by_annotator(row) if protocol.by_annotator else {"": list(range(len(predictions)))}
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
        matched = numbers
        if protocol.by_annotator and len(numbers) > 1 and evaluated:
            of_annotator = [predictions[i] for i in numbers], [references[i] for i in numbers]
            matched = [numbers[i] for i in _match(*of_annotator)]
        for number, prediction in zip(numbers, matched, strict=True):
            yield from zip(predictions[prediction], references[number], strict=True)


def _match(predictions: list[list[Prediction]], references: list[list[dict[str, Any]]]) -> list[int]:
    """For each object the prediction that it is measured by, so that the sum of all objects' J&F is largest: DAVIS's
    unsupervised protocol, by which the results on Ref-DAVIS17 are published."""
    quality = [
        [np.mean([measure(*pair) for pair in zip(prediction, reference, strict=True)]) for prediction in predictions]
        for reference in references
    ]
    return linear_sum_assignment(quality, maximize=True)[1].tolist()


def _evaluated_positions(row: Mapping[str, Any], protocol: Protocol, frames: Sequence[int]) -> dict[int, int]:
    """The evaluated frames, each with its position among the predicted `frames`."""
    evaluated = protocol.evaluated_frames(row)
    for frame in evaluated:
        if frame not in row["annotated_frames"]:
            raise ValueError(f"frame {frame} is to be evaluated, but is not one of the annotated_frames")
    position = {frame: i for i, frame in enumerate(frames)}
    return {frame: position[frame] for frame in evaluated}


def sentences_by_annotator(row: Mapping[str, Any]) -> dict[str, list[int]]:
    """Annotator -> numbers of their sentences: the n-th on an object, in the order of the row, is annotator n's."""
    seen: dict[tuple[int, ...], int] = {}
    sentences: dict[str, list[int]] = {}
    for number, sentence in enumerate(row["sentences"]):
        referents = tuple(sorted(sentence["instances"]))
        seen[referents] = seen.get(referents, 0) + 1
        sentences.setdefault(f"annotator {seen[referents]}", []).append(number)
    return sentences
