"""Segments what sentences refer to in videos: `cvls segment`, also in several processes by `accelerate launch`."""

import sys

from cvls import main

if __name__ == "__main__":
    main(["segment", *sys.argv[1:]])
