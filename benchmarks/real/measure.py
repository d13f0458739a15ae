"""Tests a segmenter on real pixels: validation videos, their sentences swapped, and composites that training lacks."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, load_dataset

from modeling_cvls import CVLSModel, CVLSPipeline, CVLSProcessor
from modeling_cvls.data import read_frames, read_masks, video_of
from modeling_cvls.evaluation import evaluate_segmenter
from modeling_cvls.visualization import contact_sheet, overlay, write_video

PLACES = 6  # frames of a video on which presence is asked, evenly spaced


def presence_of(pipeline: CVLSPipeline, row: dict[str, Any], sentences: list[str]) -> np.ndarray:
    """(K,) presence probabilities of sentences in a video, means over `PLACES` of its frames."""
    frames = np.unique(np.linspace(0, row["num_frames"] - 1, PLACES).round().astype(int)).tolist()
    results = pipeline.stream(video_of(row), sentences, frame_indices=frames, mask_format="rle")
    return np.mean([result["scores"] for result in results], axis=0)


def swapped_sentences(pipeline: CVLSPipeline, rows: Dataset) -> dict[str, float]:
    """The control that a model without language fails: each video with the sentences of the next one, which show
    something else.

    Returns:
        presence_auc: how often one of the own sentences has a higher presence probability than a swapped one;
        rightly_empty and rightly_present: the shares of swapped sentences below a presence of one half, and of own
        sentences not below it.
    """
    own, other = [], []
    for number in range(len(rows)):
        row, following = rows[number], rows[(number + 1) % len(rows)]
        texts = [[sentence["text"] for sentence in of["sentences"]] for of in (row, following)]
        presence = presence_of(pipeline, row, texts[0] + texts[1])
        own += presence[: len(texts[0])].tolist()
        other += presence[len(texts[0]) :].tolist()
    ahead = np.sign(np.subtract.outer(own, other))
    return {
        "presence_auc": float((ahead + 1).mean() / 2),
        "rightly_empty": float((np.array(other) < 0.5).mean()),
        "rightly_present": float((np.array(own) >= 0.5).mean()),
    }


def chance_of(rows: Dataset) -> float:
    """The referent accuracy of a guess among the objects of each clip."""
    shares = [
        1 / sum(any(masks[m] is not None for masks in row["masks"]) for m in range(len(row["instance_ids"])))
        for row in rows
        for sentence in row["sentences"]
        if sentence["instances"]
    ]
    return float(np.mean(shares))


def measure(checkpoint: Path, validation: Path, composites: Path, device: torch.device) -> dict[str, Any]:
    """All tests of a checkpoint.

    Returns:
        validation: mean IoU and the like on each sentence and frame, presence threshold 0;
        region_and_boundary: J&F by the protocol of Ref-DAVIS17; swapped: see `swapped_sentences`;
        test and heldout: the same as `validation` on composites, with `chance` and each kind of sentence.
    """
    model, processor = CVLSModel.from_pretrained(checkpoint).to(device), CVLSProcessor.from_pretrained(checkpoint)
    videos = load_dataset(str(validation), split="valid")
    results = {
        "validation": evaluate_segmenter(model, processor, videos, presence_threshold=0.0),
        "region_and_boundary": evaluate_segmenter(model, processor, videos, 0.0, protocol="ref_davis17"),
        "swapped": swapped_sentences(CVLSPipeline(model=model, processor=processor, device=device), videos),
    }
    for split in ("test", "heldout"):
        rows = load_dataset(str(composites), split=split)
        results[split] = evaluate_segmenter(model, processor, rows, presence_threshold=0.0)
        results[split]["chance"] = chance_of(rows)
    return results


def draw(checkpoint: Path, validation: Path, output: Path) -> None:
    """An overlay video of each validation video, and contact sheets of the three in which the masks fit best and the
    three in which they fit worst, by mean IoU over sentences and frames."""
    model, processor = CVLSModel.from_pretrained(checkpoint), CVLSProcessor.from_pretrained(checkpoint)
    pipeline = CVLSPipeline(model=model, processor=processor)
    found = []
    for row in load_dataset(str(validation), split="valid"):
        texts = [sentence["text"] for sentence in row["sentences"]]
        frames = read_frames(row, range(row["num_frames"]))
        results = list(pipeline.stream(video_of(row), texts, presence_threshold=0.0))
        masks = np.stack([result["masks"] for result in results], axis=1)
        instances, _, _ = read_masks(row, range(row["num_frames"]))
        truth = np.stack([instances[:, sentence["instances"]].any(axis=1) for sentence in row["sentences"]])
        iou = (masks & truth).sum(axis=(2, 3)) / np.maximum((masks | truth).sum(axis=(2, 3)), 1)
        found.append((iou.mean(), row["video_id"], frames, texts, masks, truth))
        write_video(output / f"{row['video_id']}.mp4", overlay(frames, masks[:1], texts[:1]), fps=12)
    found.sort(key=lambda of: of[0], reverse=True)
    for name, videos in (("best", found[:3]), ("worst", found[-3:])):
        for number, (_, video, frames, texts, masks, truth) in enumerate(videos, start=1):
            contact_sheet(output / f"{name}_{number}_{video}.png", frames, texts, masks, truth)
