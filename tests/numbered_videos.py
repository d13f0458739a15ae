"""Videos whose frames carry their number, for tests; PyAV writes them."""

import os
from fractions import Fraction

import av
import numpy as np

HEIGHT, WIDTH, BITS = 48, 64, 6
CORNERS = (((0, 8), (0, 8), (230, 20, 20)), ((0, 8), (-8, None), (20, 220, 20)), ((-8, None), (0, 8), (20, 20, 230)))


def numbered_frame(number, height=HEIGHT, width=WIDTH):
    """uint8 (height, width, 3): gray, the number as blocks (most significant first) in its middle, colored corners."""
    frame = np.full((height, width, 3), 90, np.uint8)
    for (top, bottom), (left, right), color in CORNERS:
        frame[top:bottom, left:right] = color
    size = width // (BITS + 2)
    for bit in range(BITS):
        left = size * (bit + 1)
        frame[height // 2 - 6 : height // 2 + 6, left : left + size] = 235 if number >> (BITS - 1 - bit) & 1 else 20
    return frame


def drawn_number(frame, bits=BITS):
    """The number of a frame as it was drawn, whatever its scale."""
    height, width = frame.shape[:2]
    size = width / (bits + 2)
    middle = [frame[height // 2 - 2 : height // 2 + 2, round(size * (bit + 1.5))] for bit in range(bits)]
    return sum(1 << (bits - 1 - bit) for bit, pixels in enumerate(middle) if pixels.mean() > 127)


def write_numbered(
    path,
    num_frames=30,
    codec="libx264",
    options=None,
    times=None,
    display=None,
    size=(HEIGHT, WIDTH),
    container_options=None,
):
    """Writes frames 0, 1, ..., 25 per second, and returns the file's path.

    Args:
        options, container_options: of the encoder and of the container.
        times: of the frames in seconds; default: even.
        display: the display matrix's (a, b, c, d), and the width of a pixel by its height.
        size: (height, width).
    """
    clock = Fraction(1, 1000) if times is not None else Fraction(1, 25)
    with av.open(str(path), "w", container_options=container_options) as output:
        stream = output.add_stream(codec, rate=25, options=options or {})
        stream.height, stream.width = size
        stream.pix_fmt = {"mjpeg": "yuvj420p", "gif": "rgb8", "prores_ks": "yuv422p10le"}.get(codec, "yuv420p")
        stream.codec_context.time_base = clock
        if display is not None:
            (a, b, c, d), stream.codec_context.sample_aspect_ratio = display
            stream.set_display_matrix([a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30])
        for number in range(num_frames):
            frame = av.VideoFrame.from_ndarray(numbered_frame(number, *size), format="rgb24")
            frame.time_base = clock
            frame.pts = number if times is None else round(times[number] * 1000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    if codec == "libsvtav1" and hasattr(os, "sched_setscheduler"):
        # As root, this encoder makes the thread that calls it a real-time one, before which all other programs wait.
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    return path


def add_tone(source, target, layout="mono", container_options=None):
    """Copies a video with a tone of 440 Hz beside the frames, for as long as they are shown; layout: or "stereo"."""
    with av.open(str(source)) as video, av.open(str(target), "w", container_options=container_options) as output:
        stream = video.streams.video[0]
        copy, tone = output.add_stream_from_template(stream), output.add_stream("aac", rate=16000, layout=layout)
        end = position = 0
        for packet in video.demux(stream):
            if packet.dts is not None:
                end = max(end, float((packet.pts + packet.duration) * packet.time_base))
                packet.stream = copy
                output.mux(packet)
            while position < 16000 * end:
                wave = np.sin((position + np.arange(1024)) * 2 * np.pi * 440 / 16000).astype(np.float32)
                wave = np.tile(wave, (1 if layout == "mono" else 2, 1))
                frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout=layout)
                frame.sample_rate, frame.pts = 16000, position
                output.mux(tone.encode(frame))
                position += 1024
        output.mux(tone.encode())
    return target


def loudness(path):
    """(seconds of sound, the share of them in which something is heard)."""
    with av.open(str(path)) as container:
        samples = [frame.to_ndarray()[0] for frame in container.decode(audio=0)]
        rate = container.streams.audio[0].rate
    samples = np.concatenate(samples)
    return len(samples) / rate, share_heard(samples)


def share_heard(samples):
    """The share of the time in which something is heard; samples (N,) from -1 to 1."""
    return (np.abs(samples[: len(samples) // 100 * 100]).reshape(-1, 100).max(axis=1) > 0.1).mean()


def cut(source, target, start):
    """Cuts a video at `start` (seconds) without decoding: the packets from the key frame before it on are copied, with
    times below 0 for what is not to be shown, which an mp4 or mov says with an edit list."""
    with av.open(str(source)) as video, av.open(str(target), "w") as output:
        stream = video.streams.video[0]
        copy = output.add_stream_from_template(stream)
        offset = int(start / stream.time_base)
        video.seek(offset, stream=stream)
        for packet in video.demux(stream):
            if packet.dts is not None:
                packet.dts, packet.pts, packet.stream = packet.dts - offset, packet.pts - offset, copy
                output.mux(packet)
    return target


def without_parts(content, start, number):
    """MPEG-TS without some of the parts of 188 bytes that its video is sent in: `number` of them, from the given share
    of the video on."""
    parts = [content[place : place + 188] for place in range(0, len(content), 188)]
    video = [index for index, part in enumerate(parts) if (part[1] & 31) << 8 | part[2] == 256]
    lost = video[round(start * len(video)) :][:number]
    return b"".join(part for index, part in enumerate(parts) if index not in lost)
