"""Several CPU processes from `accelerate launch --cpu --num_processes N`."""

import os
import sys

import psutil
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser


def start_cpu_processes() -> None:
    """Call first in a script: makes `accelerate launch --cpu --num_processes N script.py` run N processes.

    For CPUs Accelerate prepares the environment of N processes, starts one and leaves the others to MPI
    (huggingface/accelerate issue 2741): the script would run alone, without a word. Here that one process replaces
    itself by torch's own launcher. Everywhere else (one process, GPUs, `torchrun`, MPI) this does nothing.

    Raises:
        RuntimeError: how many processes were asked for cannot be found.
    """
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
