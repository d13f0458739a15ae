"""What several tests share: places, a tiny segmenter, batches of it, and truths worked out a second time."""

import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import binary_dilation
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from modeling_cvls import CVLSConfig
from modeling_cvls.composites import SourceFolders, read_catalog
from modeling_cvls.rle_cvls import encode_masks

#: The checkout, and the real data beside it, which a user's checkout has not.
ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"

#: Thirteen frames that look like nothing, and two sentences of `WORDS`.
NOISE = np.random.default_rng(0).integers(0, 256, (13, 48, 64, 3), dtype=np.uint8)
SENTENCES = ["the red circle", "the small blue square moving left"]

WORDS = "the a small large red blue green circle square moving left right up down on".split()


def run_program(path: str | Path, *arguments, **options) -> str:
    """What a program of the tests (a path in tests/) prints; options are those of `subprocess.run`."""
    search = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": search, "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, str(ROOT / "tests" / path), *map(str, arguments)]
    options = {"cwd": ROOT, "env": environment, "timeout": 600, **options}
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def tiny_config(**changes) -> CVLSConfig:
    fields = {
        "backbone_config": {
            "model_type": "resnet",
            "layer_type": "basic",
            "embedding_size": 8,
            "hidden_sizes": [8, 16, 16],
            "depths": [1, 1, 1],
            "out_features": ["stage1", "stage2", "stage3"],
        },
        "text_config": {
            "model_type": "bert",
            "vocab_size": len(WORDS) + 2,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "max_position_embeddings": 16,
        },
        "hidden_size": 16,
        "pixel_size": 16,
        "contrast_size": 12,
        "token_stride": 8,
        "num_temporal_layers": 1,
        "num_fusion_layers": 2,
        "num_attention_heads": 2,
        "num_frames": 4,
    }
    return CVLSConfig(**{**fields, **changes})


def tiny_sections(dataset: Path, **training) -> dict:
    """The sections of a configuration file for scripts/train.py: six steps of the tiny model."""
    model = tiny_config()
    fields = ("hidden_size", "pixel_size", "contrast_size", "token_stride", "num_temporal_layers", "num_fusion_layers")
    config = {name: getattr(model, name) for name in (*fields, "num_attention_heads", "num_frames")}
    for part, names in {
        "backbone_config": ("layer_type", "embedding_size", "hidden_sizes", "depths", "out_features"),
        "text_config": ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    }.items():
        own = getattr(model, part)
        config[part] = {"model_type": own.model_type, **{name: getattr(own, name) for name in names}}
    return {
        "model": {"config": config},
        "data": {"dataset": str(dataset), "shortest_edge": 64, "longest_edge": 64, "sentences_per_clip": 3},
        "training": {
            "max_steps": 6,
            "per_device_train_batch_size": 2,
            "learning_rate": 0.003,
            "logging_steps": 1,
            "eval_strategy": "steps",
            "eval_steps": 3,
            "save_steps": 3,
            "save_total_limit": 2,
            "load_best_model_at_end": True,
            "metric_for_best_model": "eval_mean_iou",
            "greater_is_better": True,
            "report_to": "tensorboard",
            "use_cpu": True,
            "disable_tqdm": True,
            **training,
        },
    }


def tiny_tokenizer(model_max_length: int = 16) -> PreTrainedTokenizerFast:
    vocabulary = {word: index for index, word in enumerate(["[PAD]", "[UNK]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=model_max_length
    )


def random_batch(clips=2, frames=4, height=64, width=64, sentences=3, words=5, instances=2, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def flags(*shape):
        return torch.rand(shape, generator=generator) > 0.5

    return {
        "pixel_values_videos": torch.randn(clips, frames, 3, height, width, generator=generator),
        "frame_mask": torch.ones(clips, frames, dtype=torch.bool),
        "frame_sizes": torch.tensor([[height, width]] * clips),
        "input_ids": torch.randint(2, 15, (clips, sentences, words), generator=generator),
        "attention_mask": torch.ones(clips, sentences, words, dtype=torch.int64),
        "sentence_mask": torch.ones(clips, sentences, dtype=torch.bool),
        "instance_masks": flags(clips, frames, instances, height, width),
        "annotated_frames": torch.ones(clips, frames, dtype=torch.bool),
        "annotated_instances": torch.ones(clips, frames, instances, dtype=torch.bool),
        "referents": flags(clips, sentences, instances),
    }


def moving_square(number: int) -> dict:
    """A row of four frames of noise, 64 x 64 pixels, in which a red square moves to the right."""
    generator = np.random.default_rng(number)
    frames, masks = [], np.zeros((4, 64, 64), bool)
    for t in range(4):
        frame = generator.integers(0, 100, (64, 64, 3), dtype=np.uint8)
        masks[t, 20:40, 8 + 8 * t : 28 + 8 * t] = True
        frame[masks[t]] = [200, 30, 30]
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, format="png")
        frames.append({"bytes": buffer.getvalue(), "path": None})
    return {
        "video_id": str(number), "video": None, "frames": frames, "num_frames": 4, "height": 64, "width": 64,
        "fps": None, "annotated_frames": [0, 1, 2, 3], "evaluation_frames": None, "instance_ids": ["0"],
        "masks": [[counts] for counts in encode_masks(masks)],
        "sentences": [{"sentence_id": "0", "text": "the red square moving right", "instances": [0], "kind": None}],
    }  # fmt: skip


def outline(mask):
    """Pixel by pixel: right, lower, or lower right neighbor is different; where there is none, the others are."""
    height, width = mask.shape
    result = np.zeros(mask.shape, bool)
    for y in range(height):
        for x in range(width):
            for dy, dx in ((0, 1), (1, 0), (1, 1)):
                if y + dy < height and x + dx < width:
                    result[y, x] |= mask[y, x] != mask[y + dy, x + dx]
    return result


def brute_force(predicted, truth):
    """J by sets of pixels; F by dilating each outline with a disk, the way the benchmark describes it."""
    a, b = ({tuple(pixel) for pixel in np.argwhere(mask)} for mask in (predicted, truth))
    j = len(a & b) / len(a | b) if a | b else 1.0
    radius = math.ceil(0.008 * math.hypot(*predicted.shape))
    disk = np.hypot(*np.mgrid[-radius : radius + 1, -radius : radius + 1]) <= radius
    own, other = outline(predicted), outline(truth)
    if not own.any() and not other.any():
        precision = recall = 1.0
    elif not own.any():
        precision, recall = 1.0, 0.0
    elif not other.any():
        precision, recall = 0.0, 1.0
    else:
        precision = (own & binary_dilation(other, disk)).sum() / own.sum()
        recall = (other & binary_dilation(own, disk)).sum() / other.sum()
    f = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return j, f


# What every word means, written down here a second time.
LEXICON = {
    "small": ("size", "small"),
    "little": ("size", "small"),
    "large": ("size", "large"),
    "big": ("size", "large"),
    **{color: ("color", color) for color in ("red", "green", "blue", "yellow", "purple", "white")},
    "circle": ("shape", "circle"),
    "disc": ("shape", "circle"),
    "square": ("shape", "square"),
    "triangle": ("shape", "triangle"),
    "cross": ("shape", "cross"),
    "leftmost": ("position", "left"),
    "rightmost": ("position", "right"),
    "highest": ("position", "top"),
    "lowest": ("position", "bottom"),
    "top": ("position", "top"),
    "bottom": ("position", "bottom"),
}
VERBS = {"moving", "going", "heading", "moves", "move", "standing", "stands", "staying", "circling"}
UPRIGHT = {"up": "up", "upwards": "up", "down": "down", "downwards": "down"}
FILLERS = set("the a an object shape thing that is and in video on at side far very of picture to place".split())
FILLERS |= set("not does still round circles around left right".split())


def parse(text: str) -> dict[str, str]:
    words = text.split()
    meaning: dict[str, str] = {}

    def state(name, value):
        assert name not in meaning, f"{text!r} states two of {name}"
        meaning[name] = value

    for word in words:
        if word in LEXICON:
            state(*LEXICON[word])
        else:
            assert word in VERBS or word in UPRIGHT or word in FILLERS, f"unknown word {word!r} in {text!r}"
    sides = [word for word in words if word in ("left", "right")]
    if VERBS & set(words):
        if {"not", "still", "place"} & set(words):
            state("motion", "still")
        elif {"circles", "circling"} & set(words):
            state("motion", "circling")
        else:
            (direction,) = sides or [UPRIGHT[word] for word in words if word in UPRIGHT]
            state("motion", direction)
    elif sides:
        (side,) = sides
        assert f"on the {side}" in text or f"on the far {side}" in text
        state("position", side)
    return meaning


def fitting(scene, meaning: dict[str, str]) -> list[int]:
    noun = [
        i
        for i, obj in enumerate(scene.objects)
        if all(getattr(obj, name) == value for name, value in meaning.items() if name != "position")
    ]
    if "position" not in meaning or len(noun) < 2:
        return noun
    margin = 4 * scene.height / 64
    found = []
    for i in noun:
        outermost = True
        for j in noun:
            for (xi, yi), (xj, yj) in zip(scene.objects[i].trajectory, scene.objects[j].trajectory, strict=True):
                beyond = {"left": xj - xi, "right": xi - xj, "top": yj - yi, "bottom": yi - yj}[meaning["position"]]
                outermost = outermost and (i == j or beyond >= margin)
        if outermost:
            found.append(i)
    return found


def declare_samples(mp4: bytes, number: int) -> bytes:
    """An mp4 file whose table of times (the box `stts`) says that its first entry holds so many samples.

    The box is a header (size, type), version and flags, the number of entries, and for each entry the number of samples
    and their duration, four bytes each (ISO/IEC 14496-12, 8.6.1.2).
    """
    place = mp4.index(b"stts") + 12
    return mp4[:place] + number.to_bytes(4, "big") + mp4[place + 4 :]


def folders_of(source, names=None, **arguments) -> SourceFolders:
    """The folders of a source of composites: (folder, names), or each by itself."""
    root, own = source if names is None else (source, names)
    return SourceFolders(root, json.dumps(own, sort_keys=True), **arguments)


def catalog_of(source):
    return read_catalog(folders_of(source))


def on_sources(*names):
    """Runs a test on each of these sources of composites, fixtures of tests/data."""
    return pytest.mark.parametrize("source", names, indirect=True)


# Damages to files, of which `rng` says where and how ------------------------------------------------------------------


def cut(path, rng):
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content))])


def flip(path, rng):
    content = bytearray(path.read_bytes())
    for _ in range(rng.choice([1, 3, 20])):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def overwrite(path, rng):
    content = bytearray(path.read_bytes())
    start = rng.randrange(len(content))
    content[start : start + 64] = rng.randbytes(64)
    path.write_bytes(content)


def empty(path, rng):
    path.write_bytes(b"")


def remove(path, rng):
    path.unlink()


def noise(path, rng):
    path.write_bytes(rng.randbytes(500))


FILE_DAMAGES = (cut, flip, overwrite, empty, remove, noise)
