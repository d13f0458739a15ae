"""What a long video costs, what a second sentence on it costs, and what a live stream keeps in memory.

    python benchmarks/sessions.py [--part flops|seconds|live] [--frames 128] [--device cuda]

- flops: floating-point operations of a long video with one sentence against those of the bare backbone on its frames,
  and of a second sentence on the encoded video against those of the first call. Counted on tensors without content.
- seconds: seconds of opening a video and asking a first sentence, and of asking another.
- live: the peak memory of this process after a tenth of the frames of a stream, and after all of them. A small model.

The model of the first two is the default CVLSConfig, ResNet-50 and RoBERTa-base, on frames of 320 x 576. All weights
are random: the costs do not depend on them. The exit status is 1 where a limit is missed.
"""

import resource
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace

import numpy as np
import torch
from jsonargparse import ArgumentParser
from tokenizers import Tokenizer, models, pre_tokenizers
from torch._subclasses.fake_tensor import FakeTensorMode
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerFast
from transformers.initialization import no_init_weights

from cost import BACKBONE, CVLS, build, count_flops, print_row, with_attention_written_out
from cost import Setting as CostSetting
from modeling_cvls import CVLSConfig, CVLSModel, CVLSPipeline, CVLSProcessor, CVLSVideoProcessor
from modeling_cvls.encoding_cvls import EncodedWindows, SentenceLogits, WindowEncoder
from modeling_cvls.windows_cvls import plan_windows

#: Operations of a long video with one sentence over those of the backbone; a second sentence over the first call;
#: the peak memory of a stream over that after a tenth of it.
LONG_VIDEO_LIMIT, SECOND_SENTENCE_LIMIT, LIVE_LIMIT = 1.22, 0.05, 1.05
SENTENCES = ["the dog that runs to the left behind the other dogs", "the person in the red coat on the right side"]
SMALL = {
    "backbone_config": {"model_type": "resnet", "layer_type": "basic", "embedding_size": 8, "hidden_sizes": [8, 16, 16],
                        "depths": [1, 1, 1], "out_features": ["stage1", "stage2", "stage3"]},
    "text_config": {"model_type": "bert", "vocab_size": 64, "hidden_size": 16, "intermediate_size": 16,
                    "num_hidden_layers": 1, "num_attention_heads": 2},
    "hidden_size": 16, "pixel_size": 16, "contrast_size": 16, "token_stride": 8, "num_temporal_layers": 1,
    "num_fusion_layers": 1, "num_attention_heads": 2,
}  # fmt: skip


class Costs(SimpleNamespace):
    """Operations of a video: `backbone` alone, `encoding` all of vision, `sentence` what each sentence adds."""

    backbone: int
    encoding: int
    sentence: int


def flops_of_video(config: CVLSConfig, num_frames: int, height: int, width: int) -> Costs:
    setting = with_attention_written_out(CostSetting(config, 1, height, width))
    with FakeTensorMode(), no_init_weights():
        backbone = build(BACKBONE, setting.config, torch.device("cpu"))
        model = build(CVLS, setting.config, torch.device("cpu"))

        def processor(videos):
            values = torch.empty(1, len(videos), 3, height, width)
            return {"pixel_values_videos": values, "frame_sizes": np.array([[height, width]])}

        kept: list[EncodedWindows] = []

        def encode():
            encoder, added = WindowEncoder(model, processor), 0
            for windows in plan_windows(num_frames, config.num_frames, config.num_frames // 4):
                picture = np.zeros((height, width, 3), np.uint8)
                encoder.add(dict.fromkeys(range(added, windows[-1].stop), picture))
                added = windows[-1].stop
                kept.append(encoder.encode(windows))

        def ask():
            text = {"input_ids": torch.ones(1, 1, 12, dtype=torch.int64)}
            text["attention_mask"] = torch.ones_like(text["input_ids"])
            sentences = SentenceLogits(model, text)
            for encoded in kept:
                sentences.add(encoded)

        frames = torch.empty(num_frames, 3, height, width)
        with torch.no_grad():
            counts = [count_flops(call)["Global"] for call in (lambda: backbone(frames), encode, ask)]
    return Costs(backbone=counts[0], encoding=counts[1], sentence=counts[2])


def measure_flops(config: CVLSConfig, num_frames: int) -> list[str]:
    """Prints the table; returns the limits that are missed."""
    costs = flops_of_video(config, num_frames, 320, 576)
    first = costs.encoding + costs.sentence
    rows = [
        ("backbone alone", costs.backbone, None, None),
        ("one sentence over the video", first, first / costs.backbone, LONG_VIDEO_LIMIT),
        ("a second sentence", costs.sentence, costs.sentence / first, SECOND_SENTENCE_LIMIT),
    ]
    print_row(f"{num_frames} frames", "GFLOP per frame", "share", "limit")
    print_row(*4 * ["---"])
    for name, flops, share, limit in rows:
        shown = "" if share is None else f"{share:.3f} of the {'backbone' if share > 1 else 'first call'}'s"
        print_row(name, f"{flops / num_frames / 1e9:.2f}", shown, limit or "")
    return [f"{name}: {share:.3f}, the limit is {limit}" for name, _, share, limit in rows if limit and share > limit]


def segmenter_of(config: CVLSConfig, device: torch.device, side: int, longest: int) -> CVLSPipeline:
    """A pipeline of a model with random weights."""
    words = {word: number for number, word in enumerate(["[PAD]", *sorted(set(" ".join(SENTENCES).split()))])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[PAD]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", model_max_length=32)
    video_processor = CVLSVideoProcessor(size={"shortest_edge": side, "longest_edge": longest})
    with device:
        model = CVLSModel(config).eval()
    return CVLSPipeline(model=model, processor=CVLSProcessor(video_processor, tokenizer), device=device)


def measure_seconds(config: CVLSConfig, num_frames: int, device: torch.device, clock: Callable[[], float]) -> list[str]:
    """Prints the table; returns the limits that are missed."""
    segmenter = segmenter_of(config, device, 320, 576)
    video = np.random.default_rng(0).integers(0, 256, (num_frames, 320, 576, 3), dtype=np.uint8)
    segmenter(video[: config.num_frames], SENTENCES[0])  # the first time chooses algorithms

    def seconds(call: Callable) -> float:
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        start = clock()
        call()
        return clock() - start

    opened: list = []
    opening = seconds(lambda: opened.append(segmenter.open(video, progress=True)))
    sentences = [SENTENCES[i % 2] for i in range(5)]
    asking = [seconds(partial(opened[0].ask, sentence, presence_threshold=0)) for sentence in sentences]
    first, later = opening + asking[0], float(np.median(asking[1:]))
    print_row(f"{num_frames} frames", "seconds", "share of the first call", "limit")
    print_row(*4 * ["---"])
    print_row("opening the video", f"{opening:.2f}", f"{opening / first:.3f}", "")
    print_row("the first call: opening, and one sentence", f"{first:.2f}", 1, "")
    print_row("a second sentence", f"{later:.2f}", f"{later / first:.3f}", SECOND_SENTENCE_LIMIT)
    share = later / first
    return [f"a second sentence took {share:.3f} of the first call"] if share > SECOND_SENTENCE_LIMIT else []


def measure_live(num_frames: int) -> list[str]:
    """Prints the table; returns the limits that are missed."""
    torch.set_num_threads(1)
    live = segmenter_of(CVLSConfig(**SMALL), torch.device("cpu"), 64, 64).live(SENTENCES)
    frames = np.random.default_rng(0).integers(0, 256, (16, 64, 64, 3), dtype=np.uint8)
    peaks, results, start = [], 0, time.perf_counter()
    for number in tqdm(range(num_frames), desc="pushing", unit="frame", mininterval=5):
        results += len(live.push(frames[number % 16]))
        if number + 1 in (num_frames // 10, num_frames):
            # in KiB on Linux, in bytes on macOS
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            peaks.append(peak / (2**20 if sys.platform == "darwin" else 2**10))
    results += len(live.close())
    if results != num_frames:
        raise RuntimeError(f"{results} results came of {num_frames} frames")
    ratio = peaks[1] / peaks[0]
    print_row("frames pushed", "frames per second", "peak MiB after a tenth", "after all", "ratio", "limit")
    print_row(*6 * ["---"])
    speed = num_frames / (time.perf_counter() - start)
    print_row(num_frames, f"{speed:.0f}", f"{peaks[0]:.0f}", f"{peaks[1]:.0f}", f"{ratio:.3f}", LIVE_LIMIT)
    return [f"the memory of a stream grew to {ratio:.3f}"] if ratio > LIVE_LIMIT else []


def main(arguments: Sequence[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=["flops", "seconds", "live"], help="default: flops and seconds")
    parser.add_argument("--frames", type=int, help="default: 128 for flops, 32 for seconds, 100,000 for live")
    parser.add_argument("--device", type=torch.device, default="cpu", help="of the seconds, such as cuda")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall",
                        help="cpu: processor time, where a machine has other work too")  # fmt: skip
    args = parser.parse_args(arguments)
    missed, clock = [], time.process_time if args.clock == "cpu" else time.perf_counter
    if args.part in (None, "flops"):
        missed += measure_flops(CVLSConfig(), args.frames or 128)
    if args.part in (None, "seconds"):
        missed += measure_seconds(CVLSConfig(), args.frames or 32, torch.device(args.device), clock)
    if args.part == "live":
        missed += measure_live(args.frames or 100_000)
    if missed:
        sys.exit("missed: " + "; ".join(missed))


if __name__ == "__main__":
    main()
