"""Data sets as others publish them -> folders that `datasets.load_dataset` loads, in the schema of `FEATURES`.

There is one module per source, which `cvls convert` calls by its name. It has

- a docstring, which the command's help shows: what the source is, what its folder holds, where it is from;
- `SPLITS`: the splits that there may be;
- `prepare(arguments, problems)`: finds the videos, and returns a `Conversion`;
- `add_arguments(parser)`, where it has arguments of its own.
"""

from .arguments import Conversion, conversion_parser, run_conversion
from .card import Description
from .problems import Problem, Problems
from .writing import write_dataset

__all__ = [
    "Conversion",
    "Description",
    "Problem",
    "Problems",
    "conversion_parser",
    "run_conversion",
    "write_dataset",
]
