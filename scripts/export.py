"""Entry point of `cvls export`; `python scripts/export.py --help` shows its arguments."""

import sys

import cvls

if __name__ == "__main__":
    cvls.main(["export", *sys.argv[1:]])
