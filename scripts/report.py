"""Entry point of `cvls report`; `python scripts/report.py --help` shows its arguments."""

import sys

import cvls

if __name__ == "__main__":
    cvls.main(["report", *sys.argv[1:]])
