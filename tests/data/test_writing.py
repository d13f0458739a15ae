"""Rows through `write_dataset` and back."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from datasets import load_dataset
from rows import make_row

from modeling_cvls.conversion import Description, conversion_parser, write_dataset
from modeling_cvls.data import (
    FEATURES,
)

# Writing


CARD = Description("Toy", "A toy.", "cc0-1.0", "Free.", "@misc{toy}")


def take(row):
    return row


def break_at_three(row):
    if row["video_id"] == "3":
        raise ValueError("3 is broken")
    return row


@pytest.mark.slow
@pytest.mark.parametrize("num_proc", [1, 2])
def test_shards_keep_order_and_load(tmp_path, num_proc):
    rows = [make_row(str(n), num_frames=2, annotated=(1,), seed=n)[0] for n in range(70)]
    splits = {"train": rows, "validation": [], "test": rows[:3]}
    size = sum(len(frame["bytes"]) for frame in rows[0]["frames"])
    write_dataset(tmp_path / "new" / "out", splits, take, CARD, num_proc, shard_bytes=20 * size + size // 2)

    files = sorted(path.name for path in (tmp_path / "new" / "out" / "data").iterdir())
    assert files == ["test-00000-of-00001.parquet"] + [f"train-{n:05d}-of-00004.parquet" for n in range(4)]
    loaded = load_dataset(str(tmp_path / "new" / "out"), cache_dir=str(tmp_path / "cache"))
    assert list(loaded) == ["train", "test"]
    assert list(loaded["train"]) == rows and list(loaded["test"]) == rows[:3]
    assert loaded["train"].features == FEATURES
    streamed = load_dataset(str(tmp_path / "new" / "out"), split="train", streaming=True)
    assert list(streamed) == rows
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out"]


def test_a_folder_written_again_is_loaded_again(tmp_path):
    for count in (2, 3):
        rows = [make_row(str(n))[0] for n in range(count)]
        write_dataset(tmp_path / "out", {"train": rows}, take, CARD)
        loaded = load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
        assert list(loaded) == rows
        shutil.rmtree(tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("num_proc", [1, 2])
def test_nothing_half_written_stays(tmp_path, num_proc):
    rows = [make_row(str(n))[0] for n in range(5)]
    with pytest.raises(ValueError, match="3 is broken"):
        write_dataset(tmp_path / "new" / "out", {"train": rows}, break_at_three, CARD, num_proc)
    assert not list((tmp_path / "new").iterdir())


def test_write_dataset_refuses(tmp_path):
    row, _ = make_row("clip7")
    with pytest.raises(FileExistsError, match=f"{tmp_path} exists already"):
        write_dataset(tmp_path, {"train": [row]}, take, CARD)
    with pytest.raises(ValueError, match="no split has a video"):
        write_dataset(tmp_path / "out", {"train": []}, take, CARD)
    del row["fps"]
    with pytest.raises(ValueError, match="'clip7': columns missing or too many: fps"):
        write_dataset(tmp_path / "out", {"train": [row]}, take, CARD)


def test_arguments(capsys):
    parser = conversion_parser(SimpleNamespace(__doc__="Toy.", SPLITS=["train", "test"]))
    arguments = parser.parse_args(["--source", "raw", "--output", "out"])
    assert (arguments.source, arguments.output) == (Path("raw"), Path("out"))
    assert (arguments.split, arguments.skip_invalid, arguments.push_to_hub) == (None, False, None)
    everything = "--source raw --output out --split test --num-proc 3 --skip-invalid --push-to-hub me/toy"
    arguments = parser.parse_args(everything.split())
    assert (arguments.split, arguments.num_proc) == (["test"], 3)
    assert (arguments.skip_invalid, arguments.push_to_hub) == (True, "me/toy")
    for wrong in ("--split dev", "--num-proc 0", "--num-proc two"):
        with pytest.raises(SystemExit):
            parser.parse_args([*"--source raw --output out".split(), *wrong.split()])
        assert wrong.split()[1] in capsys.readouterr().err
