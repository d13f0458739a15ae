"""The arguments that every conversion takes, and what a source gives in return."""

import os
from argparse import Namespace, RawDescriptionHelpFormatter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from jsonargparse import ArgumentParser
from jsonargparse.typing import PositiveInt

from ..names import check_tree
from .card import Description
from .problems import Problems
from .writing import Convert, write_dataset

#: The splits that one's own annotations may become; all of them become one, which --split names.
OWN_SPLITS = ("train", "validation", "test")


class Conversion(NamedTuple):
    """What a source is converted by; see `write_dataset`."""

    splits: Mapping[str, Sequence[Any]]
    convert: Convert
    description: Description


def conversion_parser(source: ModuleType, prog: str | None = None) -> ArgumentParser:
    """The arguments of a conversion: --source, --output, --split, --num-proc, and others.

    Args:
        source: the module of a source, whose docstring is the help's text, with the arguments that it adds.
        prog: the command, as the help calls it.
    """
    parser = ArgumentParser(prog=prog, description=source.__doc__, formatter_class=RawDescriptionHelpFormatter)
    own = source.SPLITS is OWN_SPLITS
    folder = "folder of your frames and annotations" if own else "folder of the download"
    which = "the split that it becomes" if own else "splits to convert"
    default = "train" if own else "all that have videos"
    parser.add_argument("--source", type=Path, required=True, help=folder)
    parser.add_argument("--output", type=Path, required=True,
                        help="folder to write. A run that was killed is started again by the same command and goes on "
                        "where it was")  # fmt: skip
    parser.add_argument("--split", nargs="+", choices=source.SPLITS, metavar="SPLIT",
                        help=f"{which}, of {', '.join(source.SPLITS)} (default: {default})")  # fmt: skip
    parser.add_argument("--num-proc", type=PositiveInt, default=os.cpu_count(),
                        help="processes that read videos at the same time (default: one per core)")  # fmt: skip
    parser.add_argument("--skip-invalid", action="store_true",
                        help="leave out what is wrong in the source and note it in left_out.jsonl, instead of "
                        "stopping at the first such thing")  # fmt: skip
    parser.add_argument("--allow-links", action="store_true", help="let links lead out of the source")
    parser.add_argument("--title", help="what the card calls the data set")
    parser.add_argument("--license", help="the license that the card names, by its identifier on the Hub (cc-by-4.0)")
    parser.add_argument("--push-to-hub", metavar="USER/NAME",
                        help="also upload the finished folder to this data set of the Hugging Face Hub")  # fmt: skip
    if hasattr(source, "add_arguments"):
        source.add_arguments(parser)
    return parser


def run_conversion(source: ModuleType, arguments: Namespace) -> None:
    """Converts what a source finds: all splits that have videos, or those of --split.

    Args:
        source: the module of a source.
        arguments: as its `conversion_parser` gives them.

    Raises:
        FileNotFoundError: a part of the source is missing.
        ValueError: a split of --split has no video; something is wrong in the source.
    """
    check_tree(arguments.source, arguments.allow_links)
    problems = Problems(skip=arguments.skip_invalid)
    splits, convert, description = source.prepare(arguments, problems)
    if arguments.title:
        description = replace(description, title=arguments.title)
    if arguments.license:
        note = f"The data set is released under the license `{arguments.license}`."
        description = replace(description, license=arguments.license, license_note=note)
    if arguments.split:
        empty = [split for split in arguments.split if not splits.get(split)]
        if empty:
            raise ValueError(f"--split {' '.join(empty)}: {arguments.source} has no video with sentences in it")
        splits = {split: splits[split] for split in arguments.split}
    write_dataset(
        arguments.output,
        splits,
        convert,
        description,
        num_proc=arguments.num_proc,
        problems=problems,
        push_to_hub=arguments.push_to_hub,
    )
