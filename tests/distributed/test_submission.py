"""Submissions: the exact files, killed and gone on with, and never outside their folder."""

import zipfile

import numpy as np
import pytest
import torch
from datasets import load_dataset
from filelock import FileLock
from noise import close, make_set, measured
from PIL import Image

from modeling_cvls import CVLSPipeline
from modeling_cvls.data import video_of
from modeling_cvls.evaluation import evaluate_segmenter


@pytest.mark.parametrize(("protocol", "root"), [("refer_youtube_vos", "Annotations/"), ("mevis", "")])
def test_submission_reads_back(model, processor, rows, tmp_path, protocol, root):
    """A set without truth, through Parquet: the exact files, each the mask that the pipeline gives."""
    hidden = [
        {**row, "annotated_frames": [], "masks": [], "instance_ids": [],
         "sentences": [{**sentence, "instances": []} for sentence in row["sentences"]]}
        for row in rows
    ]  # fmt: skip
    make_set(*hidden).to_parquet(tmp_path / "valid.parquet")
    dataset = load_dataset(str(tmp_path), split="validation", cache_dir=str(tmp_path / "cache"))
    folder = tmp_path / "submission"
    arguments = {"protocol": protocol, "submission": folder, "batch_size": 2, "progress": False}
    assert evaluate_segmenter(model, processor, dataset, 0.0, **arguments) == {}

    pipeline = CVLSPipeline(model=model, processor=processor)
    expected = {}
    for row in dataset:
        results = pipeline(video_of(row), [s["text"] for s in row["sentences"]], presence_threshold=0)
        for expression, result in enumerate(results):
            for frame, mask in enumerate(result["masks"]):
                expected[f"Annotations/{row['video_id']}/{expression}/{5 * frame:05d}.png"] = mask
    assert {str(path.relative_to(folder)) for path in folder.rglob("*.png")} == set(expected)
    with zipfile.ZipFile(folder / "submission.zip") as archive:
        assert sorted(f"Annotations/{name.removeprefix(root)}" for name in archive.namelist()) == sorted(expected)
        assert all(name.startswith(root) for name in archive.namelist()) and archive.testzip() is None
        for name, mask in expected.items():
            assert archive.read(root + name.removeprefix("Annotations/")) == (folder / name).read_bytes()
            with Image.open(folder / name) as image:
                assert image.format == "PNG" and image.mode == "L"
                np.testing.assert_array_equal(np.asarray(image), np.where(mask, 255, 0))
    assert any(mask.any() and not mask.all() for mask in expected.values())
    with pytest.raises(ValueError, match="submission/Annotations exists already"):
        evaluate_segmenter(model, processor, dataset, 0.5, **arguments)
    (folder / "settings.json").unlink()
    with pytest.raises(ValueError, match="submission/Annotations exists already"):
        evaluate_segmenter(model, processor, dataset, 0.0, **arguments)


def test_a_submission_that_was_killed_goes_on(model, processor, rows, tmp_path, monkeypatch):
    """Killed while the second video's masks are written: the third run segments what is left, and ends the same."""
    hidden = [{**row, "annotated_frames": [], "masks": []} for row in rows]
    dataset, arguments = make_set(*hidden), {"protocol": "mevis", "progress": False}
    evaluate_segmenter(model, processor, dataset, submission=tmp_path / "whole", **arguments)

    class Killed(BaseException):
        pass

    save, saved = Image.Image.save, []

    def save_some(image, *of):
        saved.append(of)
        if len(saved) == 25:
            raise Killed
        save(image, *of)

    monkeypatch.setattr(Image.Image, "save", save_some)
    with pytest.raises(Killed):
        evaluate_segmenter(model, processor, dataset, submission=tmp_path / "killed", **arguments)
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "killed" / "Annotations").iterdir()] == ["first"]
    assert not (tmp_path / "killed" / "submission.zip").exists()

    segmented = []
    stream = CVLSPipeline.stream
    monkeypatch.setattr(
        CVLSPipeline,
        "stream",
        lambda self, video, *of, **more: segmented.append(len(video)) or stream(self, video, *of, **more),
    )
    for _ in range(2):  # the last run finds everything
        evaluate_segmenter(model, processor, dataset, submission=tmp_path / "killed", **arguments)
    assert segmented == [7, 2]
    whole, killed = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.png")}
        for folder in (tmp_path / "whole", tmp_path / "killed")
    )
    assert whole == killed
    with zipfile.ZipFile(tmp_path / "killed" / "submission.zip") as archive:
        assert len(archive.namelist()) == len(whole)


@pytest.mark.parametrize("name", ["../../x", "/x", "..", "a/b", "a\\b", "C:x", "", "a\0b", "x" * 300])
def test_a_submission_stays_in_its_folder(model, processor, rows, tmp_path, name):
    """Ids that lead elsewhere are refused, for videos and for sentences."""
    folder = tmp_path / "a" / "b" / "submission"
    video = {**rows[2], "video_id": name}
    sentences = [{**sentence, "sentence_id": f"third/{name}"} for sentence in rows[2]["sentences"]]
    for row in (video, {**rows[2], "sentences": sentences}):
        with pytest.raises(ValueError, match="must be a plain name"):
            measured(model, processor, [row], protocol="mevis", submission=folder)
    assert not list(tmp_path.rglob("*.png"))


def test_nothing_replaces_the_masks_of_another(model, processor, rows, tmp_path):
    """Two videos, two sentences or two frames of one name are refused before a mask is made."""
    folder = tmp_path / "submission"
    sentences = [{**sentence, "sentence_id": "0"} for sentence in rows[0]["sentences"]]
    frames = [{**frame, "path": f"{number}/0.jpg"} for number, frame in enumerate(rows[0]["frames"])]
    for change, message in (
        ([rows[0], rows[0]], "several videos are called 'first'"),
        ([{**rows[0], "sentences": sentences}], "several sentences of video 'first' are called '0'"),
        ([{**rows[0], "frames": frames}], "video 'first': several frames are called '0'"),
        ([{**rows[0], "frames": [{**frame, "path": "..\n"} for frame in frames]}], "must be a plain name"),
    ):
        with pytest.raises(ValueError, match=message):
            measured(model, processor, change, protocol="mevis", submission=folder)
        assert not list(tmp_path.rglob("*.png"))


@pytest.mark.slow
def test_two_evaluations_into_one_submission(model, processor, rows, tmp_path):
    (tmp_path / "submission").mkdir()
    with FileLock(tmp_path / "submission" / ".lock"):
        with pytest.raises(BlockingIOError, match="another evaluation is writing to .*submission"):
            measured(model, processor, rows, protocol="mevis", submission=tmp_path / "submission")


def test_other_weights_in_the_same_folder_do_not_go_on(model, processor, rows, tmp_path):
    measured(model, processor, rows, protocol="mevis", submission=tmp_path)
    with torch.no_grad():
        model.mask_bias += 1
    with pytest.raises(ValueError, match="with masks of another model"):
        measured(model, processor, rows, protocol="mevis", submission=tmp_path)


def test_submission_and_truth_together(model, processor, rows, tmp_path):
    plain = measured(model, processor, rows, protocol="mevis")
    both = measured(model, processor, rows, protocol="mevis", submission=tmp_path)
    close(plain, both)
    assert len(list(tmp_path.rglob("*.png"))) == 4 * 5 + 2 * 7 + 3 * 2
