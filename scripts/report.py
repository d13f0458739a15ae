"""Pictures and model card of a trained segmenter.

python scripts/report.py --model CHECKPOINT --dataset DATASET --metrics METRICS.json --output FOLDER

Writes FOLDER/training_curves.png, FOLDER/contact_sheet.png (a clip of the split: frames x sentences),
FOLDER/overlay.mp4 (several clips), and the checkpoint's model card, CHECKPOINT/README.md, from model_card.md and the
measured results.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from datasets import load_dataset
from tqdm.auto import tqdm
from transformers import TrainerState, pipeline

import modeling_cvls
from modeling_cvls.data import read_masks, video_of
from modeling_cvls.model_card import make_card
from modeling_cvls.visualization import contact_sheet, overlay, training_curves, write_video


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, type=Path, help="folder of the checkpoint")
    parser.add_argument("--dataset", required=True, help="folder or Hub name that load_dataset loads")
    parser.add_argument("--split", default="test")
    parser.add_argument("--metrics", required=True, type=Path, help="json written by scripts/eval.py")
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--clips", type=int, default=6, help="clips in the overlay video")
    parser.add_argument("--dataset-name", help="name of the data set in the card, default: its folder")
    parser.add_argument("--synthetic", action="store_true", help="say in the card that the data are synthetic")
    arguments = parser.parse_args()

    state = json.loads((arguments.model / "trainer_state.json").read_text())
    training_curves(state["log_history"], arguments.output / "training_curves.png")

    segmenter = pipeline("video-language-segmentation", model=str(arguments.model))
    rows = load_dataset(arguments.dataset, split=arguments.split)
    # the clips with the most to tell apart, chosen by their sentences and not by the result
    order = sorted(range(len(rows)), key=lambda index: -len(rows[index]["sentences"]))
    film = []
    for number, index in enumerate(tqdm(order[: arguments.clips], desc="drawing clips", unit="clip")):
        row = rows[index]
        sentences = [sentence["text"] for sentence in row["sentences"]]
        results = segmenter(video_of(row), sentences)
        masks = np.stack([result["masks"] for result in results])
        frames = modeling_cvls.FrameReader(video_of(row)).read(range(row["num_frames"]))
        film.append(overlay(frames, masks, sentences, [result["score"] for result in results]))
        if number == 0:
            annotated = row["annotated_frames"]
            instances, _, _ = read_masks(row, annotated)
            truth = np.stack([instances[:, s["instances"]].any(axis=1) for s in row["sentences"]])
            contact_sheet(
                arguments.output / "contact_sheet.png", frames[annotated], sentences, masks[:, annotated], truth
            )
    height = max(clip.shape[1] for clip in film)
    film = [np.pad(clip, ((0, 0), (0, height - clip.shape[1]), (0, 0), (0, 0))) for clip in film]
    # short clips are shown three times, so that an eye can follow
    write_video(
        arguments.output / "overlay.mp4", np.concatenate([clip for clip in film for _ in range(3)]), rows[0]["fps"] or 8
    )

    write_card(arguments, segmenter, rows)
    print(f"pictures: {arguments.output}/training_curves.png, contact_sheet.png and overlay.mp4")
    print(f"model card: {arguments.model / 'README.md'}")


def write_card(arguments, segmenter, rows) -> None:
    card = make_card(
        segmenter.model,
        name=str(arguments.model),
        results=json.loads(arguments.metrics.read_text()),
        dataset=arguments.dataset,
        dataset_name=arguments.dataset_name,
        split=arguments.split,
        state=TrainerState.load_from_json(str(arguments.model / "trainer_state.json")),
        evaluation_command=(
            f"python scripts/eval.py --model {arguments.model} --dataset {arguments.dataset} --split {arguments.split}"
        ),
        synthetic_size=f"{rows[0]['height']} x {rows[0]['width']}" if arguments.synthetic else None,
    )
    card.save(arguments.model / "README.md")


if __name__ == "__main__":
    main()
