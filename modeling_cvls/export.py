"""A trained model as one graph that runs without this package.

The graph takes `pixel_values_videos` (B, T, 3, H, W), `input_ids` and `attention_mask` (B, K, L), and returns
`mask_logits` (B, K, T, H/4, W/4), `presence_logits` (B, K) and, where the contrast is on, `similarity`: the arguments
and outputs of `CVLSModel.forward`. All of B, T, K, L, H and W may change from call to call. The clips of one call have
the same size and length, because the graph has no input for padding frames and padding pixels.
"""

from pathlib import Path

import torch
from torch.export import Dim
from transformers.exporters import DynamoExporter, ExportedModel, OnnxExporter

from .modeling_cvls import CVLSModel

EXPORTERS = {"onnx": OnnxExporter, "torch_export": DynamoExporter}
SUFFIXES = {"onnx": ".onnx", "torch_export": ".pt2"}
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


def save_exported(exported: ExportedModel, export_format: str, output: Path) -> None:
    """Writes the graph. An ONNX graph holds its weights where they fit, else they go to a second file, OUTPUT.data."""
    if export_format == "onnx":
        import onnx_ir

        weights = exported.program.graph.initializers.values()
        if sum(value.const_value.nbytes for value in weights) < SINGLE_FILE:
            onnx_ir.save(exported.program, output)
            return
    EXPORTERS[export_format].save_program(exported.program, output)
