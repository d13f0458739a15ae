"""Which frames a player shows of an encoded video, and when: one index, made from the packets of the container.

A packet holds one encoded frame. The index honors edit lists, leaves out what no player shows (discarded packets,
hidden frames, frames before the first one that can be decoded) and puts the others in the order of their presentation
times. Where the packets do not say all of this, the video is decoded once to make the index.
"""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from .mp4_tables_cvls import check_mp4_tables
from .video_packets_cvls import Packets, decode_packets, numbered_packets, open_container, read_packets

MOST_MISSING = 10_000_000  # frames; a header that promises more is wrong and is not believed
MOST_NAMED = 5  # places in a message
REORDERED = 8  # so many frames at most are stored before one that is shown earlier, with usual encoders
TINY = 24  # bytes; a smaller packet of MPEG-4 may say "no new frame" instead of holding one


@dataclass(frozen=True)
class VideoIndex:
    """The T frames that a player shows of a video stream, in the order of their presentation times.

    Packets are numbered in the order in which they are stored, which is the order of decoding.

    Attributes:
        stream: the number of the stream in its container.
        packets: int array (T,), the number of the packet that holds each frame.
        times: float array (T,), presentation times in seconds; the first frame is at 0.
        start: the first frame's time in seconds on the container's own clock, which its sound shares.
        end: the time in seconds at which the last frame ends, the first one beginning at 0.
        fps: frames per second, the mean over the video.
        key_packets, key_frames: int arrays (K,). Decoding that starts at a key packet gives the frames from the
            key frame beside it on.
        key_stamps, key_sizes: int arrays (K,), time stamps to seek the key packets by, and their sizes in bytes.
        stamps: int array, a time stamp for each packet, by which it is recognized after seeking; None where packets
            have no time stamps or share them.
        stamp_name: which time stamp that is, "pts" or "dts".
        height, width: size of the frames as shown, in pixels.
        orientation: how a decoded frame is turned to be shown: whether it is transposed, whether its rows are then
            reversed, and whether its columns are.
        sample_aspect_ratio: the width of a shown pixel divided by its height.
        num_missing: how many frames are missing at the end, by what the header promises.
        gaps: (time in seconds, number of frames) for each place at which something of the video was lost on its
            way. No frame of the index stands for them; the number is what fits into the gap at the usual rate.
        is_picture: whether it is no video but one encoded picture, such as a photograph.
        is_plain: whether the file is an mp4 or mov in which every packet is shown, upright and with all lines, and no
            packet before a key packet is needed after it.
    """

    stream: int
    packets: np.ndarray
    times: np.ndarray
    start: float
    end: float
    fps: float
    key_packets: np.ndarray
    key_frames: np.ndarray
    key_stamps: np.ndarray
    key_sizes: np.ndarray
    stamps: np.ndarray | None
    stamp_name: str
    height: int
    width: int
    orientation: tuple[bool, bool, bool]
    sample_aspect_ratio: Fraction
    num_missing: int
    gaps: list[tuple[float, int]]
    is_picture: bool
    is_plain: bool

    def __len__(self) -> int:
        return len(self.packets)

    def first_packet(self, frame: int) -> int:
        """The packet at which decoding must start to give this frame."""
        key = np.searchsorted(self.key_frames, frame, side="right") - 1
        return int(self.key_packets[key]) if key >= 0 else 0

    def as_shown(self, picture: np.ndarray) -> np.ndarray:
        """A decoded picture (h, w, ...) turned as it is to be shown, (H, W, ...); a view."""
        return turned(picture, self.orientation)


def index_video(source: str | bytes) -> VideoIndex:
    """Makes the index of a video.

    Args:
        source: the path of a file, or its bytes.

    Raises:
        av.FFmpegError: its format is not known.
        ValueError: it declares more than it can hold, it holds no video, or none of its frames can be decoded. The
            message is the end of a sentence that begins with the name of the video.
    """
    check_mp4_tables(source)
    packets = read_packets(source)
    order, frame = _shown_packets(source, packets), packets.frame
    start, times, end, fps = _times(packets, order)
    orientation = orientation_of(frame)
    size = frame.height, frame.width
    key_packets, key_frames = _keys(packets.is_key, order)
    stamps = packets.stamps
    return VideoIndex(
        stream=packets.stream,
        packets=order,
        times=times,
        start=start,
        end=end,
        fps=fps,
        key_packets=key_packets,
        key_frames=key_frames,
        key_stamps=_seek_stamps(packets)[key_packets],
        key_sizes=packets.sizes[key_packets],
        stamps=stamps if stamps is not None and np.diff(np.sort(stamps)).all() else None,
        stamp_name="dts" if packets.is_avi else "pts",
        height=size[1] if orientation[0] else size[0],
        width=size[0] if orientation[0] else size[1],
        orientation=orientation,
        sample_aspect_ratio=_aspect_as_shown(packets.aspect, orientation),
        num_missing=_num_missing(packets, start, times, end, fps),
        gaps=_gaps(packets, order, times),
        is_picture=packets.is_picture and len(order) == 1,
        is_plain=(
            packets.num_promised == len(packets) == len(order)
            and not (_may_have_fields(packets) or any(orientation))
            and packets.is_refreshed_at_once
            and np.array_equal(key_packets, key_frames)
        ),
    )


def _shown_packets(source: str | bytes, packets: Packets) -> np.ndarray:
    """The packets of the frames that are shown, in the order of display."""
    is_reordered_avi = packets.is_avi and packets.has_b_frames
    may_skip = packets.codec.startswith(("mpeg4", "msmpeg4")) and packets.sizes.min() < TINY
    if not (is_reordered_avi or may_skip or _may_have_fields(packets)):
        order = _order_of_times(packets)
        if order is not None:
            return order
    with open_container(source) as container:
        stream = container.streams[packets.stream]
        stream.codec_context.thread_count = 1
        failed: list[int] = []
        decoded = decode_packets(numbered_packets(container, stream), stream.codec_context, failed)
        return _order_of_display([number for number, _ in decoded], failed)


def _may_have_fields(packets: Packets) -> bool:
    """Whether a packet may hold a field, every other line of a frame, instead of a frame."""
    return packets.codec == "h264" and packets.frame.interlaced_frame


def _order_of_times(packets: Packets) -> np.ndarray | None:
    """The shown packets by their times of presentation, from the first on that the decoder gives, as frames before it
    lack those that they are predicted from; None where these times do not give an order."""
    if packets.pts is None or (packets.dts is not None and np.any(np.diff(packets.dts) < 0)):
        return None
    shown = np.flatnonzero(packets.is_shown)
    order = shown[np.argsort(packets.pts[shown], kind="stable")]
    if np.any(np.diff(packets.pts[order]) == 0):
        return None
    start = np.flatnonzero(order == packets.first)
    return order[start[0] :] if start.size else None


def _order_of_display(decoded: list[int], failed: list[int]) -> np.ndarray:
    """The packets of all decoded frames, and of those that cannot be decoded where they would stand by their number."""
    order = np.array(decoded)
    failed = np.array(failed, dtype=order.dtype)
    failed = failed[failed > order[0]]
    places = [np.count_nonzero(order < number) for number in failed]
    return np.insert(order, places, failed)


def _keys(is_key: np.ndarray, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The packets at which decoding can start, and the first frame that each of them gives."""
    place = np.full(len(is_key), -1)
    place[order] = np.arange(len(order))
    pairs = []
    for packet in np.flatnonzero(is_key):
        later = order > packet if place[packet] < 0 else None  # itself it is not shown
        if later is None:
            pairs.append((packet, place[packet]))
        elif later.any():
            pairs.append((packet, later.argmax()))
    pairs = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    in_order = pairs[:, 1] >= np.maximum.accumulate(pairs[:, 1])
    return pairs[in_order, 0], pairs[in_order, 1]


def _times(packets: Packets, order: np.ndarray) -> tuple[float, np.ndarray, float, float]:
    """The first time of presentation, all of them counted from it, the time at which the last frame ends, and frames
    per second."""
    unit, rate = packets.unit, packets.rate
    last = 0 if packets.is_avi else int(packets.durations[order[-1]]) * float(unit)
    if packets.pts is not None and not packets.is_avi:
        stamps = packets.pts[order]
    elif packets.dts is not None:
        # In the order of display the times of decoding are those of presentation, but for a constant delay.
        stamps = packets.dts[np.sort(order)]
    else:
        stamps, unit = np.arange(len(order)), 1 / Fraction(rate or 25)
    start = float(int(stamps[0]) * unit)
    steps = _forward(np.diff(stamps))
    times = np.concatenate([[0.0], np.cumsum(steps)]) * unit.numerator / unit.denominator
    fps = float(rate or 25)
    if len(steps) and (rate is None or abs(len(steps) / fps - times[-1]) > 0.5 / fps):
        fps = len(steps) / float(times[-1])  # the header's rate is not that of the frames shown
    return start, times, float(times[-1]) + (last or 1 / fps), fps


def _forward(steps: np.ndarray) -> np.ndarray:
    """Steps from time stamp to time stamp (T-1,), all of them made to lead forward."""
    usual = round(np.median(steps[steps > 0])) if (steps > 0).any() else 1
    for place in np.flatnonzero(steps <= 0):
        # Two frames at the same time, a wrong guess, share the step that follows. A recording that was joined from
        # several begins anew with a step back.
        half = steps[place + 1] // 2 if steps[place] == 0 and place + 1 < len(steps) else 0
        steps[place] = half if half > 0 else usual
        if half > 0:
            steps[place + 1] -= half
    return steps


def _seek_stamps(packets: Packets) -> np.ndarray:
    """What to seek each packet by: the earlier of its times, as a search by the other may end behind it."""
    known = [stamps for stamps in (packets.pts, packets.dts) if stamps is not None]
    return np.min(known, axis=0) if known else np.zeros(len(packets), dtype=np.int64)


def orientation_of(frame) -> tuple[bool, bool, bool]:
    """Transpose, reverse rows, reverse columns: the display matrix of a frame of PyAV, at the nearest right angle.

    The matrix sends the column x and the row y to x' = a x + c y and y' = b x + d y (ISO/IEC 14496-12, section 8.3.2).
    """
    try:
        data = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV does not know all kinds of data that FFmpeg attaches to frames, and then lists none
        quarters = frame.rotation % 360 // 90
        return quarters % 2 == 1, quarters in (1, 2), quarters in (2, 3)
    if data is None:
        return False, False, False
    a, b, _, c, d = np.frombuffer(data, dtype=np.int32, count=5)
    if max(abs(int(a)), abs(int(d))) >= max(abs(int(b)), abs(int(c))):
        return False, bool(d < 0), bool(a < 0)
    return True, bool(b < 0), bool(c < 0)


def turned(picture: np.ndarray, orientation: tuple[bool, bool, bool]) -> np.ndarray:
    """A decoded picture (h, w, ...) as it is to be shown, (H, W, ...), by what `orientation_of` says; a view."""
    transpose, reverse_rows, reverse_columns = orientation
    picture = picture.swapaxes(0, 1) if transpose else picture
    return picture[:: -1 if reverse_rows else 1, :: -1 if reverse_columns else 1]


def _aspect_as_shown(aspect: Fraction | None, orientation: tuple[bool, bool, bool]) -> Fraction:
    if not aspect or aspect <= 0:
        return Fraction(1)
    return 1 / Fraction(aspect) if orientation[0] else Fraction(aspect)


def _num_missing(packets: Packets, start: float, times: np.ndarray, end: float, fps: float) -> int:
    """How many frames the header promises beyond those that are there."""
    missing = max(0, packets.num_promised - len(packets))
    # With frames of differing lengths, that of the video says nothing of their number. Among the last ones some may be
    # missing already, as frames are not stored in the order of display. AVI knows even rates only.
    steps = np.array([1 / fps]) if packets.is_avi else np.diff(times)[:-REORDERED]
    if not missing and packets.length is not None and len(steps) and steps.max() < 1.5 * np.median(steps):
        step, length = np.median(steps), packets.length - start
        missing = max(0, round(length / step) - len(times)) if length - end > 1.5 * step else 0
    return max(missing if missing < MOST_MISSING else 0, int(packets.is_cut))


def _gaps(packets: Packets, order: np.ndarray, times: np.ndarray) -> list[tuple[float, int]]:
    """Where something was lost, and how many frames (see `VideoIndex.gaps`).

    Neither a long step nor a mark alone is a sign of it: videos of a variable rate have long steps, and recordings that
    were joined have marks.
    """
    marked = np.flatnonzero(packets.is_marked[:-1])  # a mark of the last packet says that the file was cut off
    gaps: list[tuple[float, int]] = []
    if not len(marked) or len(times) < 2:
        return gaps
    steps = np.diff(times)
    usual = np.median(steps)
    for frame in np.flatnonzero(steps > 1.5 * usual):
        if np.abs(order[frame : frame + 2, None] - marked).min() <= REORDERED:
            gaps.append((round(float(times[frame] + usual), 6), round(steps[frame] / usual) - 1))
    return gaps


def named_gaps(gaps: list[tuple[float, int]]) -> str:
    """Gaps of a video as a clause: "it lacks 8 frames at 1.12 s and 1 frame at 3.20 s"."""
    parts = [f"{number} frame{'s' * (number > 1)} at {time:.2f} s" for time, number in gaps[:MOST_NAMED]]
    parts += [f"more at {len(gaps) - MOST_NAMED} other moments"] if len(gaps) > MOST_NAMED else []
    return f"it lacks {' and '.join(filter(None, [', '.join(parts[:-1]), parts[-1]]))}"


__all__ = ["VideoIndex", "index_video", "named_gaps", "orientation_of", "turned"]
