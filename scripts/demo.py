"""Entry point of `cvls demo`; `python scripts/demo.py --help` shows its arguments. See docs/guides/demo_page.md."""

import sys

import cvls


def main(arguments: list[str]) -> None:
    cvls.main(["demo", *arguments])


if __name__ == "__main__":
    main(sys.argv[1:])
