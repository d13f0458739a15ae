"""Fonts that show the sentences of a legend, whatever their script, and lines that fit."""

import functools
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import ImageFont

#: Where systems keep their fonts.
FOLDERS = {
    "darwin": ("/System/Library/Fonts", "/Library/Fonts", "~/Library/Fonts"),
    "win32": ("C:/Windows/Fonts", "~/AppData/Local/Microsoft/Windows/Fonts"),
}.get(sys.platform, ("/usr/share/fonts", "/usr/local/share/fonts", "~/.fonts", "~/.local/share/fonts"))
SUFFIXES = (".otf", ".ttc", ".ttf")
#: Of names of fonts that are no plain text fonts.
STYLES = ("black", "bold", "condensed", "italic", "light", "mono", "oblique", "serif", "thin")
NO_CHARACTER = "\uffff"  # that Unicode never assigns: fonts show what they show for all characters that they lack


def font_for(text: str, size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font where it has all characters of a text, or else one of the system's that has them.

    Where none has them all, a warning names the characters that the one with the most of them lacks.

    Args:
        size: in pixels.
    """
    characters = frozenset(character for character in text if not character.isspace())
    path = _file_for(characters)
    return ImageFont.load_default(size) if path is None else ImageFont.truetype(path, size)


def text_blocks(texts: Sequence[str], size: int, width: float) -> list[tuple[ImageFont.FreeTypeFont, list[str]]]:
    """For each text its font and its lines, as `font_for` and `wrap` give them."""
    fonts = [font_for(text, size) for text in texts]
    return [(font, wrap(text, font, width)) for text, font in zip(texts, fonts, strict=True)]


def wrap(text: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """`text` in lines of at most `width` pixels, broken between words; a word that is longer is broken where the line
    ends, as in scripts without spaces."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        if lines[-1]:
            lines.append("")
        for character in word:
            if lines[-1] and font.getlength(lines[-1] + character) > width:
                lines.append("")
            lines[-1] += character
    return lines


@functools.lru_cache(maxsize=256)
def _file_for(characters: frozenset[str]) -> str | None:
    """The file of a font with these characters; None for Pillow's own."""
    best, fewest = None, _lacking(ImageFont.load_default(16), characters)
    for path in _system_fonts() if fewest else ():
        try:
            lacking = _lacking(ImageFont.truetype(path, 16), characters)
        except OSError:  # a font of another kind, such as one of bitmaps
            continue
        if len(lacking) < len(fewest):
            best, fewest = path, lacking
        if not fewest:
            break
    if fewest:
        warnings.warn(
            f"no font on this system shows {' '.join(sorted(fewest))}: boxes stand in their place; install a font of "
            "that script, for example the Noto fonts",
            stacklevel=4,
        )
    return best


def _lacking(font: ImageFont.FreeTypeFont, characters: frozenset[str]) -> frozenset[str]:
    placeholder = _drawn(font, NO_CHARACTER)
    return frozenset(character for character in characters if _drawn(font, character) == placeholder)


def _drawn(font: ImageFont.FreeTypeFont, character: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(character)
    return mask.size, bytes(mask)


@functools.cache
def _system_fonts() -> tuple[str, ...]:
    """The files of the system's fonts; regular ones first, as others are slanted or bold."""

    def files() -> Iterator[str]:
        for folder in FOLDERS:
            for where, _, names in os.walk(Path(folder).expanduser()):
                yield from (str(Path(where, name)) for name in names if name.lower().endswith(SUFFIXES))

    def order(path: str) -> tuple[bool, str, str]:
        name = Path(path).name.lower()
        return any(style in name for style in STYLES), name, path

    return tuple(sorted(files(), key=order))
