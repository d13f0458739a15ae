"""The tables of an mp4 or mov file, held against its size before a decoder allocates memory for what they declare."""

import io
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

CONTAINERS = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf", b"edts")
FIRST_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp", b"moof", b"sidx", b"uuid")
#: Where the number of entries stands in a table, and the bytes of an entry (ISO/IEC 14496-12).
TABLES = {
    b"stts": (4, 8),
    b"ctts": (4, 8),
    b"stsc": (4, 12),
    b"stco": (4, 4),
    b"co64": (4, 8),
    b"stss": (4, 4),
    b"stsz": (8, 4),
    b"elst": (4, 12),
    b"trun": (4, 0),
}
#: A sample of compressed sound may take less than a byte in old files, where each value of the wave is one.
SAMPLES_PER_BYTE_OF_SOUND = 64


def check_mp4_tables(source: str | bytes) -> None:
    """Raises ValueError where an mp4 or mov file declares more samples (frames) than its bytes can hold.

    FFmpeg and decord allocate memory for what is declared: a file of 6 kB can make them end the process. Files of other
    formats, and tables that are cut off, are left to the decoder.

    Args:
        source: the path of a file, or its bytes.
    """
    with open(source, "rb") if isinstance(source, str) else io.BytesIO(source) as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(4)
        if file.read(4) not in FIRST_BOXES:
            return
        kind = b"vide"
        for name, start, stop in walk_boxes(file, size):
            file.seek(start)
            head = file.read(12)
            if name == b"hdlr":
                kind = head[8:12]
            elif name in TABLES:
                samples = declared_samples(file, name, head, start, stop)
                most = size if kind == b"vide" else SAMPLES_PER_BYTE_OF_SOUND * size
                if samples > most:
                    raise ValueError(f"declares {samples:,} frames or samples, more than its {size:,} bytes can hold")


def walk_boxes(file: BinaryIO, size: int) -> Iterator[tuple[bytes, int, int]]:
    """The name, start and stop of the content of each box that is a table or says what kind a track is."""
    open_boxes = [(0, size)]
    while open_boxes:
        position, stop = open_boxes.pop()
        while position + 8 <= stop:
            file.seek(position)
            header = file.read(16)
            length, name, start = int.from_bytes(header[:4]), header[4:8], position + 8
            if length == 1:  # the length is in the 8 bytes that follow
                length, start = int.from_bytes(header[8:16]), position + 16
            elif length == 0:  # to the end
                length = stop - position
            if length < start - position:
                break
            end = min(position + length, stop)
            if name in CONTAINERS:
                open_boxes.append((position + length, stop))
                position, stop = start, end
                continue
            if name in TABLES or name == b"hdlr":
                yield name, start, end
            position += length


def declared_samples(file: BinaryIO, name: bytes, head: bytes, start: int, stop: int) -> int:
    """How many samples, or entries, a table declares; `head` is the first 12 bytes of its content."""
    place, entry = TABLES[name]
    count = int.from_bytes(head[place : place + 4])
    if name == b"stsz":
        return count * max(1, int.from_bytes(head[4:8]))  # where all samples have one size, it stands here
    if name not in (b"stts", b"ctts"):
        return count * max(1, entry)
    # each entry counts samples: read as many as there are
    file.seek(start + place + 4)
    table = file.read(max(0, min(entry * count, stop - start - place - 4)) // entry * entry)
    return int(np.frombuffer(table, ">u4")[::2].sum(dtype=np.uint64))


__all__ = ["check_mp4_tables", "walk_boxes"]
