"""Evaluate a segmenter: `accelerate launch scripts/eval.py --model DIR --dataset DATASET --protocol a2d --split test`.

Prints the table of the benchmark and writes it as json; for the benchmarks whose masks are not published, writes what
their servers take: `--protocol refer_youtube_vos --submission FOLDER` or
`--protocol mevis --split valid --submission FOLDER`.
"""

import argparse
import json
import sys
from pathlib import Path

from datasets import load_dataset
from transformers import AutoProcessor

from modeling_cvls import CVLSModel
from modeling_cvls.evaluation import PROTOCOLS, evaluate_segmenter, note_on_frames, results_table
from modeling_cvls.launch import process_state

#: The split that results of a benchmark are published on.
SPLITS = {"a2d": "test", "jhmdb": "test", "ref_davis17": "valid", "refer_youtube_vos": "valid", "mevis": "valid_u"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or Hub name of a checkpoint")
    parser.add_argument("--dataset", required=True, help="folder or Hub name that load_dataset loads")
    parser.add_argument(
        "--split", help="default: the benchmark's own, " + ", ".join(f"{k}: {v}" for k, v in SPLITS.items())
    )
    parser.add_argument(
        "--protocol",
        choices=list(PROTOCOLS),
        help="how the benchmark measures. a2d, jhmdb: precision@X, mAP, overall and mean IoU on frames; ref_davis17, "
        "refer_youtube_vos, mevis: J&F (ref_davis17: each annotator's objects, drawn into one map and matched with the "
        "truth as for published results, averaged over the annotators). Default: a2d with a presence threshold of 0.5",
    )
    parser.add_argument("--output", type=Path, help="write the results as json to this file")
    parser.add_argument(
        "--submission", type=Path, help="write the masks of all frames to this folder, and submission.zip beside them"
    )
    parser.add_argument("--batch-size", type=int, default=1, help="windows of a video at once; default 1")
    parser.add_argument("--window", type=int, help="frames of a window; default: the model's num_frames")
    parser.add_argument(
        "--presence-threshold",
        type=float,
        help="a sentence's masks are empty in windows where its presence probability is below this. Default: 0 with "
        "--protocol, for a benchmark's sentence always has a referent (give 0.5 for a set where some have none, such "
        "as MeViS v2), 0.5 without",
    )
    arguments = parser.parse_args()
    threshold = arguments.presence_threshold
    if threshold is None:
        threshold = 0.0 if arguments.protocol else 0.5
    protocol = arguments.protocol or "a2d"

    state = process_state()
    model = CVLSModel.from_pretrained(arguments.model).to(state.device)
    processor = AutoProcessor.from_pretrained(arguments.model)
    dataset = load_dataset(arguments.dataset, split=arguments.split or SPLITS[protocol])
    results = evaluate_segmenter(
        model,
        processor,
        dataset,
        threshold,
        protocol=protocol,
        batch_size=arguments.batch_size,
        window=arguments.window,
        submission=arguments.submission,
    )
    if not state.is_main_process:
        return
    if results:
        frames = note_on_frames(dataset, protocol)
        print(f"{protocol}: {frames}", results_table(results), sep="\n\n")
        if arguments.output:
            settings = {"protocol": protocol, "frames": frames, "presence_threshold": threshold}
            arguments.output.parent.mkdir(parents=True, exist_ok=True)
            arguments.output.write_text(json.dumps({**results, **settings}, indent=2) + "\n")
    if arguments.submission:
        print(f"submission: {arguments.submission / 'submission.zip'}")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"eval.py: {error}")
