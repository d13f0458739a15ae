"""`cvls synthesize`: synthetic video sentences in the layout of a data set of the field."""

import os
import time
from argparse import RawDescriptionHelpFormatter

from jsonargparse import ArgumentParser

from ..extras import require

DESCRIPTION = """Writes synthetic video sentences in the layout of a data set of the field: scenes of moving shapes,
with sentences that tell look-alikes apart.

    cvls synthesize --output RAW --train 6000 --validation 200 --test 400 --heldout 200

What comes out is converted by `cvls convert`, as the data set whose layout it has is. Splits are called as that data
set calls them: "validation" is valid in Refer-YouTube-VOS and Ref-DAVIS17, valid_u in MeViS; J-HMDB has none."""

LAYOUTS = {
    "a2d": "write_a2d_sentences",
    "jhmdb": "write_jhmdb_sentences",
    "refer_youtube_vos": "write_refer_youtube_vos",
    "ref_davis17": "write_ref_davis17",
    "mevis": "write_mevis",
}
SPLITS = ("train", "test", "validation", "heldout")


def main(arguments: list[str] | None = None, prog: str = "cvls synthesize") -> None:
    parser = ArgumentParser(prog=prog, description=DESCRIPTION, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, help="folder to write into, empty or new")
    parser.add_argument("--layout", choices=list(LAYOUTS), default="a2d", help="whose layout it has (default: a2d)")
    for split in SPLITS:
        parser.add_argument(
            f"--{split}", type=int, default=0, metavar="N", help=f"videos in the {split} split (default: 0)"
        )
    parser.add_argument("--seed", type=int, default=0, help="the same seed writes the same bytes (default: 0)")
    parser.add_argument("--size", type=int, default=64, help="height and width in pixels (default: 64)")
    parser.add_argument("--frames", type=int, default=8, help="frames of a video (default: 8)")
    parser.add_argument(
        "--look-alikes", action="store_true", help="the harder scenes of the look-alikes benchmark (layout a2d only)"
    )
    parser.add_argument("--num-proc", type=int, default=os.cpu_count(), help="processes (default: one per core)")
    args = parser.parse_args(arguments)
    if args.look_alikes and args.layout != "a2d":
        raise ValueError(f"--look-alikes is written in the layout a2d only, not in {args.layout}")
    require("data", "h5py", "scipy")
    from .. import synthetic

    splits = {split: getattr(args, split) for split in SPLITS}
    start = time.perf_counter()
    written = getattr(synthetic, LAYOUTS[args.layout])(
        args.output,
        splits,
        seed=args.seed,
        size=args.size,
        num_frames=args.frames,
        num_proc=args.num_proc,
        **({"look_alikes": True} if args.look_alikes else {}),
    )
    counts = ", ".join(f"{count} {split}" for split, count in splits.items() if count)
    print(
        f"Wrote {written['videos']} videos ({counts}) with {written['sentences']} sentences"
        f" to {args.output} in {time.perf_counter() - start:.0f} s."
    )
