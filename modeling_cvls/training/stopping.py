"""Ending a training when the machine is about to be taken away, without losing a step."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from transformers import TrainerCallback

#: What ends a process in time: SIGTERM, and SIGUSR1 where a batch system is told to send it.
SIGNALS = [signal.SIGTERM, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else [])]


class TrainingStopped(Exception):
    """Raised in the training loop when a signal asks the process to end."""


class StopOnSignal(TrainerCallback):
    """Inside the `with`, a signal lets the training save a checkpoint after its step, and raises `TrainingStopped`.

    It is raised at once while the model is evaluated, which may take longer than the time that is left. The Trainer's
    own `enable_jit_checkpoint` knows SIGTERM alone, and stops several processes at different steps.

    Attributes:
        received: the signal's number, or None.
    """

    def __init__(self):
        self.received: int | None = None
        self._evaluating = False
        self._handlers: dict[int, object] = {}

    def __enter__(self) -> "StopOnSignal":
        if threading.current_thread() is threading.main_thread():  # no other may set handlers
            self._handlers = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _receive(self, number, frame) -> None:
        self.received = number
        if self._evaluating:
            self._evaluating = False  # a second signal shall not disturb what the first one started
            raise TrainingStopped

    @contextmanager
    def during_evaluation(self) -> Iterator[None]:
        """Inside the `with`, a signal raises `TrainingStopped` at once."""
        self._evaluating = True
        try:
            yield
        finally:
            self._evaluating = False

    def on_step_end(self, args, state, control, **kwargs):
        processes = PartialState()
        if processes.num_processes > 1:  # all of them stop after the same step
            number = reduce(torch.tensor(self.received or 0, device=processes.device), "sum")
            self.received = self.received or (signal.SIGTERM if number else None)
        if self.received:
            control.should_save, control.should_evaluate = True, False

    def on_save(self, args, state, control, **kwargs):
        if self.received:
            raise TrainingStopped
