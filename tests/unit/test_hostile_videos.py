"""Files that declare more than they hold are refused before a decoder sees them."""

import http.server
import os
import subprocess
import sys
import threading

import av
import numpy as np
import pytest

from factories import declare_samples
from modeling_cvls import FrameReader
from modeling_cvls.mp4_tables_cvls import check_mp4_tables
from modeling_cvls.visualization import write_video

MANY = 2_000_000_000


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    path = tmp_path_factory.mktemp("mp4") / "good.mp4"
    write_video(path, np.random.default_rng(0).integers(0, 255, (6, 64, 64, 3), dtype=np.uint8), 8)
    return path.read_bytes()


def with_count(data: bytes, name: bytes, offset: int, number: int) -> bytes:
    """The file with a four-byte number written `offset` bytes behind the name of a box."""
    place = data.index(name) + offset
    return data[:place] + number.to_bytes(4, "big") + data[place + 4 :]


def test_files_of_all_kinds_pass(good, tmp_path):
    check_mp4_tables(good)
    for name, options in (("a.mp4", {"movflags": "frag_keyframe+empty_moov"}), ("a.mov", {}), ("a.mkv", {})):
        path = tmp_path / name
        with av.open(str(path), "w", options=options) as container:
            video, sound = container.add_stream("libx264", rate=8), container.add_stream("aac", rate=8000)
            video.width = video.height = 64
            video.pix_fmt, sound.layout = "yuv420p", "mono"
            for index in range(8):
                container.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8))))
                wave = av.AudioFrame.from_ndarray(np.zeros((1, 1000), np.float32), format="fltp", layout="mono")
                wave.sample_rate, wave.pts = 8000, 1000 * index
                container.mux(sound.encode(wave))
            for stream in (video, sound):
                container.mux(stream.encode())
        check_mp4_tables(str(path))
        assert len(FrameReader(path)) == 8
    check_mp4_tables(b"")
    check_mp4_tables(b"no video at all")


@pytest.mark.parametrize(
    ("name", "offset"),
    [(b"stts", 12), (b"stsz", 12), (b"stsc", 8), (b"stco", 8), (b"elst", 8)],
    ids=lambda value: value.decode() if isinstance(value, bytes) else None,
)
def test_what_declares_too_much_is_refused(good, tmp_path, name, offset):
    path = tmp_path / "bomb.mp4"
    path.write_bytes(with_count(good, name, offset, MANY))
    for video in (path, path.read_bytes()):
        with pytest.raises(ValueError, match=r"declares [\d,]+ frames or samples, more than its [\d,]+ bytes can hold"):
            FrameReader(video)


def test_samples_of_one_size_must_fit(good):
    bomb = with_count(with_count(good, b"stsz", 8, 4096), b"stsz", 12, 1000)
    with pytest.raises(ValueError, match="declares 4,096,000 frames"):
        check_mp4_tables(bomb)


def test_boxes_in_boxes_end(good):
    """A thousand boxes inside each other, one that is longer than the file, one of no length."""
    nested = b"".join((8 * (1000 - depth)).to_bytes(4, "big") + b"moov" for depth in range(1000))
    for tail in (nested, (2**32 - 1).to_bytes(4, "big") + b"moov", (3).to_bytes(4, "big") + b"trak"):
        check_mp4_tables(good + tail)


@pytest.mark.slow
def test_the_process_goes_on(good, tmp_path):
    """Where it did not, nothing after it would run."""
    path = tmp_path / "bomb.mp4"
    path.write_bytes(declare_samples(good, MANY))
    program = "import sys\nfrom modeling_cvls import FrameReader\ntry:\n    FrameReader(sys.argv[1]).read([0])\n"
    program += "except ValueError as error:\n    print(error)\n"
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "bomb.mp4 cannot be decoded as a video: it declares" in done.stdout, done.stderr


def test_bytes_lead_nowhere_else(good, tmp_path):
    """A playlist may name addresses and files; given as bytes, FFmpeg would go to all of them."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET

    (tmp_path / "good.ts").write_bytes(good)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for target in (f"{tmp_path}/good.ts", f"http://127.0.0.1:{server.server_port}/a.ts"):
            playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n".encode()
            with pytest.raises(ValueError, match="given as bytes cannot be decoded as a video"):
                FrameReader(playlist)
        (tmp_path / "list.m3u8").write_bytes(playlist)
        with pytest.raises(ValueError, match=r"list\.m3u8 cannot be decoded as a video"):
            FrameReader(tmp_path / "list.m3u8")
        server.shutdown()
    assert not asked


def test_texts_are_no_videos(tmp_path):
    """FFmpeg would draw them."""
    (tmp_path / "notes.txt").write_text("hello\n" * 100)
    with pytest.raises(ValueError, match="notes.txt cannot be decoded as a video: it holds no video stream"):
        FrameReader(tmp_path / "notes.txt")


def test_pipes_and_devices_are_refused(tmp_path):
    """Reading them might never end."""
    os.mkfifo(tmp_path / "pipe.mp4")
    for path in (tmp_path / "pipe.mp4", "/dev/zero"):
        with pytest.raises(FileNotFoundError, match="no video file at"):
            FrameReader(path)
    (tmp_path / "frames").mkdir()
    os.mkfifo(tmp_path / "frames" / "1.png")
    for video in (tmp_path / "frames", [tmp_path / "frames" / "1.png"]):
        with pytest.raises(ValueError, match=r"1\.png\) cannot be decoded"):
            FrameReader(video).read([0])
