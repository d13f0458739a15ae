"""`cvls export`: a trained model as one ONNX or torch.export graph that runs without this package."""

from pathlib import Path

from jsonargparse import ArgumentParser

from ..atomic import written_together
from ..extras import require

DESCRIPTION = """Exports a trained model as one graph that runs without this package. It takes all that the processor
gives (pixel_values_videos, frame_mask, frame_sizes, input_ids, attention_mask, sentence_mask) and returns mask_logits,
presence_logits and, where the contrast is on, similarity. All clips of one call have the same size."""


def main(arguments: list[str] | None = None, prog: str = "cvls export") -> None:
    parser = ArgumentParser(prog=prog, description=DESCRIPTION)
    parser.add_argument("--model", required=True, help="folder or Hub name of a checkpoint")
    parser.add_argument("--format", required=True, choices=["onnx", "torch_export"], help="kind of the graph")
    parser.add_argument("--output", required=True, type=Path, help="the file to write: .onnx, or .pt2 for torch_export")
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="size of all frames, in pixels, for backbones that cannot be exported with a size that changes",
    )
    args = parser.parse_args(arguments)
    if args.format == "onnx":
        require("export", "onnx", "onnxscript")
    # after the arguments were read, so that help comes at once
    import torch

    from ..export import SUFFIXES, export_model, save_exported
    from ..launch import load_model

    suffix = SUFFIXES[args.format]
    if args.output.suffix != suffix:
        parser.error(f"--output {args.output}: the name of a file of format {args.format} ends in {suffix}")
    model = load_model(args.model, "--model", dtype=torch.float32).eval()
    exported, difference = export_model(model, args.format, args.size and tuple(args.size))
    with written_together(args.output) as partial:
        save_exported(exported, args.format, partial / args.output.name)
        for weights in partial.glob("*.data"):  # beside a graph that they do not fit into
            weights.replace(args.output.with_name(weights.name))
    print(f"{args.output} written; on random inputs of another shape it differs from the model by {difference:.1e}")
    if model.config.carry_state:
        print("The graph is that of one window: the state that goes from window to window is left out.")
