"""Checks every row of a data set: frames, masks, sizes, counts, references and sentences.

    cvls check DATASET
    cvls check DATASET --split train --model CHECKPOINT

All faults are listed, each with its video. A data set without faults is noted, and not checked again. A training does
the same check at its start.
"""

import sys
from argparse import RawDescriptionHelpFormatter

from jsonargparse import ArgumentParser
from jsonargparse.typing import PositiveInt

from ..extras import require


def main(arguments: list[str] | None = None, prog: str = "cvls check") -> None:
    """Runs the command.

    Raises:
        SystemExit: with status 2 where there are faults.
    """
    parser = ArgumentParser(prog=prog, description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="folder or Hub name that load_dataset loads")
    parser.add_argument("--split", nargs="+", metavar="SPLIT", help="splits to check (default: all)")
    parser.add_argument("--model", help="a checkpoint, to find sentences that are too long for its tokenizer")
    parser.add_argument("--num-proc", type=PositiveInt, help="processes (default: one per core)")
    parser.add_argument("--again", action="store_true", help="check also what was checked before")
    args = parser.parse_args(arguments)
    require("data", "datasets")
    from ..data.checking import find_faults
    from ..data.loading import load_rows
    from ..launch import load_processor

    tokenizer = load_processor(args.model, "--model").tokenizer if args.model else None
    splits = load_rows(args.dataset, "DATASET")
    unknown = [split for split in args.split or [] if split not in splits]
    if unknown:
        raise ValueError(f"--split {unknown[0]}: {args.dataset} has the splits {', '.join(splits)}")
    number = 0
    for split in args.split or splits:
        name = f"{args.dataset}[{split}]"
        for video, fault in find_faults(splits[split], name, False, tokenizer, args.num_proc, args.again):
            print(f"{name}, video {video!r}: {fault}")
            number += 1
    if number:
        print(f"{prog}: error: {number} faults, listed above", file=sys.stderr)
        sys.exit(2)
