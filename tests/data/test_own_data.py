"""From a folder of frames with palette images and a csv file to a measured checkpoint, in four commands."""

import csv
import json

import numpy as np
import pytest
import yaml
from PIL import Image

import cvls
from factories import tiny_sections
from modeling_cvls.synthetic import make_scene, render


def write_frames(source, videos: int) -> None:
    rows = [("video", "object", "sentence")]
    for index in range(videos):
        scene, sentences = make_scene("train", index, seed=1)
        frames, masks = render(scene)
        name = f"scene{index}"
        for folder in ("JPEGImages", "Annotations"):
            (source / folder / name).mkdir(parents=True)
        for number, (frame, of_frame) in enumerate(zip(frames, masks, strict=True)):
            Image.fromarray(frame).save(source / "JPEGImages" / name / f"{number:05d}.png")
            indices = np.zeros(frame.shape[:2], np.uint8)
            for m, mask in enumerate(of_frame, start=1):
                indices[mask] = m
            Image.fromarray(indices).convert("P").save(source / "Annotations" / name / f"{number:05d}.png")
        rows += [(name, " ".join(str(m + 1) for m in one.instances), one.text) for one in sentences]
    with open(source / "sentences.csv", "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


@pytest.mark.slow
def test_four_commands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    write_frames(tmp_path / "my_frames", 3)
    sections = tiny_sections("my_dataset", max_steps=2, report_to="none", output_dir="outputs/my_model")
    sections["data"]["eval_split"] = None
    sections["training"] |= {"eval_strategy": "no", "load_best_model_at_end": False, "save_strategy": "no"}
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(sections))
    for command in (
        "convert frames --source my_frames --output my_dataset --title Scenes --license cc-by-4.0 --num-proc 1",
        "check my_dataset",
        "train my.yaml",
        "eval --model outputs/my_model --dataset my_dataset --split train --output metrics.json",
    ):
        cvls.main(command.split())
    printed = capsys.readouterr().out
    assert "my_dataset[train]: 3 videos are right" in printed and "protocol custom" in printed
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["protocol"] == "custom" and 0 <= metrics["mean_iou"] <= 1
    assert "pretty_name: Scenes" in (tmp_path / "my_dataset" / "README.md").read_text()
