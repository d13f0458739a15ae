"""Frame i is the frame that a player shows, however it is asked for and whatever the container."""

import itertools

import av
import numpy as np
import pytest
from PIL import Image

from factories import SHARED
from modeling_cvls import FrameReader
from modeling_cvls.video_decoder_cvls import EncodedVideo
from numbered_videos import HEIGHT, WIDTH, cut, drawn_number, numbered_frame, write_numbered

VARYING = np.cumsum([0, 0.5, 0.04, 1.2, 0.033, 0.033, 0.25, *[0.04] * 23]).tolist()  # of 30 frames, seconds
#: Every way to turn and mirror: (a, b, c, d) with x' = a x + c y and y' = b x + d y.
MATRICES = [
    matrix
    for signs in itertools.product((1, -1), repeat=2)
    for matrix in ((signs[0], 0, 0, signs[1]), (0, signs[0], signs[1], 0))
]
CODECS = {
    "avi": ["mpeg4", "mjpeg", "libx264"],
    "flv": ["flv"],
    "gif": ["gif"],
    "h264": ["libx264"],
    "m2ts": ["libx264"],
    "mkv": ["libx264", "libvpx-vp9"],
    "mov": ["libx264", "mjpeg"],
    "mp4": ["libx264", "libsvtav1", "libx265"],
    "mpg": ["mpeg2video"],
    "ts": ["libx264", "mpeg2video"],
    "webm": ["libvpx", "libsvtav1"],
}


def as_decoded(frame, matrix):
    """Undoes a display matrix, pixel by pixel."""
    a, b, c, d = matrix
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    # About the middle of the picture, so that only the signs matter.
    x, y = columns - (WIDTH - 1) / 2, rows - (HEIGHT - 1) / 2
    height, width = frame.shape[:2]
    column, row = a * x + c * y + (width - 1) / 2, b * x + d * y + (height - 1) / 2
    return frame[row.astype(int), column.astype(int)]


def check_frames(path, numbers, times=None, matrix=(1, 0, 0, 1)):
    """All ways of reading give the frames `numbers`, at the times that the packets say; the corners are in place."""
    reader = FrameReader(path)
    assert len(reader) == len(numbers)
    assert (reader.height, reader.width) == ((HEIGHT, WIDTH) if matrix[0] else (WIDTH, HEIGHT))

    def number(frame):
        decoded = as_decoded(frame, matrix)
        corners = decoded[[3, 3, -4], [3, -4, 3]].astype(int)
        assert np.abs(corners - np.diag([230, 220, 230])).max() < 100
        return drawn_number(decoded)

    assert [number(frame) for frame in reader.frames(range(len(reader)))] == numbers
    order = np.random.default_rng(0).permutation(len(reader)).tolist()
    assert [number(reader.read([index])[0]) for index in order] == [numbers[index] for index in order]
    assert [number(frame) for frame in reader.read([-1 % len(reader), 0, 0])] == [numbers[-1], numbers[0], numbers[0]]
    sparse = list(range(0, len(reader), 7))
    assert [number(frame) for frame in reader.frames(sparse)] == [numbers[index] for index in sparse]
    if times is None:
        with av.open(str(path)) as container:
            times = [frame.time for frame in container.decode(container.streams.best("video"))]
    # FFmpeg guesses most times of an mpg, and may give two frames the same one.
    np.testing.assert_allclose(reader.times, np.array(times) - times[0], atol=0.041 if path.suffix == ".mpg" else 1e-6)
    assert np.diff(reader.times).min() > 0 and reader.end > reader.times[-1]


def sweep(containers, intervals, b_frames, starts, rates):
    for container, key_interval, b, start, rate in itertools.product(containers, intervals, b_frames, starts, rates):
        for codec in CODECS[container]:
            if b and codec not in ("libx264", "mpeg4", "mpeg2video", "libx265"):
                continue
            if rate == "varying" and (container in ("avi", "mpg", "h264") or codec in ("mpeg4", "mpeg2video")):
                continue  # they know even rates only
            if start and (container in ("avi", "gif", "h264", "mpg", "m2ts", "flv") or codec == "libsvtav1"):
                continue  # PyAV copies no AV1
            name = f"{container}-{codec}-g{key_interval}-b{b}-from{start}-{rate}"
            yield pytest.param(container, codec, key_interval, b, start, rate, id=name)


def check_combination(tmp_path, container, codec, key_interval, b, start, rate):
    options = {"g": str(key_interval), "bf": str(b)}
    options |= {"libx265": {"x265-params": f"keyint={key_interval}:bframes={b}:log-level=none"}}.get(codec, {})
    path = tmp_path / f"whole.{'mp4' if start and container != 'webm' else container}"
    write_numbered(path, codec=codec, options=options, times=VARYING if rate == "varying" else None)
    numbers, times = list(range(30)), None
    if start:
        path = cut(path, tmp_path / f"cut.{container}", start)
        if container in ("mp4", "mov"):
            first = np.searchsorted(VARYING if rate == "varying" else np.arange(30) / 25, start - 1e-6)
            numbers = numbers[first:]
        else:
            numbers = None
    if container in ("h264", "avi"):  # their packets have no times of presentation
        times = np.arange(30) / 25
    if numbers is None:  # what is shown begins at the key frame before the cut
        with av.open(str(path)) as video:
            numbers = [drawn_number(frame.to_ndarray(format="rgb24")) for frame in video.decode(video=0)]
    check_frames(path, numbers, times)


@pytest.mark.parametrize(
    ("container", "codec", "key_interval", "b", "start", "rate"),
    [
        *sweep(CODECS, [12], [2], [0], ["even"]),
        *sweep(["gif", "webm", "flv", "mov"], [12], [0], [0], ["even"]),
        *sweep(["mp4", "mkv"], [2], [2], [0], ["varying"]),
        *sweep(["mp4", "ts"], [12], [2], [0.62], ["even"]),
    ],
)
def test_all_ways_of_reading_agree(tmp_path, decoders, container, codec, key_interval, b, start, rate):
    check_combination(tmp_path, container, codec, key_interval, b, start, rate)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("container", "codec", "key_interval", "b", "start", "rate"),
    list(sweep(CODECS, [1, 2, 12, 60], [0, 1, 3], [0, 0.3, 0.62], ["even", "varying"])),
)
def test_all_ways_of_reading_agree_widely(tmp_path, container, codec, key_interval, b, start, rate):
    check_combination(tmp_path, container, codec, key_interval, b, start, rate)


@pytest.mark.parametrize("matrix", MATRICES, ids=str)
def test_turned_and_mirrored_videos(tmp_path, decoders, matrix):
    write_numbered(tmp_path / "turned.mp4", 5, options={"crf": "10"}, display=(matrix, 2))
    check_frames(tmp_path / "turned.mp4", list(range(5)), matrix=matrix)
    assert FrameReader(tmp_path / "turned.mp4").sample_aspect_ratio == (2 if matrix[0] else 1 / 2)


@pytest.mark.parametrize("options", ["open-gop=1:keyint=12:bframes=3", "intra-refresh=1:keyint=12", "interlaced=1"])
@pytest.mark.parametrize("container", ["mp4", "ts"])
def test_key_frames_that_lean_on_earlier_frames(tmp_path, decoders, container, options):
    path = write_numbered(tmp_path / f"clip.{container}", options={"x264-params": options})
    check_frames(path, list(range(30)))


def test_recordings_joined_one_behind_the_other(tmp_path, decoders):
    """The time stamps begin anew."""
    once = write_numbered(tmp_path / "once.ts", options={"g": "12"}).read_bytes()
    (tmp_path / "twice.ts").write_bytes(once + once)
    check_frames(tmp_path / "twice.ts", [*range(30), *range(30)], np.arange(60) / 25)


def test_a_recording_that_begins_between_key_frames(tmp_path, decoders):
    """What cannot be decoded is not counted."""
    whole = write_numbered(tmp_path / "whole.ts", options={"g": "12", "sc_threshold": "0"}).read_bytes()
    (tmp_path / "late.ts").write_bytes(whole[188 * 12 :])
    reader = FrameReader(tmp_path / "late.ts")
    assert len(reader) == 18
    check_frames(tmp_path / "late.ts", list(range(12, 30)))


def test_the_cover_of_an_album_is_no_video(tmp_path, decoders):
    path = tmp_path / "film.mkv"
    with av.open(str(path), "w") as container:
        cover = container.add_stream("mjpeg", rate=25)
        cover.height, cover.width, cover.pix_fmt = 64, 64, "yuvj420p"
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        container.mux(cover.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
        for number in range(30):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(numbered_frame(number), format="rgb24")))
        container.mux(stream.encode())
    check_frames(path, list(range(30)), np.arange(30) / 25)
    with av.open(str(tmp_path / "song.mp4"), "w") as container:
        sound = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(sound.encode(frame))
        container.mux(sound.encode())
    with pytest.raises(ValueError, match="song.mp4 cannot be decoded as a video: it holds no video stream"):
        FrameReader(tmp_path / "song.mp4")


def yuv_of(color, luma, full_range):
    """Y, Cb, Cr (0 to 255) of an RGB color, by the definition in ITU-R BT.601 and BT.709; `luma`: weights of R, B."""
    red, green, blue = (value / 255 for value in color)
    y = luma[0] * red + (1 - sum(luma)) * green + luma[1] * blue
    cb, cr = (blue - y) / (2 * (1 - luma[1])), (red - y) / (2 * (1 - luma[0]))
    if full_range:
        return [round(255 * y), round(128 + 255 * cb), round(128 + 255 * cr)]
    return [round(16 + 219 * y), round(128 + 224 * cb), round(128 + 224 * cr)]


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize(("standard", "luma"), [(1, (0.2126, 0.0722)), (6, (0.299, 0.114))], ids=["BT.709", "BT.601"])
def test_known_colors(tmp_path, decoders, standard, luma, full_range):
    colors = [(219, 30, 30), (30, 219, 30), (30, 30, 219), (200, 200, 40), (128, 128, 128), (250, 250, 250)]
    with av.open(str(tmp_path / "colors.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"qp": "0"})
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = standard, 2 if full_range else 1
        for color in colors:
            y, cb, cr = yuv_of(color, luma, full_range)
            planes = np.full(HEIGHT * WIDTH * 3 // 2, y, np.uint8)
            planes[HEIGHT * WIDTH :].reshape(2, -1)[:] = [[cb], [cr]]
            frame = av.VideoFrame.from_ndarray(planes.reshape(HEIGHT * 3 // 2, WIDTH), format="yuv420p")
            frame.colorspace, frame.color_range = standard, 2 if full_range else 1
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    reader = FrameReader(tmp_path / "colors.mp4")
    for frames in (list(reader.frames(range(len(colors)))), reader.read(range(len(colors)))):
        found = np.array([frame[HEIGHT // 2, WIDTH // 2] for frame in frames], dtype=int)
        assert np.abs(found - colors).max() <= 3


def test_data_that_pyav_does_not_know(tmp_path):
    """FFmpeg attaches a TIFF's tags to its frame."""
    Image.fromarray(numbered_frame(5)).save(tmp_path / "picture.tiff")
    reader = FrameReader(tmp_path / "picture.tiff")
    assert [drawn_number(frame) for frame in reader.frames(range(len(reader)))] == [5]


def test_decord_reads_plain_mp4_and_nothing_else(tmp_path):
    pytest.importorskip("decord")
    plain = EncodedVideo(str(write_numbered(tmp_path / "plain.mp4")), "plain", "error")
    plain.read([3])
    assert plain._decord is not None
    for path in (
        write_numbered(tmp_path / "clip.ts"),
        write_numbered(tmp_path / "turned.mp4", display=((-1, 0, 0, 1), 1)),
        write_numbered(tmp_path / "open.mp4", options={"x264-params": "open-gop=1:keyint=12:bframes=3"}),
        write_numbered(tmp_path / "refresh.mp4", options={"x264-params": "intra-refresh=1:keyint=12"}),
        cut(write_numbered(tmp_path / "whole.mp4"), tmp_path / "cut.mp4", 0.3),
    ):
        video = EncodedVideo(str(path), path.name, "error")
        video.read([3])
        assert video._decord is None, path.name


def test_names_that_ffmpeg_takes_for_something_else(tmp_path, monkeypatch, decoders):
    monkeypatch.chdir(tmp_path)
    for name in ("12:30:05 meeting.mp4", "-i.mp4", "50%d.mp4", "a?b=c&d.mp4", "film\u00e9.mp4"):
        write_numbered(tmp_path / name, 3)
        assert [drawn_number(frame) for frame in FrameReader(name).read([2, 0])] == [2, 0]


CASES = SHARED / "cases"
CASE_FILES = {
    "ts_off_by_one_gop/own.ts": 120,
    "ts_off_by_one_gop/own.m2ts": 120,
    "edit_list_trim/own_trim.mp4": 42,
    "edit_list_trim/trim_copy.mp4": 52,
    "no_duration_in_header/live.webm": 60,
    "av1/av1.mp4": 30,
    "av1/av1.webm": 30,
    "gif/anim.gif": 30,
    "cover_art_first_mkv/cover_first.mkv": 120,
    "variable_frame_rate/screenrec.mp4": 63,
    "mirrored_display_matrix/hflip.mp4": 120,
    "mirrored_display_matrix/vflip.mp4": 120,
    "non_square_pixels/sar.mp4": 30,
    "suffixes_left_out/old.wmv": 30,
    "suffixes_left_out/old.flv": 30,
    "old_pyav/bt709.mp4": 10,
    "long_file_name/one.mp4": 1,
    "damaged/fast.mp4": 120,
}


@pytest.mark.skipif(not CASES.is_dir(), reason="../shared/cases is absent")
@pytest.mark.parametrize(("name", "num_frames"), CASE_FILES.items())
def test_reported_files(name, num_frames, decoders):
    """As many frames as players show, and the same ones in any order."""
    reader = FrameReader(CASES / name)
    assert len(reader) == num_frames
    frames = list(reader.frames(range(num_frames)))
    order = np.random.default_rng(0).permutation(num_frames)[:20]
    for index, frame in zip(order, reader.read(order), strict=True):
        assert np.abs(frame.astype(int) - frames[index]).mean() < 1.5
    with av.open(str(CASES / name)) as container:
        times = [frame.time for frame in container.decode(container.streams.best("video"))]
    np.testing.assert_allclose(reader.times, np.array(times) - times[0], atol=1e-6)
