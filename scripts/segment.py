"""Segments what sentences refer to in videos: `cvls segment`, also in several processes by `accelerate launch`."""

import sys

from cvls import main
from modeling_cvls.launch import start_cpu_processes

if __name__ == "__main__":
    start_cpu_processes()
    main(["segment", *sys.argv[1:]])
