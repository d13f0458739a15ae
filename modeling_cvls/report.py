"""Pictures and model card of a trained segmenter."""

import json
import shlex
from pathlib import Path

import numpy as np
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import TrainerState

from .data import read_masks, video_of
from .data.loading import load_rows
from .frame_reader_cvls import FrameReader
from .launch import load_pipeline
from .model_card import make_card
from .pipeline_cvls import CVLSPipeline
from .visualization import contact_sheet, overlay, training_curves, write_video

#: What `cvls eval` writes beside the results, and the argument that it was given by.
SETTINGS = {"protocol": "--protocol", "presence_threshold": "--presence-threshold"}
REPEATS = 3  # short clips are shown so many times, so that an eye can follow


def write_report(
    model: Path,
    dataset: str,
    split: str,
    metrics: Path,
    output: Path,
    clips: int = 6,
    dataset_name: str | None = None,
    synthetic: bool = False,
) -> None:
    """Writes training curves, pictures of some clips and the checkpoint's model card.

    Args:
        model: folder of the checkpoint, with the trainer's `trainer_state.json`; the card is its README.md.
        dataset: folder or Hub name that load_dataset loads.
        split: of the data set.
        metrics: the json file that `cvls eval` wrote for this split.
        output: folder for training_curves.png, contact_sheet.png (frames x sentences of one clip) and overlay.mp4.
        clips: number of clips in the overlay video: those with the most sentences, so that no result chooses them.
        dataset_name: name of the data set in the card; default: that of its folder.
        synthetic: whether the card says that the data are synthetic.
    """
    segmenter = load_pipeline(model, "--model")
    state = TrainerState.load_from_json(str(model / "trainer_state.json"))
    training_curves(state.log_history, output / "training_curves.png")
    rows = load_rows(dataset, "--dataset", split)
    draw_clips(segmenter, rows, output, clips)
    measured = json.loads(metrics.read_text(encoding="utf-8"))
    settings = [part for name in SETTINGS if name in measured for part in (SETTINGS[name], str(measured[name]))]
    card = make_card(
        segmenter.model,
        name=str(model),
        results=measured,
        dataset=dataset,
        split=split,
        state=state,
        evaluation_command=shlex.join(
            ["cvls", "eval", "--model", str(model), "--dataset", dataset, "--split", split, *settings]
        ),
        dataset_name=dataset_name,
        synthetic_size=f"{rows[0]['height']} x {rows[0]['width']}" if synthetic else None,
    )
    card.save(model / "README.md")


def draw_clips(segmenter: CVLSPipeline, rows: Dataset, output: Path, clips: int) -> None:
    """Segments the clips with the most sentences and writes overlay.mp4, and of the first one contact_sheet.png."""
    order = sorted(range(len(rows)), key=lambda index: -len(rows[index]["sentences"]))
    film = []
    for number, index in enumerate(tqdm(order[:clips], desc="drawing clips", unit="clip")):
        row = rows[index]
        sentences = [sentence["text"] for sentence in row["sentences"]]
        results = segmenter(video_of(row), sentences)
        masks = np.stack([result["masks"] for result in results])
        frames = FrameReader(video_of(row)).read(range(row["num_frames"]))
        film.append(overlay(frames, masks, sentences, [result["score"] for result in results]))
        if number == 0:
            annotated = row["annotated_frames"]
            instances, _, _ = read_masks(row, annotated)
            truth = np.stack([instances[:, s["instances"]].any(axis=1) for s in row["sentences"]])
            contact_sheet(output / "contact_sheet.png", frames[annotated], sentences, masks[:, annotated], truth)
    height = max(clip.shape[1] for clip in film)
    film = [np.pad(clip, ((0, 0), (0, height - clip.shape[1]), (0, 0), (0, 0))) for clip in film]
    shown = np.concatenate([clip for clip in film for _ in range(REPEATS)])
    write_video(output / "overlay.mp4", shown, rows[0]["fps"] or 8)
