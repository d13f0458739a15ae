"""Exports a trained model as one graph that runs without this package.

python scripts/export.py --model outputs/demo/checkpoint --format onnx --output model.onnx

The graph takes `pixel_values_videos` (B, T, 3, H, W), `input_ids` and `attention_mask` (B, K, L), and returns
`mask_logits` (B, K, T, H/4, W/4), `presence_logits` (B, K) and, where the contrast is on, `similarity`: the arguments
and outputs of `CVLSModel.forward`. All of B, T, K, L, H and W may change from call to call; the clips of one call have
the same size and length, for the graph has no input for padding frames and padding pixels.
"""

import argparse
import sys
from pathlib import Path

import torch
from torch.export import Dim
from transformers.exporters import DynamoExporter, ExportedModel, OnnxExporter

from modeling_cvls import CVLSModel

EXPORTERS = {"onnx": OnnxExporter, "torch_export": DynamoExporter}
SINGLE_FILE = 2_000_000_000  # bytes of weights; an ONNX file holds at most 2 GiB


def sample_inputs(
    model: CVLSModel, clips: int, frames: int, sentences: int, words: int, size: tuple[int, int]
) -> dict[str, torch.Tensor]:
    """Random inputs of these shapes on the CPU; the last sentence has one word, the rest of it is padding."""
    shape = (clips, sentences, words)
    attention_mask = torch.ones(shape, dtype=torch.long)
    attention_mask[:, -1, 1:] = 0
    return {
        "pixel_values_videos": torch.randn(clips, frames, 3, *size),
        "input_ids": torch.randint(model.config.text_config.vocab_size, shape),
        "attention_mask": attention_mask,
    }


def export_model(
    model: CVLSModel, export_format: str, size: tuple[int, int] | None = None
) -> tuple[ExportedModel, float]:
    """Export `model` (on the CPU, in evaluation mode) and compare the graph with it on inputs of other shapes.

    Args:
        model: the segmenter.
        export_format: "onnx" or "torch_export".
        size: height and width of all frames ever given to the graph; None: any that the model takes.

    Returns:
        The exported model, and the largest absolute difference of its outputs from the model's.
    """
    stride = max(32, model.config.token_stride)
    clips, frames, sentences = Dim("clips"), Dim("frames"), Dim("sentences")
    words = Dim("words", max=getattr(model.config.text_config, "max_position_embeddings", None))
    text = {0: clips, 1: sentences, 2: words}
    video = {0: clips, 1: frames}
    if size is None:
        video |= {3: stride * Dim("rows"), 4: stride * Dim("columns")}
    exporter = EXPORTERS[export_format]()
    forward = model.forward
    model.forward = lambda **inputs: dict(forward(**inputs))  # to read a CVLSOutput back would take this package
    # no sample size is 1: it would stay 1 in the graph
    exported = exporter.export(
        model,
        sample_inputs(model, clips=2, frames=3, sentences=5, words=6, size=size or (2 * stride, 3 * stride)),
        exporter.config_class(dynamic_shapes={"pixel_values_videos": video, "input_ids": text, "attention_mask": text}),
    )
    del model.forward
    inputs = sample_inputs(model, clips=1, frames=4, sentences=2, words=3, size=size or (3 * stride, 2 * stride))
    with torch.no_grad():
        expected = model(**inputs)
    outputs = exported(**inputs)
    return exported, max((outputs[name] - expected[name]).abs().max().item() for name in expected)


def save(exported: ExportedModel, export_format: str, output: Path) -> None:
    """Write the graph, an ONNX graph with its weights inside where they fit; else in a second file, OUTPUT.data."""
    if export_format == "onnx":
        import onnx_ir

        weights = exported.program.graph.initializers.values()
        if sum(value.const_value.nbytes for value in weights) < SINGLE_FILE:
            onnx_ir.save(exported.program, output)
            return
    EXPORTERS[export_format].save_program(exported.program, output)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or Hub name of a checkpoint")
    parser.add_argument("--format", required=True, choices=list(EXPORTERS))
    parser.add_argument("--output", required=True, type=Path, help="the file to write: .onnx, or .pt2 of torch_export")
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="all frames will have this size; for backbones that do not export with a size that changes",
    )
    args = parser.parse_args(arguments)
    suffix = {"onnx": ".onnx", "torch_export": ".pt2"}[args.format]
    if args.output.suffix != suffix:
        parser.error(f"--output {args.output}: the name of a file of format {args.format} ends in {suffix}")

    try:
        model = CVLSModel.from_pretrained(args.model, dtype=torch.float32).eval()
        exported, difference = export_model(model, args.format, args.size and tuple(args.size))
        args.output.parent.mkdir(parents=True, exist_ok=True)
        save(exported, args.format, args.output)
    except (ImportError, OSError, ValueError) as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"{args.output} written; on random inputs of another shape it differs from the model by {difference:.1e}")


if __name__ == "__main__":
    main()
