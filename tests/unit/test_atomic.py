"""Files and folders that appear whole or not at all, and that one process at a time writes."""

import errno
import os
from contextlib import suppress

import pytest
from filelock import FileLock

from modeling_cvls.atomic import only_one, written_together


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.slow
def test_only_one(tmp_path):
    lock = tmp_path / "new" / ".lock"
    with only_one(lock, BlockingIOError("taken")):
        with pytest.raises(BlockingIOError, match="taken"), only_one(lock, BlockingIOError("taken")):
            pass
        assert lock.exists()
    assert not names(tmp_path / "new")
    with only_one(lock, BlockingIOError("taken")):
        pass


def test_what_is_written_together_appears_at_the_end(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "old").touch()
    (tmp_path / ".out.txt.partial" / "pictures").mkdir(parents=True)  # as a process leaves it that was killed
    with written_together(tmp_path / "pictures", tmp_path / "out.txt") as partial:
        assert not names(partial)
        (partial / "pictures").mkdir()
        (partial / "pictures" / "new").touch()
        (partial / "out.txt").write_text("new")
        assert "out.txt" not in names(tmp_path) and "pictures/old" in names(tmp_path)
    assert names(tmp_path) == ["out.txt", "pictures", "pictures/new"]


def test_an_error_changes_nothing(tmp_path):
    (tmp_path / "out.txt").write_text("old")
    with suppress(KeyboardInterrupt), written_together(tmp_path / "out.txt") as partial:
        (partial / "out.txt").write_text("half")
        raise KeyboardInterrupt
    assert names(tmp_path) == ["out.txt"] and (tmp_path / "out.txt").read_text() == "old"


def test_a_full_disk_is_named(tmp_path):
    with pytest.raises(OSError, match=r"No space left on device: '.*out.txt'"):
        with written_together(tmp_path / "out.txt"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert not names(tmp_path)


@pytest.mark.slow
def test_one_writer_at_a_time(tmp_path):
    with FileLock(tmp_path / ".out.txt.lock"):
        with pytest.raises(BlockingIOError, match=r"another process is writing .*out.txt"):
            with written_together(tmp_path / "out.txt"):
                pass


@pytest.mark.parametrize("length", [200, 251])
def test_long_names(tmp_path, length):
    path = tmp_path / f"{'x' * length}.txt"
    with written_together(path) as partial:
        (partial / path.name).touch()
    assert names(tmp_path) == [path.name]
