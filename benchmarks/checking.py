"""How long `cvls check` takes: a data set of the size of Refer-YouTube-VOS, whose rows share pictures and masks.

    python benchmarks/checking.py --output /tmp/checking

Needs 25 GB: the data set has about 11, and `load_dataset` keeps a copy in its cache, here in the same folder. With
`--videos 348` it is a tenth of that.
"""

import io
import os
import resource
import subprocess
import sys
from functools import cache
from pathlib import Path
from time import perf_counter

import numpy as np
from datasets import load_dataset
from jsonargparse import ArgumentParser
from PIL import Image

from modeling_cvls.conversion import Description, write_dataset
from modeling_cvls.conversion.rows import frames_row, sentence_cell
from modeling_cvls.rle_cvls import encode_masks

FRAMES, HEIGHT, WIDTH = 27, 720, 1280
OBJECTS = (2, 3, 4)
NUMBER = 40  # different pictures, and masks


@cache
def pictures() -> list[bytes]:
    """JPEG files of some 120 kB: soft shapes and a little noise."""
    generator, found = np.random.default_rng(0), []
    for _ in range(NUMBER):
        coarse = generator.integers(0, 256, (HEIGHT // 40, WIDTH // 40, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), np.int16)
        noisy = (smooth + generator.normal(0, 4, smooth.shape)).clip(0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(noisy).save(buffer, "jpeg", quality=82)
        found.append(buffer.getvalue())
    return found


@cache
def masks() -> list[str]:
    """Run lengths of blobs with ragged outlines, of a tenth of the picture."""
    generator, found = np.random.default_rng(1), []
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    for _ in range(NUMBER):
        y, x = generator.uniform(0.3, 0.7, 2) * (HEIGHT, WIDTH)
        radius = generator.uniform(120, 220) + np.cumsum(generator.normal(0, 1, WIDTH))[None]
        found += encode_masks((np.hypot(rows - y, columns - x) < radius)[None])
    return found


def make_row(number: int) -> dict:
    objects = OBJECTS[number % len(OBJECTS)]
    name = f"video{number:05d}"

    def one(of: list, *key: int):
        return of[sum(key) % NUMBER]

    return frames_row(
        name,
        [{"bytes": one(pictures(), number, t), "path": f"{t:05d}.jpg"} for t in range(FRAMES)],
        HEIGHT,
        WIDTH,
        annotated_frames=list(range(FRAMES)),
        instance_ids=[str(m) for m in range(objects)],
        masks=[[one(masks(), number, t, 7 * m) for m in range(objects)] for t in range(FRAMES)],
        sentences=[
            sentence_cell(name, k, f"a person on the left number {k}", [k % objects]) for k in range(4 + number % 2)
        ],
    )


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder for the data set and its cache")
    parser.add_argument("--videos", type=int, default=3471, help="rows (default: those of Refer-YouTube-VOS)")
    arguments = parser.parse_args()
    dataset = arguments.output / "dataset"
    os.environ["HF_DATASETS_CACHE"] = str(arguments.output / "cache")
    description = Description("Rows to check", "Noise.", "other", "Free.")
    write_dataset(dataset, {"train": range(arguments.videos)}, make_row, description)
    print(f"{np.mean([len(picture) for picture in pictures()]):,.0f} bytes per picture, "
          f"{np.mean([len(counts) for counts in masks()]):,.0f} per mask")  # fmt: skip
    start = perf_counter()
    load_dataset(str(dataset), cache_dir=os.environ["HF_DATASETS_CACHE"])
    loaded = perf_counter()
    print(f"load_dataset: {loaded - start:.1f} s the first time")
    subprocess.run([sys.executable, "-m", "modeling_cvls", "check", str(dataset), "--again"], check=True)
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        f"cvls check: {perf_counter() - loaded:.1f} s with {os.cpu_count()} cores, "
        f"{usage.ru_utime + usage.ru_stime:.1f} s of CPU"
    )


if __name__ == "__main__":
    main()
