"""Entry point of `cvls compose`; `python scripts/make_composites.py --help` shows its arguments."""

import sys

import cvls

if __name__ == "__main__":
    cvls.main(["compose", *sys.argv[1:]])
