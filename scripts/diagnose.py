"""Look at what the contrast does: `python scripts/diagnose.py --model DIR [DIR ...] --dataset DATASET --split test`.

Prints, a column a checkpoint: the losses; how long the gradient of each loss is on what all losses share, as a share of
the mask losses' gradient, and its cosine with it (1: it asks for the same); by how much and how often the referent is
ahead of its nearest look-alike, and how many of the look-alikes the contrast still pushes away; how far sentences that
share a word keep the same channels. Then the words that are understood worst: how often the
referent is ahead in the sentences that contain them. Given the checkpoints of one training, it shows how these change.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from datasets import load_dataset
from tqdm import tqdm
from transformers import AutoProcessor

from modeling_cvls import CVLSModel
from modeling_cvls.data import ClipCollator, ClipSampler, check_dataset
from modeling_cvls.diagnosis import diagnose
from modeling_cvls.launch import check_checkpoint


def print_table(names: list[str], columns: list[dict[str, float]], rows: Iterable[str]) -> None:
    print("\n| | " + " | ".join(names) + " |\n| --- |" + " --- |" * len(columns))
    for row in rows:
        cells = [f"{column[row]:.3f}" if row in column and np.isfinite(column[row]) else "" for column in columns]
        print(f"| {row} | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, nargs="+", help="folders or Hub names of checkpoints")
    parser.add_argument("--dataset", required=True, help="folder or Hub name that load_dataset loads")
    parser.add_argument("--split", default="test")
    parser.add_argument("--videos", type=int, help="so many, from the first; default: the whole split")
    parser.add_argument("--batch-size", type=int, default=8, help="clips of a batch; default 8")
    parser.add_argument("--words", type=int, default=10, help="so many of the words that are understood worst")
    parser.add_argument("--sentences", type=int, default=20, help="of words that so many sentences have; default 20")
    arguments = parser.parse_args()
    for name in arguments.model:
        try:
            check_checkpoint(name, "--model")
        except (FileNotFoundError, ValueError) as error:
            parser.error(str(error))
    dataset = load_dataset(arguments.dataset, split=arguments.split)
    check_dataset(dataset, arguments.dataset)
    if arguments.videos:
        dataset = dataset.select(range(min(arguments.videos, len(dataset))))

    columns, understood = [], []
    for name in arguments.model:
        model, processor = CVLSModel.from_pretrained(name), AutoProcessor.from_pretrained(name)
        model.to(torch.accelerator.current_accelerator() or "cpu")
        collate = ClipCollator(processor, ClipSampler(model.config.num_frames, flip_probability=0.0))
        starts = tqdm(range(0, len(dataset), arguments.batch_size), desc=Path(name).name, unit="batch")
        parts = (list(dataset.select(range(s, min(s + arguments.batch_size, len(dataset))))) for s in starts)
        batches = ((collate(rows), [[s["text"] for s in row["sentences"]] for row in rows]) for rows in parts)
        numbers, words = diagnose(model, batches)
        columns.append(numbers)
        understood.append({word: share for word, (share, number) in words.items() if number >= arguments.sentences})

    print_table(arguments.model, columns, dict.fromkeys(name for column in columns for name in column))
    worst = sorted(understood[0], key=lambda word: sum(column[word] for column in understood))[: arguments.words]
    print_table([f"right, {name}" for name in arguments.model], understood, worst)


if __name__ == "__main__":
    main()
