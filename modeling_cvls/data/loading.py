"""Loading a data set by its name, with errors that say which argument named it."""

from pathlib import Path
from typing import Any

from datasets import load_dataset


def load_rows(name: str, argument: str, split: str | None = None, streaming: bool = False) -> Any:
    """`datasets.load_dataset` of a data set of video sentences.

    Args:
        name: folder or Hub name.
        argument: how messages call where the name is from, such as "--dataset".
        split, streaming: as `load_dataset` takes them.

    Returns:
        The rows of the split; without a split, all splits by name.

    Raises:
        FileNotFoundError: there is no such folder, nor such a data set on the Hub.
        ValueError: there is no such split.
    """
    try:
        return load_dataset(name, split=split, streaming=streaming)
    except OSError as error:
        if Path(name).exists():
            raise
        raise FileNotFoundError(
            f"{argument} {name}: there is no such folder, and it was not found on the Hub: {error}"
        ) from error
    except ValueError as error:  # which names the split and those that there are
        raise ValueError(f"{argument} {name}: {error}") from error
