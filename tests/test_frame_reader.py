import gc
import io
import weakref
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from modeling_cvls.frame_reader_cvls import FrameReader

REAL_VIDEOS = sorted((Path(__file__).parents[2] / "shared/real_data/videos").glob("*.mp4"))


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
    # Two libraries' conversions from YUV differ by rounding; neighbouring frames differ by far more.
    assert frames.dtype == np.uint8 and frames.shape == expected.shape
    assert np.abs(frames.astype(int) - expected).mean() < 1.5


@pytest.mark.parametrize("as_bytes", [False, True])
def test_mp4_equals_pyav_in_any_order(mp4, as_bytes):
    reader = FrameReader(mp4.read_bytes() if as_bytes else mp4)
    expected = decode_with_pyav(mp4)
    assert (len(reader), reader.fps, reader.height, reader.width) == (23, 25.0, 48, 64)
    for indices in ([0], [22, 3, 3, 14], range(8, 13), list(range(23))):
        assert_same_frames(reader.read(indices), expected[list(indices)])
    # The comparison tells neighbours apart.
    assert np.abs(expected[5].astype(int) - expected[6]).mean() > 1.5


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


def test_images_of_other_modes_become_rgb():
    grey = Image.fromarray(np.full((4, 6), 77, np.uint8))
    palette = Image.new("P", (6, 4), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    frames = FrameReader([grey, palette, Image.new("RGBA", (6, 4), (1, 2, 3, 0))]).read([0, 1, 2])
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
