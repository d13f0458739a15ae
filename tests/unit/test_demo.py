"""What serves the page, without its browser part: decoding in another process, deletion of old files, sentences."""

import os
import socket
import time

import numpy as np
import pytest

from factories import declare_samples
from modeling_cvls import FrameReader
from modeling_cvls.demo.clips import KEPT, Clips
from modeling_cvls.demo.decoding import ClipLimits, Decoder
from modeling_cvls.demo.storage import Storage
from modeling_cvls.visualization import write_video


@pytest.fixture(scope="module")
def decoder():
    decoder = Decoder(ClipLimits(seconds=3, fps=4, pixels=64 * 96))
    yield decoder
    decoder.close()


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Ten frames of 64 x 96 at 8 frames per second."""
    path = tmp_path_factory.mktemp("clips") / "good.mp4"
    frames = np.random.default_rng(0).integers(0, 255, (10, 64, 96, 3), dtype=np.uint8)
    write_video(path, frames, 8)
    return path


def test_frames_are_the_readers(decoder, good, tmp_path):
    clip = decoder.decode(good, tmp_path / "frames")
    assert clip.frame_indices == [0, 2, 4, 6, 8] and clip.fps == 4 and clip.duration == 1.25
    np.testing.assert_array_equal(clip.frames, np.stack(list(FrameReader(good).frames([0, 2, 4, 6, 8]))))


def test_hostile_files_end_another_process_only(decoder, good, tmp_path):
    fifo, channel = tmp_path / "fifo.mp4", tmp_path / "socket.mp4"
    os.mkfifo(fifo)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(channel))
    (tmp_path / "text.mp4").write_text("no video")
    large = tmp_path / "large.mp4"
    write_video(large, np.zeros((2, 64, 98, 3), np.uint8), 8)
    slow = tmp_path / "slow.mp4"
    write_video(slow, np.zeros((2, 64, 96, 3), np.uint8), 1 / 4)
    for path, message in (
        (fifo, "fifo.mp4"),
        (channel, "socket.mp4"),
        ("/dev/zero", "/dev/zero"),
        (tmp_path / "text.mp4", "text.mp4 cannot be decoded"),
        (large, "98 x 64 pixels, and at most 6,144 pixels are taken here"),
        (slow, "lasts 8.0 s, and at most 3 s are taken here"),
    ):
        start = time.monotonic()
        with pytest.raises((OSError, ValueError), match=message):
            decoder.decode(path, tmp_path / "frames")
        assert time.monotonic() - start < 60
    assert len(decoder.decode(good, tmp_path / "frames").frames) == 5


def test_a_file_that_promises_too_much_ends_nothing(decoder, good, tmp_path):
    """It is decoded rightly, or refused; in either case the decoder goes on."""
    bomb = tmp_path / "bomb.mp4"
    bomb.write_bytes(declare_samples(good.read_bytes(), 2_000_000_000))
    try:
        assert len(decoder.decode(bomb, tmp_path / "frames").frames) == 5
    except ValueError as error:
        assert "bomb.mp4" in str(error)
    assert len(decoder.decode(good, tmp_path / "frames").frames) == 5


def test_time_and_memory_are_limited(decoder, good, tmp_path, monkeypatch):
    for limits, message in (
        (ClipLimits(decoding_seconds=1e-6), "good.mp4 takes too long to decode: it was stopped after 1e-06 s"),
        (ClipLimits(decoding_memory=0), "good.mp4|failed to map segment"),
    ):
        monkeypatch.setattr(decoder, "limits", limits)
        with pytest.raises(ValueError, match=message):
            decoder.decode(good, tmp_path / "frames")


@pytest.mark.slow
def test_the_helper_starts_again(good, tmp_path):
    decoder = Decoder(ClipLimits())
    try:
        for _ in range(2):
            decoder._helper.kill()
            decoder._helper.wait()
            assert len(decoder.decode(good, tmp_path / "frames").frames) == 10
    finally:
        decoder.close()


class Segmenter:
    """Stands for the pipeline: counts what is opened and closed."""

    def __init__(self):
        self.opened, self.closed = 0, 0

    def open(self, frames, **options):
        self.opened += 1
        return self

    def close(self):
        self.closed += 1


def test_a_clip_is_opened_once_and_forgotten_when_it_is_deleted(decoder, good, tmp_path):
    segmenter = Segmenter()
    clips = Clips(segmenter, decoder, tmp_path / "cache")
    clips.folder.mkdir()
    paths = [tmp_path / f"{number}.mp4" for number in range(KEPT + 1)]
    for path in paths:
        path.write_bytes(good.read_bytes())
    with clips.open(str(paths[0])) as first:
        assert len(first.clip.frames) == 5 and first.seconds.keys() == {"decoding", "encoding"}
    with clips.open(str(paths[0])) as again:
        assert again.clip is first.clip and not again.seconds and segmenter.opened == 1
    paths[0].unlink()
    with pytest.raises(ValueError, match="deleted by now"), clips.open(str(paths[0])):
        pass
    assert not list(clips.folder.iterdir()) and segmenter.closed == 1
    with pytest.raises(ValueError, match="no clip yet"), clips.open(None):
        pass
    paths[0].write_bytes(good.read_bytes())
    for path in paths:
        with clips.open(str(path)):
            pass
    assert len(list(clips.folder.iterdir())) == KEPT and segmenter.closed == 2
    with clips.open(str(paths[0])) as opened:
        assert opened.seconds  # it was the oldest
    (tmp_path / "bad.mp4").write_text("no video")
    with pytest.raises(ValueError, match="cannot be decoded"), clips.open(str(tmp_path / "bad.mp4")):
        pass
    assert len(list(clips.folder.iterdir())) == KEPT
    clips.close()
    assert not list(clips.folder.iterdir()) and segmenter.opened == segmenter.closed == KEPT + 3


def test_files_are_deleted_after_half_an_hour(tmp_path):
    now = [time.time()]
    storage = Storage(tmp_path, 1800, clock=lambda: now[0])
    (tmp_path / "request").mkdir()
    old, new = tmp_path / "request" / "old.mp4", tmp_path / "request" / "new.mp4"
    old.touch()
    now[0] += 1700
    new.touch()
    os.utime(new, (now[0], now[0]))
    storage.delete_old()
    assert old.exists() and new.exists()
    now[0] += 200
    storage.delete_old()
    assert not old.exists() and new.exists()
    now[0] += 3600
    storage.delete_old()
    storage.delete_old()
    assert not list(tmp_path.iterdir())


def test_the_thread_deletes_until_it_is_closed(tmp_path):
    storage, calls = Storage(tmp_path, 1800, clock=lambda: time.time() + 3600), []
    (tmp_path / "old").touch()
    storage.delete_old_regularly(then=lambda: calls.append(1), interval=0.01)
    deadline = time.monotonic() + 20
    while not calls and time.monotonic() < deadline:
        time.sleep(0.01)
    storage.close()
    assert calls and not (tmp_path / "old").exists()
