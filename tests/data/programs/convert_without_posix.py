"""Imports the package and converts a source where there is nothing of POSIX, as on Windows: `SOURCE OUTPUT`."""

import multiprocessing
import os
import sys

# Not termios and resource: tqdm and psutil ask the platform and then import them.
HIDDEN = ("fcntl", "grp", "pwd", "syslog")

if __name__ == "__main__":
    for name in HIDDEN:
        sys.modules[name] = None  # importing it is an ImportError
    for name in ("fork", "forkpty", "getuid", "geteuid"):
        if hasattr(os, name):
            delattr(os, name)
    multiprocessing.set_start_method("spawn")

    from cvls import main

    source, output = sys.argv[1:]
    main(["convert", "a2d_sentences", "--source", source, "--output", output, "--num-proc", "2"])
    assert not any(sys.modules[name] for name in HIDDEN)
