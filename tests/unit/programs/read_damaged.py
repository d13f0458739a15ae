"""Reads damaged files in a process that goes on with the next one, with limits of time and memory; a file that ends it
is a crash, and a new process reads the others.

python read_damaged.py SECONDS FILE ...

Prints a line of JSON per file: [name, what it ended with, details], where the second is "frames" (details: frames that
were read, frames that are missing), "error" (a message that names the file) or "crash".
"""

import json
import os
import resource
import signal
import sys
from pathlib import Path

from modeling_cvls import FrameReader
from modeling_cvls.video_decoder_cvls import import_decord
from modeling_cvls.video_packets_cvls import import_av

MEMORY = 4_000_000_000  # bytes of addresses, of which the libraries take the half


def read(path):
    """What reading a file in one pass and in any order ends with."""
    try:
        reader = FrameReader(path, on_damage="keep")
        there = [index for index, frame in enumerate(reader.frames(range(len(reader)))) if frame is not None]
        for index in there[:: max(1, len(there) // 5)]:
            assert reader.read([index]).shape == (1, reader.height, reader.width, 3)
        if reader.missing_frames:
            assert str(path) in reader.damage
        return "frames", [len(there), len(reader.missing_frames)]
    except (MemoryError, OSError, ValueError) as error:
        return "error" if str(path) in str(error) else "crash", str(error)
    except BaseException as error:
        return "crash", repr(error)


def read_in_fork(paths, seconds):
    """(what it ended with, details) of each file up to one that ends the process."""
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        with open(writing, "w") as pipe:
            for path in paths:
                signal.alarm(seconds)
                print(json.dumps(read(path)), file=pipe, flush=True)
        os._exit(0)
    os.close(writing)
    with open(reading) as pipe:
        answers = [json.loads(line) for line in pipe if line.endswith("\n")]
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    return answers if status == 0 else [*answers, ("crash", f"status {status}")]


def main(seconds, *paths):
    import_av()
    import_decord()
    done = 0
    while done < len(paths):
        some = paths[done : done + 50]
        for path, answer in zip(some, read_in_fork(some, int(seconds)), strict=False):
            print(json.dumps([Path(path).name, *answer]), flush=True)
            done += 1


if __name__ == "__main__":
    main(*sys.argv[1:])
