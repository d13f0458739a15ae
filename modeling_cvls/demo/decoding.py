"""Decodes the clips of visitors in a process of its own, whose memory, time and files are limited.

An uploaded file is read by native code, which a damaged or hostile file can make crash, wait or fill the memory. Here
that ends the other process, and the page says so.
"""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..frame_reader_cvls import FrameReader
from ..selection_cvls import select_frames, with_substitutes
from ..sound import Sound, open_sound, sound_of


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
    """The frames of a clip that are gone through, and its sound.

    Attributes:
        path: the file that holds the frames and the sound.
        frames: uint8 (T, H, W, 3), RGB, mapped from the file. In place of one that cannot be decoded stands the one
            before it, or black.
        frame_indices: T numbers of these frames in the clip, from 0.
        times: T times of presentation in seconds; the clip begins at 0.
        duration: of the clip, in seconds.
        fps: frames per second of `frames`, the mean.
        substituted: the positions in `frames` of those that cannot be decoded.
        missing_frames: the numbers in the clip of all frames that are known to be missing.
        damage: a sentence that names them; None where there is none.
        sample_aspect_ratio: the width of a pixel divided by its height.
        samples: of the sound from the first frame that is there on, float32 (N, channels), mapped from the file; None
            where the clip has none.
        rate: samples per second.
    """

    path: Path
    frames: np.ndarray
    frame_indices: list[int]
    times: list[float]
    duration: float
    fps: float
    substituted: list[int]
    missing_frames: list[int]
    damage: str | None
    sample_aspect_ratio: Fraction
    samples: np.ndarray | None
    rate: int

    @property
    def positions(self) -> list[int]:
        """The positions in `frames` of those that could be decoded."""
        return sorted(set(range(len(self.frames))) - set(self.substituted))

    def position_at(self, seconds: float) -> int:
        """The position in `frames` of the one that is shown at a time of the clip."""
        there = np.array(self.positions)
        shown = np.searchsorted(np.array(self.times)[there], seconds, side="right") - 1
        return int(there[max(0, shown)])

    def sound(self) -> Sound | None:
        """To write beside the frames that are there, the first of which is the zero of its time."""
        return None if self.samples is None else sound_of(self.samples, self.rate)


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
        """Decodes the frames and the sound of a clip into a file, as far as they can be decoded.

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
        frames = np.memmap(output, np.uint8, "r", shape=tuple(answer.pop("shape")))
        length, channels = answer.pop("num_samples"), answer.pop("channels")
        samples = np.memmap(output, np.float32, "r", frames.size, (length, channels)) if length else None
        damage, aspect = answer.pop("damage"), Fraction(answer.pop("sample_aspect_ratio"))
        damage = damage and damage.replace(str(path), Path(path).name)
        return DecodedClip(Path(output), frames, damage=damage, sample_aspect_ratio=aspect, samples=samples, **answer)

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


def write_clip(path: str, output: str, limits: ClipLimits) -> dict[str, Any]:
    """Decodes a clip into a file of raw RGB frames and samples; what `DecodedClip` has to know of it.

    Raises:
        OSError, ValueError: the file is no video, none of its frames can be decoded, or it is more than the limits
            allow.
    """
    reader = FrameReader(path, on_damage="keep")
    check_clip(path, reader, limits)
    chosen = select_frames(reader, fps=limits.fps)
    shape = [len(chosen.frames), reader.height, reader.width, 3]
    size, free = int(np.prod(shape)), shutil.disk_usage(Path(output).parent).free
    if size > free / 2:
        raise ValueError(f"{path} needs {size / 1e9:.1f} GB when it is decoded, more than there is room for now.")
    with open(output, "wb") as file:
        file.writelines(map(np.ascontiguousarray, with_substitutes(reader, chosen.frames)))
        there = [place for place, index in enumerate(chosen.order) if not reader.is_missing(index)]
        if not there:
            raise ValueError(f"None of the frames of {path} can be decoded.")
        sound = write_sound(file, reader, chosen.times[there[0]])
    return {
        "shape": shape,
        "frame_indices": chosen.order,
        "times": chosen.times.tolist(),
        "duration": reader.end,
        "fps": min(reader.fps, limits.fps),
        "substituted": sorted(set(range(len(chosen.order))) - set(there)),
        "missing_frames": reader.missing_frames,
        "damage": reader.damage,
        "sample_aspect_ratio": str(reader.sample_aspect_ratio),
        **sound,
    }


def check_clip(path: str, reader: FrameReader, limits: ClipLimits) -> None:
    """Raises ValueError where a clip is more than the limits allow."""
    if reader.end > limits.seconds:
        raise ValueError(
            f"{path} is too long: it lasts {reader.end:.1f} s, and at most {limits.seconds:g} s are taken here."
        )
    height, width = reader.height, reader.width
    if height * width > limits.pixels:
        raise ValueError(
            f"The frames of {path} are too large: {width} x {height} pixels, and at most {limits.pixels:,} pixels are "
            "taken here."
        )


def write_sound(file: BinaryIO, reader: FrameReader, start: float) -> dict[str, int]:
    """Writes the samples of a clip's sound from a time on (seconds), float32 (N, channels), and says what they are."""
    sound, length = open_sound(reader, start, reader.end), 0
    if sound is None:
        return {"num_samples": 0, "channels": 0, "rate": 0}
    for chunk in sound.chunks:
        file.write(np.ascontiguousarray(chunk.T))
        length += chunk.shape[1]
    sound.close()
    return {"num_samples": length, "channels": sound.channels, "rate": sound.rate}


def limit_process(limits: ClipLimits) -> None:
    """Limits the memory of this process, beyond what it has now, and the time after which SIGALRM ends it."""
    import resource  # not on Windows

    signal.setitimer(signal.ITIMER_REAL, limits.decoding_seconds)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sizes = Path("/proc/self/statm")
    if sizes.is_file():  # other systems than Linux do not keep to a limit of memory
        used = int(sizes.read_text(encoding="ascii").split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + limits.decoding_memory,) * 2)


def answer_job(job: dict, limits: ClipLimits) -> str:
    """The answer to a job, in JSON."""
    try:
        answer = write_clip(job["path"], job["output"], limits)
    except (MemoryError, OSError, ValueError) as error:
        message = str(error)
        if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
            message = f"{job['path']} needs more than {limits.decoding_memory / 1e9:g} GB of memory to decode."
        answer = {"error": message}
    return json.dumps(answer)


def answer_in_fork(job: dict, limits: ClipLimits) -> str:
    """The answer of a new process with limits."""
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            limit_process(limits)
            with open(writing, "w", encoding="utf-8") as pipe:
                pipe.write(answer_job(job, limits))
            os._exit(0)
        finally:
            os._exit(1)  # never on into the helper's own work
    os.close(writing)
    with open(reading, encoding="utf-8") as pipe:
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
