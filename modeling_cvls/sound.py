"""The sound of a video, to go with what is drawn over its frames."""

from collections.abc import Callable, Iterator

import av
import numpy as np

from .frame_reader_cvls import FrameReader
from .video_packets_cvls import open_container

#: Sampling rates that AAC knows (ISO/IEC 14496-3, section 1.6.3.4).
AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
CHUNK = 1024  # samples of an AAC frame
LAYOUTS = {1: "mono", 2: "stereo"}
SLACK = 0.02  # seconds by which the time stamps of sound may be off without a gap in it


class Sound:
    """Sound that goes beside the frames of a [`VideoWriter`]; `open_sound` and `sound_of` make it.

    Args:
        chunks: float32 (channels, N) arrays of samples, one behind the other without a gap.
        rate: samples per second, one of `AAC_RATES`.
        channels: 1 or 2.
        close: called at the end.
    """

    def __init__(self, chunks: Iterator[np.ndarray], rate: int, channels: int, close: Callable[[], None] | None = None):
        self.chunks, self.rate, self.channels = chunks, rate, channels
        self._close, self._position = close, 0

    @property
    def layout(self) -> str:
        """The name of the channels: "mono" or "stereo"."""
        return LAYOUTS[self.channels]

    def until(self, time: float) -> Iterator[av.AudioFrame]:
        """The frames that begin before a time in seconds, counted from the beginning, and were not given yet."""
        while self._position < time * self.rate:
            chunk = next(self.chunks, None)
            if chunk is None:
                return
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(chunk), format="fltp", layout=self.layout)
            frame.sample_rate, frame.pts = self.rate, self._position
            self._position += chunk.shape[1]
            yield frame

    def close(self) -> None:
        if self._close is not None:
            self._close()


def sound_of(samples: np.ndarray, rate: int) -> Sound:
    """Sound that was decoded already.

    Args:
        samples: float32 (N, channels), of one or two channels.
        rate: samples per second, one of `AAC_RATES`.
    """
    chunks = (samples[start : start + CHUNK].T for start in range(0, len(samples), CHUNK))
    return Sound(chunks, rate, samples.shape[1])


def open_sound(reader: FrameReader, start: float, end: float) -> Sound | None:
    """The sound of a video between two times in seconds, on the clock of `reader.times`.

    Returns:
        None where the video has none that can be decoded, or where its own times were overridden by `fps`.
    """
    if reader.source is None:
        return None
    container = open_container(reader.source)
    stream = container.streams.best("audio")
    if stream is None or stream.codec_context is None:
        container.close()
        return None
    begin, index = reader.start + start, stream.index
    if begin > 1:  # sound has no key frames: it can be entered anywhere, with a second to find its way
        try:
            container.seek(int((begin - 1) / stream.time_base), stream=stream)
        except (av.FFmpegError, OSError):  # a container without an index: what lies before is decoded and left out
            container.close()
            container = open_container(reader.source)
            stream = container.streams[index]
    codec = stream.codec_context
    rate = codec.sample_rate if codec.sample_rate in AAC_RATES else 48000
    channels = 1 if codec.layout.nb_channels == 1 else 2
    samples = _decode(container, stream, begin, rate, LAYOUTS[channels])
    chunks = _without_gaps(samples, round((end - start) * rate), channels, SLACK * rate)
    return Sound(chunks, rate, channels, container.close)


def _without_gaps(
    samples: Iterator[tuple[int, np.ndarray]], length: int, channels: int, slack: float
) -> Iterator[np.ndarray]:
    """A stretch of `length` samples in chunks: silence stands where the sound begins late or is damaged."""
    held, position = np.zeros((channels, 0), dtype=np.float32), 0
    for place, decoded in samples:
        late = place - position - held.shape[1]
        allowed = slack if position or held.shape[1] else 0
        if late > allowed:
            held = np.pad(held, ((0, 0), (0, min(late, length))))
        elif late < -allowed:
            decoded = decoded[:, -late:]
        held = np.concatenate([held, decoded], axis=1)
        while held.shape[1] >= CHUNK and position + CHUNK <= length:
            yield held[:, :CHUNK]
            held, position = held[:, CHUNK:], position + CHUNK
        if position + CHUNK > length:
            break
    held = held[:, : length - position]
    if held.shape[1]:
        yield held


def _decode(container, stream, start: float, rate: int, layout: str) -> Iterator[tuple[int, np.ndarray]]:
    """(place of the first sample, float32 samples (channels, N)), from the start on, as far as it can be decoded."""
    resampler, kind = None, None
    for packet in _packets(container, stream):
        try:
            decoded = packet.decode()
        except av.FFmpegError:
            continue
        for frame in decoded:
            if frame.time is None:
                continue
            if kind != (frame.format.name, frame.layout.name, frame.sample_rate):  # a broadcast may change it
                kind = frame.format.name, frame.layout.name, frame.sample_rate
                resampler = av.AudioResampler(format="fltp", layout=layout, rate=rate)
            place = round((frame.time - start) * rate)
            for part in resampler.resample(frame):
                samples = part.to_ndarray()
                yield place, samples
                place += samples.shape[1]


def _packets(container, stream) -> Iterator[av.Packet]:
    """The packets up to the end, or to where a file was cut off."""
    try:
        yield from container.demux(stream)
    except av.FFmpegError:
        return
