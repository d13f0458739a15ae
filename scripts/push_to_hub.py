"""Entry point of `cvls push`; `python scripts/push_to_hub.py --help` shows its arguments."""

import sys

import cvls

if __name__ == "__main__":
    cvls.main(["push", *sys.argv[1:]])
