"""The values of a json object that is too large for memory."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

# Characters that are read at a time; in MeViS the masks of one object in all frames take some 100,000.
CHUNK = 1 << 20


def find_values(path: Path) -> Iterator[tuple[str, int, int]]:
    """Where the values of a json object lie in its file, without holding more than one of them in memory.

    mask_dict.json of MeViS's train split takes a gigabyte in memory; its values are read when they are needed.

    Args:
        path: a json object in ASCII, whose values are lists, objects or null.

    Yields:
        key, first byte, number of bytes of a value.

    Raises:
        ValueError: naming the file and the character: not such a json.
    """
    with open(path, encoding="ascii", newline="") as file:
        try:
            yield from _Scanner(path, file).values()
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: not json in ASCII: {error}") from error


class _Scanner:
    """Goes through a file piece by piece. Positions count from the start of `text`, the piece that is in memory."""

    def __init__(self, path: Path, file: TextIO):
        self.path = path
        self.file = file
        self.text = ""
        self.start = 0  # where in the file `text` begins
        self.decoder = json.JSONDecoder()

    def values(self) -> Iterator[tuple[str, int, int]]:
        position = self.skip(self.expect(self.skip(0), "{"))
        while self.text[position : position + 1] != "}":
            self.expect(position, '"')
            end = self.decode(position)
            key = self.text[position:end]
            value = self.skip(self.expect(self.skip(end), ":"))
            end = self.decode(value)
            yield json.loads(key), self.start + value, end - value
            position = self.expect(self.skip(end), ",}")
            if self.text[position - 1] == "}":
                break
            position = self.skip(position)
            if position > CHUNK:
                self.text, self.start, position = self.text[position:], self.start + position, 0

    def more(self) -> bool:
        # As much again as there is: a long value is tried a few times, not once per chunk.
        chunk = self.file.read(max(CHUNK, len(self.text)))
        self.text += chunk
        return bool(chunk)

    def skip(self, position: int, characters: str = " \t\r\n") -> int:
        while True:
            while position < len(self.text) and self.text[position] in characters:
                position += 1
            if position < len(self.text) or not self.more():
                return position

    def decode(self, position: int) -> int:
        """The end of the value at a position."""
        while True:
            try:
                return self.decoder.raw_decode(self.text, position)[1]
            except json.JSONDecodeError as error:
                if not self.more():
                    where = self.start + error.pos
                    raise ValueError(f"{self.path}: not json at character {where}: {error.msg}") from error

    def expect(self, position: int, characters: str) -> int:
        if position >= len(self.text) or self.text[position] not in characters:
            where = self.start + position
            raise ValueError(f"{self.path}: not a json object: expected {characters!r} at character {where}")
        return position + 1
