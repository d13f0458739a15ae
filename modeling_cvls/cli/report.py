"""`cvls report`: pictures and model card of a trained segmenter."""

from pathlib import Path

from jsonargparse import ArgumentParser

from ..extras import require

DESCRIPTION = """Writes OUTPUT/training_curves.png, OUTPUT/contact_sheet.png (frames and sentences of one clip),
OUTPUT/overlay.mp4 (several clips), and the checkpoint's model card, MODEL/README.md, with the measured results."""


def main(arguments: list[str] | None = None, prog: str = "cvls report") -> None:
    parser = ArgumentParser(prog=prog, description=DESCRIPTION)
    parser.add_argument("--model", required=True, type=Path, help="folder of the checkpoint")
    parser.add_argument("--dataset", required=True, help="folder or Hub name that load_dataset loads")
    parser.add_argument("--split", default="test", help="split of the data set")
    parser.add_argument("--metrics", required=True, type=Path, help="the json file that `cvls eval` wrote")
    parser.add_argument("--output", required=True, type=Path, help="folder for the pictures")
    parser.add_argument("--clips", type=int, default=6, help="number of clips in the overlay video")
    parser.add_argument("--dataset-name", help="name of the data set in the card; without it, that of its folder")
    parser.add_argument("--synthetic", action="store_true", help="say in the card that the data are synthetic")
    args = parser.parse_args(arguments)
    require("train", "datasets", "evaluate")
    from ..report import write_report  # after the arguments were read, so that help comes at once

    write_report(
        args.model,
        args.dataset,
        args.split,
        args.metrics,
        args.output,
        args.clips,
        args.dataset_name,
        args.synthetic,
    )
    print(f"pictures: {args.output}/training_curves.png, contact_sheet.png and overlay.mp4")
    print(f"model card: {args.model / 'README.md'}")
