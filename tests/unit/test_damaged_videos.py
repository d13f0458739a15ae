"""Of a damaged video is read what can be decoded, and what is missing is named; or it is refused."""

import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from factories import ROOT, SHARED
from modeling_cvls import FrameReader
from modeling_cvls.video_index_cvls import named_gaps
from numbered_videos import drawn_number, numbered_frame, without_parts, write_numbered

PROGRAM = Path(__file__).parent / "programs/read_damaged.py"
CONTAINERS = {"mp4": "libx264", "mkv": "libx264", "ts": "libx264", "avi": "mpeg4", "webm": "libvpx", "mov": "mjpeg",
              "mpg": "mpeg2video", "gif": "gif", "h264": "libx264", "flv": "flv"}  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An mp4 whose table stands before the frames, so that its beginning is enough."""
    path = tmp_path_factory.mktemp("whole") / "whole.mp4"
    options = {"g": "10", "sc_threshold": "0", "bf": "2", "crf": "4"}
    return write_numbered(path, 60, options=options, container_options={"movflags": "faststart"})


@pytest.mark.parametrize("share", [0.5, 0.6, 0.7, 0.9, 0.97, 0.999])
def test_a_file_that_was_cut_off(whole, tmp_path, share):
    path = tmp_path / "cut.mp4"
    content = whole.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    reader = FrameReader(path, on_damage="keep")
    frames = list(reader.frames(range(len(reader))))
    there = [index for index, frame in enumerate(frames) if frame is not None]
    assert sorted([*there, *reader.missing_frames]) == list(range(60)) and there and reader.damage
    there = [index for index in there if index not in reader.partial_frames]
    assert [drawn_number(frames[index]) for index in there] == there
    assert [drawn_number(frame) for frame in reader.read(there[::-3])] == there[::-3]
    assert "cut.mp4 is damaged or was cut off: " in reader.damage
    for frames, text in ((reader.missing_frames, "of its frames cannot"), (reader.partial_frames, "are decoded only")):
        assert (f"{len(frames)} {text}" in reader.damage) == bool(frames)
    with pytest.raises(
        ValueError, match=r"frame \d+ of .*cut.mp4|damaged or was cut off: it holds .* of the 60 frames"
    ):
        list(FrameReader(path).frames(range(60)))


@pytest.mark.parametrize("container", ["mkv", "webm", "flv"])
def test_a_file_that_holds_less_than_its_header_says(tmp_path, container):
    path = write_numbered(tmp_path / f"clip.{container}", 60, codec=CONTAINERS[container])
    assert not FrameReader(path).missing_frames
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(ValueError, match="damaged or was cut off: it holds .* of the .* frames that its header"):
        FrameReader(path)
    reader = FrameReader(path, on_damage="keep")
    there = [index for index, frame in enumerate(reader.frames(range(len(reader)))) if frame is not None]
    assert there[:20] == list(range(20)) and abs(max(reader.missing_frames) - 59) <= 1


@pytest.mark.parametrize("kept", [1, 3])
def test_an_avi_of_which_few_frames_are_left(tmp_path, kept):
    """How many are missing is FFmpeg's estimate, by the size of the file."""
    whole = write_numbered(tmp_path / "whole.avi", 40, codec="mpeg4")
    assert not FrameReader(whole).missing_frames
    with av.open(str(whole)) as video:
        places = [packet.pos for packet in video.demux(video=0) if packet.size]
    (tmp_path / "cut.avi").write_bytes(whole.read_bytes()[: places[kept]])
    reader = FrameReader(tmp_path / "cut.avi", on_damage="keep")
    assert len(reader) == kept and len(reader.missing_frames) > 3
    with pytest.raises(ValueError, match=f"it holds {kept} of the .* frames that its header promises"):
        FrameReader(tmp_path / "cut.avi")


def test_bytes_lost_in_the_middle(whole, tmp_path):
    content = bytearray(whole.read_bytes())
    start = content.index(b"mdat") + (len(content) - content.index(b"mdat")) // 2
    content[start : start + 200] = bytes(200)
    (tmp_path / "hole.mp4").write_bytes(content)
    reader = FrameReader(tmp_path / "hole.mp4", on_damage="keep")
    frames = list(reader.frames(range(len(reader))))
    missing = [index for index, frame in enumerate(frames) if frame is None]
    assert len(frames) == 60 and missing and reader.missing_frames == missing
    assert [drawn_number(frame) for frame in frames[:20]] == list(range(20))  # what lies before the hole
    assert [drawn_number(frame) for frame in frames[50:]] == list(range(50, 60))  # and two key frames behind it
    strict = FrameReader(tmp_path / "hole.mp4")
    with pytest.raises(ValueError, match=r"frame \d+ of .*hole.mp4 cannot be decoded; the file is damaged"):
        list(strict.frames(range(60)))
    with pytest.raises(ValueError, match="hole.mp4 cannot be decoded"):
        strict.read(range(60))
    assert drawn_number(strict.read([3])[0]) == 3
    with pytest.raises(ValueError, match="on_damage is 'error' or 'keep', not 'hide'"):
        FrameReader(whole, on_damage="hide")


@pytest.mark.parametrize("codec", ["libx264", "libx265", "mpeg2video"])
def test_frames_lost_on_the_way(tmp_path, codec):
    """Parts dropped from MPEG-TS: the time stamps of the whole file say which frames are lost."""
    options = {"g": "20", "bf": "2", "b": "4M", "x265-params": "log-level=none"}
    path = write_numbered(tmp_path / "whole.ts", 60, codec, {"crf": "4"} | options if "x26" in codec else options)
    content = path.read_bytes()
    assert FrameReader(path).gaps == []
    with av.open(str(path)) as video:
        stamps = sorted(packet.pts for packet in video.demux(video=0) if packet.pts is not None)
    random, losses = np.random.default_rng(0), 0
    for number in (1, 2, 4, 7, 15, 17, 20):
        (tmp_path / "lost.ts").write_bytes(without_parts(content, random.uniform(0.2, 0.7), number))
        with av.open(str(tmp_path / "lost.ts")) as video:
            left = {packet.pts for packet in video.demux(video=0)}
        lost = [round((stamp - stamps[0]) / 3600) for stamp in stamps if stamp not in left]
        reader = FrameReader(tmp_path / "lost.ts", on_damage="keep")
        assert [round(25 * time) + step for time, count in reader.gaps for step in range(count)] == lost
        losses += bool(lost)
        there = [index for index in range(60) if index not in lost]
        assert np.allclose(reader.times, np.array(there) / 25)
        if lost:
            assert re.search(rf"it lacks {reader.gaps[0][1]} frames? at {lost[0] / 25:.2f} s", reader.damage)
            with pytest.raises(ValueError, match=r"lost\.ts is damaged: it lacks \d+ frames? at .* s"):
                FrameReader(tmp_path / "lost.ts")
    assert losses > 3


def test_what_a_message_says_of_losses():
    assert named_gaps([(1.12, 1)]) == "it lacks 1 frame at 1.12 s"
    assert named_gaps([(1.12, 8), (3.2, 1)]) == "it lacks 8 frames at 1.12 s and 1 frame at 3.20 s"
    assert named_gaps([(float(second), 2) for second in range(9)]).endswith("at 4.00 s and more at 4 other moments")


@pytest.mark.parametrize("container", ["ts", "mkv", "mp4", "mov"])
def test_a_variable_rate_is_no_loss(tmp_path, container):
    """Screen recordings pause while nothing moves, and telephones leave frames out."""
    times = np.cumsum([0.04] * 20 + [1.5] + [0.04] * 10 + [0.08] + [0.04] * 10 + [0.4] + [0.04] * 10)
    reader = FrameReader(write_numbered(tmp_path / f"clip.{container}", len(times), times=times), on_damage="keep")
    assert len(list(reader.frames(range(len(reader))))) == len(times)
    assert reader.gaps == [] and reader.damage is None


def test_a_stream_that_changes_its_size(tmp_path):
    first = write_numbered(tmp_path / "first.ts", 20).read_bytes()
    second = write_numbered(tmp_path / "second.ts", 20, size=(96, 128)).read_bytes()
    (tmp_path / "both.ts").write_bytes(first + second)
    for on_damage in ("error", "keep"):
        reader = FrameReader(tmp_path / "both.ts", on_damage=on_damage)
        with pytest.raises(ValueError, match=r"frame 20 of .*both.ts is 96 x 128 pixels .* frame 0 48 x 64"):
            list(reader.frames(range(40)))


def test_a_folder_of_frames_with_broken_images(tmp_path):
    """The first one too, so that the size is that of another."""
    for number in range(6):
        Image.fromarray(numbered_frame(number)).save(tmp_path / f"{number}.png")
    for number in (0, 3):
        content = (tmp_path / f"{number}.png").read_bytes()
        (tmp_path / f"{number}.png").write_bytes(content[: len(content) // 2 * number // 3])
    reader = FrameReader(tmp_path, fps=5, on_damage="keep")
    assert (len(reader), reader.height, reader.width) == (6, 48, 64)
    numbers = [None if frame is None else drawn_number(frame) for frame in reader.frames(range(6))]
    assert numbers == [None, 1, 2, None, 4, 5] and reader.missing_frames == [0, 3] and reader.is_missing(3)
    assert "2 of its frames cannot be decoded and are left out (0, 3)" in reader.damage
    with pytest.raises(ValueError, match=r"frame 0 of .*0\.png\) cannot be decoded; an encoded image such as png"):
        list(FrameReader(tmp_path).frames(range(6)))
    with pytest.raises(ValueError, match=r"frame 3 of .*3\.png\) cannot be decoded"):
        reader.read([1, 3])
    Image.fromarray(numbered_frame(3, 96, 128)).save(tmp_path / "3.png")  # is whole, and of another size
    with pytest.raises(ValueError, match="frame 3 of .* is 96 x 128 pixels"):
        list(FrameReader(tmp_path, on_damage="keep").frames(range(6)))


def test_a_codec_that_is_not_known(whole, tmp_path):
    (tmp_path / "odd.mp4").write_bytes(whole.read_bytes().replace(b"avc1", b"qqqq").replace(b"avcC", b"qqqC"))
    with pytest.raises(ValueError, match=r"odd\.mp4 cannot be decoded as a video: it (is encoded in a way|holds no)"):
        FrameReader(tmp_path / "odd.mp4")


def damaged(content, other, random):
    """Bits flipped, cut off, bytes lost, or the beginning of another format."""
    content = bytearray(content)
    kind = random.integers(4)
    if kind == 0:
        for place in random.integers(len(content), size=2 ** random.integers(8)):
            content[place] ^= 1 << int(random.integers(8))
    elif kind == 1:
        content = content[: random.integers(1, len(content))]
    elif kind == 2:
        start = random.integers(len(content))
        del content[start : start + random.integers(1, 500)]
    else:
        length = random.integers(8, 200)
        content[:length] = other[:length]
    return bytes(content)


def check_damaged(folder, number):
    random, sources = np.random.default_rng(1), []
    for container, codec in CONTAINERS.items():
        options = {"mp4": {"g": "10", "bf": "2"}, "ts": {"g": "10", "bf": "2"}}.get(container)
        sources.append(write_numbered(folder / f"whole.{container}", codec=codec, options=options))
    contents = [path.read_bytes() for path in sources]
    paths = []
    for index in range(number):
        place = index % len(sources)
        paths.append(folder / f"damaged{index}{sources[place].suffix}")
        other = contents[random.integers(len(sources))]
        paths[-1].write_bytes(damaged(contents[place], other, random))
    result = subprocess.run(
        [sys.executable, PROGRAM, "20", *paths],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=20 * number,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    endings = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(endings) == number
    assert not [ending for ending in endings if ending[1] == "crash"]
    assert {ending[1] for ending in endings} == {"frames", "error"}
    assert any(ending[1] == "frames" and ending[2][1] for ending in endings)


@pytest.mark.slow
def test_a_thousand_damaged_files(tmp_path):
    check_damaged(tmp_path, 1000)


@pytest.mark.slow
def test_reading_damaged_files_holds_no_memory(whole):
    """The same damaged videos over and over: the process does not grow."""
    random, content = np.random.default_rng(0), whole.read_bytes()
    videos = [damaged(content, content, random) for _ in range(12)]

    def read_all():
        for video in videos:
            try:
                reader = FrameReader(video, on_damage="keep")
                list(reader.frames(range(len(reader))))
                reader.read([0])
            except ValueError:
                pass
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    if not Path("/proc/self/statm").is_file():
        pytest.skip("memory is measured with /proc")
    for _ in range(3):
        before = read_all()
    for _ in range(10):
        after = read_all()
    assert after - before < 8e6


@pytest.mark.skipif(not (SHARED / "cases").is_dir(), reason="../shared/cases is absent")
def test_reported_damage(tmp_path):
    folder = SHARED / "cases/damaged"
    for name, there in {"truncated.mp4": 48, "corrupt_mid.mp4": 114, "fast.mp4": 120}.items():
        reader = FrameReader(folder / name, on_damage="keep")
        frames = [frame for frame in reader.frames(range(len(reader))) if frame is not None]
        assert len(frames) == there and len(reader.missing_frames) == 120 - there
    with pytest.raises(ValueError, match=r"frame 30 of .* is 192 x 320 pixels .* frame 0 96 x 160"):
        list(FrameReader(SHARED / "cases/size_changes/size_change.ts").frames(range(60)))


def test_nothing_is_said_of_whole_files(whole):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reader = FrameReader(whole, on_damage="keep")
        assert all(frame is not None for frame in reader.frames(range(60)))
    assert reader.missing_frames == [] and reader.damage is None and not reader.is_missing(3)
