"""Train a segmenter: `accelerate launch scripts/train.py configs/demo.yaml [--section.key value ...]`."""

import sys

from cvls import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
