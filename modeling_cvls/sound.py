"""The sound of a video, to go with what is drawn over its frames."""

from collections.abc import Iterator

import av
import numpy as np

from .frame_reader_cvls import FrameReader
from .video_index_cvls import open_container

#: Sampling rates that AAC knows (ISO/IEC 14496-3, section 1.6.3.4).
AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
CHUNK = 1024  # samples of an AAC frame
SLACK = 0.02  # seconds by which the time stamps of sound may be off without a gap in it


class Sound:
    """A stretch of a video's sound, as audio frames that can be encoded; see `open_sound`.

    Attributes:
        rate: samples per second.
        layout: "mono" or "stereo".
    """

    def __init__(self, container, stream, start: float, length: float):
        self.rate = stream.codec_context.sample_rate if stream.codec_context.sample_rate in AAC_RATES else 48000
        self.layout = "mono" if stream.codec_context.layout.nb_channels == 1 else "stereo"
        self._container, self._stream, self._start = container, stream, start
        self._length = round(length * self.rate)
        self._frames, self._next = self._read(), None

    def until(self, time: float) -> Iterator[av.AudioFrame]:
        """The frames that begin before a time in seconds, counted from the beginning, and were not given yet."""
        while True:
            self._next = self._next or next(self._frames, None)
            if self._next is None or self._next.pts >= time * self.rate:
                return
            frame, self._next = self._next, None
            yield frame

    def close(self) -> None:
        self._container.close()

    def _read(self) -> Iterator[av.AudioFrame]:
        """The whole stretch without a gap: silence stands where the sound begins late or is damaged."""
        held, position = np.zeros((1 if self.layout == "mono" else 2, 0), dtype=np.float32), 0
        for place, samples in self._decode():
            late = place - position - held.shape[1]
            slack = SLACK * self.rate if position or held.shape[1] else 0
            if late > slack:
                held = np.pad(held, ((0, 0), (0, min(late, self._length))))
            elif late < -slack:
                samples = samples[:, -late:]
            held = np.concatenate([held, samples], axis=1)
            while held.shape[1] >= CHUNK and position + CHUNK <= self._length:
                yield self._frame(held[:, :CHUNK], position)
                held, position = held[:, CHUNK:], position + CHUNK
            if position + CHUNK > self._length:
                break
        held = held[:, : self._length - position]
        if held.shape[1]:
            yield self._frame(held, position)

    def _decode(self) -> Iterator[tuple[int, np.ndarray]]:
        """(place of the first sample, float32 samples (channels, N)), from the start on."""
        resampler = av.AudioResampler(format="fltp", layout=self.layout, rate=self.rate)
        for packet in self._container.demux(self._stream):
            try:
                decoded = packet.decode()
            except av.FFmpegError:
                continue
            for frame in decoded:
                if frame.time is None:
                    continue
                place = round((frame.time - self._start) * self.rate)
                for part in resampler.resample(frame):
                    samples = part.to_ndarray()
                    yield place, samples
                    place += samples.shape[1]

    def _frame(self, samples: np.ndarray, position: int) -> av.AudioFrame:
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout=self.layout)
        frame.sample_rate, frame.pts = self.rate, position
        return frame


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
    begin = reader.start + start
    if begin > 1:  # sound has no key frames: it can be entered anywhere, with a second to find its way
        container.seek(int((begin - 1) / stream.time_base), stream=stream)
    return Sound(container, stream, begin, end - start)
