"""`cvls train CONFIG.yaml [--section.key value ...]`: trains or fine-tunes a segmenter."""

import sys

from ..launch import prepare_processes
from ..training import parse_training, train


def main(arguments: list[str] | None = None, prog: str = "cvls train") -> None:
    prepare_processes()
    train(*parse_training(sys.argv[1:] if arguments is None else arguments, prog))
