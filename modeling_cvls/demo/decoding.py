"""Decodes the clips of visitors in a process of its own, whose memory, time and files are limited.

An uploaded file is read by native code, which a damaged or hostile file can make crash, wait or fill the memory. Here
that ends the other process, and the page says so.
"""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..frame_reader_cvls import FrameReader
from ..selection_cvls import select_frames


@dataclass(frozen=True)
class ClipLimits:
    """What is taken.

    Attributes:
        seconds: the longest clip.
        fps: frames per second that are gone through; a clip with more is thinned out.
        pixels: of a frame.
        decoding_seconds: the longest time that decoding may take.
        decoding_memory: bytes that decoding may need.
    """

    seconds: float = 60
    fps: float = 30
    pixels: int = 2560 * 1440
    decoding_seconds: float = 120
    decoding_memory: int = 2_000_000_000


@dataclass(frozen=True)
class DecodedClip:
    """The frames of a clip that are gone through.

    Attributes:
        path: the file that holds the frames.
        frames: uint8 (T, H, W, 3), RGB, mapped from the file.
        frame_indices: T numbers of these frames in the clip, from 0.
        fps: frames per second of `frames`.
    """

    path: Path
    frames: np.ndarray
    frame_indices: list[int]
    fps: float

    @property
    def duration(self) -> float:
        """In seconds."""
        return len(self.frames) / self.fps


class Decoder:
    """Decodes clips, each in a process of its own. Close it at the end.

    A helper process waits for clips with everything imported, and forks for each of them. Where a system cannot fork,
    as on Windows, the helper decodes by itself, without limits on time and memory.

    Args:
        limits: what is taken.
    """

    def __init__(self, limits: ClipLimits):
        self.limits, self._lock = limits, threading.Lock()
        self._helper = self._start()

    def _start(self) -> subprocess.Popen:
        root = Path(__file__).parents[2]  # the helper imports the package from where this one was imported
        paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
        # an arena of the memory allocator for each thread would count as used
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "MALLOC_ARENA_MAX": "2"}
        environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        return subprocess.Popen(
            [sys.executable, "-m", __name__],
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def decode(self, path: str | Path, output: str | Path) -> DecodedClip:
        """Decodes the frames of a clip into a file.

        Args:
            path: the clip, a file.
            output: the file to write.

        Raises:
            ValueError: the file is no video, is more than the limits allow, or ended the process.
        """
        job = {"path": str(path), "output": str(output), "limits": asdict(self.limits)}
        with self._lock:
            answer = self._ask(json.dumps(job))
        if "error" in answer:
            raise ValueError(answer["error"])
        frames = np.memmap(output, np.uint8, "r", shape=tuple(answer["shape"]))
        return DecodedClip(Path(output), frames, answer["frame_indices"], answer["fps"])

    def _ask(self, job: str) -> dict:
        if self._helper.poll() is not None:  # someone ended it while it waited
            self._helper = self._start()
        self._helper.stdin.write(job + "\n")
        self._helper.stdin.flush()
        line = self._helper.stdout.readline()
        if not line:
            return {"error": describe_end(json.loads(job)["path"], self._helper.wait(), self.limits)}
        return json.loads(line)

    def close(self) -> None:
        """Ends the helper."""
        self._helper.kill()
        self._helper.communicate()


def describe_end(path: str, status: int, limits: ClipLimits) -> str:
    """What the end of a process says about the clip that it decoded; `status` is below 0 for a signal."""
    if hasattr(signal, "SIGALRM") and status == -signal.SIGALRM:
        return f"{path} takes too long to decode: it was stopped after {limits.decoding_seconds:g} s."
    how = f"signal {-status}, {signal.strsignal(-status)}" if status < 0 else f"exit status {status}"
    return (
        f"{path} ended the process that decodes clips ({how}): the file is damaged, or needs more than the "
        f"{limits.decoding_memory / 1e9:g} GB of memory that are given to it here."
    )


def write_frames(path: str, output: str, limits: ClipLimits) -> dict:
    """Decodes a clip into a file of raw RGB frames; what `DecodedClip` has to know of it.

    Raises:
        OSError, ValueError: the file is no video, or more than the limits allow.
    """
    reader = FrameReader(path)
    if not (reader.fps and math.isfinite(reader.fps)):
        raise ValueError(f"{path} does not say how many frames per second it has.")
    if (seconds := len(reader) / reader.fps) > limits.seconds:
        raise ValueError(
            f"{path} is too long: it lasts {seconds:.1f} s, and at most {limits.seconds:g} s are taken here."
        )
    height, width = reader.height, reader.width
    if height * width > limits.pixels:
        raise ValueError(
            f"The frames of {path} are too large: {width} x {height} pixels, and at most {limits.pixels:,} pixels are "
            "taken here."
        )
    fps = min(reader.fps, limits.fps)
    indices = select_frames(reader, fps=fps).order
    size, free = len(indices) * height * width * 3, shutil.disk_usage(Path(output).parent).free
    if size > free / 2:
        raise ValueError(f"{path} needs {size / 1e9:.1f} GB when it is decoded, more than there is room for now.")
    with open(output, "wb") as file:
        file.writelines(np.ascontiguousarray(frame).tobytes() for frame in reader.frames(indices))
    return {"shape": [len(indices), height, width, 3], "frame_indices": indices, "fps": fps}


def limit_process(limits: ClipLimits) -> None:
    """Limits the memory of this process, beyond what it has now, and the time after which SIGALRM ends it."""
    import resource  # not on Windows

    signal.setitimer(signal.ITIMER_REAL, limits.decoding_seconds)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sizes = Path("/proc/self/statm")
    if sizes.is_file():  # other systems than Linux do not keep to a limit of memory
        used = int(sizes.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + limits.decoding_memory,) * 2)


def answer_job(job: dict, limits: ClipLimits) -> str:
    """The answer to a job, in JSON."""
    try:
        answer = write_frames(job["path"], job["output"], limits)
    except (OSError, ValueError) as error:
        answer = {"error": str(error)}
    except MemoryError:
        answer = {"error": f"{job['path']} needs more than {limits.decoding_memory / 1e9:g} GB of memory to decode."}
    return json.dumps(answer)


def answer_in_fork(job: dict, limits: ClipLimits) -> str:
    """The answer of a new process with limits."""
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            limit_process(limits)
            with open(writing, "w") as pipe:
                pipe.write(answer_job(job, limits))
            os._exit(0)
        finally:
            os._exit(1)  # never on into the helper's own work
    os.close(writing)
    with open(reading) as pipe:
        answer = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    return answer if status == 0 else json.dumps({"error": describe_end(job["path"], status, limits)})


def main() -> None:
    """The helper: jobs in JSON on standard input, one per line, and answers on standard output, until input ends."""
    for line in sys.stdin:
        job = json.loads(line)
        answer = answer_in_fork if hasattr(os, "fork") else answer_job
        print(answer(job, ClipLimits(**job["limits"])), flush=True)


if __name__ == "__main__":
    main()
