"""Writing data sets: killed at every point and started again, nothing half-written loads, problems, shards, upload."""

import gc
import io
import json
import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from unittest.mock import create_autospec

import av
import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from datasets.exceptions import DatasetNotFoundError
from huggingface_hub import HfApi

from modeling_cvls.conversion import Description, Problems, shards, upload, write_dataset
from modeling_cvls.data import FEATURES
from modeling_cvls.frame_reader_cvls import FrameReader

CARD = Description("Toy", "A toy.", "cc0-1.0", "Free.", "@misc{toy}")
SIZE = 1000


def make_row(name: str, size: int = SIZE) -> dict:
    """A row whose media, masks and text take `size` bytes, of noise that nothing compresses."""
    noise = np.random.default_rng(int(name)).bytes(size - 8)
    return {
        "video_id": name,
        "video": {"bytes": noise, "path": f"{name}.mp4"},
        "frames": None,
        "num_frames": 5,
        "height": 4,
        "width": 6,
        "fps": 8.0,
        "annotated_frames": [1, 3],
        "evaluation_frames": None,
        "instance_ids": ["a", "b"],
        "masks": [["0;1", None], ["12", "1"]],
        "sentences": [{"sentence_id": f"{name}/0", "text": "it", "instances": [1], "kind": None}],
    }


def convert(name: str):
    sys.audit("test.convert", name)
    if name == "3":
        raise ValueError("source/3.mp4 cannot be decoded")
    if name == "5":
        return make_row(name), [("notes.csv, line 9", "has no sentence")]
    if name == "8":
        return None, [("notes.csv, line 12", "of a video that is not there"), ("notes.csv, line 13", "the same")]
    return make_row(name)


def take(row: dict) -> dict:
    return row


SPLITS = {"train": [str(n) for n in range(11)], "test": ["20", "21"]}
# In the order of the source; the first is found before the conversion begins.
LEFT_OUT = [
    {"split": None, "where": "notes.csv, line 2", "why": "two fields, not three"},
    {"split": "train", "where": "train, video 4", "why": "source/3.mp4 cannot be decoded"},
    {"split": "train", "where": "notes.csv, line 9", "why": "has no sentence"},
    {"split": "train", "where": "notes.csv, line 12", "why": "of a video that is not there"},
    {"split": "train", "where": "notes.csv, line 13", "why": "the same"},
]


@pytest.fixture(autouse=True)
def small_groups(monkeypatch):
    """Two videos per group, so that a shard of 4 has two groups."""
    monkeypatch.setattr(shards, "GROUP_ROWS", 2)


def write(output: Path, splits=SPLITS, skip: bool = True, **arguments) -> None:
    problems = Problems(skip)
    if skip:
        problems.found("notes.csv, line 2", "two fields, not three")
    write_dataset(output, splits, convert, CARD, problems=problems, shard_bytes=4 * SIZE, **arguments)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, bytes]:
    """The files of a run that nothing interrupts."""
    patch = pytest.MonkeyPatch()
    patch.setattr(shards, "GROUP_ROWS", 2)
    folder = tmp_path_factory.mktemp("whole")
    write(folder / "out")
    patch.undo()
    return contents(folder / "out")


def in_process(function, *arguments, **keywords) -> int:
    """Runs it in a forked process, silently; returns its exit code, or minus the signal that killed it."""

    def run():
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            function(*arguments, **keywords)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join()
    return process.exitcode


@pytest.mark.slow
def test_an_uninterrupted_run(whole, tmp_path, capsys):
    write(tmp_path / "out", num_proc=2)
    assert contents(tmp_path / "out") == whole  # with two processes the same as with one
    assert sorted(whole) == [
        ".conversion.json",
        "README.md",
        "data/test-00000-of-00001.parquet",
        *(f"data/train-{n:05d}-of-00003.parquet" for n in range(3)),
        "left_out.jsonl",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    loaded = load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    kept = [n for n in SPLITS["train"] if n not in ("3", "8")]
    assert {name: split["video_id"] for name, split in loaded.items()} == {"train": kept, "test": ["20", "21"]}
    assert loaded["train"].features == FEATURES
    assert list(loaded["train"]) == [make_row(name) for name in kept]
    streamed = load_dataset(str(tmp_path / "out"), split="train", streaming=True)
    assert list(streamed) == list(loaded["train"])

    assert [json.loads(line) for line in whole["left_out.jsonl"].decode().splitlines()] == LEFT_OUT
    printed = capsys.readouterr().out
    assert "Left out 5, all listed in" in printed and "  notes.csv, line 9: has no sentence\n" in printed
    assert "train: 9 videos, 9 sentences, 18 instances, 18 annotated frames" in printed
    assert "| train | 9 | 9 | 18 | 18 | 0 |" in whole["README.md"].decode()
    assert "configs" not in whole["README.md"].decode().split("---")[1]


def killed_at(event: int, folder: Path) -> None:
    """Writes the data set, but is killed at its so manieth change in `folder` or conversion of a video."""
    seen = 0

    def hook(name: str, arguments: tuple) -> None:
        nonlocal seen
        changes = name in ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "open")
        if (changes and str(folder) in str(arguments[0])) or name == "test.convert":
            if seen == event:
                os.kill(os.getpid(), signal.SIGKILL)
            seen += 1

    sys.addaudithook(hook)
    write(folder / "out")


@pytest.mark.slow
def test_killed_anywhere_and_started_again(whole, tmp_path, capsys):
    ends = Counter()
    for event in range(1000):
        folder = tmp_path / str(event)
        folder.mkdir()
        if in_process(killed_at, event, folder) == 0:
            break
        # What there is now is all of it or nothing.
        if (folder / "out").exists():
            assert contents(folder / "out") == whole
            ends["finished"] += 1
        else:
            assert {path.name for path in folder.iterdir()} <= {"out.partial"}
            if (folder / "out.partial").exists():
                with pytest.raises((FileNotFoundError, DatasetNotFoundError)):
                    load_dataset(str(folder / "out.partial"), cache_dir=str(tmp_path / "cache"))
            ends["unfinished"] += 1
        # Then through to the end, or killed once more on the way.
        if event % 5 == 0:
            in_process(killed_at, 6, folder)
        if (folder / "out").exists() and not (folder / "out.partial" / ".state.json").exists():
            write(folder / "out")
            assert "out is already complete" in capsys.readouterr().out
        else:
            write(folder / "out")
        assert [path.name for path in folder.iterdir()] == ["out"]
        assert contents(folder / "out") == whole
        shutil.rmtree(folder)
    assert ends["unfinished"] > 30 and ends["finished"] >= 1


def kill_at(video: str, output: Path, **arguments) -> None:
    """Begins to write `output`, and is killed when it comes to a video."""

    def hook(name: str, of: tuple) -> None:
        if name == "test.convert" and of[0] == video:
            os.kill(os.getpid(), signal.SIGKILL)

    def run():
        sys.addaudithook(hook)
        write(output, **arguments)

    assert in_process(run) == -signal.SIGKILL


def test_finished_shards_are_not_made_again(whole, tmp_path):
    kill_at("10", tmp_path / "out")
    shards = tmp_path / "out.partial" / ".dataset" / "data"
    made = (shards / "train-00000.parquet").stat().st_mtime_ns

    def write_and_check():
        converted = []
        sys.addaudithook(lambda name, of: converted.append(of[0]) if name == "test.convert" else None)
        write(tmp_path / "out")
        # Videos 0, 1, 2 and 4 are in the first shard, which is kept.
        assert converted == [*map(str, range(5, 11)), "20", "21"]

    assert in_process(write_and_check) == 0
    assert contents(tmp_path / "out") == whole
    assert (tmp_path / "out" / "data" / "train-00000-of-00003.parquet").stat().st_mtime_ns == made


def test_another_conversion_starts_anew(whole, tmp_path, capsys):
    kill_at("10", tmp_path / "out", splits={"train": SPLITS["train"] + ["11"], "test": ["20"]})
    write(tmp_path / "out")
    assert "is not of this conversion, or is damaged: starting anew" in capsys.readouterr().out
    assert contents(tmp_path / "out") == whole


def test_a_damaged_shard_starts_anew(whole, tmp_path):
    kill_at("10", tmp_path / "out")
    with open(tmp_path / "out.partial" / ".dataset" / "data" / "train-00000.parquet", "a") as file:
        file.write("x")
    write(tmp_path / "out")
    assert contents(tmp_path / "out") == whole


def test_what_was_left_out_before_stops_a_run_that_leaves_nothing_out(tmp_path):
    items = {"train": ["0", "1", "2", "5", *map(str, range(30, 38))]}

    def write_items(skip):
        write_dataset(tmp_path / "out", items, convert, CARD, problems=Problems(skip), shard_bytes=4 * SIZE)

    def killed():
        sys.addaudithook(lambda name, of: os.kill(os.getpid(), 9) if name == "test.convert" and of[0] == "37" else None)
        write_items(skip=True)

    assert in_process(killed) == -signal.SIGKILL
    with pytest.raises(ValueError, match="notes.csv, line 9: has no sentence .--skip-invalid"):
        write_items(skip=False)
    write_items(skip=True)
    assert len((tmp_path / "out" / "left_out.jsonl").read_text().splitlines()) == 1


def kill_the_parent(folder: str, name: str) -> dict:
    (Path(folder) / str(os.getpid())).touch()
    if name == "7" and (Path(folder) / "kill").exists():
        (Path(folder) / "kill").unlink()
        os.kill(os.getppid(), signal.SIGKILL)
    return make_row(name)


@pytest.mark.slow
def test_workers_end_with_a_run_that_is_killed(tmp_path):
    folder = tmp_path / "workers"
    folder.mkdir()
    convert_here = partial(kill_the_parent, str(folder))
    write_dataset(tmp_path / "whole", SPLITS, convert_here, CARD, shard_bytes=4 * SIZE)
    (folder / "kill").touch()
    arguments = (tmp_path / "out", SPLITS, convert_here, CARD, 2)
    assert in_process(write_dataset, *arguments, shard_bytes=4 * SIZE) == -signal.SIGKILL
    write_dataset(*arguments, shard_bytes=4 * SIZE)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")

    def is_running(process: int) -> bool:
        try:
            return process != os.getpid() and psutil.Process(process).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    end = time.monotonic() + 20
    while any(is_running(int(path.name)) for path in folder.iterdir()):
        assert time.monotonic() < end, "workers are left"
        time.sleep(0.05)


def collect_garbage(name: str) -> dict:
    gc.collect()
    return make_row(name)


def write_after_reading(video: Path, output: Path) -> None:
    gc.disable()
    reader = FrameReader(video)
    reader.read([0])
    reader.itself = reader
    del reader
    write_dataset(output, SPLITS, collect_garbage, CARD, 2)


@pytest.mark.slow
def test_a_video_that_was_read_before_does_not_hang_the_workers(tmp_path):
    """A fork takes a reader along but not its threads: its end in a worker would wait for them for ever."""
    with av.open(str(tmp_path / "video.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode())
    process = multiprocessing.get_context("fork").Process(
        target=write_after_reading, args=(tmp_path / "video.mp4", tmp_path / "out")
    )
    process.start()
    process.join(60)
    code = process.exitcode
    process.kill()
    assert code == 0


def wait_for_ever(name: str) -> None:
    Path(name).touch()
    time.sleep(1000)


@pytest.mark.slow
def test_two_processes_do_not_write_the_same(tmp_path):
    splits = {"train": [str(tmp_path / "started")]}
    process = multiprocessing.get_context("fork").Process(
        target=write_dataset, args=(tmp_path / "out", splits, wait_for_ever, CARD)
    )
    process.start()
    try:
        while not (tmp_path / "started").exists():
            time.sleep(0.01)
        with pytest.raises(BlockingIOError, match="another process is writing .*out"):
            write_dataset(tmp_path / "out", splits, wait_for_ever, CARD)
    finally:
        process.kill()
        process.join()


def test_something_else_in_the_way_stays(tmp_path):
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="out.partial is needed while writing, but holds something else"):
        write(tmp_path / "out")
    assert (tmp_path / "out.partial" / "notes.txt").read_text() == "mine"
    shutil.rmtree(tmp_path / "out.partial")
    (tmp_path / "out").mkdir()
    with pytest.raises(FileExistsError, match="out exists already"):
        write(tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def end_the_process(name: str) -> dict:
    if name == "7":
        os.kill(os.getpid(), signal.SIGKILL)
    return make_row(name)


@pytest.mark.slow
def test_a_video_that_ends_its_process_is_named_and_the_others_are_converted(tmp_path):
    with pytest.raises(ValueError, match="train, video 8: video '7': reading it ends the process"):
        write_dataset(tmp_path / "out", SPLITS, end_the_process, CARD, 2)
    write_dataset(tmp_path / "out", SPLITS, end_the_process, CARD, 2, problems=Problems(skip=True))
    loaded = load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert loaded["train"]["video_id"] == [name for name in SPLITS["train"] if name != "7"]
    assert loaded["test"]["video_id"] == SPLITS["test"]


@pytest.mark.slow
@pytest.mark.parametrize("num_proc", [1, 2])
def test_without_skip_the_first_problem_stops(tmp_path, num_proc):
    with pytest.raises(ValueError, match="train, video 4: source/3.mp4 cannot be decoded .--skip-invalid leaves"):
        write(tmp_path / "out", skip=False, num_proc=num_proc)
    assert not list(tmp_path.iterdir())  # no shard was finished
    splits = {"train": ["0", "1", "2", "4", "6", "7", "9", "5"]}
    with pytest.raises(ValueError, match="notes.csv, line 9: has no sentence"):
        write(tmp_path / "out", splits, skip=False, num_proc=num_proc)
    assert [path.name for path in tmp_path.iterdir()] == ["out.partial"]


def test_everything_left_out(tmp_path):
    with pytest.raises(ValueError, match="every video was left out"):
        write(tmp_path / "out", {"train": ["3", "8"]})
    assert not list(tmp_path.iterdir())
    write(tmp_path / "out", {"train": ["3", "8"], "test": ["20"]})
    assert list(load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))) == ["test"]


def test_written_again_it_is_loaded_again(tmp_path):
    for test in (["20", "21"], ["22", "23"]):
        write(tmp_path / "out", {"test": test})
        loaded = load_dataset(str(tmp_path / "out"), split="test", cache_dir=str(tmp_path / "cache"))
        assert loaded["video_id"] == test
        shutil.rmtree(tmp_path / "out")


def test_files_are_at_most_as_large_as_they_may_be(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "GROUP_ROWS", 64)
    monkeypatch.setattr(shards, "GROUP_BYTES", 50_000)
    sizes = np.random.default_rng(0).integers(1_000, 40_000, 100).tolist()
    rows = [make_row(str(number), size) for number, size in enumerate(sizes)]
    # The real limits, a thousandth of them.
    write_dataset(tmp_path / "out", {"train": rows}, take, CARD, shard_bytes=shards.SHARD_BYTES // 1000)
    files = sorted((tmp_path / "out" / "data").iterdir())
    assert len(files) == -(-sum(sizes) // 450_000)
    assert all(path.stat().st_size <= 500_000 for path in files)
    stored = [pq.read_table(path, columns=["video_id"])["video_id"].to_pylist() for path in files]
    assert sum(stored, []) == [row["video_id"] for row in rows]
    # A single video that is larger than a file may be has one of its own.
    write_dataset(tmp_path / "one", {"train": [make_row("0", 3 * SIZE)] * 2}, take, CARD, shard_bytes=SIZE)
    assert len(list((tmp_path / "one" / "data").iterdir())) == 2


def test_push_to_hub(whole, tmp_path, monkeypatch):
    api = create_autospec(HfApi, instance=True)
    seen = []
    api.upload_folder.side_effect = lambda **arguments: seen.append(contents(Path(arguments["folder_path"])))
    monkeypatch.setattr(upload, "HfApi", lambda: api)
    write(tmp_path / "out", push_to_hub="user/name")
    api.create_repo.assert_called_once_with("user/name", repo_type="dataset", exist_ok=True)
    (call,) = api.upload_folder.call_args_list
    assert (call.kwargs["repo_id"], call.kwargs["repo_type"]) == ("user/name", "dataset")
    assert seen == [whole]
    assert call.kwargs["delete_patterns"] == ["data/*", "left_out.jsonl"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_failed_upload_is_taken_up_again(whole, tmp_path, monkeypatch):
    api = create_autospec(HfApi, instance=True)
    api.upload_folder.side_effect = [ConnectionError("the line is down"), None]
    monkeypatch.setattr(upload, "HfApi", lambda: api)
    with pytest.raises(ConnectionError):
        write(tmp_path / "out", push_to_hub="user/name")
    assert contents(tmp_path / "out") == whole
    made = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    write(tmp_path / "out", push_to_hub="user/name")
    assert api.upload_folder.call_count == 2
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == made
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
