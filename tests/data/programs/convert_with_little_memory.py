"""`cvls convert NAME` with 400 MB more of address space than it takes to begin: `NAME SOURCE OUTPUT`."""

import resource
import sys

import scipy.io  # noqa: F401
import torch  # noqa: F401

import modeling_cvls.conversion  # noqa: F401
from cvls import main

if __name__ == "__main__":
    name, source, output = sys.argv[1:]
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 400_000_000, resource.RLIM_INFINITY))
    main(["convert", name, "--source", source, "--output", output, "--num-proc", "1"])
