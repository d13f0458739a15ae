"""Live streams: results of a file's windows, latency, sentences that change, bounded memory, cameras and URLs."""

import http.server
import subprocess
import sys
import threading
import time

import av
import numpy as np
import pytest
import torch
from PIL import Image

from factories import NOISE, ROOT, SENTENCES
from modeling_cvls import FrameReader
from modeling_cvls.live_cvls import LiveSource
from modeling_cvls.visualization import write_video
from modeling_cvls.windows_cvls import LiveWindows
from numbered_videos import write_numbered


def brute_force(length, window, overlap, look_ahead):
    """Position -> windows (start, stop) that count for it, by walking through time frame by frame."""
    hop = min(window - overlap, look_ahead + 1)
    ends = list(range(look_ahead, length, hop))
    complete = ends[-1] + hop - look_ahead if ends else 0  # before the end of the sequence is known
    counted = {}
    for position in range(length):
        last = [length - 1] if position >= complete and length - 1 not in ends else []
        of_position = [end for end in ends + last if position <= end <= position + look_ahead]
        counted[position] = [(max(0, end - window + 1), end + 1) for end in of_position]
    return counted


@pytest.mark.parametrize("look_ahead", range(5))
@pytest.mark.parametrize(("overlap", "length"), [(0, 17), (1, 17), (1, 18), (2, 3), (4, 12), (2, 1)])
def test_windows_over_a_growing_sequence(look_ahead, overlap, length):
    planner, counted, done, taken = LiveWindows(5, overlap, look_ahead), {}, 0, {}

    def take(window, now):
        nonlocal done
        if window is None:
            return
        assert window.stop == now + 1 and len(window) <= 5
        for position, weight in zip(window.wanted, window.weights, strict=True):
            assert position >= done
            assert weight == min(position - window.start + 1, window.stop - position)
            counted.setdefault(int(position), []).append((window.start, window.stop))
        for position in range(done, window.complete):
            taken[position] = now
        done = window.complete

    for now in range(length):
        take(planner.push(), now)
    take(planner.close(), length - 1)
    assert planner.close() is None
    taken |= dict.fromkeys(range(done, length), length - 1)
    assert counted == brute_force(length, 5, overlap, look_ahead)
    assert taken.keys() == set(range(length))
    assert all(now - position <= look_ahead for position, now in taken.items())


@pytest.mark.slow
def test_results_are_those_of_a_file(segmenter):
    expected = list(segmenter.stream(NOISE, SENTENCES, video_fps=10))
    live = segmenter.live(SENTENCES, fps=10, return_frames=True)
    assert live.look_ahead == 3 and live.latency == pytest.approx(0.3)
    results, came = [], []
    for frame in NOISE:
        results += live.push(frame)
        came.append(len(results))
    assert came == [0, 0, 0, 3, 3, 3, 6, 6, 6, 9, 9, 9, 12]  # windows of 4 that share 1
    results += live.close()
    assert live.close() == [] and len(results) == 13
    for number, (one, other) in enumerate(zip(results, expected, strict=True)):
        assert one["frame_index"] == other["frame_index"] == number and one["sentences"] == SENTENCES
        assert one["time"] == pytest.approx(other["time"])
        assert 0.05 < other["masks"].mean() < 0.95
        np.testing.assert_array_equal(one["masks"], other["masks"])
        np.testing.assert_allclose(one["frame_scores"], other["frame_scores"], atol=1e-5)
        np.testing.assert_array_equal(one["frame"], NOISE[number])
    with pytest.raises(ValueError, match="this stream is closed"):
        live.push(NOISE[0])


@pytest.mark.slow
def test_without_look_ahead_a_result_comes_with_its_frame_and_knows_the_past_only(segmenter):
    live = segmenter.live(SENTENCES, look_ahead=0)
    for number, frame in enumerate(NOISE[:7]):
        (result,) = live.push(Image.fromarray(frame) if number % 2 else torch.from_numpy(frame))
        past = NOISE[max(0, number - 3) : number + 1]
        expected = list(segmenter.stream(past, SENTENCES))[-1]
        np.testing.assert_array_equal(result["masks"], expected["masks"])
        assert result["time"] is None and live.latency is None
    assert live.close() == []


@pytest.mark.slow
def test_the_end_of_a_stream(segmenter):
    """The last window ends at the last frame, whatever the frames before; a short stream is one window."""
    live = segmenter.live(SENTENCES)
    results = [result for frame in NOISE[:12] for result in live.push(frame)] + live.close()
    assert [result["frame_index"] for result in results] == list(range(12)) and live.close() == []
    short = segmenter.live(SENTENCES)
    assert not [result for frame in NOISE[:2] for result in short.push(frame)]
    for one, other in zip(short.close(), segmenter.stream(NOISE[:2], SENTENCES), strict=True):
        np.testing.assert_array_equal(one["masks"], other["masks"])
    assert segmenter.live(SENTENCES).close() == []


@pytest.mark.slow
def test_sentences_change_on_the_way(segmenter):
    live, results = segmenter.live(SENTENCES[0]), []
    for number, frame in enumerate(NOISE):
        if number == 8:
            live.ask(SENTENCES)
        results += live.push(frame)
    results += live.close()
    asked = [len(result["sentences"]) for result in results]
    assert asked == 6 * [1] + 7 * [2]  # when it was asked, six results had come
    assert all(len(result["masks"]) == number for result, number in zip(results, asked, strict=True))
    (bag,) = segmenter(NOISE, SENTENCES[1])
    for result in results[7:]:  # frame 6 lies in the window before the change too, which does not count for it now
        np.testing.assert_array_equal(result["masks"][1], bag["masks"][result["frame_index"]])
    with pytest.raises(ValueError, match="is empty"):
        live.ask(" ")


@pytest.mark.slow
def test_frames_above_the_rate_are_skipped_and_counted(segmenter):
    live = segmenter.live(SENTENCES, fps=10, look_ahead=0)
    taken = [result["time"] for i in range(50) for result in live.push(NOISE[i % 13], time=100 + i / 25)]
    np.testing.assert_allclose(taken, [100 + np.ceil(k / 10 * 25 - 1e-6) / 25 for k in range(20)])
    assert (live.num_pushed, live.num_skipped, live.num_dropped) == (50, 30, 0)
    with pytest.raises(ValueError, match="the time of a frame, 5, is before that of the last one"):
        live.push(NOISE[0], time=5)


@pytest.mark.slow
def test_what_is_kept_does_not_grow(segmenter):
    live, sizes = segmenter.live(SENTENCES, return_frames=True), []
    for number in range(100):
        live.push(NOISE[number % 13])
        kept = [live._encoder._pixels, live._encoder._tokens, live._waiting, live._logits._blender._sums]
        sizes.append(max(map(len, kept)))
    assert max(sizes) == max(sizes[:10]) <= 2 * 4


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"look_ahead": 4},
            ValueError,
            "from 0 to below the window of 4 frames, not 4",
        ),
        ({"look_ahead": -1}, ValueError, "look_ahead"),
        ({"fps": 0}, ValueError, "fps is a number of frames per second above 0, not 0"),
        ({"start": 1}, TypeError, "a live stream takes no start"),
        ({"treshold": 1}, TypeError, "unknown argument treshold"),
        ({"overlap": 4}, ValueError, "overlap"),
        ({"sentences": ""}, ValueError, "is empty"),
    ],
)
def test_bad_arguments(segmenter, arguments, error, message):
    with pytest.raises(error, match=message):
        segmenter.live(**{"sentences": SENTENCES, **arguments})


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), "frame.png"])
def test_what_is_no_image_is_refused(segmenter, image):
    with pytest.raises(ValueError, match=r"a frame is uint8 RGB of shape \(H, W, 3\)"):
        segmenter.live(SENTENCES).push(image)


@pytest.mark.slow
def test_a_file_and_an_iterable_lose_nothing(segmenter, tmp_path):
    write_video(tmp_path / "clip.mp4", NOISE, 10)
    frames = FrameReader(tmp_path / "clip.mp4").read(range(13))
    expected = list(segmenter.stream(tmp_path / "clip.mp4", SENTENCES))
    timed = [(frame, number / 10) for number, frame in enumerate(frames)]
    for source in (tmp_path / "clip.mp4", str(tmp_path / "clip.mp4"), timed):
        live = segmenter.live(SENTENCES)
        results = list(live.run(source) if isinstance(source, list) else live.run(source, buffer=2))
        assert live.num_dropped == 0 and len(results) == 13
        for one, other in zip(results, expected, strict=True):
            assert one["time"] == pytest.approx(other["time"], abs=1e-3)
            assert (one["masks"] == other["masks"]).mean() > 0.99  # decoders round colors in two ways


@pytest.fixture
def server(tmp_path):
    """Streams 20 frames over loopback, as fast as they are taken; its URL."""
    frames = np.stack([np.full((48, 64, 3), 12 * number, np.uint8) for number in range(20)])
    write_video(tmp_path / "stream.mp4", frames, 20)
    content = (tmp_path / "stream.mp4").read_bytes()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            start = int(self.headers.get("Range", "bytes=0-").split("=")[1].split("-")[0])
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.end_headers()
            try:
                self.wfile.write(content[start:])
            except ConnectionError:
                pass  # the other side has seen enough

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as loopback:
        threading.Thread(target=loopback.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{loopback.server_port}/stream.mp4"
        loopback.shutdown()


@pytest.mark.slow
def test_a_stream_is_played_in_real_time(segmenter, server):
    live, start, results = segmenter.live(SENTENCES, fps=10, look_ahead=1), time.monotonic(), []
    for result in live.run(server):
        results.append(result)
        # a result comes when one more frame of those taken has come, a tenth of a second later, but not sooner
        assert time.monotonic() - start >= result["time"]
    assert 0.9 < time.monotonic() - start < 20
    assert live.num_pushed + live.num_dropped == 20
    assert len(results) == live.num_pushed - live.num_skipped
    if not live.num_dropped:
        np.testing.assert_allclose([result["time"] for result in results], np.arange(10) / 10, atol=1e-3)


def test_frames_that_come_too_fast_are_dropped_and_counted(server):
    with LiveSource(server, buffer=3) as source:
        time.sleep(0.5)
        numbers = [round(picture.mean() / 12) for picture, _ in source]
    assert numbers == sorted(set(numbers)) and numbers[-1] == 19
    assert source.num_dropped > 0 and source.num_dropped + len(numbers) == 20


@pytest.fixture
def camera():
    """The URL of a camera in another process, which sends 70 frames, 20 per second, by RTSP."""
    program = ROOT / "tests" / "unit" / "programs" / "rtsp_server.py"
    process = subprocess.Popen([sys.executable, program, "70", "20"], stdout=subprocess.PIPE, text=True)
    try:
        yield f"rtsp://127.0.0.1:{process.stdout.readline().strip()}/frames"
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_frames_of_a_slow_model_on_a_camera_are_dropped_and_counted(segmenter, camera):
    live, numbers, times = segmenter.live(SENTENCES, look_ahead=0, return_frames=True), [], []
    for result in live.run(camera, buffer=2):
        numbers.append(round(result["frame"].mean() / 3))
        times.append(result["time"])
        time.sleep(0.15)  # the time of three frames
    assert numbers == sorted(set(numbers)) and len(numbers) > 5
    np.testing.assert_allclose(np.subtract(times, times[0]), np.subtract(numbers, numbers[0]) / 20, atol=0.01)
    assert live.num_pushed == len(numbers) and live.num_dropped > 20
    assert live.num_pushed + live.num_dropped == numbers[-1] + 1  # the last frame that came is never dropped


@pytest.mark.slow
def test_a_camera_is_seen_without_the_time_that_it_took_to_open(camera):
    """What it sent meanwhile comes at once, and the rest as it is sent."""
    start, numbers, late = time.monotonic(), [], []
    with LiveSource(camera, buffer=100) as source:
        opened = time.monotonic() - start
        for picture, _ in source:
            numbers.append(round(picture.mean() / 3))
            late.append(time.monotonic() - start - numbers[-1] / 20)
    assert numbers == list(range(len(numbers))) and len(numbers) > 60 and source.num_dropped == 0
    assert min(late[-30:]) < min(opened, late[0])


def test_a_source_that_is_left_early_ends_its_thread(server):
    before = threading.active_count()
    with LiveSource(server) as source:
        next(iter(source))
    for _ in range(50):
        if threading.active_count() <= before + 1:  # the server's own
            return
        time.sleep(0.1)
    raise AssertionError("the thread goes on")


@pytest.mark.parametrize("source", [99, "http://127.0.0.1:9/none", "absent.mp4"])
def test_a_source_that_does_not_open_is_named(segmenter, source):
    with pytest.raises(OSError, match="cannot be opened"):
        next(segmenter.live(SENTENCES).run(source))


def test_a_file_is_shown_as_a_player_shows_it(tmp_path, monkeypatch):
    """Mirrored and turned, and whatever its name."""
    monkeypatch.chdir(tmp_path)
    for matrix in ((-1, 0, 0, 1), (0, 1, 1, 0), (0, 1, -1, 0)):
        write_numbered(tmp_path / "12:30.mp4", 4, display=(matrix, 1))
        with LiveSource("12:30.mp4") as source:
            pictures = [picture for picture, _ in source]
        np.testing.assert_array_equal(pictures, list(FrameReader("12:30.mp4").frames(range(4))))
    with av.open(str(tmp_path / "song.m4a"), "w", format="mp4") as container:
        sound = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(sound.encode(frame))
        container.mux(sound.encode())
    with pytest.raises(ValueError, match=r"song.m4a cannot be decoded as a video: it holds no video stream"):
        LiveSource("song.m4a")


def test_a_damaged_stream_gives_what_came_before_and_is_named(segmenter, tmp_path):
    (tmp_path / "noise.mp4").write_bytes(b"no video")
    with pytest.raises(OSError, match="noise.mp4 cannot be opened"):
        list(segmenter.live(SENTENCES).run(tmp_path / "noise.mp4"))
    with pytest.raises(ValueError, match="buffer is a number of frames above 0, not 0"):
        LiveSource(tmp_path / "noise.mp4", buffer=0)
