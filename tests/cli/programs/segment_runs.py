"""Runs `cvls segment` in child processes that are killed, or two at once, and writes what came of it.

python segment_runs.py FOLDER SHARES.json ARGUMENT ...

The arguments are those of `cvls segment` without --output. SHARES.json is a list of numbers from 0 to 1: for each of
them, a run that writes to FOLDER/<number> is killed when that share of its file operations is done, and is started
again. FOLDER/whole is written undisturbed. Into FOLDER/inside, a second run starts while the first one is at its first
video; into FOLDER/race, two start at once. Prints a JSON object: the status of "whole", [status, status of going on] of
each that was "killed", and [status of the first, of the second] of "inside" and "race".
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch

import cvls
from children import start, wait
from modeling_cvls.segmentation import folders

torch.set_num_threads(1)
EVENTS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree"}


def segment(output: Path) -> None:
    cvls.main(["segment", *sys.argv[3:], "--output", str(output)])


def counted(output: Path, at: int | None, report: Path) -> None:
    """Is killed at the operation number `at` on a file in `output`, or writes how many there were."""
    done = 0

    def hook(event, arguments):
        nonlocal done
        if event in EVENTS and str(output) in str(arguments[0]):
            done += 1
            if done == at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    segment(output)
    if at is None:
        report.write_text(str(done))


def waiting(output: Path, begun: int, go: int) -> None:
    """Says when it begins its first video, and waits until it is told to go on."""
    original, told = folders.segment_video, []

    def waited(*arguments, **options):
        if not told:
            told.append(1)
            os.write(begun, b"x")
            os.read(go, 1)
        return original(*arguments, **options)

    folders.segment_video = waited
    segment(output)


def one_inside_the_other(output: Path) -> list[int]:
    (begun, tell), (go, told) = os.pipe(), os.pipe()
    first = start(waiting, output, tell, go)
    os.read(begun, 1)
    second = wait(start(segment, output))
    os.write(told, b"x")
    return [wait(first), second]


def main() -> None:
    folder, shares = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
    folder.mkdir(parents=True, exist_ok=True)
    report = folder / "operations"
    results = {"whole": wait(start(counted, folder / "whole", None, report)), "killed": []}
    for number, share in enumerate(shares):
        output = folder / str(number)
        status = wait(start(counted, output, max(1, round(share * int(report.read_text()))), report))
        results["killed"].append([status, wait(start(segment, output))])
    results["inside"] = one_inside_the_other(folder / "inside")
    both = [start(segment, folder / "race") for _ in range(2)]
    results["race"] = [wait(child) for child in both]
    print(json.dumps(results))


if __name__ == "__main__":
    main()
