"""What the tables of an mp4 or mov say of its packets, against the packets themselves."""

from dataclasses import fields

import av
import numpy as np
import pytest

from modeling_cvls import video_packets_cvls
from modeling_cvls.mp4_packets_cvls import packets_of_tables
from modeling_cvls.mp4_tables_cvls import check_mp4_tables
from numbered_videos import add_tone, cut, write_numbered

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
