"""What the tables of an mp4 or mov say of its packets, against the packets themselves."""

import struct
from dataclasses import fields
from fractions import Fraction

import av
import numpy as np
import pytest

from factories import SHARED
from modeling_cvls import video_packets_cvls
from modeling_cvls.mp4_packets_cvls import packets_of_tables
from modeling_cvls.mp4_tables_cvls import check_mp4_tables
from numbered_videos import HEIGHT, WIDTH, add_tone, cut, write_numbered

B_FRAMES = {"g": "6", "bf": "2", "sc_threshold": "0"}
TIMES = np.cumsum([0, *[0.04, 0.1, 0.033, 0.5] * 8])[:30]
#: Videos whose tables say everything, and one in fragments.
WHOLE = {
    "plain.mp4": {"options": B_FRAMES},
    "plain.mov": {"options": B_FRAMES},
    "without_b.mp4": {"options": {"bf": "0"}},
    "refreshed.mp4": {"options": {"x264-params": "intra-refresh=1:keyint=10"}},
    "negative.mp4": {"options": B_FRAMES, "container_options": {"movflags": "negative_cts_offsets"}},
    "no_edits.mp4": {"options": B_FRAMES, "container_options": {"use_editlist": "0"}},
    "late.mp4": {"options": B_FRAMES, "times": 5 + TIMES},
    "uneven.mp4": {"options": B_FRAMES, "times": TIMES},
    "mirrored.mov": {"options": B_FRAMES, "display": ((0, 1, 1, 0), 1)},
    "mpeg4.mp4": {"codec": "mpeg4", "options": {"g": "6"}},
    "mjpeg.mov": {"codec": "mjpeg"},
    "prores.mov": {"codec": "prores_ks"},
    "short.mp4": {"options": B_FRAMES, "num_frames": 3},
}
OTHERS = {
    "fragments.mp4": {"options": B_FRAMES, "container_options": {"movflags": "frag_keyframe+empty_moov"}},
    # the first of its fragments lies in the tables of the whole
    "begun.mp4": {"options": B_FRAMES, "container_options": {"movflags": "frag_keyframe"}},
    "sidx.mp4": {"options": B_FRAMES, "container_options": {"movflags": "frag_keyframe+global_sidx"}},
}


@pytest.fixture
def read_both_ways(monkeypatch):
    """A function: a video -> whether its tables were enough, and what `read_packets` says with and without them."""

    def read(source):
        used = []

        def with_tables(*arguments):
            used.append(packets_of_tables(*arguments))
            return used[-1]

        results = []
        for way in (with_tables, lambda *arguments: None):
            monkeypatch.setattr(video_packets_cvls, "packets_of_tables", way)
            try:
                results.append(video_packets_cvls.read_packets(source))
            except (av.FFmpegError, ValueError) as error:
                results.append(type(error))
        return bool(used) and used[0] is not None, *results

    return read


def assert_same(packets, expected):
    if isinstance(expected, type):
        assert packets is expected
        return
    for field in fields(expected):
        if field.name != "frame":
            np.testing.assert_array_equal(getattr(packets, field.name), getattr(expected, field.name), field.name)


@pytest.mark.parametrize("name", [*WHOLE, *OTHERS])
def test_tables_say_what_the_packets_say(read_both_ways, tmp_path, name):
    path = write_numbered(tmp_path / name, **(WHOLE | OTHERS)[name])
    for source in (str(path), path.read_bytes()):
        used, packets, expected = read_both_ways(source)
        assert used == (name in WHOLE)
        assert_same(packets, expected)


def test_sound_and_cuts(read_both_ways, tmp_path):
    path = write_numbered(tmp_path / "a.mp4", options=B_FRAMES)
    used, packets, expected = read_both_ways(str(add_tone(path, tmp_path / "tone.mp4")))
    assert used
    assert_same(packets, expected)
    trimmed = cut(path, tmp_path / "cut.mp4", 0.5)
    front = write_numbered(tmp_path / "b.mp4", options=B_FRAMES, container_options={"movflags": "faststart"})
    for source in (str(trimmed), front.read_bytes()[:-1]):
        used, packets, expected = read_both_ways(source)
        assert not used
        assert_same(packets, expected)


def moov_changed(content: bytes, change) -> bytes:
    """An mp4 whose last box is its moov, with that one's tables changed: `change` takes (name, content) of each box and
    returns the boxes that stand for it."""

    def boxes(data):
        while data:
            size = int.from_bytes(data[:4])
            yield data[4:8], data[8:size]
            data = data[size:]

    def box(name, data):
        if name in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):
            data = b"".join(box(*new) for part in boxes(data) for new in change(*part))
        return struct.pack(">I4s", len(data) + 8, name) + data

    name, moov = list(boxes(content))[-1]
    assert name == b"moov"
    return content[: -len(moov) - 8] + box(name, moov)


def integers(*values):
    return struct.pack(f">{len(values)}I", *values)


def edit_list(*edits):
    """(length in thousandths of a second, start in the time of the medium) of each edit."""
    table = b"".join(struct.pack(">IiI", *edit, 1 << 16) for edit in edits)
    return lambda name, data: [] if name == b"edts" else [(name, data)] + [
        (b"edts", integers(len(table) + 16) + b"elst" + integers(0, len(edits)) + table)
    ] * (name == b"tkhd")  # fmt: skip


def replaced(old, new):
    return lambda name, data: [new(data) if name == old else (name, data)]


@pytest.mark.parametrize(
    ("change", "is_used"),
    [
        (replaced(b"stco", lambda data: (b"co64", data[:4] + data[4:8] + b"".join(
            bytes(4) + data[at : at + 4] for at in range(8, len(data), 4)))), True),
        (replaced(b"ctts", lambda data: (b"ctts", b"\1" + data[1:])), True),
        (replaced(b"stss", lambda data: (b"free", data)), None),
        (replaced(b"mdhd", lambda data: (b"mdhd", data[:16] + integers(100) + data[20:])), True),
        # two descriptions of samples, of which the samples have the first, or the second
        (replaced(b"stsd", lambda data: (b"stsd", data[:4] + integers(2) + 2 * data[8:])), True),
        (lambda name, data: {
            b"stsd": [(name, data[:4] + integers(2) + 2 * data[8:])],
            b"stsc": [(name, data[:16] + integers(2) + data[20:])],
        }.get(name, [(name, data)]), None),
        (replaced(b"stts", lambda data: (b"stts", integers(0, 2, 29, 512, 1, 5000))), None),
        (edit_list(), True),
        (edit_list((1200, 0)), None),
        (edit_list((500, -1), (1200, 1024)), True),
        (edit_list((400, 1024), (400, 9000)), False),
        (edit_list((600, 1024)), False),
        (edit_list((1200, 1024), (1200, 1024)), False),
        (edit_list((1000, -1)), None),
    ],
)  # fmt: skip
def test_tables_of_other_programs(read_both_ways, tmp_path, change, is_used):
    """64-bit places, several descriptions, edits of all kinds: what FFmpeg's own muxer does not write."""
    content = write_numbered(tmp_path / "a.mp4", options=B_FRAMES).read_bytes()
    used, packets, expected = read_both_ways(moov_changed(content, change))
    assert_same(packets, expected)
    assert is_used in (used, None)


def test_hidden_frames_of_vp8(read_both_ways, tmp_path):
    """A packet of VP8 says itself whether it is shown; FFmpeg reads VP8 in mov, but does not write it."""
    with av.open(str(write_numbered(tmp_path / "a.mkv", codec="libvpx"))) as video:
        packets = [bytes(packet) for packet in video.demux(video=0) if packet.size]
    packets[25] = bytes([packets[25][0] & ~0x10]) + packets[25][1:]
    with av.open(str(tmp_path / "a.mov"), "w") as output:
        stream = output.add_stream("mjpeg", rate=25)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuvj420p"
        for number, data in enumerate(packets):
            packet = av.Packet(data)
            packet.stream, packet.time_base = stream, Fraction(1, 25)
            packet.pts = packet.dts = number
            output.mux(packet)
    content = (tmp_path / "a.mov").read_bytes().replace(b"jpeg\0\0\0\0", b"vp08\0\0\0\0", 1)
    used, found, expected = read_both_ways(content)
    assert not used and found.codec == "vp8" and np.flatnonzero(~found.is_shown).tolist() == [25]
    assert_same(found, expected)


@pytest.mark.parametrize("folder", ["real_data/videos", "cases"])
def test_shared_videos(read_both_ways, folder):
    if not (SHARED / folder).is_dir():
        pytest.skip(f"{SHARED / folder} is not there")
    paths = [path for path in sorted((SHARED / folder).rglob("*")) if path.suffix in (".mp4", ".mov")]
    for path in paths:
        _, packets, expected = read_both_ways(str(path))
        assert_same(packets, expected)


def test_damaged_tables(read_both_ways, tmp_path):
    """Bytes of the tables are changed at random: tables that FFmpeg takes otherwise are not used."""
    rng, counts = np.random.default_rng(0), [0, 0]
    content = write_numbered(tmp_path / "a.mp4", options=B_FRAMES).read_bytes()
    for name in (b"stts", b"ctts", b"stsz", b"stsc", b"stco", b"stss", b"elst", b"mdhd"):
        start = content.index(name)
        for _ in range(25):
            damaged = bytearray(content)
            for place in start + rng.integers(4, 60, rng.integers(1, 4)):
                damaged[place] = rng.choice([0, 1, 2, 255, rng.integers(256)])
            try:
                check_mp4_tables(bytes(damaged))
            except ValueError:
                continue
            used, packets, expected = read_both_ways(bytes(damaged))
            assert_same(packets, expected)
            counts[used] += 1
    assert min(counts) > 20
