"""What serves the page, without its browser part: decoding in another process, deletion of old files, sentences."""

import errno
import io
import json
import os
import socket
import time
import zipfile

import numpy as np
import pytest
from PIL import Image

from factories import SENTENCES, SHARED, declare_samples
from modeling_cvls import FrameReader
from modeling_cvls.demo import decoding
from modeling_cvls.demo.clips import KEPT, Clips
from modeling_cvls.demo.decoding import ClipLimits, Decoder
from modeling_cvls.demo.results import score_table, segment_clip
from modeling_cvls.demo.storage import Storage
from modeling_cvls.visualization import VideoWriter, write_video
from numbered_videos import add_tone, loudness, write_numbered


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


@pytest.mark.slow
def test_frames_are_the_readers(decoder, good, tmp_path):
    clip = decoder.decode(good, tmp_path / "frames")
    assert clip.frame_indices == [0, 2, 4, 6, 8] and clip.fps == 4 and clip.duration == 1.25
    np.testing.assert_array_equal(clip.frames, np.stack(list(FrameReader(good).frames([0, 2, 4, 6, 8]))))


@pytest.mark.slow
def test_a_clip_is_thinned_by_its_times(decoder, tmp_path, monkeypatch):
    """Five frames in a tenth of a second, then a still picture: the mean rate says nothing of either."""
    times = [0, 0.02, 0.04, 0.06, 0.08, 2, 2.5]
    with VideoWriter(tmp_path / "screen.mp4", 2, end=2.9) as writer:
        for number, time_ in enumerate(times):
            writer.write(np.full((64, 96, 3), 30 * number, np.uint8), time_)
    monkeypatch.setattr(decoder, "limits", ClipLimits(seconds=3, fps=25))
    clip = decoder.decode(tmp_path / "screen.mp4", tmp_path / "frames")
    assert clip.frame_indices == [0, 2, 4, 5, 6]  # shown at multiples of 0.04 s
    assert clip.times == pytest.approx([0, 0.04, 0.08, 2, 2.5], abs=1e-4)
    assert clip.duration == pytest.approx(2.9, abs=1e-3)
    assert [clip.position_at(seconds) for seconds in (0, 0.05, 1.9, 2.1, 9)] == [0, 1, 2, 3, 4]


def segmented(path, segmenter, decoder, folder):
    """What the page makes of a clip, and its masks (K, T, H, W) and their frames from the zip file."""
    folder.mkdir()
    clips = Clips(segmenter, decoder, folder)
    try:
        with clips.open(str(path)) as opened:
            results = segment_clip(opened, SENTENCES, folder, lambda *_, **__: None)
    finally:
        clips.close()
    with zipfile.ZipFile(results.masks) as archive:
        assert json.loads(archive.read("sentences.json")) == results.sentences
        names = [sorted(name for name in archive.namelist() if name.startswith(f"{n}/")) for n in (1, 2)]
        masks = [[np.asarray(Image.open(io.BytesIO(archive.read(name)))) for name in of_one] for of_one in names]
    return results, np.array(masks), [int(name[2:-4]) for name in names[0]]


@pytest.mark.slow
def test_the_overlay_keeps_times_pixels_and_sound(decoder, segmenter, tmp_path, monkeypatch):
    monkeypatch.setattr(decoder, "limits", ClipLimits())
    times = [0, 0.5, 0.54, 0.58, 1.7, 1.74, 2, 2.9]
    path = add_tone(write_numbered(tmp_path / "silent.mp4", 8, times=times), tmp_path / "clip.mp4")
    results, _, frames = segmented(path, segmenter, decoder, tmp_path / "page")
    source, drawn = FrameReader(path), FrameReader(results.video)
    assert frames == list(range(8)) and results.damage is None and "damage" not in score_table(results)
    np.testing.assert_allclose(drawn.times, source.times, atol=1e-3)
    assert drawn.end == pytest.approx(source.end, abs=1e-3) and results.duration == source.end
    seconds, heard = loudness(results.video)
    assert seconds == pytest.approx(2.9, abs=0.15) and heard > 0.9
    wide = write_numbered(tmp_path / "wide.mp4", 3, display=((1, 0, 0, 1), 2))
    results, _, _ = segmented(wide, segmenter, decoder, tmp_path / "wide")
    assert FrameReader(results.video).sample_aspect_ratio == 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*is damaged or was cut off")
@pytest.mark.parametrize("at", ["the middle", "the end"])
def test_a_damaged_clip_gives_what_is_left(decoder, segmenter, tmp_path, monkeypatch, at):
    monkeypatch.setattr(decoder, "limits", ClipLimits())
    options = {"g": "6", "sc_threshold": "0", "bf": "0", "crf": "4"}
    whole = write_numbered(tmp_path / "whole.mp4", options=options, container_options={"movflags": "faststart"})
    content = bytearray(whole.read_bytes())
    data = content.index(b"mdat") + 4
    if at == "the end":
        del content[data + (len(content) - data) * 7 // 10 :]
    else:
        start = data + (len(content) - data) // 2
        content[start : start + 300] = bytes(300)
    (tmp_path / "cut.mp4").write_bytes(content)
    expected = segmenter(tmp_path / "cut.mp4", SENTENCES)
    results, masks, frames = segmented(tmp_path / "cut.mp4", segmenter, decoder, tmp_path / "page")
    missing = expected[0]["missing_frames"]
    assert missing and frames == expected[0]["frame_indices"] and sorted([*missing, *frames]) == list(range(30))
    assert (masks == [result["masks"] for result in expected]).mean() > 0.99  # features are kept in half precision
    assert [row["missing_frames"] for row in results.sentences] == [missing] * 2
    assert [row["frames"] for row in results.sentences] == [len(frames)] * 2
    table = score_table(results)
    assert f"cut.mp4 is damaged or was cut off: {len(missing)} of its frames" in table and str(tmp_path) not in table
    drawn, reader = FrameReader(results.video), FrameReader(tmp_path / "cut.mp4", on_damage="keep")
    assert len(drawn) == len(frames)
    np.testing.assert_allclose(drawn.times, reader.times[frames] - reader.times[frames[0]], atol=1e-3)


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "cases").is_dir(), reason="../shared/cases is absent")
def test_reported_clips(decoder, tmp_path, monkeypatch):
    monkeypatch.setattr(decoder, "limits", ClipLimits())
    for name, there, missing in (
        ("damaged/truncated.mp4", 48, 72),
        ("damaged/corrupt_mid.mp4", 114, 6),
        ("ts_off_by_one_gop/own.ts", 120, 0),
        ("gif/anim.gif", 30, 0),
    ):
        clip = decoder.decode(SHARED / "cases" / name, tmp_path / "frames")
        assert (len(clip.positions), len(clip.missing_frames), clip.damage is None) == (there, missing, missing == 0)
    screen = SHARED / "cases/variable_frame_rate/screenrec.mp4"
    clip, reader = decoder.decode(screen, tmp_path / "frames"), FrameReader(screen)
    assert clip.times == reader.times[clip.frame_indices].tolist() and clip.duration == reader.end
    with pytest.raises(ValueError, match=r"frame 30 of .* is 192 x 320 pixels .* frame 0 96 x 160"):
        decoder.decode(SHARED / "cases/size_changes/size_change.ts", tmp_path / "frames")


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_file_that_promises_too_much_ends_nothing(decoder, good, tmp_path):
    """It is decoded rightly, or refused; in either case the decoder goes on."""
    bomb = tmp_path / "bomb.mp4"
    bomb.write_bytes(declare_samples(good.read_bytes(), 2_000_000_000))
    try:
        assert len(decoder.decode(bomb, tmp_path / "frames").frames) == 5
    except ValueError as error:
        assert "bomb.mp4" in str(error)
    assert len(decoder.decode(good, tmp_path / "frames").frames) == 5


@pytest.mark.slow
def test_time_and_memory_are_limited(decoder, good, tmp_path, monkeypatch):
    for limits, message in (
        (ClipLimits(decoding_seconds=1e-6), "good.mp4 takes too long to decode: it was stopped after 1e-06 s"),
        (ClipLimits(decoding_memory=0), "good.mp4|failed to map segment"),
    ):
        monkeypatch.setattr(decoder, "limits", limits)
        with pytest.raises(ValueError, match=message):
            decoder.decode(good, tmp_path / "frames")


def test_memory_that_the_system_refuses_is_named(monkeypatch):
    def refuse(*arguments):
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM), "a file that has nothing to do with the clip")

    monkeypatch.setattr(decoding, "write_clip", refuse)
    answer = json.loads(decoding.answer_job({"path": "good.mp4", "output": "frames"}, ClipLimits()))
    assert answer == {"error": "good.mp4 needs more than 2 GB of memory to decode."}


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


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_page_says_what_a_model_was_trained_on_and_not_where_it_was_measured(tmp_path):
    from modeling_cvls.demo.serving import describe_model  # imports gradio, which takes seconds

    results = "[{task: {type: t}, dataset: {name: B, type: b}, metrics: [{type: mean_iou, value: 0.5}]}]"
    card = f"---\n{{datasets: [a], model-index: [{{name: seen, results: {results}}}]}}\n---\n"
    (tmp_path / "README.md").write_text(card, encoding="utf-8")
    assert describe_model(str(tmp_path)) == "The model seen was trained on a."
    (tmp_path / "README.md").write_text(card.replace("datasets: [a], ", ""), encoding="utf-8")
    assert describe_model(str(tmp_path)) == "The model seen does not say what it was trained on."
