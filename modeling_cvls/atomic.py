"""Files and folders that appear whole or not at all, and that one process at a time writes."""

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

LONGEST_NAME = 255  # bytes of a file's name, on all usual file systems
#: Seconds to wait for a lock: processes of a run that was killed may live a moment longer and hold it.
LOCK_TIMEOUT = 1


@contextmanager
def only_one(lock: Path, error: Exception) -> Iterator[None]:
    """Inside the `with`, no other process is inside one with the same lock. One that is killed gives the lock back, and
    leaves its file, which the next one removes.

    Args:
        lock: a file of its own, which is removed at the end; its folder is made.
        error: what is raised where another process holds the lock.

    Raises:
        OSError: the lock cannot be written.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    file = FileLock(lock)
    try:
        file.acquire(timeout=LOCK_TIMEOUT)
    except Timeout as timeout:
        raise error from timeout
    try:
        yield
    finally:
        with suppress(OSError):  # on Windows it is removed when it is released
            lock.unlink()
        file.release()


@contextmanager
def written_together(*paths: Path) -> Iterator[Path]:
    """A hidden folder to write in. What it holds under the names of `paths` gets its place at the end, in their order.

    Where the last path is there, all of them are whole. After an error nothing that was written stays, and what was
    there before is still there.

    Args:
        paths: files or folders in one folder, which is made; those that are there are replaced.

    Raises:
        BlockingIOError: another process is writing the last one.
        OSError: `ENOSPC`, naming the last one or a file beside it: the disk is full.
    """
    last = paths[-1]
    partial = _hidden(last, ".partial")
    with only_one(_hidden(last, ".lock"), BlockingIOError(f"another process is writing {last}")):
        if partial.exists():  # a process was killed
            shutil.rmtree(partial)
        partial.mkdir()
        try:
            yield partial
            if len(paths) > 1:
                last.unlink(missing_ok=True)
            for path in paths:
                if path.is_dir():
                    shutil.rmtree(path)
                (partial / path.name).replace(path)
        except OSError as error:
            if error.errno == errno.ENOSPC and error.filename is None:  # writing into an open file names none
                raise OSError(error.errno, error.strerror, str(last)) from error
            raise
        finally:
            shutil.rmtree(partial)


def write_text(path: Path, text: str) -> None:
    """Writes a file of text, in UTF-8, as `written_together` does."""
    with written_together(path) as partial:
        (partial / path.name).write_text(text, encoding="utf-8")


def _hidden(path: Path, suffix: str) -> Path:
    """A name beside a path that folders are listed without."""
    name = f".{path.name}{suffix}"
    if len(os.fsencode(name)) > LONGEST_NAME:
        name = f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()}{suffix}"
    return path.with_name(name)
