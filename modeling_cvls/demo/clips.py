"""The clips that visitors work with: decoded once, and kept for further sentences while there is room."""

import os
import tempfile
import threading
from collections import OrderedDict
from pathlib import Path

from .decoding import DecodedClip, Decoder

KEPT = 4  # clips


class Clips:
    """Opens the clips of visitors.

    Args:
        decoder: decodes a clip in a process of its own.
        folder: for the decoded frames.
    """

    def __init__(self, decoder: Decoder, folder: Path):
        self.decoder, self.folder = decoder, folder
        self._clips: OrderedDict[str, DecodedClip] = OrderedDict()
        self._lock = threading.Lock()

    def open(self, path: str | None) -> DecodedClip:
        """The decoded clip.

        Raises:
            OSError, ValueError: there is no clip, or it cannot be decoded.
        """
        if path is None:
            raise ValueError("There is no clip yet: upload one or choose an example.")
        self.forget_deleted()
        if not Path(path).is_file():
            raise ValueError("The clip has been deleted by now: upload it again.")
        with self._lock:
            if path in self._clips:
                self._clips.move_to_end(path)
                return self._clips[path]
        file, output = tempfile.mkstemp(".frames", dir=self.folder)
        os.close(file)
        try:
            clip = self.decoder.decode(path, output)
        except BaseException:
            os.unlink(output)
            raise
        with self._lock:
            self._clips[path] = clip
            while len(self._clips) > KEPT:
                _, oldest = self._clips.popitem(last=False)
                oldest.path.unlink(missing_ok=True)
        return clip

    def forget_deleted(self) -> None:
        """Gives up the clips whose files were deleted, so that the room is free."""
        with self._lock:
            for path, clip in list(self._clips.items()):
                if not (Path(path).is_file() and clip.path.is_file()):
                    del self._clips[path]
                    clip.path.unlink(missing_ok=True)
