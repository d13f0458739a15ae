"""The one rule for ids that become names of files and folders, and for links, in every data set, result and page."""

import os
import stat
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath

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


def check_path(path: object, what: str) -> str:
    """A path below a folder, by which data name a file: each part of it is a plain name, with / between them.

    Args:
        path: the path.
        what: how the message calls it, for example "the file_name".

    Returns:
        The path itself.

    Raises:
        ValueError: the path is no text or is empty, or a part of it is no plain name (see `check_name`), as those of
            absolute paths and of paths with ".." are.
    """
    if not isinstance(path, str):
        raise ValueError(f"{what} must be text, not {type(path).__name__}")
    try:
        for part in PurePosixPath(path).parts or [path]:
            check_name(part, "a part of it")
    except ValueError as error:
        shown = path if len(path) <= 60 else f"{path[:60]}..."
        raise ValueError(f"{what} {shown!r} leads out of the folder, or is no path: {error}") from error
    return path


def repeated(names: Iterable[str]) -> list[str]:
    """The names that come more than once, each once, in the order in which they come first."""
    return [name for name, number in Counter(names).items() if number > 1]


def check_link(path: Path, folder: Path) -> None:
    """Raises a `ValueError` that names the path unless it leads into the folder, which may itself be a link."""
    target = path.resolve()
    if not target.is_relative_to(folder.resolve()):
        raise ValueError(
            f"{path} is a link to {target}, which is outside {folder}; --allow-links lets links lead out of the folder"
        )


def check_tree(folder: Path, allow_links: bool) -> None:
    """Refuses what would lead a reader out of a folder, or make it wait for ever.

    Args:
        folder: the folder, which may itself be a link.
        allow_links: let links lead out of it.

    Raises:
        ValueError: naming a link that leads out of the folder, or something that is neither a file nor a folder.
    """
    root = folder.resolve()
    if not root.is_dir():
        return  # whoever looks for the parts of the folder says which one is missing
    folders = [root]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                path = Path(entry.path)
                if entry.is_symlink():
                    if not allow_links:
                        check_link(path, folder)
                    known = not path.exists() or stat.S_IFMT(path.stat().st_mode) in (stat.S_IFREG, stat.S_IFDIR)
                elif entry.is_dir(follow_symlinks=False):
                    folders.append(path)
                    known = True
                else:
                    known = entry.is_file(follow_symlinks=False)
                if not known:
                    raise ValueError(f"{path} is neither a file nor a folder, but a pipe, a socket or a device")


def plain_name(name: str) -> str:
    """A name of a file or folder as `check_name` takes it: shortened where it is too long, and with _ in place of
    separators, control characters and the colon of a drive."""
    name = "".join(character if character.isprintable() and character not in "/\\" else "_" for character in name)
    if PureWindowsPath(name).drive:
        name = name.replace(":", "_")
    name = name.encode("utf-8", "replace")[:MOST_BYTES].decode("utf-8", "ignore")
    return check_name(name, "the name")
