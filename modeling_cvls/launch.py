"""How commands start: several processes, also on CPUs, and the checkpoint that they are given."""

import atexit
import os
import shlex
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig


def prepare_processes() -> None:
    """Call first in a command that several processes may run: one on each GPU, or several on CPUs.

    Processes on CPUs leave their group when the command ends. Otherwise one may abort after its work is done, where
    gloo's threads still hold tensors while the interpreter goes (pytorch/pytorch pull request 179291).

    Raises:
        ValueError: `accelerate launch --cpu` was asked for several processes. It prepares the environment of all of
            them, starts one, and leaves the others to MPI (huggingface/accelerate issue 2741): the one would run alone,
            without a word.
    """
    atexit.register(_leave_group)
    several = os.environ.get("ACCELERATE_USE_CPU") == "True" and "MASTER_ADDR" in os.environ
    started = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
    if several and not any(name in os.environ for name in started):
        raise ValueError(
            "`accelerate launch --cpu` starts only one process, whatever --num_processes says; start N processes with: "
            f"torchrun --nproc-per-node N {shlex.join(sys.argv)}"
        )


def _leave_group() -> None:
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    if distributed and torch.distributed.get_backend() == torch.distributed.Backend.GLOO:
        torch.distributed.destroy_process_group()


def process_state() -> PartialState:
    """Prepares and joins the processes. Accelerate joins those on CPUs only if told so, and they wait for the slowest
    one, which may have long videos."""
    prepare_processes()
    cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    return PartialState(cpu=cpu, timeout=timedelta(days=1))


def check_checkpoint(name: str, argument: str) -> None:
    """Raises FileNotFoundError or ValueError, naming the argument, where `name` is a folder that does not exist, holds
    another model, or has weights that are cut off. Transformers would look for the first on the Hub, and load the
    second."""
    if not Path(name).is_dir() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise FileNotFoundError(f"{argument} {name}: there is no such folder")
    model_type = AutoConfig.from_pretrained(name).model_type
    if model_type != "cvls":
        raise ValueError(f"{argument} {name} holds a model of type {model_type!r}; one of type 'cvls' was expected")
    for weights in sorted(Path(name).glob("model*.safetensors")):
        try:
            with safe_open(weights, "pt"):  # which holds the file's size against what its header says
                pass
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{argument} {weights} is damaged ({error}); save or download it again") from error
