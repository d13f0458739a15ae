"""Child processes of the programs that tests start."""

import gc
import os
import socket
import sys
import traceback
from collections.abc import Callable


def start(function: Callable, *arguments) -> int:
    """Runs a function in a process of its own; its number."""
    sys.stdout.flush()
    gc.freeze()  # what is there already stays, and is not gone through at each collection in the child
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.dup2(2, 1)  # standard output is for the results
            function(*arguments)
            status = 0
        except SystemExit as stopped:
            status = stopped.code or 0
        except BaseException:
            traceback.print_exc()
        os._exit(status)
    return child


def wait(child: int) -> int:
    """The exit status of a process, or the negative number of the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def start_group(function: Callable, *arguments) -> list[int]:
    """Runs a function in two processes of one group, with the environment in which `torchrun` starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}

    def member(rank: str) -> None:
        os.environ.update(group, RANK=rank, LOCAL_RANK=rank)
        function(*arguments)

    return [start(member, rank) for rank in "01"]
