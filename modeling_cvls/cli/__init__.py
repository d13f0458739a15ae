"""The commands of `cvls`, one module each with `main(arguments: list[str] | None = None, prog: str = "cvls NAME")`.

The table of commands and the handling of errors stand in cvls.py, beside the package.
"""
