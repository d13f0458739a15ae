"""benchmarks/cost.py: operations against counts by hand and published ones, limits, printed tables."""

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from cost import (
    BACKBONE,
    CLIPSEG,
    CVLS,
    FLOPS_LIMITS,
    Setting,
    count_flops,
    flops_of,
    flops_of_step,
    main,
    read_setting,
    take_turns,
)
from factories import ROOT, tiny_config, tiny_sections
from modeling_cvls import CVLSConfig
from modeling_cvls.synthetic import write_a2d_sentences


def test_operations_of_a_convolution():
    convolution = nn.Conv2d(3, 8, 5, stride=2, padding=2, bias=False)
    flops = count_flops(lambda: convolution(torch.zeros(2, 3, 12, 20)))
    assert flops["Global"] == 2 * (2 * 6 * 10) * 8 * (3 * 5 * 5)  # a multiply-add a tap, at each output


@pytest.mark.slow
def test_operations_of_the_contrastive_head():
    sentences, frames, height, width = 3, 4, 64, 96
    config = tiny_config()
    setting = Setting(config, 1, height, width)
    flops = flops_of(setting, [sentences])[CVLS, sentences]["Global"]
    without = flops_of(setting._replace(config=tiny_config(contrast_weight=0)), [sentences])[CVLS, sentences]["Global"]

    pixels, tokens = frames * height * width // 4**2, frames * height * width // config.token_stride**2
    size = config.contrast_size
    multiply_adds = (
        pixels * config.pixel_size * size  # the projection of the pixels, shared by all sentences
        + sentences * (tokens + 1) * config.hidden_size * size  # of the fused tokens and of the sentences
        + sentences * pixels * size  # the pixels' products with the sentences
        + sentences * tokens * size  # the tokens' products with the sentence
        + 2 * sentences * tokens * config.hidden_size  # the tokens that are chosen, in a frame and in the clip
        + sentences * (frames + 1) * config.hidden_size**2  # and their projections into the queries
        + sentences * (config.hidden_size + 1) * config.hidden_size  # and into the presence
    )
    # the lengths of the tokens may be a norm, or a matrix product as those of the pixels
    assert flops - without in (2 * multiply_adds, 2 * (multiply_adds + sentences * tokens * size))


@pytest.mark.slow
def test_operations_of_a_training_step():
    """Each product of the forward pass has two in the backward pass, but for the few whose inputs learn nothing."""
    setting = Setting(tiny_config(contrast_weight=0), 2, 64, 96)
    forward = flops_of(setting, [setting.sentences])[CVLS, setting.sentences]["Global"]
    stem = 2 * (2 * 4) * (32 * 48) * 8 * (3 * 7**2)  # the first convolution, 7 x 7: no gradient of the frames
    assert math.isclose(flops_of_step(setting), 3 * forward - stem, rel_tol=0.01)


@pytest.mark.slow
def test_attention_is_counted():
    """Tokens attend to each other: twice the frames, four times the operations of attention's two products."""

    def flops(frames):
        setting = Setting(tiny_config(num_frames=frames), 1, 64, 64)
        return flops_of(setting, [1])[CVLS, 1]["Global"]

    tokens, hidden = 64 // 8 * 64 // 8, tiny_config().hidden_size
    # second difference over the frames: what grows in proportion to them falls out, the square stays
    assert flops(6) - 2 * flops(4) + flops(2) == 2 * (2 * hidden) * (36 - 2 * 16 + 4) * tokens**2


@pytest.mark.slow
def test_default_model_keeps_the_limits_of_its_operations():
    counts = flops_of(Setting(CVLSConfig()), list(FLOPS_LIMITS))
    backbone = counts[BACKBONE, 0]["Global"]
    # ResNet-50: 4.09e9 multiply-adds at 224 x 224 (torchvision's table), 2.05e6 of them in the classifier
    published = 2 * (4.09e9 - 2.05e6) * 8 * 320 * 576 / 224**2
    assert math.isclose(backbone, published, rel_tol=0.005)
    for sentences, limit in FLOPS_LIMITS.items():
        assert counts[CVLS, sentences]["Global"] <= limit * backbone
    # ViT-B/16 at 352 x 352, 485 positions, 12 layers: the linear layers and the two products of attention
    linear, attention = 12 * 485 * 12 * 768**2, 12 * 2 * 485**2 * 768
    patches = 484 * 768 * 3 * 16**2
    encoder = counts[CLIPSEG, 1]["CLIPSegForImageSegmentation.clip.vision_model"]
    assert encoder == 8 * 2 * (linear + attention + patches)
    assert counts[CLIPSEG, 8]["Global"] == 8 * counts[CLIPSEG, 1]["Global"]


def test_models_take_turns():
    ticks, order = iter(range(100)), []
    calls = [lambda: order.append("a"), lambda: (order.append("b"), next(ticks))]
    times = take_turns(calls, 3, torch.device("cpu"), lambda: next(ticks))
    assert order[2:] == ["b", "a", "a", "b", "b", "a"]  # after each was called once
    assert times.tolist() == [[1, 2]] * 3


@pytest.fixture
def config_file(tmp_path) -> Path:
    path = tmp_path / "tiny.yaml"
    sections = tiny_sections(tmp_path)
    sections["model"]["config"]["num_frames"] = 2
    sections["training"]["output_dir"] = str(tmp_path)
    path.write_text(yaml.safe_dump(sections))
    return path


@pytest.mark.slow
def test_script_prints_ratios(config_file, capsys):
    main(["--part", "flops", "--config", str(config_file), "--sentences", "1", "3"])
    rows = re.findall(r"\| (.+) \| (\d*) \| ([\d.]+) \| ([\d.]+) \|", capsys.readouterr().out)
    assert [row[:2] for row in rows] == [(BACKBONE, ""), (CVLS, "1"), (CVLS, "3"), (CLIPSEG, "1"), (CLIPSEG, "3")]
    ratios = [float(row[3]) for row in rows]
    assert 1 == ratios[0] < ratios[1] < ratios[2]


def test_settings_are_those_of_a_file_that_names_its_parts(tmp_path):
    tiny, path = tiny_config(), tmp_path / "named.yaml"
    for name, part in (("vision", tiny.backbone_config), ("text", tiny.text_config), ("whole", tiny)):
        part.save_pretrained(tmp_path / name)  # without weights
    model = {"vision": str(tmp_path / "vision"), "text": str(tmp_path / "text"), "config": {"num_frames": 3}}
    path.write_text(yaml.safe_dump({"model": model, "data": {"longest_edge": 640}, "training": {"use_cpu": True}}))
    setting = read_setting([str(path)])
    assert (setting.height, setting.width, setting.config.num_frames) == (320, 640, 3)
    assert setting.config.backbone_config.hidden_sizes == tiny.backbone_config.hidden_sizes
    assert setting.config.text_config.vocab_size == tiny.text_config.vocab_size
    path.write_text(yaml.safe_dump({"model": {"checkpoint": str(tmp_path / "whole")}, "training": {"use_cpu": True}}))
    assert read_setting([str(path)]).config.hidden_size == tiny.hidden_size


@pytest.mark.slow
def test_script_measures_the_head(config_file, capsys):
    try:
        main(["--part", "head", "--config", str(config_file), "--repeats", "2"])
    except SystemExit as stop:  # the tiny model's head takes more than its share
        assert str(stop).startswith("missed: ")
    output = capsys.readouterr().out
    assert re.search(r"head in a training step \| [\d.]+ \| [-\d.]+ \| -?[\d.]+% \(.*\) \| 3% \|", output)
    assert re.search(r"similarity in a forward pass \| .* \| 2% \|", output)


@pytest.mark.slow
def test_script_measures_reading(config_file, tmp_path, capsys):
    write_a2d_sentences(tmp_path / "raw", {"train": 7}, seed=5)
    convert = ["dataset_scripts/a2d_sentences.py", "--source", tmp_path / "raw", "--output", tmp_path / "made"]
    subprocess.run([sys.executable, *convert], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
    reading = ["--part", "reading", "--config", str(config_file), "--data.dataset", str(tmp_path / "made"), "--repeats"]
    main([*reading, "1"])
    assert re.search(r"\| 2 \| 1 \| [\d.]+ \(", capsys.readouterr().out)
    # of seven clips, three whole batches of two; the first one is not timed
    main([*reading, "9", "--data.flip_probability", "0"])
    assert re.search(r"\| 2 \| 2 \| [\d.]+ \(", capsys.readouterr().out)
    with pytest.raises(ValueError, match="fewer than two batches of 6 clips"):
        main([*reading, "9", "--training.per_device_train_batch_size", "6"])


def test_bad_arguments(capsys):
    for arguments, message in (
        (["--part", "reading"], "--part reading needs the --config"),
        (["--part", "flops", "--training.bf16", "true"], "unrecognized arguments: --training.bf16 true"),
    ):
        with pytest.raises(SystemExit):
            main(arguments)
        assert message in capsys.readouterr().err
