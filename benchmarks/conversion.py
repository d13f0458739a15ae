"""Converts a whole A2D Sentences made of tiny videos: counts, rows per second, memory that does not grow with the set.

    python benchmarks/conversion.py [--annotations A2D/text_annotations/a2d_annotation.txt]

Writes a source in the original layout around the sentences of a real annotation file (or around made-up ones), converts
it by dataset_scripts/a2d_sentences.py, and compares what comes out with what went in. Then it measures the peak memory
(the largest process) of converting a source with videos of a usual size, and of one that is ten times larger.
"""

import csv
import io
import os
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import av
import h5py
import numpy as np
import pyarrow.parquet as pq
from jsonargparse import ArgumentParser

SCRIPT = Path(__file__).parent.parent / "dataset_scripts" / "a2d_sentences.py"
# Of A2D: videos in videoset.csv, and those with sentences in its test subset and in all.
VIDEOS, TEST, WITH_SENTENCES = 3782, 737, 3754
HEIGHT, WIDTH, FRAMES, ANNOTATED = 48, 64, 6, (1, 3, 6)
# Of a video where memory is measured; those of A2D are about as large.
CLIP_BYTES = 300_000
MISTAKEN_INSTANCE = "1 (copy)"

Rows = list[tuple[str, str, str]]


def read_rows(path: Path) -> Rows:
    """The rows (video, instance, sentence) of an annotation file."""
    with open(path, newline="", encoding="utf-8") as file:
        return [tuple(row) for row in list(csv.reader(file))[1:]]


def make_rows(videos: int) -> Rows:
    """Made-up rows in the proportions of A2D: 1.77 sentences per video."""
    return [
        (f"video{number:06d}", str(instance), f"the animal number {instance} is walking on the left")
        for number in range(videos)
        for instance in range(1 + number % 9 % 2 + number % 3 % 2)
    ]


def encode_clip() -> bytes:
    picture = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        for _ in range(FRAMES):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def free_box(number: int, size: int) -> bytes:
    """A part of an mp4 file that players skip; its content is of this `number` alone and cannot be compressed."""
    return struct.pack(">I4s", 8 + size, b"free") + np.random.default_rng(number).bytes(size)


def write_source(root: Path, rows: Rows, clip_bytes: int = 1_000) -> dict[str, int]:
    """Writes a source in the layout of A2D Sentences; returns the number of videos with sentences of each split.

    All videos show the same; no two files are alike, and each has `clip_bytes` more than it needs. As in the original,
    a fifth of them is the test subset, and a few in videoset.csv have no sentence.
    """
    texts, clips = root / "text_annotations", root / "Release" / "clips320H"
    clips.mkdir(parents=True)
    texts.mkdir()
    with open(texts / "a2d_annotation.txt", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("video_id", "instance_id", "query"), *rows])
    (texts / "a2d_missed_videos.txt").touch()
    clip = encode_clip()

    instances: dict[str, list[int]] = {}
    for video, instance, _ in rows:
        instances.setdefault(video, [])
        if instance != MISTAKEN_INSTANCE and int(instance) not in instances[video]:
            instances[video].append(int(instance))
    subsets = {}
    h5_files: dict[tuple[int, ...], bytes] = {}
    for number, (video, ids) in enumerate(instances.items()):
        subsets[video] = (number + 1) * TEST // WITH_SENTENCES - number * TEST // WITH_SENTENCES
        (clips / f"{video}.mp4").write_bytes(clip + free_box(number, clip_bytes))
        if tuple(ids) not in h5_files:
            masks = np.random.default_rng(ids).random((len(ids), WIDTH, HEIGHT)) > 0.5
            buffer = io.BytesIO()
            with h5py.File(buffer, "w") as file:
                file["instance"] = np.array(ids)
                file["reMask"] = (masks[0] if len(ids) == 1 else masks).astype(np.uint8)
            h5_files[tuple(ids)] = buffer.getvalue()
        folder = texts / "a2d_annotation_with_instances" / video
        folder.mkdir(parents=True)
        for frame in ANNOTATED:
            (folder / f"{frame:05d}.h5").write_bytes(h5_files[tuple(ids)])
    unsaid = {
        f"unsaid{number:06d}": 0 for number in range(len(instances) * (VIDEOS - WITH_SENTENCES) // WITH_SENTENCES)
    }
    with open(root / "Release" / "videoset.csv", "w", newline="", encoding="utf-8") as file:
        for video, subset in (subsets | unsaid).items():
            row = [video, 11, "0:00:00", "0:00:01", HEIGHT, WIDTH, FRAMES, len(ANNOTATED), subset]
            csv.writer(file).writerow(row)
    test = sum(subsets.values())
    return {"train": len(subsets) - test, "test": test}


def convert(source: Path, output: Path, num_proc: int) -> tuple[float, int]:
    """Runs the script in a process of its own; returns its seconds and the peak of its largest process in bytes."""
    command = [sys.executable, str(SCRIPT), "--source", str(source), "--output", str(output)]
    start = time.perf_counter()
    process = subprocess.Popen([*command, "--num-proc", str(num_proc)])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"the conversion ended with {process.returncode}")
    # ru_maxrss is in bytes on macOS, in KiB elsewhere.
    return time.perf_counter() - start, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def count(dataset: Path) -> dict[str, tuple[int, int]]:
    """Videos and sentences of each split, as its Parquet files hold them."""
    counts: dict[str, tuple[int, int]] = {}
    for path in sorted((dataset / "data").glob("*.parquet")):
        column = pq.read_table(path, columns=["sentences"])["sentences"].to_pylist()
        split = path.name.split("-")[0]
        videos, sentences = counts.get(split, (0, 0))
        counts[split] = videos + len(column), sentences + sum(map(len, column))
    return counts


def check_counts(rows: Rows, videos: dict[str, int], counts: dict[str, tuple[int, int]]) -> None:
    found = {split: counted for split, (counted, _) in counts.items()}
    sentences = sum(counted for _, counted in counts.values())
    expected = sum(instance != MISTAKEN_INSTANCE for _, instance, _ in rows)
    if found != videos or sentences != expected:
        raise SystemExit(f"converted {found} videos with {sentences} sentences, expected {videos} with {expected}")


def main(argv: Sequence[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--annotations", type=Path, help="a real a2d_annotation.txt (default: made-up sentences)")
    parser.add_argument("--videos", type=int, default=WITH_SENTENCES, help="so many videos, if they are made up")
    parser.add_argument("--memory-videos", type=int, default=150, metavar="N",
                        help="compare the memory for N videos with that for 10 N; 0: do not measure it")  # fmt: skip
    parser.add_argument("--num-proc", type=int, default=os.cpu_count(), help="processes of the conversion")
    arguments = parser.parse_args(argv)

    rows = read_rows(arguments.annotations) if arguments.annotations else make_rows(arguments.videos)
    with tempfile.TemporaryDirectory() as folder:
        videos = write_source(Path(folder) / "raw", rows)
        seconds, peak = convert(Path(folder) / "raw", Path(folder) / "dataset", arguments.num_proc)
        counts = count(Path(folder) / "dataset")
        check_counts(rows, videos, counts)
    converted = ", ".join(
        f"{split} {videos:,} videos with {texts:,} sentences" for split, (videos, texts) in counts.items()
    )
    total = sum(videos.values())
    print(f"\nall {len(rows):,} rows of the annotations: {converted}")
    print(f"{seconds:.1f} s, {len(rows) / seconds:.0f} rows or {total / seconds:.0f} videos per second with "
          f"{arguments.num_proc} processes, start included; peak memory {peak / 1e6:.0f} MB")  # fmt: skip

    if arguments.memory_videos:
        peaks = []
        for number in (arguments.memory_videos, 10 * arguments.memory_videos):
            with tempfile.TemporaryDirectory() as folder:
                write_source(Path(folder) / "raw", make_rows(number), CLIP_BYTES)
                _, peak = convert(Path(folder) / "raw", Path(folder) / "dataset", arguments.num_proc)
            print(f"{number:,} videos of {CLIP_BYTES / 1e6} MB: peak memory {peak / 1e6:.0f} MB")
            peaks.append(peak)
        print(f"ten times more videos take {peaks[1] / peaks[0]:.3f} times the memory")
        if peaks[1] > 1.1 * peaks[0]:
            raise SystemExit("memory grows with the set: more than 10 % for ten times as many videos")


if __name__ == "__main__":
    main()
