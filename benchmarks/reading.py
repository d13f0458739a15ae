"""What opening a long video and reading frames of it costs, compared with decord, which read all videos before.

python benchmarks/reading.py --minutes 10

Writes an H.264 video of small frames and measures, for `FrameReader` and for decord alone: opening (up to the size of
the frames), 8 frames at random places of a video that is open, and both together. Prints seconds of CPU and of the
clock, the medians of several rounds, and their ratios.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import decord
import numpy as np
from tqdm.auto import tqdm

from modeling_cvls import FrameReader

FPS, HEIGHT, WIDTH, FRAMES = 25, 180, 320, 8


def write_video(path: Path, num_frames: int, scale: int) -> None:
    """A square that moves over a ground that rolls on every third frame."""
    ground = np.random.default_rng(0).integers(0, 255, (15, 20, 3), dtype=np.uint8)
    ground = ground.repeat(12 * scale, 0).repeat(16 * scale, 1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "veryfast", "crf": "30"})
        stream.height, stream.width, stream.pix_fmt = scale * HEIGHT, scale * WIDTH, "yuv420p"
        for index in tqdm(range(num_frames), desc="writing the video", unit="frame"):
            frame = np.roll(ground, index // 3, axis=1)
            frame[20:60, 2 * index % (WIDTH - 40) :][:, :40] = (220, 30, 30)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())


def open_ours(path: str) -> FrameReader:
    return FrameReader(path)


def open_decord(path: str) -> decord.VideoReader:
    reader = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
    reader.get_batch([0])  # says the size, as before
    return reader


def measure(runs: tuple[Callable[[int], object], ...], rounds: int) -> list[tuple[float, float]]:
    """For each of several functions, which take turns, the medians of seconds of CPU and of the clock."""
    seconds = [([], []) for _ in runs]
    for number in range(rounds):
        for run, (cpu, clock) in zip(runs, seconds, strict=True):
            starts = time.process_time(), time.perf_counter()
            run(number)
            cpu.append(time.process_time() - starts[0])
            clock.append(time.perf_counter() - starts[1])
    return [(statistics.median(cpu), statistics.median(clock)) for cpu, clock in seconds]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10, help="length of the video; default: 10")
    parser.add_argument("--rounds", type=int, default=7, help="of each measurement; default: 7")
    parser.add_argument("--scale", type=int, default=1, help="size of the frames, in 320 x 180 pixels; default: 1")
    args = parser.parse_args(arguments)
    num_frames = round(args.minutes * 60 * FPS)
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "video.mp4")
        write_video(Path(path), num_frames, args.scale)
        random = np.random.default_rng(0)
        places = [sorted(random.integers(0, num_frames, FRAMES).tolist()) for _ in range(args.rounds)]
        ours, theirs = open_ours(path), open_decord(path)
        ours.read([0])  # opens what it decodes with
        steps = {
            "opening": (lambda n: open_ours(path), lambda n: open_decord(path)),
            f"{FRAMES} random frames": (lambda n: ours.read(places[n]), lambda n: theirs.get_batch(places[n])),
            "both": (
                lambda n: open_ours(path).read(places[n]),
                lambda n: open_decord(path).get_batch(places[n]),
            ),
        }
        size = f"{args.scale * WIDTH} x {args.scale * HEIGHT}"
        print(f"{num_frames} frames, {size} pixels; seconds of CPU (of the clock)")
        print(f"{'':18} {'decord':>16} {'FrameReader':>16}  ratio of CPU (of the clock)")
        for name, (run_ours, run_theirs) in steps.items():
            (cpu, clock), (new_cpu, new_clock) = measure((run_theirs, run_ours), args.rounds)
            print(
                f"{name:18} {cpu:7.3f} ({clock:6.3f}) {new_cpu:7.3f} ({new_clock:6.3f})  "
                f"{new_cpu / cpu:.2f} ({new_clock / clock:.2f})"
            )


if __name__ == "__main__":
    main()
