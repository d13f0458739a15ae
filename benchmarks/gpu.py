"""What a training step and a segmentation take on a GPU: one script of at most 8 minutes, whose results are one table.

    python benchmarks/gpu.py --output results/gpu.json

It measures the default CVLSConfig, ResNet-50 and RoBERTa-base, on clips of 8 frames of 320 x 576, with random weights:

- training steps per second in bf16, eager and compiled, with and without gradient checkpointing;
- the FLOP/s of a whole step as a share of what the backbone alone reaches on the same device (the goal is 40 %);
- the peak memory of a training step for several batch sizes;
- frames per second of inference for several numbers of sentences;
- clips per second that the data path reads, against those that the fastest step takes.

Nothing is downloaded. What the time is too short for is left out and said. With `--config`, the model and the clips are
those of a training configuration; its flags may follow, as for benchmarks/cost.py.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.data import DataLoader
from transformers.initialization import no_init_weights

from cost import BACKBONE, CVLS, Setting, build, count_flops, flops_of_step, forward_pass, read_clock, read_setting
from modeling_cvls import CVLSProcessor, CVLSVideoProcessor
from modeling_cvls.data import FEATURES, ClipCollator, ClipSampler
from modeling_cvls.rle_cvls import encode_masks
from modeling_cvls.training import word_tokenizer
from modeling_cvls.visualization import write_video

GOAL = 0.4  # of the backbone's own FLOP/s
SENTENCES = ["the dog on the left", "the cat that is running to the right", "a person in a red jacket", "the ball"]


class Report:
    """Measures one thing after the other until the time is over, and prints each result at once."""

    def __init__(self, seconds: float):
        self.end, self.rows = time.monotonic() + seconds, []
        print("| what | result |\n| --- | --- |", flush=True)

    def measure(self, what: str, call: Callable[[], float], unit: str) -> float | None:
        """What `call` returns; None where there was no time or no memory for it."""
        value, note = None, ""
        if time.monotonic() > self.end:
            note = "left out: the time is over"
        else:
            try:
                value = call()
            except torch.OutOfMemoryError:
                note = "out of memory"
        self.add(what, value, unit, note)
        return value

    def add(self, what: str, value: float | None, unit: str, note: str = "") -> None:
        self.rows.append({"what": what, "value": value, "unit": unit, "note": note})
        print(f"| {what} | {note if value is None else f'{value:.4g} {unit}'} |", flush=True)


def seconds_of(call: Callable[[], Any], device: torch.device, repeats: int = 10, longest: float = 20) -> float:
    """The median time of a call, after two that are not timed; fewer repeats where they take longer than `longest`."""
    for _ in range(2):
        call()
    times, end = [], time.monotonic() + longest
    while len(times) < repeats and (not times or time.monotonic() < end):
        start = read_clock(device, time.perf_counter)
        call()
        times.append(read_clock(device, time.perf_counter) - start)
    return float(np.median(times))


def training_step(setting: Setting, device: torch.device, checkpointing: bool, compiled: bool) -> Callable[[], None]:
    """A step in bf16 on one batch: forward, backward, optimizer."""
    model = build(CVLS, setting.config, device).train()
    if checkpointing:
        model.gradient_checkpointing_enable()
    forward = torch.compile(model) if compiled else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    batch = setting.training_batch(device)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, dtype=torch.bfloat16):
            loss = forward(**batch).loss
        loss.backward()
        optimizer.step()

    return step


def backbone_step(setting: Setting, device: torch.device) -> Callable[[], None]:
    """Forward and backward of the backbone alone in bf16, on the frames of one batch."""
    model = build(BACKBONE, setting.config, device).train()
    frames = setting.frames(device).flatten(0, 1)

    def step() -> None:
        model.zero_grad()
        with torch.autocast(device.type, dtype=torch.bfloat16):
            features = model(pixel_values=frames).feature_maps
        sum(feature.float().sum() for feature in features).backward()

    return step


def backbone_flops(setting: Setting) -> int:
    """Operations of `backbone_step`."""
    with FakeTensorMode(), no_init_weights():
        return count_flops(backbone_step(setting, torch.device("cpu")))["Global"]


def measure_backbone(report: Report, setting: Setting, device: torch.device) -> float | None:
    """TFLOP/s of the backbone alone."""
    return report.measure(
        "backbone alone, forward and backward",
        lambda: backbone_flops(setting) / seconds_of(backbone_step(setting, device), device) / 1e12,
        "TFLOP/s",
    )


def measure_training(
    report: Report, setting: Setting, device: torch.device, compiled: bool, most: float | None
) -> float:
    """Steps per second, and their share of the `most` that the backbone's FLOP/s allow; the clips per second of the
    fastest step."""
    fastest = 0.0
    for checkpointing in (False, True):
        how = f"{'compiled' if compiled else 'eager'}, {'with' if checkpointing else 'without'} checkpointing"

        def steps_per_second(checkpointing=checkpointing) -> float:
            return 1 / seconds_of(training_step(setting, device, checkpointing, compiled), device)

        rate = report.measure(f"training, {setting.clips} clips, {how}", steps_per_second, "steps/s")
        if rate is not None:
            fastest = max(fastest, rate)
            if most:
                report.add(f"... FLOP/s as a share of the backbone's (goal {GOAL:.0%})", 100 * rate / most, "%")
    return fastest * setting.clips


def measure_memory(report: Report, setting: Setting, device: torch.device, batches: list[int]) -> None:
    """Peak memory of a step, which only an accelerator counts."""
    for clips in batches:
        for checkpointing in (False, True):

            def peak(clips=clips, checkpointing=checkpointing) -> float:
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats(device)
                training_step(setting._replace(clips=clips), device, checkpointing, compiled=False)()
                return torch.cuda.max_memory_allocated(device) / 2**30

            how = f"{clips} clips, {'with' if checkpointing else 'without'} checkpointing"
            if device.type == "cuda":
                report.measure(f"peak memory of a training step, {how}", peak, "GiB")
            else:
                report.add(f"peak memory of a training step, {how}", None, "GiB", "counted on CUDA only")


def measure_inference(report: Report, setting: Setting, device: torch.device, sentences: list[int]) -> None:
    """Frames per second of one clip with several sentences, in bf16."""
    setting = setting._replace(clips=1)
    model = build(CVLS, setting.config, device)
    for number in sentences:
        call = torch.autocast(device.type, dtype=torch.bfloat16)(forward_pass(CVLS, model, setting, number))

        def frames_per_second(call=call) -> float:
            return setting.config.num_frames / seconds_of(call, device)

        report.measure(f"inference, {number} sentences", frames_per_second, "frames/s")


def make_rows(setting: Setting, number: int, folder: Path) -> Dataset:
    """So many videos of 24 frames of the setting's size, each encoded, with two objects and `SENTENCES`."""
    length, (height, width) = 24, (setting.height, setting.width)
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 90, (height, width, 3), dtype=np.uint8)
    masks = np.zeros((2, height, width), bool)
    masks[0, : height // 3, : width // 3] = masks[1, height // 2 :, width // 2 :] = True
    frames = [np.roll(noise, 3 * index, axis=1) for index in range(length)]
    write_video(folder / "clip.mp4", frames, 24)
    counts, annotated = encode_masks(masks), [0, 8, 16]
    sentences = [
        {"sentence_id": str(k), "text": text, "instances": [k % 2], "kind": None} for k, text in enumerate(SENTENCES)
    ]
    row = {
        "video": {"bytes": (folder / "clip.mp4").read_bytes(), "path": None},
        "frames": None,
        "num_frames": length,
        "height": height,
        "width": width,
        "fps": 24.0,
        "annotated_frames": annotated,
        "evaluation_frames": None,
        "instance_ids": ["0", "1"],
        "masks": [counts for _ in annotated],
        "sentences": sentences,
    }
    return Dataset.from_list([{**row, "video_id": str(index)} for index in range(number)], features=FEATURES)


def clips_read_per_second(setting: Setting, workers: int, batches: int) -> float:
    """What the data path gives: encoded videos, masks and sentences to a batch of tensors, in so many processes."""
    size = {"shortest_edge": setting.height, "longest_edge": setting.width}
    processor = CVLSProcessor(CVLSVideoProcessor(size=size), word_tokenizer(SENTENCES))
    with tempfile.TemporaryDirectory() as folder:
        rows = make_rows(setting, setting.clips * batches, Path(folder))
    collate = ClipCollator(processor, ClipSampler(setting.config.num_frames))
    loader = iter(DataLoader(rows, setting.clips, collate_fn=collate, num_workers=workers, drop_last=True))
    next(loader)  # the processes start, and load what decodes
    start, count = time.perf_counter(), 0
    for _ in loader:
        count += setting.clips
    return count / (time.perf_counter() - start)


def measure(setting: Setting, args: argparse.Namespace) -> list[dict]:
    """All rows of the table."""
    report, device = Report(args.seconds), args.device
    own = measure_backbone(report, setting, device)
    most = own and own * 1e12 / flops_of_step(setting)
    taken = measure_training(report, setting, device, False, most)
    measure_inference(report, setting, device, args.sentences)
    measure_memory(report, setting, device, args.batches)
    if not args.eager_only:  # late, as compiling takes longest
        taken = max(taken, measure_training(report, setting, device, True, most))
    workers = args.workers
    read = report.measure(
        f"data path, {workers} processes", lambda: clips_read_per_second(setting, workers, args.reads), "clips/s"
    )
    if taken and read:
        report.add("... against the clips of the fastest training", 100 * read / taken, "%")
    return report.rows


def main(argv: list[str] | None = None) -> None:
    # argparse, as the flags of a training configuration that may follow are parsed with it
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", help="YAML file of `cvls train` with model.config; its flags may follow")
    parser.add_argument("--device", type=torch.device, default="cuda", help="default: cuda")
    parser.add_argument("--seconds", type=float, default=420, help="nothing is begun after so many (default: 420)")
    parser.add_argument("--clips", type=int, default=4, help="of a training step (default: 4)")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16], help="clips whose memory is measured")
    parser.add_argument("--sentences", type=int, nargs="+", default=[1, 4, 16], help="of inference")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes of the data path")
    parser.add_argument("--reads", type=int, default=64, help="batches that the data path reads (default: 64)")
    parser.add_argument("--eager-only", action="store_true", help="do not compile")
    parser.add_argument("--output", type=Path, help="json file to write")
    args, flags = parser.parse_known_args(argv)
    if flags and not args.config:
        parser.error(f"unrecognized arguments: {' '.join(flags)} (flags of `cvls train` go with --config)")
    setting = read_setting([args.config, *flags] if args.config else [])._replace(clips=args.clips)
    name = torch.cuda.get_device_name(args.device) if args.device.type == "cuda" else platform.processor()
    about = {"device": name or platform.machine(), "torch": torch.__version__, "frames": setting.config.num_frames}
    about |= {"height": setting.height, "width": setting.width, "sentences": setting.sentences}
    print(", ".join(f"{key}: {value}" for key, value in about.items()))
    rows = measure(setting, args)
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
