"""What a recipe takes: operations, memory and hours of its training, counted on tensors without content.

    python benchmarks/recipes.py configs/recipes/*.yaml

The architectures of the parts that the recipes name are written down here, as nothing is downloaded. The memory is that
of the weights, gradients and moments, and of what the forward pass keeps for the backward pass in bfloat16. The hours
are those of a GPU that does 50 TFLOP/s in such a training, for the rows of the published data sets.
"""

import sys

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers.initialization import no_init_weights

from cost import CVLS, Setting, build, count_flops, with_attention_written_out
from modeling_cvls import CVLSConfig
from modeling_cvls.training import parse_training
from modeling_cvls.training.building import frame_size
from modeling_cvls.training.recipe import freeze_parts

SPEED = 50e12
PARTS = {
    "microsoft/swin-tiny-patch4-window7-224": {
        "model_type": "swin", "embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24], "window_size": 7,
        "out_features": ["stage1", "stage2", "stage3", "stage4"],
    },
    "FacebookAI/roberta-base": {
        "model_type": "roberta", "vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1,
    },
}  # fmt: skip
#: Training rows of the data sets: videos, or photographs.
ROWS = {
    "datasets/refcoco": 16_994, "datasets/refcoco_plus": 16_992, "datasets/refcocog": 21_899,
    "datasets/ytvos": 3_471, "datasets/a2d": 3_017, "datasets/mevis": 1_662,
}  # fmt: skip
PHOTOGRAPHS = ("datasets/refcoco", "datasets/refcoco_plus", "datasets/refcocog")


def kept_bytes(model, batch) -> int:
    """Bytes that the forward pass keeps for the backward pass, each memory once."""
    kept: dict[int, int] = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
        loss = model(**batch).loss
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    assert loss is not None
    return sum(size for storage, size in kept.items() if storage not in weights)


def measure(path: str) -> str:
    model_args, data, training = parse_training([path, "--training.bf16", "false", "--training.use_cpu", "true"])
    config = CVLSConfig(
        backbone_config=dict(PARTS["microsoft/swin-tiny-patch4-window7-224"]),
        text_config=dict(PARTS["FacebookAI/roberta-base"]),
        **{**model_args.config, "hidden_size": 256},
    )
    size, clips = frame_size(data), training.per_device_train_batch_size
    short, width = max(data.train_shortest_edges or [size["shortest_edge"]]), size["longest_edge"]
    height = round(short * min(1, width * 9 / 16 / short) / 32) * 32
    setting = Setting(config, clips, height, width, data.sentences_per_clip or 4)
    flops, kept, weights, learning = count(setting, training)
    steps = training.max_steps
    if steps < 0:
        rows = sum(ROWS[n] * (1 if n in PHOTOGRAPHS else data.clips_per_video) for n in data.datasets)
        steps = int(rows / clips * training.num_train_epochs)
    memory = (kept + 4 * weights + 12 * learning) / 1e9
    return (
        f"{path}: {steps:,} steps of {flops / 1e12:.1f} TFLOP on {clips} clips of {config.num_frames} x {height} x "
        f"{width}; {memory:.0f} GB; {steps * flops / SPEED / 3600:.1f} hours"
    )


def count(setting: Setting, training) -> tuple[int, int, int, int]:
    """Operations of a step, bytes kept for the backward pass, weights, and those of them that learn."""
    results = []
    for made in (with_attention_written_out(setting), setting):
        with FakeTensorMode(), no_init_weights():
            model = build(CVLS, made.config, torch.device("cpu")).train()
            freeze_parts(model, training)
            batch = made.training_batch(torch.device("cpu"))
            del batch["frame_sizes"]
            if not results:
                results.append(count_flops(lambda model=model, batch=batch: model(**batch).loss.backward())["Global"])
            else:
                results.append(kept_bytes(model, batch))
                results.append(sum(parameter.numel() for parameter in model.parameters()))
                results.append(sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad))
    return tuple(results)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(measure(name), flush=True)
