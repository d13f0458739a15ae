"""`cvls segment` and scripts/segment.py: what they write is what the pipeline gives; folders, resuming, processes."""

import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from squares import NAMES, SENTENCES, moving_squares
from transformers import pipeline

from factories import ROOT
from modeling_cvls import FrameReader, fonts
from modeling_cvls.segmentation import files
from modeling_cvls.visualization import VideoWriter, write_video
from numbered_videos import write_numbered


def check_cutouts(folder, frames, results, at):
    """`folder` has a picture for each of the frames `at`, transparent outside the mask of `results`."""
    for name, result in zip(NAMES, results, strict=True):
        files = sorted((folder / name).iterdir())
        assert [file.name for file in files] == [f"{index:05d}.png" for index in at]
        for file, index, mask in zip(files, at, result["masks"], strict=True):
            picture = np.asarray(Image.open(file))
            np.testing.assert_array_equal(picture[..., 3], np.where(mask, 255, 0))
            np.testing.assert_array_equal(picture[..., :3], frames[index])


@pytest.mark.slow
def test_overlay_cutouts_and_masks_of_a_file(segment, checkpoint, tmp_path):
    write_video(tmp_path / "in.mp4", moving_squares(9), 12.5)
    code, printed, _ = segment(tmp_path / "in.mp4", tmp_path / "new" / "out.mp4", "--cutouts", "--masks")
    assert code == 0
    results = pipeline("video-language-segmentation", model=str(checkpoint))(
        tmp_path / "in.mp4", SENTENCES, presence_threshold=0
    )
    assert 0.05 < np.mean([result["masks"].mean() for result in results]) < 0.95
    frames = FrameReader(tmp_path / "in.mp4").read(range(9))
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"out.mp4", "out_cutouts", "out_masks"}
    check_cutouts(tmp_path / "new" / "out_cutouts", frames, results, range(9))
    for name, result in zip(NAMES, results, strict=True):
        masks = FrameReader(tmp_path / "new" / "out_masks" / f"{name}.mp4")
        assert len(masks) == 9 and masks.fps == 12.5 and (masks.height, masks.width) == (50, 64)
        white = masks.read(range(9))[..., 0] > 127
        assert (white == result["masks"]).mean() > 0.98
    drawn = FrameReader(tmp_path / "new" / "out.mp4")
    assert len(drawn) == 9 and drawn.fps == 12.5
    factor = drawn.width // 64
    assert drawn.height > 50 * factor
    # far inside a mask the picture is tinted, far outside it is as it was
    first, both = drawn.read([0])[0][::factor, ::factor][:50].astype(int), results[0]["masks"] | results[1]["masks"]
    change = np.abs(first - frames[0]).mean(-1)
    assert change[both[0]].mean() > 2 * change[~both[0]].mean()
    for result in results:
        share = result["masks"].any(axis=(1, 2)).mean()
        assert f"{result['score']:.3f}  mask in {share:4.0%} of the frames  {result['sentence']}" in printed
    assert f"9 frames written to {tmp_path}/new/out.mp4" in printed


@pytest.mark.slow
def test_a_folder_of_frames_and_a_part_of_it(segment, checkpoint, tmp_path):
    frames = moving_squares(12)
    (tmp_path / "frames").mkdir()
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / "frames" / f"{index}.png")
    options = ["--start", 0.25, "--fps", 4, "--video-fps", 8, "--cutouts"]
    code, printed, error = segment(tmp_path / "frames", tmp_path / "out.mp4", *options)
    assert code == 0, error
    results = pipeline("video-language-segmentation", model=str(checkpoint))(
        frames[2::2], SENTENCES, presence_threshold=0
    )
    check_cutouts(tmp_path / "out_cutouts", frames, results, range(2, 12, 2))
    assert FrameReader(tmp_path / "out.mp4").fps == 4 and "5 frames written" in printed
    segment(tmp_path / "frames", tmp_path / "out.mp4")  # written anew, and without a rate given
    assert (FrameReader(tmp_path / "out.mp4").fps, len(FrameReader(tmp_path / "out.mp4"))) == (24, 12)


def times(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.mp4")}


@pytest.mark.slow
def test_a_folder_of_videos_is_resumed(segment, tmp_path):
    videos, output = tmp_path / "videos", tmp_path / "out"
    for seed, name in enumerate("abc"):
        write_video(videos / f"{name}.mp4", moving_squares(5, seed), 10)
    (videos / "notes.txt").write_text("no video")
    (videos / "b.mp4").rename(tmp_path / "b.mp4")
    (videos / "b.mp4").write_bytes(b"broken")
    code, printed, error = segment(videos, output, "--masks")
    assert code == 2 and "2 of 3 videos are in" in printed
    assert "b.mp4 cannot be decoded as a video" in error and "Traceback" not in error
    assert {path.name for path in output.iterdir()} == {"a.mp4", "a_masks", "c.mp4", "c_masks", "settings.json"}

    (tmp_path / "b.mp4").rename(videos / "b.mp4")
    (output / ".b.mp4.partial" / "b_masks").mkdir(parents=True)  # as a killed run leaves it
    before = times(output)
    code, printed, error = segment(videos, output, "--masks")
    assert code == 0 and "2 of 3 videos are done already" in printed and "3 of 3 videos are in" in printed, error
    after = times(output)
    assert after.keys() == {"a.mp4", "b.mp4", "c.mp4"} and before.items() < after.items()
    assert not list(output.glob(".*"))
    (output / "a.mp4").unlink()
    segment(videos, output, "--masks")
    assert times(output).keys() == after.keys() and times(output)["b.mp4"] == after["b.mp4"]

    code, _, error = segment(videos, output, "--masks", "--threshold", 0.7)
    assert code == 2 and "holds results of another threshold (see settings.json); give a new folder" in error
    code, _, error = segment(videos, output, "--masks", sentences=SENTENCES[:1])
    assert code == 2 and "another sentences" in error


def test_what_is_interrupted_leaves_nothing(segment, tmp_path, monkeypatch):
    write_video(tmp_path / "in.mp4", moving_squares(9), 10)
    overlay, drawn = files.overlay, []

    def interrupted(*arguments):
        if len(drawn) == 6:
            raise KeyboardInterrupt
        drawn.append(1)
        return overlay(*arguments)

    monkeypatch.setattr(files, "overlay", interrupted)
    code, _, error = segment(tmp_path / "in.mp4", tmp_path / "out.mp4", "--cutouts")
    assert code == 130 and "cvls segment: interrupted\n" in error
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "pattern", "number"),
    [(["--cutouts"], "*.png", 3 * 2 * 5), (["--format", "palette"], "*.png", 3 * 5)],
)
def test_two_processes_share_out_a_folder_of_folders(segment, checkpoint, tmp_path, options, pattern, number):
    videos = tmp_path / "videos"
    for seed, name in enumerate("abc"):
        (videos / name).mkdir(parents=True)
        for index, frame in enumerate(moving_squares(5, seed)):
            Image.fromarray(frame).save(videos / name / f"{index}.png")
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "scripts/segment.py"]
    command = [*launch, videos, *SENTENCES, "--model", checkpoint, "--output", tmp_path / "two", *options]
    result = subprocess.run(
        [sys.executable, *map(str, command), "--presence-threshold", "0"],
        cwd=ROOT,
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.count("3 of 3 videos are in") == 1 and "2/2" in result.stderr  # of the first process
    code, _, error = segment(videos, tmp_path / "one", *options)
    assert code == 0, error
    one, two = ({path.relative_to(folder): path for path in folder.rglob(pattern)}
                for folder in (tmp_path / "one", tmp_path / "two"))  # fmt: skip
    assert len(one) == number and one.keys() == two.keys()
    assert all(path.read_bytes() == two[name].read_bytes() for name, path in one.items())


@pytest.mark.slow
def test_memory_does_not_grow_with_the_video(checkpoint):
    """The script that measures it, with small numbers."""
    options = ["--model", checkpoint, "--frames", 40, 240, "--size", 64, 64]
    result = subprocess.run(
        [sys.executable, "benchmarks/streaming.py", *map(str, options)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert result.returncode == 0, result.stdout + result.stderr[-3000:]
    first, second = (line.split() for line in result.stdout.splitlines()[-2:])
    assert (first[0], second[0]) == ("40", "240") and 0.9 < float(second[3]) < 1.05


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"video": "absent.mp4"}, "no video file at absent.mp4"),
        ({"video": __file__}, "test_segment.py cannot be decoded as a video"),
        ({"video": "empty"}, "the folder empty holds no frames"),
        ({"options": ["--model", "bert"]}, "a model of type 'bert'; one of type 'cvls' was expected"),
        ({"sentences": [" "]}, "sentence 0 of video 0 is empty"),
        ({"options": ["--model", "./absent"]}, "--model ./absent: there is no such folder"),
        ({"options": ["--start", "7"]}, "start within the 0.200 seconds of the video"),
        ({"options": ["--overlap", "4"]}, "from 0 to below the window of 4 frames, not 4"),
        ({"output": "in.mp4"}, "is the video itself"),
        ({"output": "in.mp4/out.mp4"}, "in.mp4"),
        ({"output": "out.avi"}, "the name must end in .mp4"),
        ({"options": ["--format", "coco"]}, "--format coco writes a file, so the name must end in .json"),
        ({"options": ["--format", "mots"], "output": "in.mp4"}, "is a file; --format mots writes a folder"),
        ({"options": ["--format", "mots", "--masks"], "output": "out"}, "--cutouts and --masks belong to --format ov"),
        ({"video": "videos", "output": "in.mp4"}, "in.mp4 is a file; a folder of videos takes a folder"),
        ({"video": "videos", "output": "videos"}, "is the video itself"),
        ({"video": "videos", "output": "out"}, "several videos in videos would be written to a.mp4"),
    ],
)
def test_mistakes_are_named_without_a_traceback(segment, tmp_path, monkeypatch, change, message):
    monkeypatch.chdir(tmp_path)
    write_video("in.mp4", moving_squares(2), 10)
    Path("empty").mkdir()
    Path("videos").mkdir()
    for name in ("a.mp4", "a.mov"):
        Path("videos", name).touch()
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
    values = {"video": "in.mp4", "output": "out.mp4", "options": [], "sentences": SENTENCES} | change
    code, printed, error = segment(values["video"], values["output"], *values["options"], sentences=values["sentences"])
    assert code == 2 and message in error and printed == ""
    assert not list(tmp_path.rglob(".*")) and not list(tmp_path.rglob("settings.json"))


def test_sentences_are_checked_before_the_videos_of_a_folder(segment, tmp_path):
    (tmp_path / "videos").mkdir()
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / "videos" / name, moving_squares(2), 10)
    for sentence, message in (("the " * 30, "30 tokens"), (" ", "is empty")):
        code, printed, error = segment(tmp_path / "videos", tmp_path / "out", sentences=[sentence])
        assert code == 2 and error.count(message) == 1 and printed == ""
        assert not list(tmp_path.rglob("settings.json"))


def test_characters_without_a_font_are_named(segment, tmp_path, monkeypatch):
    monkeypatch.setattr(fonts, "_system_fonts", lambda: ())
    fonts._file_for.cache_clear()
    write_video(tmp_path / "in.mp4", moving_squares(2), 10)
    with pytest.warns(UserWarning, match="no font on this system shows 狗"):
        assert segment(tmp_path / "in.mp4", tmp_path / "out.mp4", sentences=["狗"])[0] == 0
    fonts._file_for.cache_clear()


def test_a_damaged_video_is_written_as_far_as_it_goes(segment, tmp_path):
    options = {"g": "6", "sc_threshold": "0", "bf": "0"}
    whole = write_numbered(tmp_path / "whole.mp4", options=options, container_options={"movflags": "faststart"})
    content = whole.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) * 4 // 5])
    code, printed, error = segment(tmp_path / "cut.mp4", tmp_path / "out.mp4", "--masks")
    written = FrameReader(tmp_path / "out.mp4")
    assert code == 0 and f"{len(written)} frames written" in printed and 5 < len(written) < 30
    assert "cvls segment: warning: " in error and "cut.mp4 is damaged or was cut off" in error and " to 29)" in error
    assert error.count("is damaged") == 1
    assert len(FrameReader(tmp_path / "out_masks" / f"{NAMES[0]}.mp4")) == len(written)
    code, _, error = segment(tmp_path / "cut.mp4", tmp_path / "strict.mp4", "--on-damage", "error")
    assert code == 2 and "cut.mp4" in error and "30 frames" in error and not (tmp_path / "strict.mp4").exists()


def test_the_overlay_lasts_as_long_as_the_source(segment, tmp_path):
    times = [0, 0.5, 0.54, 2, 3]
    with VideoWriter(tmp_path / "in.mp4", 2, Fraction(2), end=3.7) as writer:
        for frame, time in zip(moving_squares(5), times, strict=True):
            writer.write(frame, time)
    assert segment(tmp_path / "in.mp4", tmp_path / "out.mp4", "--masks")[0] == 0
    for path in (tmp_path / "out.mp4", tmp_path / "out_masks" / f"{NAMES[1]}.mp4"):
        written = FrameReader(path)
        np.testing.assert_allclose(written.times, times, atol=1e-3)
        assert written.end == pytest.approx(3.7, abs=1e-3) and written.sample_aspect_ratio == 2
    assert segment(tmp_path / "in.mp4", tmp_path / "part.mp4", "--start", 0.52, "--end", 2.5)[0] == 0
    part = FrameReader(tmp_path / "part.mp4")
    np.testing.assert_allclose(part.times, [0, 1.46], atol=1e-3)
    assert part.end == pytest.approx(1.96, abs=1e-3)


@pytest.mark.slow
def test_a_folder_of_all_kinds_is_gone_through_whole(segment, tmp_path, monkeypatch):
    folder = tmp_path / "videos"
    folder.mkdir()
    write_numbered(folder / "a.gif", 4, codec="gif")
    write_numbered(folder / "b.ts", 4)
    write_numbered(folder / "c.mp4", 4).rename(folder / "c.recording")  # known by what it holds
    (folder / "frames").mkdir()
    Image.fromarray(moving_squares(1)[0]).save(folder / "frames/0.png")
    (folder / "notes.txt").write_text("no video")
    (folder / "cover.png").write_bytes((folder / "frames/0.png").read_bytes())
    (folder / "photograph").write_bytes((folder / "frames/0.png").read_bytes())
    code, printed, error = segment(folder, tmp_path / "out")
    assert code == 0 and "4 of 4 videos are in" in printed, error
    assert {path.name for path in (tmp_path / "out").glob("*.mp4")} == {"a.mp4", "b.mp4", "c.mp4", "frames.mp4"}
    assert "left out, as no video: cover.png, notes.txt, photograph" in printed

    monkeypatch.chdir(tmp_path)
    name = f"{'y' * 251}.mp4"
    write_numbered(tmp_path / name, 2)
    assert segment(name, "12:30.mp4")[0] == 0 and (tmp_path / "12:30.mp4").is_file()
    assert segment("12:30.mp4", f"{'z' * 251}.mp4")[0] == 0 and (tmp_path / f"{'z' * 251}.mp4").is_file()
