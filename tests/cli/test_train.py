"""What `cvls train` reads: a YAML file, flags over it, its help, and the complete file that it prints."""

import dataclasses

import pytest
import yaml

import cvls
from factories import ROOT
from modeling_cvls import CVLSConfig
from modeling_cvls.training import (
    CVLSTrainingArguments,
    DataArguments,
    ModelArguments,
    parse_training,
    training_options,
)

DEMO = str(ROOT / "configs" / "demo.yaml")


def test_help_lists_every_key_with_its_default_and_a_text(capsys):
    with pytest.raises(SystemExit) as stopped:
        cvls.main(["train", "--help"])
    assert stopped.value.code == 0
    words = " ".join(capsys.readouterr().out.split())
    keys = {f"training.{field.name}" for field in dataclasses.fields(CVLSTrainingArguments) if field.init}
    keys |= {f"data.{field.name}" for field in dataclasses.fields(DataArguments)}
    keys |= {f"model.{name}" for name in ("checkpoint", "vision", "text")}
    keys |= {f"model.config.{name}" for name in CVLSConfig.__annotations__}
    options = {option.key: option for option in training_options()}
    assert set(options) == keys
    for key, option in options.items():
        assert f" --{key} " in words and len(option.help) > 10
        assert " ".join(option.help.split()[:6]) in words
    assert "(type: float, default: 0.5)" in words  # of data.flip_probability


def test_the_printed_file_is_complete_and_reads_as_the_same(capsys, tmp_path):
    flags = ["--training.learning_rate", "3e-4", "--model.config.backbone_config.depths", "[1, 2, 1]"]
    with pytest.raises(SystemExit) as stopped:
        cvls.main(["train", DEMO, *flags, "--print_config"])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    content = yaml.safe_load(printed)
    for option in training_options():
        section = content
        for name in option.key.split("."):
            section = section[name]
    (tmp_path / "whole.yaml").write_text(printed)
    whole, parts = parse_training([str(tmp_path / "whole.yaml")]), parse_training([DEMO, *flags])
    assert (
        whole[:2] == parts[:2]
        and whole[2].to_dict() == parts[2].to_dict() | {"logging_dir": None}
        or whole[2] == parts[2]
    )
    assert parts[0].config["backbone_config"]["depths"] == [1, 2, 1] and whole[2].learning_rate == 3e-4


@pytest.mark.parametrize(
    ("text", "value"),
    [("no", "no"), ("2e-3", 0.002), ("on", "on"), ("1", 1), ("True", True), ("null", None), ("1e5", 1e5)],
)
def test_scalars_are_those_of_yaml_1_2(tmp_path, text, value):
    (tmp_path / "a.yaml").write_text(f"model: {{config: {{text_config: {{key: {text}}}}}}}")
    assert parse_training([str(tmp_path / "a.yaml")])[0].config["text_config"] == {"key": value}


def test_words_stay_words(tmp_path):
    (tmp_path / "a.yaml").write_text(
        "data: {dataset: no, eval_split: on}\ntraining: {eval_strategy: no, output_dir: off}"
    )
    _, data, training = parse_training([str(tmp_path / "a.yaml")])
    assert (data.dataset, data.eval_split, training.eval_strategy, training.output_dir) == ("no", "on", "no", "off")


def test_resume_takes_a_flag_or_a_folder(tmp_path):
    for text, value in (("true", True), ("runs/checkpoint-3", "runs/checkpoint-3"), ("null", None)):
        assert parse_training([DEMO, "--training.resume_from_checkpoint", text])[2].resume_from_checkpoint == value


def test_a_file_is_needed():
    with pytest.raises(ValueError, match="the first argument must be a YAML file, as in: cvls train configs/demo.yaml"):
        parse_training(["--training.max_steps", "3"])
    with pytest.raises(ValueError, match="^the YAML file does not exist: '.*none.yaml'"):
        parse_training(["none.yaml"])


def test_a_part_is_described_once():
    parts = {"vision": "a", "text": "b"}
    for given, message in (
        ({"vision": "a"}, "`model.vision` and `model.text` go together"),
        ({**parts, "checkpoint": "c"}, "`model.checkpoint` holds both parts"),
        ({**parts, "config": {"text_config": {"model_type": "bert"}}}, "leave out `model.config.text_config`"),
    ):
        with pytest.raises(ValueError, match=message):
            ModelArguments(**given)


def test_a_file_that_is_not_yaml_is_named(tmp_path):
    (tmp_path / "broken.yaml").write_text("training: [1")
    with pytest.raises(ValueError, match="broken.yaml"):
        parse_training([str(tmp_path / "broken.yaml")])


def test_vision_and_text_go_together():
    with pytest.raises(ValueError, match="`model.vision` and `model.text` go together"):
        parse_training([DEMO, "--model.vision", "somewhere"])
