"""Decodes chosen frames of an encoded video, each of them exactly the one that its index names."""

import io
import itertools
import os
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import numpy as np

from .video_index_cvls import VideoIndex, index_video, named_gaps
from .video_packets_cvls import decode_packets, import_av, numbered_packets, open_container

FEW = 16  # packets; so many are rather decoded in vain than jumped over
PREDICTED = (2, 3)  # types of pictures: P and B
STEPS_BACK = (0, 1, 4, 16, 64)  # seconds; seeking goes that much further back until it ends before the key frame


class EncodedVideo:
    """The frames of an encoded video, as a player shows them.

    Args:
        source: the path of a file, or its bytes.
        name: what messages call it.
        on_damage: "error" refuses a video of which frames are missing; "keep" gives the others.

    Attributes:
        source: as given.
        index: the `VideoIndex` of its frames.
        missing: a set of the numbers of frames of the index that were found to be missing so far.
        partial: a set of the numbers of frames of which only a part could be decoded.

    Raises:
        MemoryError: its frames need more memory than there is.
        ValueError: it cannot be decoded, or frames are missing in it or at its end and `on_damage` is "error".
    """

    def __init__(self, source: str | bytes, name: str, on_damage: Literal["error", "keep"]):
        self.source, self._name, self._on_damage = source, name, on_damage
        av = import_av()
        try:
            self.index = index_video(source)
        except (av.FFmpegError, UnicodeError) as error:
            raise ValueError(
                f"{name} cannot be decoded as a video; an encoded video such as H.264 in mp4 was expected"
            ) from error
        except ValueError as error:
            raise ValueError(f"{name} cannot be decoded as a video: it {error}") from error
        except MemoryError as error:
            raise MemoryError(f"{name} needs more memory than there is") from error
        self._decoder, self._decord = None, None  # of `read`, from its first call on
        there, missing = len(self.index), self.index.num_missing
        self.missing: set[int] = set()
        self.partial: set[int] = set()
        if missing and on_damage == "error":
            raise ValueError(
                f"{name} is damaged or was cut off: it holds {there} of the {there + missing} frames that its header "
                "promises"
            )
        if self.index.gaps and on_damage == "error":
            raise ValueError(f"{name} is damaged: {named_gaps(self.index.gaps)}")

    def read(self, indices: list[int]) -> np.ndarray:
        """uint8 (len(indices), H, W, 3), RGB, of frames in any order.

        Raises:
            ValueError: a frame cannot be decoded, whatever `on_damage` is.
        """
        if self._decoder is None:
            self._decord = open_decord(self.source, self.index)
            self._decoder = VideoDecoder(self.source, self.index)
        if self._decord is not None:
            try:
                pictures = self._decord.get_batch(indices).asnumpy()
            except (import_decord().DECORDError, RuntimeError):
                self._decord = None  # PyAV tells which frame it is
            else:
                return pictures
        unique, places = np.unique(indices, return_inverse=True)
        pictures = [self._picture(self._decoder, int(number)) for number in unique]
        for number, picture in zip(unique, pictures, strict=True):
            if picture is None:
                raise ValueError(self._missing_message(number))
        return np.stack([pictures[place] for place in places])

    def frames(self, indices: Iterable[int]) -> Iterator[np.ndarray | None]:
        """uint8 (H, W, 3), RGB, of frames in increasing order, one by one; None for a frame that is missing.

        Raises:
            ValueError: a frame cannot be decoded and `on_damage` is "error".
        """
        decoder = VideoDecoder(self.source, self.index, threaded=True)
        try:
            for number in indices:
                yield self._picture(decoder, number)
        finally:
            decoder.close()

    def _picture(self, decoder: "VideoDecoder", number: int) -> np.ndarray | None:
        if number >= len(self.index):
            raise ValueError(self._missing_message(number))
        av = import_av()
        try:
            frame = decoder.decode(number)
        except av.FFmpegError as error:  # on opening the file once more, or its decoder
            raise ValueError(f"frame {number} of {self._name} cannot be decoded: {error}") from error
        if frame is None or frame.is_corrupt:
            (self.missing if frame is None else self.partial).add(number)
            if self._on_damage == "error":
                raise ValueError(self._missing_message(number))
            if frame is None:
                return None
        try:
            picture = np.ascontiguousarray(self.index.as_shown(frame.to_ndarray(format="rgb24")))
        except MemoryError as error:
            size = f"{frame.height} x {frame.width} pixels"
            raise MemoryError(f"frame {number} of {self._name}, {size}, needs more memory than there is") from error
        height, width = self.index.height, self.index.width
        if picture.shape[:2] != (height, width):
            raise ValueError(
                f"frame {number} of {self._name} is {picture.shape[0]} x {picture.shape[1]} pixels (height x width), "
                f"frame 0 {height} x {width}; all frames of a video must be of one size"
            )
        return picture

    def _missing_message(self, number: int) -> str:
        return (
            f"frame {number} of {self._name} cannot be decoded; the file is damaged or shorter than the "
            f"{len(self.index)} frames its header promises"
        )


class VideoDecoder:
    """Decodes frames with PyAV: it goes to the key frame before the one asked for and decodes on, or just decodes on
    where the frame lies ahead.

    Args:
        source: the path of a file, or its bytes.
        index: the index of its frames.
        threaded: decode on several threads, for long stretches.
    """

    def __init__(self, source: str | bytes, index: VideoIndex, threaded: bool = False):
        self._source, self._index, self._threaded = source, index, threaded
        self._places = {int(packet): place for place, packet in enumerate(index.packets)}
        self._container = None
        self._decoded: Iterator[tuple[int, Any]] = iter(())
        self._sent = [0]  # the last packet that was decoded
        self._broken: set[int] = set()  # key packets at which decoding cannot start
        self._number, self._frame = -1, None  # the last frame decoded; the number is T at the end

    def close(self) -> None:
        if self._container is not None:
            self._container.close()
            self._container = None

    def decode(self, number: int):
        """A frame as PyAV gives it, or None where it cannot be decoded or comes out damaged.

        Args:
            number: 0-based, below `len(index)`.
        """
        start = self._index.first_packet(number)
        if self._container is None or number < self._number or start > self._sent[0] + FEW:
            self._enter(start)
        frame = self._find(number)
        if frame is None and self._threaded:
            self._threaded = False  # the error may be one of another frame, decoded at the same time
            self.close()
            self._enter(start)
            frame = self._find(number)
        return frame

    def _enter(self, start: int) -> None:
        """Starts decoding at a key packet, or at an earlier one if that one does not do."""
        keys, frames = self._index.key_packets, self._index.key_frames
        for key in range(np.searchsorted(keys, start, side="right") - 1, -1, -1):
            if keys[key] in self._broken:
                continue
            self._restart(int(keys[key]))
            frame = self._find(frames[key])
            # Where frames are refreshed step by step, those at which decoding can start are predicted from others too,
            # and good only some frames later.
            if frame is not None and frame.pict_type not in PREDICTED:
                return
            self._broken.add(keys[key])
        self._restart(0)

    def _find(self, number: int):
        while self._number < number:
            packet, self._frame = next(self._decoded, (None, None))
            self._number = len(self._index) if packet is None else self._places.get(packet, self._number)
        return self._frame if self._number == number else None

    def _restart(self, start: int) -> None:
        self._sent, self._number, self._frame = [start], -1, None
        packets = _noted(self._packets_from(start), self._sent)
        codec = self._container.streams[self._index.stream].codec_context
        self._decoded = decode_packets(packets, codec, failed=[])

    def _packets_from(self, start: int) -> Iterator[tuple[int, Any]]:
        """The packets from number `start` on, with their numbers; sets the container."""
        av, index = import_av(), self._index
        key = np.flatnonzero(index.key_packets == start)
        if key.size and index.stamps is not None:
            self._open()
            stream = self._container.streams[index.stream]
            for seconds in STEPS_BACK:
                try:
                    self._container.seek(int(index.key_stamps[key[0]] - seconds / stream.time_base), stream=stream)
                except (av.FFmpegError, OSError):
                    break
                packets = (packet for _, packet in numbered_packets(self._container, stream))
                for packet in packets:
                    found = np.flatnonzero(index.stamps == getattr(packet, index.stamp_name))
                    # In MPEG streams the time stamps of packets may be guessed otherwise than when read from the start.
                    if found.size and found[0] == start and packet.size == index.key_sizes[key[0]]:
                        return enumerate(itertools.chain([packet], packets), start)
                    if found.size and found[0] > start:
                        break
        self.close()
        self._open()
        packets = numbered_packets(self._container, self._container.streams[index.stream])
        return (pair for pair in packets if pair[0] >= start)

    def _open(self) -> None:
        if self._container is None:
            self._container = open_container(self._source)
            codec = self._container.streams[self._index.stream].codec_context
            if self._threaded:
                codec.thread_type = "AUTO"
            else:
                codec.thread_count = 1


def _noted(packets: Iterator[tuple[int, Any]], last: list[int]) -> Iterator[tuple[int, Any]]:
    # No method: a generator that holds its decoder would keep it, and its threads, until a garbage collection.
    for last[0], packet in packets:
        yield last[0], packet


def import_decord():
    """decord, or None where it is not installed: it has no wheel for some platforms."""
    try:
        import decord
    except ImportError:
        return None
    return decord


def open_decord(source: str | bytes, index: VideoIndex):
    """decord's reader of a video, where its frame i is known to be frame i of the index; otherwise None.

    decord counts the frames from the key frame at which its seeking ends, so these must be known to be one per packet
    (see `VideoIndex.is_plain`). Its seeking ends at the right key frame where no later one is decoded before this one
    is shown.
    """
    decord, stamps = import_decord(), index.stamps
    if decord is None or not index.is_plain or stamps is None:
        return None
    if np.any(index.key_stamps[1:] <= stamps[index.key_packets[:-1]]):
        return None
    decord.logging.set_level(decord.logging.QUIET)
    try:
        reader = decord.VideoReader(
            io.BytesIO(source) if isinstance(source, bytes) else os.path.abspath(source),
            ctx=decord.cpu(0),
            num_threads=1,
        )
        if len(reader) != len(index):
            return None
        times = reader.get_frame_timestamp(range(len(reader)))[:, 0]
    except (decord.DECORDError, RuntimeError, UnicodeDecodeError):
        return None
    return reader if np.allclose(times - times[0], index.times, rtol=0, atol=1e-3) else None
