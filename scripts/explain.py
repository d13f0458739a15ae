"""Entry point of `cvls explain`; `python scripts/explain.py --help` shows its arguments."""

import sys

import cvls

if __name__ == "__main__":
    cvls.main(["explain", *sys.argv[1:]])
