"""Segments what sentences refer to in a video and writes the video with the masks and a legend drawn in.

python scripts/segment.py VIDEO "the dog on the left" "the cat" --model outputs/demo/checkpoint --output out.mp4
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from transformers import AutoConfig, pipeline

import modeling_cvls  # noqa: F401  registers the model, the processor and the pipeline
from modeling_cvls.frame_reader_cvls import FrameReader
from modeling_cvls.visualisation import overlay, write_video

CHUNK = 32  # frames drawn at a time: a long video never lies decoded in memory as a whole


def drawn_frames(reader: FrameReader, results: list[dict]) -> Iterator[np.ndarray]:
    """The frames of `reader` with the pipeline's `results` drawn in, one by one, uint8 (H, W, 3)."""
    for start in range(0, len(reader), CHUNK):
        stop = min(start + CHUNK, len(reader))
        yield from overlay(
            reader.read(range(start, stop)),
            np.stack([result["masks"][start:stop] for result in results]),
            [result["sentence"] for result in results],
            [result["score"] for result in results],
        )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("video", help="the video file")
    parser.add_argument("sentences", nargs="+", metavar="sentence", help="what to segment; each sentence in quotes")
    parser.add_argument("--model", required=True, help="folder (or Hub name) of a trained model")
    parser.add_argument("--output", required=True, type=Path, help="the mp4 file to write")
    parser.add_argument("--threshold", type=float, default=0.5, help="probability above which a pixel is in the mask")
    parser.add_argument(
        "--presence-threshold", type=float, default=0.5, help="presence probability below which masks are empty"
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ...; by default an accelerator where there is one")
    args = parser.parse_args(arguments)
    if args.output.suffix.lower() != ".mp4":
        parser.error(f"--output {args.output}: an mp4 is written, so the name must end in .mp4")

    try:
        reader = FrameReader(args.video)
        if args.output.exists() and args.output.samefile(args.video):
            raise ValueError(f"--output {args.output} is the video itself: give another name")
        args.output.parent.mkdir(parents=True, exist_ok=True)
        if not Path(args.model).is_dir() and (args.model.startswith((".", "/", "~")) or args.model.count("/") > 1):
            raise FileNotFoundError(f"--model {args.model}: there is no such folder")
        model_type = AutoConfig.from_pretrained(args.model).model_type
        if model_type != "cvls":
            raise ValueError(f"--model {args.model} holds a model of type {model_type}; one of type cvls was expected")
        segment = pipeline("video-language-segmentation", model=args.model, device=args.device)
        results = segment(
            args.video,
            args.sentences,
            threshold=args.threshold,
            presence_threshold=args.presence_threshold,
            progress=True,
        )
        write_video(args.output, drawn_frames(reader, results), reader.fps)
    except (OSError, ValueError) as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        sys.exit(2)

    for result in results:
        share = result["masks"].any(axis=(1, 2)).mean()
        print(f"{result['score']:.3f}  mask in {share:4.0%} of the frames  {result['sentence']}")
    print(f"{len(reader)} frames written to {args.output}")


if __name__ == "__main__":
    main()
