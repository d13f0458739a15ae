"""The one rule for ids that become names of files and folders, in every data set, result and page."""

from pathlib import PurePosixPath, PureWindowsPath

# In bytes of UTF-8. File systems take 255; what is left is for suffixes such as ".partial".
MOST_BYTES = 200


def check_name(name: object, what: str) -> str:
    """An id that may become the name of a file or a folder, or a part of it.

    Args:
        name: the id.
        what: how the message calls it, for example "the video's id".

    Returns:
        The id itself.

    Raises:
        ValueError: the id is no text, is empty, leads to another folder on any system (separators, "..", a drive),
            holds a control character, or is longer than `MOST_BYTES`.
    """
    if not isinstance(name, str):
        raise ValueError(f"{what} must be text, not {type(name).__name__}")
    if (
        name in ("", ".", "..")
        or any(part(name).name != name for part in (PurePosixPath, PureWindowsPath))
        or not name.isprintable()
        or len(name.encode("utf-8", "surrogatepass")) > MOST_BYTES
    ):
        shown = name if len(name) <= 60 else f"{name[:60]}..."
        raise ValueError(
            f"{what} is {shown!r}, but it must be a plain name: one to {MOST_BYTES} bytes, no / or \\, no drive, no "
            "control characters, and neither . nor .."
        )
    return name
