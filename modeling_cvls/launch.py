"""How the scripts start: several processes, also on CPUs, and the checkpoint that they are given."""

import atexit
import os
import sys
from datetime import timedelta
from pathlib import Path

import psutil
import torch
import torch.distributed
from accelerate import PartialState
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from accelerate.utils import parse_flag_from_env
from transformers import AutoConfig


def start_cpu_processes() -> None:
    """Call first in a script: makes `accelerate launch --cpu --num_processes N script.py` run N processes.

    For CPUs Accelerate prepares the environment of N processes, starts one and leaves the others to MPI
    (huggingface/accelerate issue 2741): the script would run alone, without a word. Here that one process replaces
    itself by torch's own launcher. Everywhere else (one process, GPUs, `torchrun`, MPI) the number of processes stays.

    Processes on CPUs leave their group when the script ends. Otherwise one may abort after its work is done, where
    gloo's threads still hold tensors while the interpreter goes (pytorch/pytorch pull request 179291).

    Raises:
        RuntimeError: how many processes were asked for cannot be found.
    """
    atexit.register(_leave_group)
    several = os.environ.get("ACCELERATE_USE_CPU") == "True" and "MASTER_ADDR" in os.environ
    if not several or any(name in os.environ for name in ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE")):
        return
    # the number stands nowhere but on the command line of the launcher, or in its configuration file
    command = psutil.Process().parent().cmdline()
    start = next((i for i, word in enumerate(command) if os.path.basename(word).startswith("accelerate")), None)
    if start is None:
        raise RuntimeError(
            "ACCELERATE_USE_CPU and MASTER_ADDR are set as for several processes, but `accelerate launch` did not "
            "start this one; unset them, or start the processes with `torchrun --nproc_per_node N`"
        )
    arguments = [word for word in command[start + 1 :] if word != "launch"]
    launched, _ = launch_command_parser().parse_known_args(arguments)
    number = launched.num_processes or load_config_from_file(launched.config_file).num_processes
    for name in ("MASTER_ADDR", "MASTER_PORT"):  # torch's launcher chooses its own
        del os.environ[name]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(number)]
    os.execv(sys.executable, [sys.executable, *launcher, *sys.argv])


def _leave_group() -> None:
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    if distributed and torch.distributed.get_backend() == torch.distributed.Backend.GLOO:
        torch.distributed.destroy_process_group()


def process_state() -> PartialState:
    """Joins the processes. Accelerate joins those on CPUs only if told so, and they wait for the slowest one, which may
    have long videos."""
    cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    return PartialState(cpu=cpu, timeout=timedelta(days=1))


def check_checkpoint(name: str, argument: str) -> None:
    """Raises FileNotFoundError or ValueError, naming the argument, where `name` is a folder that does not exist or
    holds another model. Transformers would look for the first on the Hub, and load the second."""
    if not Path(name).is_dir() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise FileNotFoundError(f"{argument} {name}: there is no such folder")
    model_type = AutoConfig.from_pretrained(name).model_type
    if model_type != "cvls":
        raise ValueError(f"{argument} {name} holds a model of type {model_type}; one of type cvls was expected")
