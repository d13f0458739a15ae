"""What a segmenter costs: its operations, seconds and memory; and the contrastive head's share of the time.

    python benchmarks/cost.py [--part flops|speed|head|reading] [--config configs/demo.yaml] [--device cuda]

- flops: floating-point operations of one forward pass with 1, 4 and 8 sentences against those of the bare backbone, and
  against CLIPSeg, which segments pairs of a frame and a sentence; and of a training step. Counted on tensors without
  content, in seconds.
- speed: seconds of the same passes, the models taking turns, and the peak memory of each in a process of its own.
- head: the contrastive head's share of a training step (forward, backward, optimizer) and its similarity's share of a
  forward pass: the same model with and without it takes turns; the median of the differences.
- reading: processor seconds that making a training batch takes, from the encoded videos of the configuration's data set
  to tensors. Steps per second, times this, is the number of cores that a training keeps busy. Only with `--config`.

Without `--config`: the default CVLSConfig, ResNet-50 and RoBERTa-base, on one clip of 8 frames of 320 x 576. With it:
the model, clips and batch of a training configuration, over which flags lie as in `cvls train`, such as
`--training.use_cpu true` where one for a GPU is looked at without one. All weights are random and none is
downloaded: the costs do not depend on them. The exit status is 1 where a limit is missed.
"""

import argparse
import multiprocessing
import platform
import resource
import sys
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode
from tqdm.auto import tqdm
from transformers import AutoBackbone, CLIPSegConfig, CLIPSegForImageSegmentation
from transformers.initialization import no_init_weights

from modeling_cvls import CVLSConfig, CVLSModel
from modeling_cvls.parts_cvls import backbone_config, text_config
from modeling_cvls.training import build as build_for_training
from modeling_cvls.training import collator_for, load_train_set, parse_training
from modeling_cvls.training.building import frame_size

BACKBONE, CVLS, CLIPSEG = "backbone alone", "CVLS", "CLIPSeg"
# Operations of the whole forward pass over those of the backbone, by the number of sentences; for the default model.
FLOPS_LIMITS = {1: 1.25, 4: 1.4, 8: 1.6}
# The head's share of a training step, its similarity's share of a forward pass.
STEP_LIMIT, SIMILARITY_LIMIT = 0.03, 0.02
# A sentence of about ten words; the vocabulary of the synthetic sentences; the instances of a clip in training.
TOKENS, VOCABULARY, INSTANCES = 12, 64, 4


class Setting(NamedTuple):
    """A model and what it is given."""

    config: CVLSConfig
    clips: int = 1
    height: int = 320
    width: int = 576
    sentences: int = 4  # of a clip, in training

    def frames(self, device: torch.device) -> torch.Tensor:
        return torch.randn(self.clips, self.config.num_frames, 3, self.height, self.width, device=device)

    def input_ids(self, sentences: int, device: torch.device) -> torch.Tensor:
        return torch.randint(
            5, self.config.text_config.vocab_size, (self.clips, sentences, TOKENS), device=device
        )  # no special tokens among them: those of padding are the first few

    def training_batch(self, device: torch.device) -> dict[str, torch.Tensor]:
        """What the collator gives for clips annotated in every frame: boxes, each sentence refers to one of them."""
        shape = (self.clips, self.config.num_frames)
        masks = torch.zeros(*shape, INSTANCES, self.height, self.width, dtype=torch.bool, device=device)
        for instance in range(INSTANCES):
            left = self.width * instance // INSTANCES
            masks[..., instance, self.height // 4 : self.height // 2, left : left + self.width // 8] = True
        referents = torch.arange(self.sentences, device=device)[:, None] % INSTANCES == torch.arange(
            INSTANCES, device=device
        )
        return {
            "pixel_values_videos": self.frames(device),
            "frame_mask": torch.ones(shape, dtype=torch.bool, device=device),
            "frame_sizes": torch.tensor([[self.height, self.width]] * self.clips, device=device),
            "input_ids": self.input_ids(self.sentences, device),
            "instance_masks": masks,
            "annotated_frames": torch.ones(shape, dtype=torch.bool, device=device),
            "referents": referents.expand(self.clips, -1, -1),
        }


def read_setting(configuration: list[str]) -> Setting:
    """The default model, or that of a training configuration, file and flags. Of the parts that it names, only the
    configurations are loaded."""
    if not configuration:
        return Setting(CVLSConfig())
    model, data, training = parse_training(configuration)
    if model.checkpoint:
        config = CVLSConfig.from_pretrained(model.checkpoint, **model.config)
    elif model.vision and model.text:
        parts = {"backbone_config": backbone_config(model.vision), "text_config": text_config(model.text)}
        config = CVLSConfig(**parts, **model.config)
    else:
        config = CVLSConfig(**model.config)
        config.text_config.vocab_size = VOCABULARY  # as there is no tokenizer
    clips, sentences = (
        training.per_device_train_batch_size,
        data.sentences_per_clip or Setting._field_defaults["sentences"],
    )
    size = frame_size(data)
    return Setting(config, clips, size["shortest_edge"], size["longest_edge"], sentences)


def build(kind: str, config: CVLSConfig, device: torch.device) -> torch.nn.Module:
    """A model with random weights, in evaluation mode."""
    with device:
        if kind == BACKBONE:
            model = AutoBackbone.from_config(config.backbone_config)
        elif kind == CVLS:
            model = CVLSModel(config)
        else:  # the published CLIPSeg: ViT-B/16 on 352 x 352
            clipseg = CLIPSegConfig(vision_config={"image_size": 352, "patch_size": 16})
            clipseg._attn_implementation = config._attn_implementation
            model = CLIPSegForImageSegmentation(clipseg)
    return model.eval()


def forward_pass(kind: str, model: torch.nn.Module, setting: Setting, sentences: int) -> Callable[[], object]:
    """The model's forward pass on the setting's clips with so many sentences each, as a call without arguments."""
    device = next(model.parameters()).device
    if kind == BACKBONE:
        inputs = {"pixel_values": setting.frames(device).flatten(0, 1)}
    elif kind == CVLS:
        inputs = {
            "pixel_values_videos": setting.frames(device),
            "input_ids": setting.input_ids(sentences, device),
        }
    else:
        pairs = setting.clips * setting.config.num_frames * sentences
        vocabulary = model.config.text_config.vocab_size
        inputs = {
            "pixel_values": torch.randn(pairs, 3, 352, 352, device=device),
            "input_ids": torch.randint(5, vocabulary, (pairs, TOKENS), device=device),
        }
    return torch.no_grad()(partial(model, **inputs))


def count_flops(call: Callable[[], object]) -> dict[str, int]:
    """Floating-point operations, two a multiply-add, of the whole call ("Global") and of each module, by its path."""
    with FlopCounterMode(display=False) as counter:
        call()
    return {name: sum(counts.values()) for name, counts in counter.get_flop_counts().items()}


def with_attention_written_out(setting: Setting) -> Setting:
    """The counter knows matrix products and convolutions, but not the fused attention of the CPU."""
    setting = setting._replace(config=deepcopy(setting.config))
    setting.config._attn_implementation = "eager"
    return setting


def flops_of_step(setting: Setting) -> int:
    """Operations of a training step, forward and backward."""
    setting = with_attention_written_out(setting)
    with FakeTensorMode(), no_init_weights():
        model = build(CVLS, setting.config, torch.device("cpu")).train()
        batch = setting.training_batch(torch.device("cpu"))
        del batch["frame_sizes"]  # of clips of one size; a choice by their values is none on tensors without content
        return count_flops(lambda: model(**batch).loss.backward())["Global"]


def flops_of(setting: Setting, sentences: Sequence[int]) -> dict[tuple[str, int], dict[str, int]]:
    """(model, number of sentences) -> what `count_flops` says; the backbone's number of sentences is 0."""
    counts = {}
    setting = with_attention_written_out(setting)
    with FakeTensorMode(), no_init_weights():
        for kind in (BACKBONE, CVLS, CLIPSEG):
            model = build(kind, setting.config, torch.device("cpu"))
            for number in [0] if kind == BACKBONE else sentences:
                counts[kind, number] = count_flops(forward_pass(kind, model, setting, number))
    return counts


def measure_flops(setting: Setting, sentences: Sequence[int], limits: dict[int, float]) -> list[str]:
    """Prints the tables; returns the limits that are missed."""
    counts = flops_of(setting, sentences)
    backbone = counts[BACKBONE, 0]["Global"]
    missed = []
    print_row("model", "sentences", "GFLOP", "of the backbone's", "limit")
    print_row(*5 * ["---"])
    for (kind, number), flops in counts.items():
        ratio = flops["Global"] / backbone
        limit = limits.get(number) if kind == CVLS else None
        print_row(kind, number or "", f"{flops['Global'] / 1e9:.1f}", f"{ratio:.3f}", limit or "")
        if limit and ratio > limit:
            missed.append(f"{number} sentences take {ratio:.3f} times the operations of the backbone, not {limit}")

    print()
    print_row("part of CVLS", *(f"GFLOP, {number} sentences" for number in sentences))
    print_row("---", *("---" for _ in sentences))
    parts = {"backbone": "vision.backbone", "pyramid": "vision.pyramid", "motion": "vision.motion",
             "temporal attention": "vision.layers", "text encoder": "language", "fusion": "fusion",
             "contrastive head": "contrast"}  # fmt: skip
    totals = {
        part: [sum_of(counts[CVLS, number], f"CVLSModel.{path}") for number in sentences]
        for part, path in parts.items()
    }
    whole = [counts[CVLS, number]["Global"] for number in sentences]
    totals["the rest"] = [total - sum(column) for total, *column in zip(whole, *totals.values(), strict=True)]
    for part, row in totals.items():
        print_row(part, *(f"{flops / 1e9:.2f}" for flops in row))
    print(f"\na training step, {setting.sentences} sentences per clip: {flops_of_step(setting) / 1e9:.1f} GFLOP")
    return missed


def sum_of(counts: dict[str, int], path: str) -> int:
    """The count of a module; of a ModuleList, which is never called itself, the sum over its members."""
    members = [flops for name, flops in counts.items() if name.rpartition(".")[0] == path]
    return counts.get(path, sum(members))


def take_turns(
    calls: Sequence[Callable[[], object]], repeats: int, device: torch.device, clock: Callable[[], float]
) -> np.ndarray:
    """Seconds of each call, (repeats, len(calls)). The order turns round each time, so that no call is always first."""
    for call in calls:  # the first time allocates, chooses algorithms, makes the optimizer's state
        call()
    times = np.zeros((repeats, len(calls)))
    for repeat in tqdm(range(repeats), desc="rounds", leave=False, mininterval=5):
        for number in range(len(calls))[:: 1 if repeat % 2 else -1]:
            start = read_clock(device, clock)
            calls[number]()
            times[repeat, number] = read_clock(device, clock) - start
    return times


def read_clock(device: torch.device, clock: Callable[[], float]) -> float:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return clock()


def measure_speed(
    setting: Setting, sentences: Sequence[int], repeats: int, device: torch.device, clock: Callable[[], float]
) -> None:
    runs = [(BACKBONE, 0), *((kind, number) for kind in (CVLS, CLIPSEG) for number in sentences)]
    # Memory first, while this process is small: the system counts a process's size when it starts another to that one.
    memory = {}
    for kind, number in tqdm(runs, desc="peak memory", leave=False):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            memory[kind, number] = pool.apply(peak_memory, (kind, setting, number, str(device)))

    models = {kind: build(kind, setting.config, device) for kind in (BACKBONE, CVLS, CLIPSEG)}
    calls = [forward_pass(kind, models[kind], setting, number) for kind, number in runs]
    times = take_turns(calls, repeats, device, clock)
    ratios = np.median(times / times[:, :1], axis=0)
    print_row("model", "sentences", "seconds (median)", "of the backbone's", "peak memory")
    print_row(*5 * ["---"])
    for (kind, number), seconds, ratio in zip(runs, np.median(times, axis=0), ratios, strict=True):
        print_row(kind, number or "", f"{seconds:.3f}", f"{ratio:.2f}", f"{memory[kind, number] / 1e6:.0f} MB")


def peak_memory(kind: str, setting: Setting, sentences: int, device_name: str) -> int:
    """Bytes at the peak of building a model and one forward pass: of this process, or on CUDA of the device."""
    device = torch.device(device_name)
    forward_pass(kind, build(kind, setting.config, device), setting, sentences)()
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # ru_maxrss is in bytes on macOS, in KiB elsewhere.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measure_head(setting: Setting, repeats: int, device: torch.device, clock: Callable[[], float]) -> list[str]:
    """Prints the table; returns the limits that are missed.

    With and without the head is compared on frames that are encoded already: the head has no part in encoding them,
    and its cost would drown in the noise of what that takes. The gradient that it adds to the encoder's features is
    in. The share is that of the whole step, encoder included.
    """
    weight = setting.config.contrast_weight
    if weight == 0:
        raise ValueError("`contrast_weight` is 0: this configuration has no contrastive head to measure")
    model = build(CVLS, setting.config, device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    batch = setting.training_batch(device)
    inference = forward_pass(CVLS, model, setting, setting.sentences)
    with torch.no_grad():
        encoded = model.get_video_features(batch["pixel_values_videos"], batch["frame_mask"])
    encoded.last_hidden_state.requires_grad_()
    encoded.pixel_features.requires_grad_()
    encode_clips = model.get_video_features

    def step():
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()

    def run(call, encode, contrast_weight):
        model.train(call is step)
        model.get_video_features = encode_clips if encode else lambda *inputs, **wanted: encoded
        model.config.contrast_weight = contrast_weight
        call()

    missed = []
    print_row("", "seconds", "of them the head", "share: median (quartiles)", "limit")
    print_row(*5 * ["---"])
    for what, call, limit in (
        ("contrastive head in a training step", step, STEP_LIMIT),
        ("similarity in a forward pass", inference, SIMILARITY_LIMIT),
    ):
        runs = [partial(run, call, True, weight), partial(run, call, False, weight), partial(run, call, False, 0)]
        whole, with_head, without = take_turns(runs, repeats, device, clock).T
        low, share, high = np.quantile((with_head - without) / np.median(whole), [0.25, 0.5, 0.75])
        seconds = np.median(whole)
        print_row(what, f"{seconds:.4f}", f"{share * seconds:.4f}", f"{share:.1%} ({low:.1%} to {high:.1%})",
                  f"{limit:.0%}")  # fmt: skip
        if share > limit:
            missed.append(f"{what}: {share:.1%}, the limit is {limit:.0%}")
    return missed


def measure_reading(configuration: list[str], repeats: int) -> None:
    """Prints the median over `repeats` batches of a training's own data set."""
    model_args, data, training = parse_training(configuration)
    train_set = load_train_set(data, training.seed)
    model, processor = build_for_training(model_args, data, train_set)
    clips, collate = training.per_device_train_batch_size, collator_for(model, processor, data, training)
    batches = DataLoader(train_set, clips, shuffle=not data.streaming, collate_fn=collate, drop_last=True)
    times = [time.process_time()]
    for _ in tqdm(islice(batches, repeats + 1), total=repeats + 1, desc="batches", leave=False):
        times.append(time.process_time())
    seconds = np.diff(times)[1:]  # the first one loads what decodes
    if not len(seconds):
        raise ValueError(f"{data.dataset}, {data.train_split}: fewer than two batches of {clips} clips to read")
    print_row("clips of a batch", "batches read", "processor seconds per batch: median (quartiles)")
    print_row(*3 * ["---"])
    low, median, high = np.quantile(seconds, [0.25, 0.5, 0.75])
    print_row(clips, len(seconds), f"{median:.3f} ({low:.3f} to {high:.3f})")


def print_row(*cells) -> None:
    print("|", " | ".join(map(str, cells)), "|", flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["flops", "speed", "head", "reading"], help="default: all but reading")
    parser.add_argument("--config", help="YAML file of `cvls train`; its flags may follow")
    parser.add_argument("--device", type=torch.device, default="cpu", help="such as cuda (default: cpu)")
    parser.add_argument("--sentences", type=int, nargs="+", default=[1, 4, 8], help="of flops and speed")
    parser.add_argument("--repeats", type=int, default=10, help="rounds of what is timed")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall",
                        help="cpu: processor time, where a machine without accelerator has other work too")  # fmt: skip
    arguments, flags = parser.parse_known_args(argv)
    if flags and not arguments.config:
        parser.error(f"unrecognized arguments: {' '.join(flags)} (flags of `cvls train` go with --config)")
    if arguments.part == "reading" and not arguments.config:
        parser.error("--part reading needs the --config of a training, with its data set")
    if arguments.clock == "cpu" and arguments.device.type != "cpu":
        parser.error("--clock cpu does not see the work of an accelerator")

    configuration = [arguments.config, *flags] if arguments.config else []
    if arguments.part == "reading":
        print(f"Reading {arguments.config}'s data set, from encoded videos to a batch of tensors")
        measure_reading(configuration, arguments.repeats)
        return
    setting, device = read_setting(configuration), arguments.device
    clock = time.process_time if arguments.clock == "cpu" else time.perf_counter
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"{setting.clips} clips of {setting.config.num_frames} frames of {setting.height} x {setting.width}; random "
          f"weights; {device} ({name}, {platform.machine()}), torch {torch.__version__}")  # fmt: skip
    missed = []
    if arguments.part in (None, "flops"):
        print("\nOperations of a forward pass")
        missed += measure_flops(setting, arguments.sentences, {} if arguments.config else FLOPS_LIMITS)
    if arguments.part in (None, "speed"):
        print(f"\nSeconds of a forward pass ({arguments.clock} clock, {arguments.repeats} rounds) and peak memory")
        measure_speed(setting, arguments.sentences, arguments.repeats, device, clock)
    if arguments.part in (None, "head"):
        print(f"\nThe contrastive head, {setting.sentences} sentences per clip ({arguments.clock} clock, "
              f"{arguments.repeats} pairs)")  # fmt: skip
        missed += measure_head(setting, arguments.repeats, device, clock)
    if missed:
        sys.exit("missed: " + "; ".join(missed))


if __name__ == "__main__":
    main()
