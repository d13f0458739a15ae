"""The packets of a video's container, as PyAV reads them: what they say of frames and times, and their decoding.

A packet holds one encoded frame.
"""

import io
import os
import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, compress, islice, starmap
from operator import attrgetter, itemgetter
from typing import Any

import numpy as np

from .mp4_packets_cvls import packets_of_tables

#: The length of a stream of Matroska and WebM, as in 01:02:03.500000000.
LENGTH = re.compile(r"(\d+):(\d+):(\d+(?:\.\d+)?)")
#: What is noted of each packet, and what stands for a value that is not known.
NOTED, UNKNOWN = ("pts", "dts", "duration", "size", "is_keyframe", "is_discard"), -(2**63)
AT_ONCE = 16  # packets that are noted in one step; so many are in memory at a time
TEXT_FORMATS = ("adf", "bin", "idf", "tty", "xbin")
OLDEST_AV = (17, 1)  # the version of PyAV that is needed
VP8_IS_SHOWN = 0x10  # a bit of the first byte of a VP8 frame (RFC 6386, section 9.1)


@dataclass(frozen=True)
class Packets:
    """What a container says of a video stream and its N packets, in the order in which they are stored.

    Attributes:
        stream: the number of the stream in its container.
        codec: the name of its codec.
        is_avi: whether the container is an AVI, which has no presentation times: those of its packets are guesses.
        is_mov: whether it is an mp4 or mov.
        is_picture: whether it is an encoded picture, see [`is_picture`].
        unit: of time stamps and durations, in seconds.
        rate: frames per second by the header, None where it says none.
        aspect: the width of a pixel divided by its height by the header, None where it says none.
        length: the seconds that the header promises, None where it does not.
        num_promised: how many packets the container's table lists; 0 where there is none.
        is_cut: whether an error ended the reading.
        is_refreshed_at_once: whether no key packet of H.264 only begins to refresh the picture.
        has_b_frames: whether the decoder gives frames in another order than that of the packets.
        pts, dts: int arrays (N,), time stamps of presentation and of decoding; None where not all packets have one.
        durations: int array (N,), 0 where it is not known.
        sizes: int array (N,), in bytes.
        is_key, is_shown: bool arrays (N,).
        is_marked: bool array (N,), whether something is lost in the packet or behind it. MPEG-TS says that: it counts
            the parts that it is sent in.
        first: the number of the packet that holds the first frame that can be decoded.
        frame: that frame, as PyAV gives it.
    """

    stream: int
    codec: str
    is_avi: bool
    is_mov: bool
    is_picture: bool
    unit: Fraction
    rate: Fraction | None
    aspect: Fraction | None
    length: float | None
    num_promised: int
    is_cut: bool
    is_refreshed_at_once: bool
    has_b_frames: bool
    pts: np.ndarray | None
    dts: np.ndarray | None
    durations: np.ndarray
    sizes: np.ndarray
    is_key: np.ndarray
    is_shown: np.ndarray
    is_marked: np.ndarray
    first: int
    frame: Any

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def stamps(self) -> np.ndarray | None:
        """The time stamps by which packets are told apart."""
        return self.dts if self.is_avi else self.pts


def import_av():
    """PyAV, or an ImportError that says how to get it."""
    # Imported when needed, and in a `try`, where code from the Hub is not searched for what it demands: arrays and
    # images can be read without it.
    oldest = ".".join(map(str, OLDEST_AV))
    install = f'pip install "av>={oldest}"'
    try:
        import av
    except ImportError as error:
        raise ImportError(f"videos and streams are read with PyAV, which is not installed: {install}") from error
    if tuple(map(int, re.findall(r"\d+", av.__version__)[:2])) < OLDEST_AV:
        raise ImportError(
            f"PyAV {av.__version__} is installed, which crashes at some streams or gives wrong colors: {install}"
        )
    return av


def open_container(source: str | bytes):
    """Opens an encoded video: the path of a file, or its bytes.

    Raises:
        av.FFmpegError: its format is not known.
    """
    av = import_av()
    options = {}
    if isinstance(source, bytes):
        # A playlist may name what lies elsewhere: FFmpeg goes from a file to other files at most, from bytes anywhere.
        options["protocol_whitelist"] = "none"
        source, brand = io.BytesIO(source), source[4:8]
    else:
        source = os.path.abspath(source)  # FFmpeg takes what stands before a colon in a relative path for a protocol
        with open(source, "rb") as file:
            brand = file.read(8)[4:]
    if brand == b"ftyp":
        # The tables of mp4 and mov say everything about their packets: not parsing these as well saves a fifth of the
        # time.
        options["fflags"] = "noparse"
    return av.open(source, options=options)


def video_stream(container):
    """The video stream that a player shows; None where there is none but pictures attached to music, such as covers, or
    a text, which FFmpeg would draw."""
    if container.format.name in TEXT_FORMATS:
        return None
    stream = container.streams.best("video")
    return None if stream is None or "attached_pic" in str(stream.disposition) else stream


def is_picture(container) -> bool:
    """Whether a container is no video's, but an encoded picture such as a photograph."""
    return container.format.name == "image2" or container.format.name.endswith("_pipe")


def decode_packets(packets: Iterable[tuple[int, Any]], codec, failed: list[int]) -> Iterator[tuple[int, Any]]:
    """Decodes numbered packets.

    Args:
        packets: (number, packet) pairs in the order of decoding.
        codec: the codec context of their stream.
        failed: the numbers of the packets that cannot be decoded are appended to it.

    Returns:
        An iterator over (number of the packet, frame) in the order of display.
    """
    av = import_av()
    number = -1
    for number, packet in packets:
        if not packet.size:
            continue  # it holds nothing; the decoder would take it for the end
        packet.pts = number  # comes back with the frame, even where the container's own time stamps are wrong
        try:
            frames = codec.decode(packet)
        except av.FFmpegError:
            failed.append(number)
            continue
        for frame in frames:
            yield frame.pts, frame
    try:
        frames = codec.decode(None)
    except av.FFmpegError:
        failed.append(number)
        return
    for frame in frames:
        yield frame.pts, frame


def numbered_packets(container, stream) -> Iterator[tuple[int, Any]]:
    """The packets of a stream with their numbers, from where the container stands to its end or first error."""
    av = import_av()
    try:
        yield from enumerate(packet for packet in container.demux(stream) if packet.dts is not None or packet.size)
    except av.FFmpegError:
        return


class _Notes:
    """Notes of a stream's packets what `Packets` holds, while they pass.

    Args:
        is_vp8: look for frames that are not shown.
        is_h264_of_mov: look for key packets that only begin to refresh the picture.
        is_mpegts: note the marks of losses, too.
    """

    def __init__(self, is_vp8: bool, is_h264_of_mov: bool, is_mpegts: bool):
        self._names = (*NOTED, "is_corrupt") if is_mpegts else NOTED
        self._is_vp8, self._is_h264_of_mov = is_vp8, is_h264_of_mov
        self._row = struct.Struct(f"={len(self._names)}q")
        self._values = bytearray()
        self.hidden: list[int] = []
        self.all_idr, self.is_cut = True, False

    def of(self, demuxed: Iterator[Any]) -> Iterator[list[Any]]:
        """The packets, a few in each list, to their end or first error; each is noted before it is given."""
        # Of long videos this is what opening them costs, so there is no step of Python for each packet.
        av, number, is_over, attributes = import_av(), 0, False, attrgetter(*self._names)
        while not is_over:
            packets: list[Any] = []
            try:
                packets.extend(islice(demuxed, AT_ONCE))
            except av.FFmpegError:  # the packets before it are in the list
                self.is_cut = True
            is_over = len(packets) < AT_ONCE
            rows = list(map(attributes, packets))
            try:
                values = b"".join(starmap(self._row.pack, rows))
            except struct.error:  # something is None
                kept = [not _is_end(row) for row in rows]
                packets, rows = list(compress(packets, kept)), list(compress(rows, kept))
                known = ([UNKNOWN if value is None else value for value in row] for row in rows)
                values = b"".join(starmap(self._row.pack, known))
            self._values += values
            if self._is_h264_of_mov:
                keys = compress(packets, map(itemgetter(4), rows))
                self.all_idr = self.all_idr and all(_has_idr(memoryview(packet)) for packet in keys)
            elif self._is_vp8:
                sized = [(place, packet) for place, packet in enumerate(packets, number) if packet.size]
                self.hidden += [place for place, packet in sized if not memoryview(packet)[0] & VP8_IS_SHOWN]
            number += len(packets)
            yield packets

    def take_tables(self, source: str | bytes, entries) -> bool:
        """Notes the other packets of an mp4 or mov by its tables, where these are enough; whether they are."""
        if self._is_vp8:
            return False  # which frames are hidden stands in the packets
        known = packets_of_tables(source, entries, self.columns()[: len(NOTED)], self._is_h264_of_mov and _has_idr)
        if known is None:
            return False
        rows, all_idr = known
        self._values, self.all_idr = bytearray(np.ascontiguousarray(rows.T)), all_idr
        return True

    def columns(self) -> np.ndarray:
        """int64 (7, N): what `NOTED` names, of all packets that passed, and whether each is marked."""
        values = np.frombuffer(self._values, dtype=np.int64).reshape(-1, len(self._names)).T
        return np.concatenate([values, np.zeros((len(NOTED) + 1 - len(values), values.shape[1]), dtype=values.dtype)])


def read_packets(source: str | bytes) -> Packets:
    """Goes through all packets of the stream that a player shows, and decodes its first frame on the way.

    Args:
        source: the path of a file, or its bytes.

    Raises:
        av.FFmpegError: its format is not known.
        ValueError: it holds no video, or none of its frames can be decoded; the message is the end of a sentence.
    """
    with open_container(source) as container:
        stream, codec = _shown_stream(container)
        name = container.format.name
        is_mov = "mov" in name
        notes = _Notes(codec.name == "vp8", is_mov and codec.name == "h264", name == "mpegts")
        packets = notes.of(container.demux(stream))
        numbered = enumerate(chain.from_iterable(packets))
        first, frame = next(decode_packets(numbered, codec, failed=[]), (None, None))
        if not (is_mov and frame is not None and notes.take_tables(source, stream.index_entries)):
            for _ in packets:  # those that come behind the first frame
                pass
        pts, dts, durations, sizes, is_key, is_discarded, is_marked = notes.columns()
        if not len(sizes):
            raise ValueError("holds no frames")
        if frame is None:
            hint = "; animated WebP is not read: save it as a video, or its frames as images in a folder"
            raise ValueError(f"has no frame that can be decoded{hint if name == 'webp_pipe' else ''}")
        is_shown, is_key = (is_discarded == 0) & (sizes > 0), is_key > 0
        if is_marked.any():
            rests = np.flatnonzero(pts == UNKNOWN)  # of frames whose beginning, with its time stamp, was lost
            is_shown[rests] = is_key[rests] = False
            pts[rests] += 1 + np.arange(len(rests))  # no time stamp twice, so that they tell packets apart
        is_shown[notes.hidden] = False
        return Packets(
            stream=stream.index,
            codec=codec.name,
            is_avi=name == "avi",
            is_mov=is_mov,
            is_picture=is_picture(container),
            unit=stream.time_base,
            rate=stream.average_rate or stream.guessed_rate,
            aspect=stream.sample_aspect_ratio,
            length=_promised_length(container, stream),
            num_promised=len(stream.index_entries) if is_mov else 0,
            is_cut=notes.is_cut,
            is_refreshed_at_once=notes.all_idr,
            has_b_frames=bool(codec.has_b_frames),
            pts=_stamps(pts),
            dts=_stamps(dts),
            durations=np.maximum(durations, 0),
            sizes=sizes,
            is_key=is_key,
            is_shown=is_shown,
            is_marked=is_marked > 0,
            first=first,
            frame=frame,
        )


def _shown_stream(container: Any) -> tuple[Any, Any]:
    """The stream that a player shows, and its decoder, of one thread."""
    stream = video_stream(container)
    if stream is None:
        raise ValueError("holds no video stream")
    if stream.codec_context is None:
        raise ValueError("is encoded in a way for which there is no decoder here")
    stream.codec_context.thread_count = 1
    return stream, stream.codec_context


def _is_end(row: tuple) -> bool:
    """Whether what is noted of a packet says that it only marks the end."""
    return row[0] is row[1] is None and not row[3]


def _stamps(values: np.ndarray) -> np.ndarray | None:
    return None if (values == UNKNOWN).any() else values


def _has_idr(data: memoryview) -> bool:
    """Whether a packet of H.264 in mp4 (units that begin with their length in 4 bytes) holds an IDR picture, type 5."""
    position = 0
    while position + 4 < len(data):
        if data[position + 4] & 31 == 5:
            return True
        position += 4 + int.from_bytes(data[position : position + 4])
    return False


def _promised_length(container, stream) -> float | None:
    """The length in seconds that the header promises, where it does."""
    if "matroska" in container.format.name:
        said = LENGTH.fullmatch(stream.metadata.get("DURATION", ""))
        if said:
            return 3600 * int(said[1]) + 60 * int(said[2]) + float(said[3])
    if container.format.name == "avi" and stream.duration:
        return float(stream.duration * stream.time_base)
    is_alone = len(container.streams) == 1  # otherwise the length may be that of the sound
    if is_alone and container.duration and ("matroska" in container.format.name or container.format.name == "flv"):
        return container.duration / 1e6
    return None


__all__ = [
    "Packets",
    "decode_packets",
    "import_av",
    "is_picture",
    "numbered_packets",
    "open_container",
    "read_packets",
    "video_stream",
]
