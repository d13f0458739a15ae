"""Entry point of `cvls synthesize`; `python scripts/make_synthetic.py --help` shows its arguments."""

import sys

import cvls

if __name__ == "__main__":
    cvls.main(["synthesize", *sys.argv[1:]])
