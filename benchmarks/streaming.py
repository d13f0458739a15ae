"""Peak memory of segmenting videos of growing length with `pipeline.stream`: it must not grow with the video.

    python benchmarks/streaming.py --model outputs/demo/checkpoint

Writes a video of each length and segments it frame by frame in a process of its own, whose peak memory (that of the
whole process, weights and libraries included) is printed with its ratio to that of the shortest video.
"""

import multiprocessing
import resource
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from jsonargparse import ArgumentParser
from transformers import pipeline

import modeling_cvls  # noqa: F401  registers the model, the processor and the pipeline
from modeling_cvls.visualization import VideoWriter

SENTENCES = ["the small red circle", "the object moving left"]


def write_moving_square(path: Path, num_frames: int, height: int, width: int) -> None:
    """A square that goes round on noise."""
    noise = np.random.default_rng(0).integers(0, 90, (height, width, 3), dtype=np.uint8)
    side = min(height, width) // 4
    with VideoWriter(path, fps=25) as writer:
        for index in range(num_frames):
            frame = noise.copy()
            top, left = index % (height - side), 2 * index % (width - side)
            frame[top : top + side, left : left + side] = (220, 60, 40)
            writer.write(frame)


def measure(model: str, video: str, mask_format: str, batch_size: int) -> dict[str, float]:
    """Frames that came, frames per second, and the peak memory of this process in MiB."""
    torch.set_num_threads(1)
    segmenter = pipeline("video-language-segmentation", model=model)
    start, frames = time.perf_counter(), 0
    for _ in segmenter.stream(video, SENTENCES, batch_size, mask_format=mask_format, presence_threshold=0):
        frames += 1
    seconds = time.perf_counter() - start
    # in KiB on Linux, in bytes on macOS
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return {"frames": frames, "speed": frames / seconds, "peak": peak}


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="folder or Hub name of a checkpoint")
    parser.add_argument("--frames", type=int, nargs="+", default=[100, 1000, 10_000], help="lengths of the videos")
    parser.add_argument("--size", type=int, nargs=2, default=[120, 160], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--mask-format", choices=["array", "rle"], default="rle")
    parser.add_argument("--batch-size", type=int, default=1, help="windows at once")
    parser.add_argument("--limit", type=float, default=1.05, help="fail where a peak is above this ratio")
    args = parser.parse_args()

    print(f"{'frames':>8}  {'frames/s':>8}  {'peak MiB':>8}  {'ratio':>6}")
    peaks = []
    context = multiprocessing.get_context("spawn")  # nothing of this process counts
    with tempfile.TemporaryDirectory() as folder:
        for number in args.frames:
            video = Path(folder) / f"{number}.mp4"
            write_moving_square(video, number, *args.size)
            with ProcessPoolExecutor(1, mp_context=context) as pool:
                found = pool.submit(measure, args.model, str(video), args.mask_format, args.batch_size).result()
            assert found["frames"] == number, f"{found['frames']} frames came of {number}"
            peaks.append(found["peak"])
            print(
                f"{number:8}  {found['speed']:8.1f}  {found['peak']:8.0f}  {found['peak'] / peaks[0]:6.3f}", flush=True
            )
    if max(peaks) > args.limit * peaks[0]:
        sys.exit(f"streaming.py: the peak grew by more than {args.limit - 1:.0%}")


if __name__ == "__main__":
    main()
