"""`cvls compose`: training clips from annotated videos and stills."""

import json
import os
import re
import time
from argparse import RawDescriptionHelpFormatter
from pathlib import Path

from jsonargparse import ArgumentParser

from ..extras import require
from ..names import check_tree

DESCRIPTION = """Composes training clips from annotated videos and stills: their objects, cut out and moved, on each
other's backgrounds, with sentences that tell look-alikes apart.

    cvls compose --source FOLDER --names names.json --output DATASET

FOLDER has the layout of Refer-YouTube-VOS (or is one split of it):

    <split>/JPEGImages/<video>/<frame>.jpg
    <split>/Annotations/<video>/<frame>.png            palette images, index = id of the object
    meta_expressions/<split>/meta_expressions.json     videos -> <video> -> expressions -> <n> -> {exp, obj_id}, frames

names.json says what each object is called, in a word or in several that are all true of it, and under "*" what else a
video shows, without masks, so that no sentence means that by mistake (configs/ref_davis_names.json is an example):

    {"dog": {"1": "dog"}, "dance-twirl": {"1": ["dancer", "woman"], "*": ["man", "woman"]}}

--stills is a folder of pictures with masks, whose objects and backgrounds join those of the videos:

    JPEGImages/<picture>.jpg
    Annotations/<picture>.png     palette images, index = id of the object
    objects.json                  {<picture>: {"objects": {<id>: ["beagle", "dog"]}, "around": ["dog", "person"]}}

DATASET gets the splits train and validation (composed of the first half of each video), test and heldout (of the
second; heldout with pairs of noun and color, or of noun and motion, that the others never show), and real_train and
real: the first and second halves as they are, with their own sentences and one that only names the object. With
`--divide source`, test, heldout and real show every eighth video, and the others the rest; stills are always divided
so. A run that was stopped is started again by the same command and goes on where it was."""

CLIPS = {"train": 1500, "validation": 60, "test": 200, "heldout": 200}


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if not match:
        raise ValueError(f"--size must be HEIGHTxWIDTH in pixels, such as 96x160, got {text!r}")
    return int(match[1]), int(match[2])


def _parser(prog: str) -> ArgumentParser:
    parser = ArgumentParser(prog=prog, description=DESCRIPTION, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="folder with the annotated videos")
    parser.add_argument("--names", type=Path, required=True, help="json: what the objects of the videos are called")
    parser.add_argument("--stills", type=Path, help="folder of pictures with masks that join the videos")
    parser.add_argument("--output", type=Path, required=True, help="folder to write; it must not exist yet")
    for split, default in CLIPS.items():
        parser.add_argument(
            f"--{split}",
            type=int,
            default=default,
            metavar="N",
            help=f"clips in the {split} split (default: {default})",
        )
    parser.add_argument(
        "--divide",
        choices=["time", "source"],
        default="time",
        help="what train and test share of the videos (default: time)",
    )
    parser.add_argument("--seed", type=int, default=0, help="the same seed writes the same bytes (default: 0)")
    parser.add_argument("--size", default="96x160", help="height and width of a clip in pixels (default: 96x160)")
    parser.add_argument("--frames", type=int, default=8, help="frames of a clip (default: 8)")
    parser.add_argument("--num-proc", type=int, default=os.cpu_count(), help="processes (default: one per core)")
    parser.add_argument("--allow-links", action="store_true", help="let links lead out of --source and --stills")
    return parser


def main(arguments: list[str] | None = None, prog: str = "cvls compose") -> None:
    args = _parser(prog).parse_args(arguments)
    require("data", "datasets")
    from ..composites import SourceFolders, write_composites

    height, width = _size(args.size)
    splits = {split: getattr(args, split) for split in CLIPS}
    start = time.perf_counter()
    try:
        names = json.loads(args.names.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"--names {args.names}: {error}") from error
    for folder in filter(None, (args.source, args.stills)):
        check_tree(folder, args.allow_links)
    folders = SourceFolders(
        videos=args.source.resolve(),
        names=json.dumps(names, sort_keys=True),
        stills=args.stills and args.stills.resolve(),
        divide=args.divide,
    )
    try:
        write_composites(
            folders,
            args.output,
            splits,
            seed=args.seed,
            height=height,
            width=width,
            num_frames=args.frames,
            num_proc=args.num_proc,
        )
    except ValueError as error:
        # The readers of the source name an argument that only `cvls convert` has.
        raise ValueError(
            str(error).replace(" (--skip-invalid leaves out whatever is wrong in the source)", "")
        ) from error
    seconds = time.perf_counter() - start
    print(f"{sum(splits.values())} clips in {seconds:.0f} s: {sum(splits.values()) / seconds:.0f} clips per second")
