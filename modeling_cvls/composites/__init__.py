"""Composites: objects of real videos and stills, cut out along their masks and placed on the frames of another one.

Every clip shows, on the background of one source, two to four objects of others: scaled, mirrored, tinted, played at
another speed and moved along a path. At least two of them are the same object but for one thing, which the first
sentence names. The sentences say what was done, and nothing else. What test and heldout show is never shown by train.
"""

from .catalog import Catalog, Source, SourceFolders, read_catalog
from .compositing import Composite, CompositeObject, render_composite
from .language import describe_composite, possible_referents
from .rows import make_composite, write_composites

__all__ = [
    "Catalog",
    "Composite",
    "CompositeObject",
    "Source",
    "SourceFolders",
    "describe_composite",
    "make_composite",
    "possible_referents",
    "read_catalog",
    "render_composite",
    "write_composites",
]
