"""Composes training clips from annotated real ones: their objects, cut out and moved, on each other's backgrounds.

python scripts/make_composites.py --source FOLDER --names names.json --output DATASET

FOLDER has the layout of Refer-YouTube-VOS (or is one split of it):

    <split>/JPEGImages/<video>/<frame>.jpg
    <split>/Annotations/<video>/<frame>.png            palette images, index = id of the object
    meta_expressions/<split>/meta_expressions.json     videos -> <video> -> expressions -> <n> -> {exp, obj_id}, frames

names.json says what each object is called, in a word or in several that are all true of it, and under "*" what else a
video shows, without masks, so that no sentence means that by mistake (configs/ref_davis_names.json is an example):

    {"dog": {"1": "dog"}, "dance-twirl": {"1": ["dancer", "woman"], "*": ["man", "woman"]}}

DATASET gets the splits train and validation (composed of the first half of each video), test and heldout (of the
second; heldout with pairs of noun and color, or of noun and motion, that the others never show), and real_train and
real: the first and second halves as they are, with their own sentences and one that only names the object.
"""

import argparse
import json
import os
import re
import time
from pathlib import Path

from modeling_cvls.synthetic import SPLITS, write_composites

CLIPS = {"train": 1500, "validation": 60, "test": 200, "heldout": 200}


def size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"must be HEIGHTxWIDTH in pixels, such as 96x160, got {text!r}")
    return int(match[1]), int(match[2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="folder with the annotated videos")
    parser.add_argument("--names", type=Path, required=True, help="json: what the objects are called")
    parser.add_argument("--output", type=Path, required=True, help="folder to write; it must not exist yet")
    for split in SPLITS:
        default = CLIPS[split]
        parser.add_argument(
            f"--{split}", type=int, default=default, metavar="N", help=f"clips in the {split} split ({default})"
        )
    parser.add_argument("--seed", type=int, default=0, help="the same seed writes the same bytes")
    parser.add_argument("--size", type=size, default=(96, 160), help="height and width of a clip (96x160)")
    parser.add_argument("--frames", type=int, default=8, help="frames of a clip (8)")
    parser.add_argument("--num-proc", type=int, default=os.cpu_count(), help="processes")
    args = parser.parse_args()

    splits = {split: getattr(args, split) for split in SPLITS}
    start = time.perf_counter()
    try:
        names = json.loads(args.names.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        parser.error(f"--names {args.names}: {error}")
    try:
        write_composites(
            args.source,
            args.output,
            names,
            splits,
            seed=args.seed,
            height=args.size[0],
            width=args.size[1],
            num_frames=args.frames,
            num_proc=args.num_proc,
        )
    except (FileExistsError, FileNotFoundError, ValueError) as error:
        # The readers of the source name a flag that only dataset_scripts/ have.
        parser.error(str(error).replace(" (--skip-invalid leaves out whatever is wrong in the source)", ""))
    seconds = time.perf_counter() - start
    print(f"{sum(splits.values())} clips in {seconds:.0f} s: {sum(splits.values()) / seconds:.0f} clips a second")


if __name__ == "__main__":
    main()
