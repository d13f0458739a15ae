"""The clips that visitors work with: decoded and encoded once, and kept for further sentences while there is room."""

import os
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..pipeline_cvls import CVLSPipeline
from ..session_cvls import CVLSVideoSession
from .decoding import DecodedClip, Decoder

KEPT = 4  # clips
MEMORY = "1GB"  # of a clip's features; what is beyond goes to disk


@dataclass(frozen=True)
class OpenClip:
    """A clip that sentences can be asked about.

    Attributes:
        clip: its frames.
        session: its features.
        seconds: how long each step of opening took; empty where the clip was open already.
    """

    clip: DecodedClip
    session: CVLSVideoSession
    seconds: dict[str, float]

    def close(self) -> None:
        """Gives memory and disk back."""
        self.session.close()
        self.clip.path.unlink(missing_ok=True)


class Clips:
    """Opens the clips of visitors, one at a time.

    Args:
        segmenter: the pipeline with the model.
        decoder: decodes a clip in a process of its own.
        folder: for the decoded frames.
    """

    def __init__(self, segmenter: CVLSPipeline, decoder: Decoder, folder: Path):
        self.segmenter, self.decoder, self.folder = segmenter, decoder, folder
        self._clips: OrderedDict[str, OpenClip] = OrderedDict()
        self._lock = threading.Lock()

    @contextmanager
    def open(self, path: str | None) -> Iterator[OpenClip]:
        """The clip; nothing of it is deleted until the context ends.

        Raises:
            OSError, ValueError: there is no clip, or it cannot be decoded.
        """
        if path is None:
            raise ValueError("There is no clip yet: upload one or choose an example.")
        self.forget_deleted()
        with self._lock:
            if not Path(path).is_file():
                raise ValueError("The clip has been deleted by now: upload it again.")
            if path in self._clips:
                self._clips.move_to_end(path)
                known = self._clips[path]
                yield OpenClip(known.clip, known.session, {})
                return
            self._clips[path] = opened = self._open(path)
            while len(self._clips) > KEPT:
                _, oldest = self._clips.popitem(last=False)
                oldest.close()
            yield opened

    def _open(self, path: str) -> OpenClip:
        file, output = tempfile.mkstemp(".frames", dir=self.folder)
        os.close(file)
        try:
            start = time.perf_counter()
            clip = self.decoder.decode(path, output)
            decoded = time.perf_counter()
            session = self.segmenter.open(clip.frames, max_memory=MEMORY, video_fps=clip.fps, progress=True)
        except BaseException:
            os.unlink(output)
            raise
        return OpenClip(clip, session, {"decoding": decoded - start, "encoding": time.perf_counter() - decoded})

    def forget_deleted(self) -> None:
        """Closes the clips whose files were deleted."""
        with self._lock:
            for path, opened in list(self._clips.items()):
                if not (Path(path).is_file() and opened.clip.path.is_file()):
                    self._clips.pop(path).close()

    def close(self) -> None:
        """Closes all of them."""
        with self._lock:
            while self._clips:
                self._clips.popitem()[1].close()
