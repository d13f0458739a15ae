"""A trained model as one graph that runs without this package.

The graph takes all that the processor gives, `pixel_values_videos` (B, T, 3, H, W), `frame_mask` (B, T), `frame_sizes`
(B, 2), `input_ids` and `attention_mask` (B, K, L) and `sentence_mask` (B, K), and returns `mask_logits` (B, K, T, H/4,
W/4), `presence_logits` (B, K) and, where the contrast is on, `similarity`: the arguments and outputs of
`CVLSModel.forward`. All of B, T, K, L, H and W may change from call to call. The clips of one call may differ in the
number of their frames and sentences, but not in size: where `frame_sizes` says that a clip is smaller than H x W, the
graph of torch.export raises an error, and that of ONNX, which cannot, gives numbers that are not a number for the clip.
"""

import io
from collections.abc import Callable
from pathlib import Path

import torch
from torch.export import Dim
from transformers.exporters import DynamoExporter, ExportedModel, OnnxExporter

from .modeling_cvls import CVLSModel
from .vision_cvls import are_filled

EXPORTERS = {"onnx": OnnxExporter, "torch_export": DynamoExporter}
SUFFIXES = {"onnx": ".onnx", "torch_export": ".pt2"}
SINGLE_FILE = 2_000_000_000  # bytes of weights; an ONNX file holds at most 2 GiB


def sample_inputs(
    model: CVLSModel, clips: int, frames: int, sentences: int, words: int, size: tuple[int, int]
) -> dict[str, torch.Tensor]:
    """Random inputs of these shapes on the CPU, named as the processor names them; the last sentence has one word, and
    the last clip one frame less and one sentence less where there are several: the rest is padding."""
    shape = (clips, sentences, words)
    attention_mask = torch.ones(shape, dtype=torch.long)
    attention_mask[:, -1, 1:] = 0
    frame_mask = torch.ones(clips, frames, dtype=torch.bool)
    frame_mask[-1, max(1, frames - 1) :] = False
    attention_mask[-1, max(1, sentences - 1) :] = 0
    return {
        "pixel_values_videos": torch.randn(clips, frames, 3, *size),
        "frame_mask": frame_mask,
        "frame_sizes": torch.tensor([size] * clips),
        "input_ids": torch.randint(model.config.text_config.vocab_size, shape),
        "attention_mask": attention_mask,
        "sentence_mask": attention_mask.any(dim=-1),
    }


def forward_of_graph(forward: Callable) -> Callable:
    """`CVLSModel.forward` as the graph has it: a plain dict, as to read a CVLSOutput back would take this package, and
    not a number where a clip has padding pixels, which it would take for a part of the frame."""

    def run(**inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        padded = ~are_filled(inputs["frame_sizes"], inputs["pixel_values_videos"].shape[-2:])
        return {
            name: value.masked_fill(padded.view(-1, *[1] * (value.ndim - 1)), float("nan"))
            for name, value in forward(**inputs).items()
        }

    return run


def export_model(
    model: CVLSModel, export_format: str, size: tuple[int, int] | None = None
) -> tuple[ExportedModel, float]:
    """Exports `model` (on the CPU, in evaluation mode) and compares the graph with it on inputs of other shapes.

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
    shapes = {
        "pixel_values_videos": {0: clips, 1: frames},
        "frame_mask": {0: clips, 1: frames},
        "frame_sizes": {0: clips},
        "input_ids": {0: clips, 1: sentences, 2: words},
        "attention_mask": {0: clips, 1: sentences, 2: words},
        "sentence_mask": {0: clips, 1: sentences},
    }
    if size is None:
        shapes["pixel_values_videos"] |= {3: stride * Dim("rows"), 4: stride * Dim("columns")}
    exporter = EXPORTERS[export_format]()
    model.forward = forward_of_graph(model.forward)
    # no sample size is 1: it would stay 1 in the graph
    exported = exporter.export(
        model,
        sample_inputs(model, clips=2, frames=3, sentences=5, words=6, size=size or (2 * stride, 3 * stride)),
        exporter.config_class(dynamic_shapes=shapes),
    )
    del model.forward
    inputs = sample_inputs(model, clips=1, frames=4, sentences=2, words=3, size=size or (3 * stride, 2 * stride))
    with torch.no_grad():
        expected = model(**inputs)
    outputs = exported(**inputs)
    return exported, max((outputs[name] - expected[name]).abs().max().item() for name in expected)


def save_exported(exported: ExportedModel, export_format: str, output: Path) -> None:
    """Writes the graph. An ONNX graph holds its weights where they fit, else they go to a second file, OUTPUT.data."""
    if export_format == "torch_export":
        buffer = io.BytesIO()  # where torch itself writes to a full disk, it ends the process
        torch.export.save(exported.program, buffer)
        output.write_bytes(buffer.getbuffer())
        return
    import onnx_ir

    weights = exported.program.graph.initializers.values()
    if sum(value.const_value.nbytes for value in weights) < SINGLE_FILE:
        onnx_ir.save(exported.program, output)
    else:
        EXPORTERS[export_format].save_program(exported.program, output)
