"""Measures a segmenter on a data set, by the protocol of a benchmark or by one for data of your own.

    cvls eval --model CHECKPOINT --dataset DATASET --protocol a2d

The table of results is printed and, with --output, written as json. For the benchmarks whose masks are not published,
the command writes what their servers take:

    cvls eval --model CHECKPOINT --dataset DATASET --protocol refer_youtube_vos --submission FOLDER
    cvls eval --model CHECKPOINT --dataset DATASET --protocol mevis --split valid --submission FOLDER
"""

import json
from argparse import RawDescriptionHelpFormatter
from pathlib import Path

from jsonargparse import ArgumentParser
from jsonargparse.typing import PositiveInt

from ..atomic import write_text
from ..extras import require
from ..launch import check_checkpoint, load_model, load_processor, process_state


def make_parser(prog: str) -> ArgumentParser:
    """The parser of the command's arguments."""
    from ..evaluation import PROTOCOLS

    splits = ", ".join(f"{protocol.name}: {protocol.split}" for protocol in PROTOCOLS.values())
    parser = ArgumentParser(prog=prog, description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or Hub name of a checkpoint")
    parser.add_argument("--dataset", required=True, help="folder or Hub name that load_dataset loads")
    parser.add_argument("--split", help=f"split to measure on; default: {splits}")
    parser.add_argument(
        "--protocol",
        choices=list(PROTOCOLS),
        default="custom",
        help="how to measure. custom (default), a2d, jhmdb: precision@X, mAP, overall and mean IoU on frames; "
        "ref_davis17, refer_youtube_vos, mevis: J&F (ref_davis17: each annotator's objects, drawn into one map and "
        "matched with the truth as for published results, averaged over the annotators)",
    )
    parser.add_argument("--output", type=Path, help="write the results as json to this file")
    parser.add_argument(
        "--submission",
        type=Path,
        help="write the masks of all frames to this folder, and submission.zip beside them; an evaluation that was "
        "killed is started again by the same command and goes on",
    )
    parser.add_argument("--batch-size", type=PositiveInt, default=1, help="windows of a video at once (default: 1)")
    parser.add_argument("--window", type=int, help="frames of a window (default: the model's num_frames)")
    parser.add_argument(
        "--presence-threshold",
        type=float,
        help="a sentence's masks are empty in windows where its presence probability is below this (default: 0.5 for "
        "custom; 0 for a benchmark, whose sentences always have a referent. Give 0.5 for a set where some have none, "
        "such as MeViS v2)",
    )
    parser.add_argument("--allow-urls", action="store_true", help="let rows name URLs, which are fetched")
    return parser


def main(arguments: list[str] | None = None, prog: str = "cvls eval") -> None:
    """Runs the command."""
    require("train", "datasets", "evaluate", "scipy")
    from ..data.loading import load_rows
    from ..evaluation import PROTOCOLS, evaluate_segmenter, results_table

    args = make_parser(prog).parse_args(arguments)
    protocol = PROTOCOLS[args.protocol]
    split = args.split or protocol.split
    threshold = protocol.presence_threshold if args.presence_threshold is None else args.presence_threshold
    check_checkpoint(args.model, "--model")
    state = process_state()
    model = load_model(args.model, "--model").to(state.device)
    processor = load_processor(args.model, "--model", model)
    dataset = load_rows(args.dataset, "--dataset", split)
    results = evaluate_segmenter(
        model,
        processor,
        dataset,
        threshold,
        protocol=protocol,
        submission=args.submission,
        allow_urls=args.allow_urls,
        batch_size=args.batch_size,
        window=args.window,
    )
    if not state.is_main_process:
        return
    if results:
        frames = protocol.note_on_frames(dataset)
        print(f"{args.dataset}, split {split}, protocol {protocol.name}: {frames}", results_table(results), sep="\n\n")
        if args.output:
            settings = {"protocol": protocol.name, "frames": frames, "presence_threshold": threshold}
            text = json.dumps({**results, **settings}, indent=2) + "\n"
            write_text(args.output, text)
    if args.submission:
        print(f"submission: {args.submission / 'submission.zip'}")
