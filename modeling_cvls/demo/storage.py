"""Files of visitors, which are deleted when they are old."""

import threading
import time
from collections.abc import Callable
from pathlib import Path


class Storage:
    """A folder whose files are deleted some time after they were last written.

    Args:
        folder: uploads, decoded frames and results are in it.
        seconds: how long a file is kept.
        clock: the time in seconds since the epoch.
    """

    def __init__(self, folder: str | Path, seconds: float, clock: Callable[[], float] = time.time):
        self.folder, self.seconds, self.clock = Path(folder), seconds, clock
        self._closed = threading.Event()

    def delete_old(self) -> None:
        """Deletes what is too old now, and the folders that are empty then."""
        paths = sorted(self.folder.rglob("*"), reverse=True)  # what is in a folder before the folder
        for path in paths:
            try:
                if self.clock() - path.lstat().st_mtime <= self.seconds:
                    continue
                if path.is_dir() and not path.is_symlink():
                    path.rmdir()
                else:
                    path.unlink()
            except OSError:  # a folder that is not empty, or a file that someone else deleted
                continue

    def delete_old_regularly(self, then: Callable[[], None], interval: float = 60) -> None:
        """Starts a thread that calls `delete_old` and `then` every `interval` seconds until `close`."""

        def run() -> None:
            while not self._closed.wait(interval):
                self.delete_old()
                then()

        threading.Thread(target=run, daemon=True).start()

    def close(self) -> None:
        """Ends the thread."""
        self._closed.set()
