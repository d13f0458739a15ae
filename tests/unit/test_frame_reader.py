import gc
import io
import threading
import weakref
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from factories import SHARED
from modeling_cvls.frame_reader_cvls import FrameReader

pytestmark = pytest.mark.usefixtures("decoders")
REAL_VIDEOS = sorted((SHARED / "real_data/videos").glob("*.mp4"))


def moving_square(num_frames=23, height=48, width=64):
    frames = np.full((num_frames, height, width, 3), 40, np.uint8)
    for index in range(num_frames):
        frames[index, 10:30, 2 * index : 2 * index + 16] = (220, 10 * index, 30)
    return frames


def decode_with_pyav(path):
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.fixture(scope="module")
def mp4(tmp_path_factory):
    path = tmp_path_factory.mktemp("videos") / "square.mp4"
    with av.open(str(path), "w") as container:
        # B-frames and a key frame every 10: seeking must land on the very frame asked for.
        stream = container.add_stream("libx264", rate=25, options={"g": "10", "bf": "2", "crf": "10"})
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for frame in moving_square():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def assert_same_frames(frames, expected):
    # Two libraries' conversions from YUV differ by rounding; neighboring frames differ by far more.
    assert frames.dtype == np.uint8 and frames.shape == expected.shape
    assert np.abs(frames.astype(int) - expected).mean() < 1.5


@pytest.mark.parametrize("as_bytes", [False, True])
def test_mp4_equals_pyav_in_any_order(mp4, as_bytes):
    reader = FrameReader(mp4.read_bytes() if as_bytes else mp4)
    expected = decode_with_pyav(mp4)
    assert (len(reader), reader.fps, reader.height, reader.width) == (23, 25.0, 48, 64)
    for indices in ([0], [22, 3, 3, 14], range(8, 13), list(range(23))):
        assert_same_frames(reader.read(indices), expected[list(indices)])
    # The comparison tells neighbors apart.
    assert np.abs(expected[5].astype(int) - expected[6]).mean() > 1.5


@pytest.mark.parametrize("as_bytes", [False, True])
def test_one_pass_gives_the_same_frames(mp4, as_bytes):
    reader = FrameReader(mp4.read_bytes() if as_bytes else mp4)
    for indices in (list(range(23)), [0, 1, 9, 10, 22], [22]):
        assert_same_frames(np.stack(list(reader.frames(indices))), reader.read(indices))
    several = reader.frames([3, 4]), reader.frames([3, 20])  # do not disturb each other
    assert [next(frames).shape for frames in several] == [(48, 64, 3)] * 2
    assert_same_frames(np.stack([next(frames) for frames in several]), reader.read([4, 20]))
    with pytest.raises(ValueError, match="frame 23 of .* shorter than the 23 frames its header promises"):
        list(reader.frames([20, 23]))


def test_one_pass_turns_a_video_as_reading_does(tmp_path):
    """As a telephone's, with a matrix that says how it is to be shown."""
    with av.open(str(tmp_path / "turned.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "10"})
        stream.height, stream.width, stream.pix_fmt = 96, 128, "yuv420p"
        stream.set_display_rotation(90)
        for frame in moving_square(3, height=96, width=128):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    reader = FrameReader(tmp_path / "turned.mp4")
    assert (reader.height, reader.width) == (128, 96)
    assert_same_frames(np.stack(list(reader.frames([0, 2]))), reader.read([0, 2]))


def test_one_pass_through_arrays_and_images():
    frames = moving_square(5)
    for video in (frames, [Image.fromarray(frame) for frame in frames]):
        np.testing.assert_array_equal(np.stack(list(FrameReader(video).frames([1, 4]))), frames[[1, 4]])


@pytest.mark.slow
@pytest.mark.skipif(not REAL_VIDEOS, reason="../shared/real_data/videos is absent")
def test_real_video_equals_pyav():
    path = REAL_VIDEOS[0]
    reader, expected = FrameReader(str(path)), decode_with_pyav(path)
    assert (len(reader), reader.height, reader.width) == expected.shape[:3]
    assert reader.fps == 24
    indices = [len(reader) - 1, 0, 17]
    assert_same_frames(reader.read(indices), expected[indices])


def test_array_images_and_encoded_images_are_read_alike(tmp_path):
    frames = moving_square(5)
    images = [Image.fromarray(frame) for frame in frames]
    encoded = []
    for image in images:
        buffer = io.BytesIO()
        image.save(buffer, "png")
        encoded.append(buffer.getvalue())
    paths = [tmp_path / f"{index}.png" for index in range(len(encoded))]
    for path, content in zip(paths, encoded, strict=True):
        path.write_bytes(content)
    for video in (frames, images, encoded, paths):
        reader = FrameReader(video)
        assert (len(reader), reader.fps, reader.height, reader.width) == (5, None, 48, 64)
        np.testing.assert_array_equal(reader.read([4, 1, 1]), frames[[4, 1, 1]])


def test_tensors_and_channels_first():
    frames = moving_square(5)
    first = frames.transpose(0, 3, 1, 2)
    for video in (torch.from_numpy(frames), first, torch.from_numpy(first)):
        np.testing.assert_array_equal(FrameReader(video).read([4, 0]), frames[[4, 0]])
    # as wide as there are channels: taken as it is said to be
    np.testing.assert_array_equal(FrameReader(frames[:, :3, :3]).read([2]), frames[[2], :3, :3])


def test_a_folder_of_frames_in_the_order_of_their_numbers(tmp_path):
    frames = moving_square(12)
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"frame_{index}.{'PNG' if index % 2 else 'png'}")
    (tmp_path / "frame_3.txt").write_text("no frame")
    (tmp_path / ".frame_4.png").write_text("no frame")
    (tmp_path / "more").mkdir()
    reader = FrameReader(str(tmp_path), fps=8)
    assert (len(reader), reader.fps) == (12, 8.0) and FrameReader(tmp_path).fps is None
    np.testing.assert_array_equal(reader.read(range(12)), frames)
    with pytest.raises(ValueError, match="folder .*more holds no frames: no file ends in .bmp, .jpeg"):
        FrameReader(tmp_path / "more")
    for number, suffix in enumerate(("avif", "jfif", "jp2", "pgm", "ppm", "tga")):
        kind = {"jfif": "JPEG"}.get(suffix)
        if kind or Image.registered_extensions().get(f".{suffix}") in Image.SAVE:
            image = Image.fromarray(frames[number]).convert("L" if suffix == "pgm" else "RGB")
            image.save(tmp_path / "more" / f"{number}.{suffix}", format=kind)
    reader = FrameReader(tmp_path / "more")
    assert len(reader) == len(list((tmp_path / "more").iterdir())) >= 4
    assert reader.read(range(len(reader))).shape[1:] == frames.shape[1:]


def test_frames_a_second_can_be_given(mp4):
    assert FrameReader(mp4, fps=10).fps == 10 and FrameReader(moving_square(2), fps=5).fps == 5
    with pytest.raises(ValueError, match="a number above 0, not 0"):
        FrameReader(mp4, fps=0)


@pytest.fixture
def server(mp4, monkeypatch):
    """The address of a server of the folder of `mp4`, on loopback; /moved leads to the file."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/moved":
                self.send_response(302)
                self.send_header("Location", "/square.mp4")
                self.end_headers()
            else:
                super().do_GET()

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=mp4.parent)) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


@pytest.mark.slow
def test_url(mp4, server):
    expected = FrameReader(mp4).read(range(23))
    for address in ("/square.mp4", "/moved", "/square.mp4?size=large#t=1"):
        reader = FrameReader(server + address)
        assert (len(reader), reader.fps) == (23, 25.0)
        np.testing.assert_array_equal(reader.read(range(23)), expected)
    file = Path(reader._file.name)
    assert file.exists()
    del reader
    gc.collect()
    assert not file.exists()


def test_urls_that_give_no_video(mp4, server):
    (mp4.parent / "page.html").write_text("<p>no video")
    with pytest.raises(OSError, match=f"no video at {server}/absent.mp4: the server answers 404 File not found"):
        FrameReader(f"{server}/absent.mp4")
    with pytest.raises(ValueError, match=f"{server}/page.html cannot be decoded as a video"):
        FrameReader(f"{server}/page.html")
    with pytest.raises(OSError, match="http://127.0.0.1:1/a.mp4 cannot be read: .*refused"):
        FrameReader("http://127.0.0.1:1/a.mp4")


def test_images_of_other_modes_become_rgb():
    gray = Image.fromarray(np.full((4, 6), 77, np.uint8))
    palette = Image.new("P", (6, 4), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    frames = FrameReader([gray, palette, Image.new("RGBA", (6, 4), (1, 2, 3, 0))]).read([0, 1, 2])
    assert frames[:, 0, 0].tolist() == [[77, 77, 77], [10, 20, 30], [1, 2, 3]]


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no video file at .*absent.mp4"):
        FrameReader(tmp_path / "absent.mp4")


@pytest.mark.parametrize("content", [b"", b"no video at all" * 50])
def test_undecodable_is_named(tmp_path, content):
    path = tmp_path / "broken.mp4"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.mp4 cannot be decoded as a video; an encoded video"):
        FrameReader(path)
    with pytest.raises(ValueError, match="given as bytes cannot be decoded"):
        FrameReader(content)


def test_cut_off_file_is_an_error(mp4, tmp_path):
    path = tmp_path / "cut.mp4"
    path.write_bytes(mp4.read_bytes()[:600])
    with pytest.raises(ValueError, match=r"cut\.mp4 cannot be decoded"):
        FrameReader(path)


@pytest.mark.parametrize(
    ("video", "error", "message"),
    [
        (np.zeros((2, 4, 4, 3), np.float32), ValueError, r"uint8 RGB frames of shape \(T, H, W, 3\), not float32"),
        (np.zeros((4, 4, 3), np.uint8), ValueError, r"not uint8 \(4, 4, 3\)"),
        (np.zeros((0, 4, 4, 3), np.uint8), ValueError, "array has no frames"),
        ([], ValueError, "list of frames has no frames"),
        ([17], TypeError, "frame 0 .* must be a PIL image or an encoded image .bytes or a path., not int"),
        ([np.zeros((4, 4, 3))], ValueError, r"list of frames must be uint8 RGB .*, not float64 \(1, 4, 4, 3\)"),
        (["absent.png"], FileNotFoundError, "no image file at absent.png, frame 0"),
        ([Path(__file__)], ValueError, r"frame 0 .*test_frame_reader\.py\) cannot be decoded"),
        ([b"junk"], ValueError, "frame 0 .* cannot be decoded; an encoded image"),
        (17, TypeError, "a video is a path, .* not int"),
    ],
)
def test_bad_videos(video, error, message):
    with pytest.raises(error, match=message):
        FrameReader(video).read([0])


def test_images_of_differing_sizes():
    reader = FrameReader([Image.new("RGB", (6, 4)), Image.new("RGB", (8, 4))])
    with pytest.raises(ValueError, match="frame 1 .* is 4 x 8 pixels .* frame 0 4 x 6"):
        reader.read([0, 1])


def test_indices_outside_the_video(mp4):
    reader = FrameReader(mp4)
    for index in (23, -1):
        with pytest.raises(IndexError, match=f"frame {index} of .*square.mp4: its frames are 0 to 22"):
            reader.read([0, index])
    with pytest.raises(ValueError, match="no frame indices"):
        reader.read([])


def test_the_decoder_goes_with_the_reader(mp4):
    """Not with a later garbage collection: in a forked process, that would wait for the decoder's threads for ever."""
    reader = FrameReader(mp4)
    reader.read([0])
    decoder = weakref.ref(reader._frames)
    gc.disable()
    try:
        del reader
        assert decoder() is None
    finally:
        gc.enable()


def test_encoded_images_are_turned_upright(tmp_path):
    """All eight orientations of EXIF, against Pillow's own transposition, in files and in bytes."""
    picture = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    ways = [None, Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180, Image.Transpose.FLIP_TOP_BOTTOM,
            Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_270, Image.Transpose.TRANSVERSE,
            Image.Transpose.ROTATE_90]  # fmt: skip
    for orientation, way in enumerate(ways, start=1):
        image, exif = Image.fromarray(picture), Image.Exif()
        exif[0x0112] = orientation
        path = tmp_path / f"{orientation}.png"
        image.save(path, exif=exif)
        expected = np.asarray(image if way is None else image.transpose(way))
        for video in ([path], [path.read_bytes()], path, path.read_bytes()):
            reader = FrameReader(video)
            assert len(reader) == 1 and (reader.height, reader.width) == expected.shape[:2]
            np.testing.assert_array_equal(reader.read([0])[0], expected)
            np.testing.assert_array_equal(next(reader.frames([0])), expected)


def test_a_photograph_is_a_video_of_one_frame(tmp_path):
    """With the pixels that it has in a folder of frames; animations keep all of their frames."""
    pictures = [Image.fromarray(frame) for frame in moving_square(3)]
    for name, options in (("a.jpg", {}), ("a.webp", {}), ("a.bmp", {}), ("a.tif", {"compression": "jpeg"})):
        image = pictures[0].convert("YCbCr") if name == "a.tif" else pictures[0]
        image.save(tmp_path / name, **options)
        reader = FrameReader(tmp_path / name)
        assert (len(reader), reader.times.tolist()) == (1, [0.0])
        np.testing.assert_array_equal(reader.read([0]), FrameReader([tmp_path / name]).read([0]))
    for name in ("a.png", "a.gif"):
        pictures[0].save(tmp_path / name, save_all=True, append_images=pictures[1:], duration=100)
        assert len(FrameReader(tmp_path / name)) == 3
    pictures[0].save(tmp_path / "moving.webp", save_all=True, append_images=pictures[1:])
    with pytest.raises(ValueError, match="moving.webp cannot be decoded .* animated WebP is not read: save it as"):
        FrameReader(tmp_path / "moving.webp")


def test_16_bit_images_are_scaled_and_unknown_ranges_refused(tmp_path):
    values = np.array([[0, 257, 30000, 65535]], dtype=np.uint16)
    for name in ("gray.png", "gray.tif"):
        Image.fromarray(values).save(tmp_path / name)
        frame = FrameReader([tmp_path / name]).read([0])[0]
        assert frame[0].tolist() == [[value] * 3 for value in (0, 1, 117, 255)]
    for array, message in (
        (np.array([[0.5]], dtype=np.float32), "pixels are floating-point numbers; convert them"),
        (np.array([[70000]], dtype=np.int32), "pixels are 32-bit integers from 70000 to 70000; scale them"),
    ):
        Image.fromarray(array).save(tmp_path / "odd.tif")
        with pytest.raises(ValueError, match=f"frame 0 .*odd.tif.* cannot be read: its {message}"):
            FrameReader([tmp_path / "odd.tif"]).read([0])
    cmyk = Image.new("CMYK", (3, 2), (255, 0, 0, 0))
    cmyk.save(tmp_path / "cyan.tif")
    red, green, blue = FrameReader([tmp_path / "cyan.tif"]).read([0])[0, 0, 0]
    assert red < 30 and green > 200 and blue > 200


@pytest.mark.skipif(not (SHARED / "cases").is_dir(), reason="../shared/cases is absent")
def test_reported_images():
    reader = FrameReader(SHARED / "cases/exif_frames/exif_frames")
    assert (reader.height, reader.width) == (96, 160)  # stored as 160 x 96
    frames = FrameReader(SHARED / "cases/png16_frames/png16_frames").read([0])
    assert 0 < frames.mean() < 255 and len(np.unique(frames)) > 2
