"""Converts the download of a benchmark, or annotations of your own, into a folder that `datasets.load_dataset` loads.

    cvls convert a2d_sentences --source RAW --output DATASET
    cvls convert frames --source MY_FRAMES --output DATASET --title "My videos" --license cc-by-4.0

`cvls convert NAME --help` says what the source folder holds.
"""

import sys
from argparse import RawDescriptionHelpFormatter
from importlib import import_module

from jsonargparse import ArgumentParser

from ..extras import require

#: Modules of `modeling_cvls.conversion`.
BENCHMARKS = ("a2d_sentences", "jhmdb_sentences", "refer_youtube_vos", "ref_davis17", "mevis", "refcoco")
TOOLS = ("frames", "coco", "youtube_vis", "cvat", "label_studio")


def main(arguments: list[str] | None = None, prog: str = "cvls convert") -> None:
    """Runs the conversion that the first argument names, with the others."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = ArgumentParser(prog=prog, description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=(*BENCHMARKS, *TOOLS), help="the benchmark, or the format")
    name = parser.parse_args(arguments[:1]).name
    require("data", "datasets", "h5py", "scipy")
    from ..conversion import conversion_parser, run_conversion

    source = import_module(f"modeling_cvls.conversion.{name}")
    run_conversion(source, conversion_parser(source, f"{prog} {name}").parse_args(arguments[1:]))
