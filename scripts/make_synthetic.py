"""Writes synthetic video sentences in the layout of a data set of the field.

python scripts/make_synthetic.py --output RAW --train 6000 --validation 200 --test 400 --heldout 200

What comes out is converted by the script in dataset_scripts/ of the data set whose layout it has. Splits are called as
that data set calls them: "validation" is valid in Refer-YouTube-VOS and Ref-DAVIS17, valid_u in MeViS; J-HMDB has none.
"""

import argparse
import os
import time

from modeling_cvls.synthetic import (
    SPLITS,
    write_a2d_sentences,
    write_jhmdb_sentences,
    write_mevis,
    write_ref_davis17,
    write_refer_youtube_vos,
)

LAYOUTS = {
    "a2d": write_a2d_sentences,
    "jhmdb": write_jhmdb_sentences,
    "refer_youtube_vos": write_refer_youtube_vos,
    "ref_davis17": write_ref_davis17,
    "mevis": write_mevis,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, help="folder to write into, empty or new")
    parser.add_argument("--layout", choices=LAYOUTS, default="a2d")
    for split in SPLITS:
        parser.add_argument(f"--{split}", type=int, default=0, metavar="N", help=f"videos in the {split} split")
    parser.add_argument("--seed", type=int, default=0, help="the same seed writes the same bytes")
    parser.add_argument("--size", type=int, default=64, help="height and width in pixels")
    parser.add_argument("--frames", type=int, default=8, help="frames a video")
    parser.add_argument(
        "--look-alikes", action="store_true", help="the harder scenes of the look-alikes benchmark (layout a2d only)"
    )
    parser.add_argument("--num-proc", type=int, default=os.cpu_count(), help="processes")
    args = parser.parse_args()

    if args.look_alikes and args.layout != "a2d":
        parser.error(f"--look-alikes is written in the layout a2d only, not in {args.layout}")
    options = {"look_alikes": True} if args.look_alikes else {}
    splits = {split: getattr(args, split) for split in SPLITS}
    start = time.perf_counter()
    try:
        written = LAYOUTS[args.layout](
            args.output,
            splits,
            seed=args.seed,
            size=args.size,
            num_frames=args.frames,
            num_proc=args.num_proc,
            **options,
        )
    except (FileExistsError, ValueError) as error:
        parser.error(str(error))
    counts = ", ".join(f"{count} {split}" for split, count in splits.items() if count)
    print(
        f"Wrote {written['videos']} videos ({counts}) with {written['sentences']} sentences"
        f" to {args.output} in {time.perf_counter() - start:.0f} s."
    )


if __name__ == "__main__":
    main()
