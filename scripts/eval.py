"""Evaluate a segmenter: `accelerate launch scripts/eval.py --model DIR --dataset DATASET --split test`."""

import argparse
import json
import sys
from pathlib import Path

from accelerate import PartialState
from datasets import load_dataset
from transformers import AutoProcessor

from modeling_cvls import CVLSModel
from modeling_cvls.evaluation import evaluate_segmenter, results_table
from modeling_cvls.launch import start_cpu_processes


def main() -> None:
    parser = argparse.ArgumentParser(description="Evaluate a segmenter and print the table of results.")
    parser.add_argument("--model", required=True, help="folder or Hub name of a checkpoint")
    parser.add_argument("--dataset", required=True, help="folder or Hub name that load_dataset loads")
    parser.add_argument("--split", default="test")
    parser.add_argument("--output", type=Path, help="write the results as json to this file")
    parser.add_argument("--presence-threshold", type=float, default=0.5, help="below it a sentence's masks are empty")
    arguments = parser.parse_args()

    state = PartialState()
    model = CVLSModel.from_pretrained(arguments.model).to(state.device)
    processor = AutoProcessor.from_pretrained(arguments.model)
    dataset = load_dataset(arguments.dataset, split=arguments.split)
    results = evaluate_segmenter(model, processor, dataset, arguments.presence_threshold)
    if state.is_main_process:
        print(results_table(results))
        if arguments.output:
            arguments.output.parent.mkdir(parents=True, exist_ok=True)
            arguments.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    start_cpu_processes()
    try:
        main()
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"eval.py: {error}")
