"""Runs a command in child processes that are killed, or two at once, and writes what came of it.

python killed_runs.py FOLDER SHARES.json OPTION COMMAND ...

The command is `segment ...` or `eval ...`, without the OPTION that says where it writes. SHARES.json is a list of
numbers from 0 to 1: for each of them, a run that writes to FOLDER/<number> is killed when that share of its file
operations is done, and is started again. FOLDER/whole is written undisturbed. Into FOLDER/inside, a second run starts
while the first one is at its first video; into FOLDER/race, two start at once. Prints a JSON object: the status of
"whole", [status, status of going on] of each that was "killed", and [status of the first, of the second] of "inside"
and "race".
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch

import cvls
from children import start, wait
from modeling_cvls.evaluation import runner
from modeling_cvls.segmentation import folders

torch.set_num_threads(1)
OPTION, COMMAND = sys.argv[3], sys.argv[4:]
#: What each command calls for every video.
EACH_VIDEO = {"segment": (folders, "segment_video"), "eval": (runner, "frame_names_of")}
EVENTS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree"}


def run(output: Path) -> None:
    cvls.main([*COMMAND, OPTION, str(output)])


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
    run(output)
    if at is None:
        report.write_text(str(done))


def waiting(output: Path, begun: int, go: int) -> None:
    """Says when it begins its first video, and waits until it is told to go on."""
    module, name = EACH_VIDEO[COMMAND[0]]
    original, told = getattr(module, name), []

    def waited(*arguments, **options):
        if not told:
            told.append(1)
            os.write(begun, b"x")
            os.read(go, 1)
        return original(*arguments, **options)

    setattr(module, name, waited)
    run(output)


def one_inside_the_other(output: Path) -> list[int]:
    (begun, tell), (go, told) = os.pipe(), os.pipe()
    first = start(waiting, output, tell, go)
    os.read(begun, 1)
    second = wait(start(run, output))
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
        results["killed"].append([status, wait(start(run, output))])
    results["inside"] = one_inside_the_other(folder / "inside")
    both = [start(run, folder / "race") for _ in range(2)]
    results["race"] = [wait(child) for child in both]
    print(json.dumps(results))


if __name__ == "__main__":
    main()
