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
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from tqdm.auto import tqdm
from transformers import pipeline

import modeling_cvls
from modeling_cvls.data import read_masks, video_of
from modeling_cvls.evaluation import results_table
from modeling_cvls.visualisation import contact_sheet, overlay, training_curves, write_video

TEMPLATE = Path(__file__).parents[1] / "model_card.md"


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

    write_card(arguments, state, segmenter, rows)
    print(f"pictures: {arguments.output}/training_curves.png, contact_sheet.png and overlay.mp4")
    print(f"model card: {arguments.model / 'README.md'}")


def write_card(arguments, state, segmenter, rows) -> None:
    results = json.loads(arguments.metrics.read_text())
    config = segmenter.model.config
    dataset_name = arguments.dataset_name or Path(arguments.dataset).name
    card_data = ModelCardData(
        model_name=arguments.model.resolve().name,
        language="en",
        license="apache-2.0",
        library_name="transformers",
        pipeline_tag="image-segmentation",
        tags=["video-language-segmentation", "referring-video-object-segmentation", "cvls"],
        eval_results=[
            EvalResult(
                task_type="image-segmentation",
                task_name="Video-language segmentation",
                dataset_type=dataset_name.lower().replace(" ", "-"),
                dataset_name=dataset_name,
                dataset_split=arguments.split,
                metric_type=name,
                metric_value=results[name],
            )
            for name in ("mean_iou", "overall_iou", "mAP", "precision@0.5", "referent_accuracy")
        ],
    )
    parts = {
        "contrastive objective": config.contrast_weight > 0,
        "channel filter (LCF)": config.contrast_weight > 0 and config.channel_filter,
        "hard instances (RHIC)": config.contrast_weight > 0 and config.hard_instances,
    }
    parameters = segmenter.model.num_parameters()
    summary = (
        f"{state['global_step']:,} steps of {state['train_batch_size']} clips ({config.num_frames} frames each) a "
        f"process; {parameters / 1e6:.2f} M parameters, vision `{config.backbone_config.model_type}`, text "
        f"`{config.text_config.model_type}`. "
        + "; ".join(f"{name} {'on' if on else 'off'}" for name, on in parts.items())
        + f". All settings stand in `config.json` and `training_args.bin` beside this card. Best step by validation: "
        f"{state['best_global_step'] or state['global_step']:,}."
    )
    card = ModelCard.from_template(
        card_data,
        template_path=str(TEMPLATE),
        model_name=card_data.model_name,
        training_summary=summary,
        dataset_name=dataset_name,
        split=arguments.split,
        synthetic=arguments.synthetic,
        evaluation_command=f"python scripts/eval.py --model {arguments.model} --dataset {arguments.dataset}",
        results_table=results_table(results),
        frame_size=f"{rows[0]['height']} x {rows[0]['width']}",
        num_frames=config.num_frames,
    )
    card.save(arguments.model / "README.md")


if __name__ == "__main__":
    main()
