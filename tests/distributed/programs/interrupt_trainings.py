"""Trains in child processes that end at given moments, goes on, and writes what came of it.

python interrupt_trainings.py CONFIG.yaml FOLDER MOMENTS.json

MOMENTS.json is a list of [kind, value]: ["file", share] kills when that share of the file operations of all saves is
done; ["half", name] when half of a file is written; ["step", n] before step n; ["SIGTERM", n] and ["SIGUSR1", n] send
that signal before step n; ["evaluation", n] sends SIGTERM when the n-th evaluation begins. Each is trained in
FOLDER/<number>, the uninterrupted training in FOLDER/whole. Prints a JSON list of [status, status of going on].
"""

import json
import os
import signal
import sys
from pathlib import Path

import safetensors.torch
import torch
from transformers import TrainerCallback

import cvls
import modeling_cvls.training.trainer as module
from children import start, wait
from modeling_cvls.training import CVLSTrainer

torch.set_num_threads(1)
EVENTS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree"}


def in_child(function, *arguments) -> int:
    return wait(start(function, *arguments))


def train(config: str, output: Path, *flags: str) -> None:
    cvls.main(["train", config, "--training.output_dir", str(output), *flags])


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def count_file_operations(output: Path, at: int | None, report: Path | None = None) -> None:
    """Kills at the operation number `at` on a checkpoint in `output`, or writes how many there were."""
    done = 0

    def hook(event, arguments):
        nonlocal done
        if event in EVENTS and any(f"{output.name}/{part}" in str(arguments[0]) for part in ("_unf", "checkpoint-")):
            done += 1
            if at is not None and done == at:
                kill()
            if report is not None and event != "open":
                report.write_text(str(done))

    sys.addaudithook(hook)


def kill_in_the_middle_of(name: str) -> None:
    """The second time that a file of this name is written, half of it gets there."""
    seen = 0

    def wrap(module, attribute, place):
        save = getattr(module, attribute)

        def half(*arguments, **options):
            nonlocal seen
            save(*arguments, **options)
            path = Path(str(arguments[place] if len(arguments) > place else ""))
            seen += path.name == name
            if path.name == name and seen == 2:
                os.truncate(path, path.stat().st_size // 2)
                kill()

        setattr(module, attribute, half)

    wrap(torch, "save", 1)
    wrap(safetensors.torch, "save_model", 1)
    import transformers.modeling_utils

    wrap(transformers.modeling_utils, "safe_save_file", 1)


class SendAt(TrainerCallback):
    def __init__(self, step: int, number: int):
        self.step, self.number = step, number

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step + 1 == self.step:
            os.kill(os.getpid(), self.number)


def send_before_step(step: int, number: int) -> None:
    init = CVLSTrainer.__init__

    def with_callback(self, *arguments, **options):
        init(self, *arguments, **options)
        self.add_callback(SendAt(step, number))

    CVLSTrainer.__init__ = with_callback


def terminate_in_evaluation(wanted: int) -> None:
    evaluate, calls = module.evaluate_segmenter, []

    def terminated(*arguments, **options):
        calls.append(1)
        if len(calls) == wanted:
            os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(*arguments, **options)

    module.evaluate_segmenter = terminated


def interrupted(config: str, output: Path, kind: str, value, operations: int) -> None:
    if kind == "file":
        count_file_operations(output, max(1, round(value * operations)))
    elif kind == "half":
        kill_in_the_middle_of(value)
    elif kind == "evaluation":
        terminate_in_evaluation(value)
    else:
        send_before_step(value, signal.SIGKILL if kind == "step" else getattr(signal, kind))
    train(config, output)


def counted(config: str, output: Path, report: Path) -> None:
    count_file_operations(output, None, report)
    train(config, output)


def main() -> None:
    config, folder, moments = sys.argv[1], Path(sys.argv[2]), json.loads(Path(sys.argv[3]).read_text())
    folder.mkdir(parents=True, exist_ok=True)
    train(config, folder / "first", "--training.max_steps", "2")  # imports for all children what a training imports
    whole = in_child(counted, config, folder / "whole", folder / "operations")
    results = [[whole, whole]]
    for number, (kind, value) in enumerate(moments):
        output = folder / str(number)
        operations = int((folder / "operations").read_text())
        status = in_child(interrupted, config, output, kind, value, operations)
        again = in_child(train, config, output, "--training.resume_from_checkpoint", "true")
        results.append([status, again])
    print(json.dumps(results))


if __name__ == "__main__":
    main()
