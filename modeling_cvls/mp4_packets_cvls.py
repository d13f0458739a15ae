"""What the tables of a whole mp4 or mov file say of all packets of its video, without going through these.

FFmpeg's list of the packets lacks the times of presentation. The file's own table of their distances from the times of
decoding (ISO/IEC 14496-12, section 8.6.1.3) gives them, where nothing else has changed these times.
"""

import io
import struct
from collections.abc import Callable
from itertools import starmap
from operator import attrgetter
from typing import Literal

import numpy as np

from .mp4_tables_cvls import walk_boxes

ENTRY = ("pos", "timestamp", "size", "is_keyframe", "is_discard")
MOST = 1 << 28  # units of time; FFmpeg doubts what is longer


def packets_of_tables(
    source: str | bytes, entries, first: np.ndarray, is_good_key: Callable[[memoryview], bool] | Literal[False]
) -> tuple[np.ndarray, bool] | None:
    """All packets of a video by the tables of its mp4 or mov file.

    Args:
        source: the path of the file, or its bytes.
        entries: FFmpeg's list of the packets, `index_entries` of the stream in PyAV.
        first: int64 (6, n), times of presentation and of decoding, durations, sizes, and whether each is a key packet
            and is discarded, of the first packets, read from the file. The tables must say the same of these.
        is_good_key: looks into the bytes of each key packet, until it is False for one; or False, to look into none.

    Returns:
        The same of all N packets, int64 (6, N), and whether `is_good_key` was True for all; None where only going
        through the packets tells: the file is cut off, in fragments or edited, or its tables do not fit together.
    """
    if not len(entries):
        return None
    pack = struct.Struct(f"={len(ENTRY)}q").pack
    listed = b"".join(starmap(pack, map(attrgetter(*ENTRY), entries)))
    places, dts, sizes, is_key, is_discarded = np.frombuffer(listed, np.int64).reshape(-1, len(ENTRY)).T
    with open(source, "rb") if isinstance(source, str) else io.BytesIO(source) as file:
        length = file.seek(0, io.SEEK_END)
        times = _sample_times(file, length, sizes)
        if times is None or (sizes <= 0).any() or (places < 0).any() or (places + sizes > length).any():
            return None
        durations, offsets = times
        pts = dts + offsets + (first[0, 0] - first[1, 0] - offsets[0])
        rows = np.stack([pts, dts, durations, sizes, is_key, is_discarded])
        is_regular = np.array_equal(np.diff(dts), durations[:-1]) and not ((pts < dts) | (is_discarded > 0)).any()
        if not is_regular or not np.array_equal(rows[:, : first.shape[1]], first):
            return None
        for key in np.flatnonzero(is_key) if is_good_key else ():
            file.seek(places[key])
            if not is_good_key(memoryview(file.read(sizes[key]))):
                return rows, False
    return rows, True


def _sample_times(file, length: int, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Durations, and distances of presentation from decoding, int64 (N,), of the only track with samples of these
    sizes."""
    tracks: list[dict[bytes, bytes]] = [{}]
    for name, start, stop in walk_boxes(file, length):
        if name == b"hdlr":  # before the tables of each track
            tracks.append({})
        elif name in (b"stts", b"ctts", b"stsz"):
            file.seek(start)
            tracks[-1][name] = file.read(stop - start)
    found = [tables for tables in tracks if np.array_equal(_sample_sizes(tables.get(b"stsz", b"")), sizes)]
    if len(found) != 1:
        return None
    durations = _runs(found[0].get(b"stts", b""), ">u4", len(sizes))
    offsets = _runs(found[0][b"ctts"], ">i4", len(sizes)) if b"ctts" in found[0] else np.zeros_like(sizes)
    if durations is None or offsets is None or durations.min() < 1 or max(durations.max(), abs(offsets).max()) >= MOST:
        return None
    return durations, offsets


def _sample_sizes(table: bytes) -> np.ndarray:
    each, number = (int.from_bytes(table[place : place + 4]) for place in (4, 8))
    values = np.frombuffer(table[12 : 12 + (len(table) - 12) // 4 * 4], ">u4") if len(table) > 12 else np.zeros(0)
    return values[:number] if each == 0 else np.zeros(0)


def _runs(table: bytes, kind: str, number: int) -> np.ndarray | None:
    """int64 (number,), the values of a table of runs: how many samples, and the value that they share."""
    runs = np.frombuffer(table[8 : 8 + 8 * int.from_bytes(table[4:8])], np.dtype([("number", ">u4"), ("value", kind)]))
    if runs["number"].sum(dtype=np.uint64) != number:
        return None
    return np.repeat(runs["value"].astype(np.int64), runs["number"])


__all__ = ["packets_of_tables"]
