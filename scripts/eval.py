"""Measures a segmenter on a data set: `cvls eval`, also in several processes by `torchrun` or `accelerate launch`."""

import sys

from cvls import main

if __name__ == "__main__":
    main(["eval", *sys.argv[1:]])
