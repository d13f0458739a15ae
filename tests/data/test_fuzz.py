"""Seeded damages to the five layouts: each ends in one clear line that names a file, or in data that are right."""

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from datasets import load_dataset

import cvls
from factories import FILE_DAMAGES, flip, overwrite, remove
from modeling_cvls import synthetic
from modeling_cvls.data import read_masks

LAYOUTS = ("a2d_sentences", "jhmdb_sentences", "refer_youtube_vos", "ref_davis17", "mevis")
SPLITS = {"train": 3, "test": 2}


def remove_folder(path, rng):
    shutil.rmtree(path.parent)


def a_link(path, rng):
    path.unlink()
    path.symlink_to("/etc/passwd")


DAMAGES = (*FILE_DAMAGES, remove_folder, a_link)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Of each layout a source, and the truth: what its undamaged conversion holds."""
    made = {}
    for layout in LAYOUTS:
        folder = tmp_path_factory.mktemp(layout)
        getattr(synthetic, f"write_{layout}")(folder / "raw", SPLITS, seed=7)
        assert run(layout, folder / "raw", folder / "out") == 0
        made[layout] = folder / "raw", contents(folder / "out")
    return made


def run(layout, source, output, *arguments):
    """The exit status of the command."""
    try:
        cvls.main(["convert", layout, "--source", str(source), "--output", str(output), "--num-proc", "1", *arguments])
    except SystemExit as stopped:
        return stopped.code
    return 0


def contents(folder):
    """{video: (sentences with the masks of their referents, names of frames)}, all splits together."""
    rows = {}
    for split in load_dataset(str(folder), cache_dir=str(folder.parent / "cache")).values():
        for row in split:
            masks, _, _ = read_masks(row, range(row["num_frames"]))
            said = {s["text"]: masks[:, s["instances"]].any(axis=1) for s in row["sentences"]}
            rows[row["video_id"]] = said, row["num_frames"], row["annotated_frames"]
    return rows


def check_against_truth(found, truth, left_out, whole):
    """What is there is true: the same masks for the same sentences; what is missing was reported."""
    reported = json.dumps(left_out)
    for video, (said, num_frames, annotated) in found.items():
        true_said, true_frames, true_annotated = truth[video]
        assert num_frames == true_frames
        for text, masks in said.items():
            if text in true_said:
                for frame in annotated:
                    np.testing.assert_array_equal(masks[frame], true_said[text][frame])
        assert annotated == true_annotated or video in reported
        assert said.keys() == true_said.keys() or reported != "[]" or whole
    assert truth.keys() == found.keys() or reported != "[]"


def damage_and_convert(layout, seed, sources, folder, capsys):
    source, truth = sources[layout]
    rng = random.Random(f"{layout} {seed}")
    shutil.copytree(source, folder / "raw")
    files = sorted(path for path in (folder / "raw").rglob("*") if path.is_file() and path.stat().st_size)
    kinds = sorted({path.suffix for path in files} | {".txt"})
    kind = rng.choice(kinds)  # as often a file of sentences as a frame
    path = rng.choice([path for path in files if path.suffix == kind] or files)
    damage = rng.choice(DAMAGES)
    if damage is remove_folder and path.parent.parent == folder / "raw":
        damage = remove  # a split that is not there at all was not downloaded
    before = path.read_bytes()
    damage(path, rng)
    what = f"{layout}, seed {seed}: {damage.__name__} {path.relative_to(folder / 'raw')}"
    content_only = path.exists() and not path.is_symlink() and path.suffix in (".mp4", ".png", ".jpg", ".mat", ".h5")
    text_changed = path.exists() and not path.is_symlink() and not content_only and path.read_bytes() != before

    capsys.readouterr()
    status = run(layout, folder / "raw", folder / "out")
    printed = capsys.readouterr().err.splitlines()
    if status != 0:
        assert status == 2, what
        line = printed[-1]
        assert line.startswith("cvls convert: error: ") and len(line) <= 330, f"{what}: {line}"
        assert "Traceback" not in "".join(printed), what
        assert str(folder)[:40] in line or "--source" in line, f"{what}: {line}"
        assert not (folder / "out").exists(), what
        if run(layout, folder / "raw", folder / "out", "--skip-invalid") != 0:
            return
    left_out = folder / "out" / "left_out.jsonl"
    entries = [json.loads(line) for line in left_out.read_text().splitlines()] if left_out.exists() else []
    if status != 0:
        assert entries, what
    # A flipped bit in a picture, a mask or a word that still decodes is another picture, mask or word: no one can tell.
    if damage in (flip, overwrite) and (content_only or text_changed):
        return
    check_against_truth(contents(folder / "out"), truth, entries, whole=False)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_damages(layout, seed, sources, tmp_path, capsys):
    damage_and_convert(layout, seed, sources, tmp_path, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_many_damages(layout, sources, tmp_path, capsys):
    for seed in range(100, 160):
        folder = tmp_path / str(seed)
        folder.mkdir()
        damage_and_convert(layout, seed, sources, folder, capsys)
        shutil.rmtree(folder)


def test_nothing_is_found_in_what_is_right(sources, tmp_path):
    for layout, (source, truth) in sources.items():
        assert run(layout, source, tmp_path / layout, "--skip-invalid") == 0
        assert not Path(tmp_path / layout / "left_out.jsonl").exists()
        check_against_truth(contents(tmp_path / layout), truth, [], whole=True)
