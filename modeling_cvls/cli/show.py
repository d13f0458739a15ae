"""Writes a page of a data set: frames with objects outlined and numbered, and sentences with what they refer to.

    cvls show DATASET --output review.html

Open the page in a browser: a person sees at a glance whether the conversion is right.
"""

from argparse import RawDescriptionHelpFormatter
from pathlib import Path

from jsonargparse import ArgumentParser
from jsonargparse.typing import PositiveInt
from tqdm.auto import tqdm

from ..atomic import write_text
from ..extras import require


def main(arguments: list[str] | None = None, prog: str = "cvls show") -> None:
    """Runs the command."""
    parser = ArgumentParser(prog=prog, description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="folder or Hub name that load_dataset loads")
    parser.add_argument("--split", help="the split to show (default: the first)")
    parser.add_argument("--rows", type=PositiveInt, default=20, help="this many videos, evenly spaced (default: 20)")
    parser.add_argument("--columns", type=PositiveInt, default=4, help="this many frames per video (default: 4)")
    parser.add_argument("--output", type=Path, default=Path("review.html"), help="the page (default: review.html)")
    args = parser.parse_args(arguments)
    require("data", "datasets")
    from ..data import check_dataset
    from ..data.loading import load_rows
    from ..data.review import review_page

    splits = load_rows(args.dataset, "DATASET")
    split = args.split or next(iter(splits))
    if split not in splits:
        raise ValueError(f"--split {split}: {args.dataset} has the splits {', '.join(splits)}")
    dataset = splits[split]
    check_dataset(dataset, args.dataset)
    number = min(args.rows, len(dataset))
    rows = dataset.select([i * len(dataset) // number for i in range(number)])
    title = f"{args.dataset}, split {split}: {number} of {len(dataset)} videos"
    page = review_page(tqdm(rows, desc="drawing", unit="video"), title, args.columns)
    write_text(args.output, page)
    print(f"Wrote {args.output}")
