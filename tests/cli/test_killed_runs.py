"""Runs of `cvls segment` and of `cvls eval --submission` on one folder that are killed, and two at once: what is there
in the end is what one run gives."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from datasets import Dataset

from factories import NOISE, ROOT, SENTENCES
from modeling_cvls.data import FEATURES
from modeling_cvls.segmentation import check_links, videos_in
from modeling_cvls.segmentation.files import Settings, is_done, segment_video
from modeling_cvls.visualization import write_video

NAME = "1_the_red_circle"  # of the first sentence


def contents(folder) -> dict[str, bytes]:
    """All files but archives, which hold times, and the empty locks, one of which a process may leave that is killed at
    its end."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".lock", ".zip")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def check_killed_runs(folder, shares, *command) -> str:
    """Each killed run goes on to what an undisturbed one writes, and of two at once one is refused or finds all done;
    what they said."""
    (folder / "shares.json").write_text(json.dumps(shares))
    program = ROOT / "tests" / "cli" / "programs" / "killed_runs.py"
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, program, folder / "runs", folder / "shares.json", *map(str, command)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, "HF_DATASETS_CACHE": str(folder / "cache")},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr[-3000:]
    results = json.loads(done.stdout.splitlines()[-1])
    whole = contents(folder / "runs" / "whole")
    assert results["whole"] == 0 and len(whole) > 2 * len(SENTENCES)
    assert [before for before, _ in results["killed"]] == [-signal.SIGKILL] * len(shares)
    for number, (_, again) in enumerate(results["killed"]):
        assert again == 0 and contents(folder / "runs" / str(number)) == whole, shares[number]
    assert results["inside"] == [0, 2] and sorted(results["race"]) in ([0, 0], [0, 2])
    for name in ("inside", "race"):
        assert contents(folder / "runs" / name) == whole, name
    return done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "shares"),
    [
        (["--masks", "--cutouts"], [0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0]),  # at these moments per run is killed
        (["--format", "palette"], [0.3, 0.7]),
    ],
)
def test_killed_segmentations_and_two_at_once(segmenter, tmp_path, options, shares):
    segmenter.save_pretrained(tmp_path / "model")
    for number in range(2):
        write_video(tmp_path / "videos" / f"{number}.mp4", np.roll(NOISE[:3], number, axis=0), 4)
    command = ["segment", tmp_path / "videos", *SENTENCES, "--model", tmp_path / "model", "--presence-threshold", 0,
               "--device", "cpu", *options]  # fmt: skip
    assert "another run is writing to --output" in check_killed_runs(tmp_path, shares, "--output", *command)


@pytest.mark.slow
def test_killed_submissions_and_two_at_once(segmenter, square_rows, tmp_path):
    segmenter.save_pretrained(tmp_path / "model")
    hidden = {"annotated_frames": [], "masks": []}
    rows = [
        {**row, **hidden, "frames": [{**frame, "path": f"{n}.png"} for n, frame in enumerate(row["frames"])]}
        for row in square_rows
    ]
    (tmp_path / "set").mkdir()
    Dataset.from_list(rows, features=FEATURES).to_parquet(tmp_path / "set" / "test.parquet")
    command = ["eval", "--dataset", tmp_path / "set", "--split", "test", "--protocol", "mevis",
               "--model", tmp_path / "model"]  # fmt: skip
    said = check_killed_runs(tmp_path, [0.2, 0.5, 0.9], "--submission", *command)
    assert "another evaluation is writing to" in said


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["out.mp4", f"out_masks/{NAME}.mp4", f"out_cutouts/{NAME}/00001.png"])
def test_a_video_is_done_when_all_of_its_files_are_there(segmenter, tmp_path, lost):
    write_video(tmp_path / "in.mp4", NOISE[:3], 4)
    settings = Settings("model", SENTENCES, cutouts=True, masks=True, presence_threshold=0)
    output = tmp_path / "out.mp4"
    assert not is_done(output, settings)
    segment_video(segmenter, tmp_path / "in.mp4", output, settings)
    assert is_done(output, settings)
    whole = contents(tmp_path)
    content = (tmp_path / lost).read_bytes()
    (tmp_path / lost).unlink()
    assert not is_done(output, settings)
    if lost.endswith(".mp4"):
        (tmp_path / lost).write_bytes(content[: len(content) // 2])
        assert not is_done(output, settings)
    segment_video(segmenter, tmp_path / "in.mp4", output, settings)
    assert is_done(output, settings) and contents(tmp_path) == whole


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    folder = tmp_path / "videos"
    write_video(folder / "a.mp4", NOISE[:2], 4)
    (folder / "inside.mp4").symlink_to(folder / "a.mp4")
    check_links(folder, videos_in(folder))
    write_video(tmp_path / "secret.mp4", NOISE[:2], 4)
    (folder / "b.mp4").symlink_to(tmp_path / "secret.mp4")
    with pytest.raises(ValueError, match=r"b.mp4 is a link to .*secret.mp4, which is outside .*--allow-links"):
        check_links(folder, videos_in(folder))
