"""What is wrong in a source: the first problem ends a conversion, or each one is left out and noted."""

from collections.abc import Callable
from dataclasses import dataclass, field

from ..names import check_name, check_path

#: (where, why): the file and row of something wrong in the source, and what is wrong with it.
Problem = tuple[str, str]


@dataclass
class Problems:
    """What is wrong in the source: the first one ends the conversion, or (`skip`) each is left out and noted.

    Args:
        skip: leave out what is wrong (--skip-invalid).

    Attributes:
        left_out: {"split": its name or None where it is not known, "where", "why"}, in the order of the source.
    """

    skip: bool = False
    left_out: list[dict[str, str | None]] = field(default_factory=list)

    def found(self, where: str, why: str, split: str | None = None) -> None:
        """Notes a problem; whoever calls it then leaves out what it is about.

        Args:
            where: file and row, as in "text_annotations/a2d_annotation.txt, line 17".
            why: what is wrong and what would be right.
            split: the split it is in, if that is known.

        Raises:
            ValueError: "where: why", unless `skip`.
        """
        if not self.skip:
            raise ValueError(f"{where}: {why} (--skip-invalid leaves out whatever is wrong in the source)")
        self.left_out.append({"split": split, "where": where, "why": why})

    def is_name(self, where: str, name: object, what: str, split: str | None = None) -> bool:
        """Whether an id is a plain name (see `check_name`); it is a problem where it is not.

        Args:
            where, split: as for `found`.
            name: the id.
            what: how the message calls it.

        Raises:
            ValueError: as `found`.
        """
        return self._passes(check_name, where, name, what, split)

    def is_path(self, where: str, path: object, what: str, split: str | None = None) -> bool:
        """As `is_name`, for a path below a folder (see `check_path`)."""
        return self._passes(check_path, where, path, what, split)

    def _passes(self, check: Callable, where: str, name: object, what: str, split: str | None) -> bool:
        try:
            check(name, what)
        except ValueError as error:
            self.found(where, str(error), split)
            return False
        return True
