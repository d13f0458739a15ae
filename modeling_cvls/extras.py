"""Packages that only some commands need: a missing one is an error that says how to install it."""

import importlib.util


def require(extra: str, *names: str) -> None:
    """Call before importing packages of an optional dependency group.

    Args:
        extra: the group's name in pyproject.toml, such as "train".
        names: modules that are needed, such as "datasets".

    Raises:
        ImportError: naming the modules that are not installed, and the command that installs them.
    """
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise ImportError(
            f"{' and '.join(missing)} {verb} not installed; this needs the extra `{extra}`: "
            f'pip install "modeling-cvls[{extra}]"',
            name=missing[0],
        )
