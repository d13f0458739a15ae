from fractions import Fraction

import av
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image, ImageFont
from scipy import ndimage

from modeling_cvls import FrameReader, fonts
from modeling_cvls.fonts import font_for, wrap
from modeling_cvls.sound import open_sound
from modeling_cvls.visualization import (
    COLORS,
    RIGHT,
    WRONG,
    VideoWriter,
    contact_sheet,
    cutout,
    mask_picture,
    overlay,
    training_curves,
    write_video,
)
from numbered_videos import add_tone, share_heard, write_numbered


def scene(num_frames=4, height=60, width=90, num_masks=2):
    frames = np.full((num_frames, height, width, 3), 100, np.uint8)
    masks = np.zeros((num_masks, num_frames, height, width), bool)
    for index in range(num_masks):
        masks[index, :, 10:30, 5 + 40 * index : 25 + 40 * index] = True
    return frames, masks


def test_overlay_tints_inside_outlines_and_leaves_the_rest():
    frames, masks = scene()
    drawn = overlay(frames, masks, ["one", "two"], min_width=90)
    assert drawn.dtype == np.uint8 and len(drawn) == 4
    assert drawn.shape[1] > 60 and drawn.shape[1] % 2 == drawn.shape[2] % 2 == 0
    for index, x in enumerate((5, 45)):
        color = np.array(COLORS[index])
        np.testing.assert_array_equal(drawn[0, 10, x : x + 20], np.tile(color, (20, 1)))
        np.testing.assert_allclose(drawn[0, 20, x + 10], 0.55 * 100 + 0.45 * color, atol=1)
    np.testing.assert_array_equal(drawn[:, 31:60, :90], 100)
    assert (frames == 100).all()  # the input is left alone


def test_small_videos_are_enlarged_and_long_labels_wrapped():
    frames, masks = scene(num_masks=1)
    short = overlay(frames, masks, ["one"], [0.5])
    long = overlay(frames, masks, ["a sentence of very many words " * 5], [0.5])
    assert short.shape[2] == 540 and long.shape[1] > short.shape[1]


def test_the_legend_keeps_its_size_whatever_the_scores():
    """Also where the label alone just fills the line: frames of one video are drawn one by one."""
    frames, masks = scene(num_frames=1, num_masks=1)
    for words in range(5, 60):
        label = "i" * words + " ij"
        shapes = {overlay(frames, masks, [label], [score], min_width=90).shape for score in (0.11, 0.48, 1.0)}
        assert len(shapes) == 1


def test_cutout_and_mask_picture():
    frame = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    mask = np.zeros((5, 7), bool)
    mask[1:3, 2:] = True
    picture = np.asarray(cutout(frame, mask))
    np.testing.assert_array_equal(picture[..., :3], frame)
    np.testing.assert_array_equal(picture[..., 3], np.where(mask, 255, 0))
    white = mask_picture(mask)
    assert white.shape == (6, 8, 3) and white.dtype == np.uint8
    np.testing.assert_array_equal(white[:5, :7, 1] == 255, mask)
    assert white.sum() == 3 * 255 * mask.sum()


def test_overlay_checks_its_shapes():
    frames, masks = scene()
    with pytest.raises(ValueError, match="masks must be bool of shape .*2, 4, 60, 90"):
        overlay(frames, masks[:, :3], ["one", "two"])
    with pytest.raises(ValueError, match="frames must be uint8"):
        overlay(frames / 255, masks, ["one", "two"])


def test_write_video_is_h264_yuv420p_at_the_rate(tmp_path):
    frames = np.zeros((7, 48, 64, 3), np.uint8)
    frames[:, :, :32] = (250, 10, 10)
    write_video(tmp_path / "new" / "out.mp4", iter(frames), 30000 / 1001)
    with av.open(str(tmp_path / "new" / "out.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264" and stream.pix_fmt == "yuv420p"
        assert float(stream.average_rate) == pytest.approx(29.97, abs=0.01)
        decoded = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert decoded.shape == frames.shape and np.abs(decoded[:, 24, 10].astype(int) - (250, 10, 10)).max() < 12


def test_write_video_mistakes(tmp_path):
    with pytest.raises(ValueError, match="no frames to write to .*out.mp4"):
        write_video(tmp_path / "out.mp4", [], 10)
    with pytest.raises(ValueError, match="47 x 64 pixels: .* even sizes"):
        write_video(tmp_path / "out.mp4", np.zeros((2, 47, 64, 3), np.uint8), 10)
    with pytest.raises(RuntimeError, match="of the caller"), VideoWriter(tmp_path / "empty.mp4", 10):
        raise RuntimeError("of the caller")  # and not of a file without frames
    with pytest.raises(ValueError, match="frame 1 for .* has shape"):
        write_video(tmp_path / "out.mp4", [np.zeros((48, 64, 3), np.uint8), np.zeros((48, 60, 3), np.uint8)], 10)


def test_contact_sheet_marks_right_and_wrong_rows(tmp_path):
    frames, masks = scene(num_frames=9)
    truth = masks.copy()
    truth[1] = np.roll(truth[1], 30, axis=-2)
    path = tmp_path / "new" / "sheet.png"
    contact_sheet(path, frames, ["the first", "the second"], masks, truth)
    sheet = np.asarray(Image.open(path))
    rows = {
        name: np.flatnonzero((sheet[:, 8] == color).all(-1)) for name, color in (("right", RIGHT), ("wrong", WRONG))
    }
    assert rows["right"].size and rows["wrong"].size and rows["right"].max() < rows["wrong"].min()
    assert (sheet == 255).all(-1).any()
    contact_sheet(path, frames, ["the first", "the second"], masks)
    sheet = np.asarray(Image.open(path))
    assert not any((sheet[:, 8] == color).all(-1).any() for color in (RIGHT, WRONG))
    with pytest.raises(ValueError, match="truth must be bool"):
        contact_sheet(path, frames, ["the first", "the second"], masks, truth[:1])


def test_training_curves(tmp_path, monkeypatch):
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *args, **options: figures.append(self) or save(self, *args, **options)
    )
    history = [{"step": step, "epoch": step / 10, "loss": 5 / step, "loss_bce": 1 / step} for step in range(1, 40)]
    for step in (10, 30):
        metrics = {"eval_mean_iou": step / 80, "eval_num_pairs": 90, "eval_runtime": 3.0, "eval_steps_per_second": 2.0}
        history.append({"step": step, **metrics, "eval_spatial/mean_iou": step / 90, "eval_spatial/mAP": 0.3})
    training_curves([*history, {"step": 40, "train_loss": 0.4}], tmp_path / "new" / "curves.png")
    assert Image.open(tmp_path / "new" / "curves.png").size[0] > 800
    drawn = {
        axis.get_title(): {line.get_label(): line.get_xydata().tolist() for line in axis.get_lines()}
        for axis in figures[0].axes
    }
    assert {title: set(lines) for title, lines in drawn.items()} == {
        "loss": {"loss", "loss_bce"},
        "evaluation": {"mean_iou"},
        "mean IoU per kind": {"spatial"},
    }
    assert drawn["evaluation"]["mean_iou"] == [[10, 0.125], [30, 0.375]] and len(drawn["loss"]["loss"]) == 39
    with pytest.raises(ValueError, match="nothing to plot"):
        training_curves([{"step": 1, "epoch": 0.1}], tmp_path / "curves.png")


@pytest.mark.parametrize(("height", "thickness"), [(60, 1), (720, 3)])
def test_outlines_are_what_an_erosion_takes_away(height, thickness):
    mask = np.random.default_rng(0).random((height, height + 20)) > 10 / height**2
    mask = ndimage.binary_erosion(mask, iterations=5, border_value=1)
    mask[height // 2 :, 10:30] = False
    expected = mask & ~ndimage.binary_erosion(mask, iterations=thickness, border_value=0)
    assert mask[0].any() and 0.001 < expected.mean() < 0.5
    drawn = overlay(np.zeros((1, *mask.shape, 3), np.uint8), mask[None, None], ["x"], opacity=0, min_width=1)
    np.testing.assert_array_equal((drawn[0, :height] == COLORS[0]).all(-1), expected)


def test_a_legend_shows_other_scripts_and_breaks_long_words(monkeypatch):
    """Arabic with a font of the system; Chinese with one, or with a warning that names what no font shows."""
    assert font_for("the dog, 3", 16).getname() == ImageFont.load_default(16).getname()
    text = "\u0627\u0644\u0643\u0644\u0628"
    if not any("DejaVu" in path for path in fonts._system_fonts()):
        pytest.skip("the system has no DejaVu fonts")
    font = font_for(text, 16)
    assert font.getname() != ImageFont.load_default(16).getname()
    assert all(font.getmask(character).size != font.getmask(fonts.NO_CHARACTER).size for character in text)
    monkeypatch.setattr(fonts, "_system_fonts", lambda: ())
    fonts._file_for.cache_clear()
    with pytest.warns(UserWarning, match="no font on this system shows \u4eba \u7ea2: boxes stand in their place"):
        font_for("\u7ea2\u4eba", 16)
    fonts._file_for.cache_clear()
    font = font_for("word", 20)
    for words in ("w" * 200, "the dog " + "w" * 100, "a b c"):
        lines = wrap(words, font, 150)
        assert "".join(lines).replace(" ", "") == words.replace(" ", "")
        assert all(font.getlength(line) <= 150 for line in lines)
    assert wrap("the dog on the left", font, 100) == ["the dog on", "the left"]


def test_videos_keep_times_shape_of_pixels_and_sound(tmp_path):
    times, end = [0, 0.04, 0.08, 1.0, 1.5, 1.54, 3.0], 3.9
    source = tmp_path / "source.mp4"
    with av.open(str(source), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.height, video.width, video.pix_fmt = 48, 64, "yuv420p"
        sound = container.add_stream("aac", rate=16000, layout="mono")
        for _ in range(100):
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
        container.mux(video.encode())
        wave = np.sin(np.arange(64000) * 2 * np.pi * 440 / 16000) * (np.arange(64000) >= 32000)  # from 2 s on
        for start in range(0, 64000, 1000):
            part = wave[None, start : start + 1000].astype(np.float32)
            frame = av.AudioFrame.from_ndarray(part, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, start
            container.mux(sound.encode(frame))
        container.mux(sound.encode())
    reader = FrameReader(source)
    with VideoWriter(tmp_path / "out.mp4", 2, Fraction(16, 9), end - 0.5, open_sound(reader, 0.5, end)) as writer:
        for time in times[:-1]:
            writer.write(np.zeros((48, 64, 3), np.uint8), time)
    written = FrameReader(tmp_path / "out.mp4")
    np.testing.assert_allclose(written.times, times[:-1], atol=1e-4)
    assert written.end == pytest.approx(3.4, abs=1e-3) and written.sample_aspect_ratio == Fraction(16, 9)
    with av.open(str(tmp_path / "out.mp4")) as container:
        samples = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    loud = np.flatnonzero(np.abs(samples) > 0.3) / 16000
    assert loud[0] == pytest.approx(1.5, abs=0.08) and len(samples) / 16000 == pytest.approx(3.4, abs=0.15)
    assert open_sound(FrameReader(source, fps=5), 0, 1) is None  # its times are not the file's
    assert open_sound(FrameReader(np.zeros((2, 4, 4, 3), np.uint8), fps=5), 0, 1) is None


def heard(path):
    """(seconds of the sound of a video, the share of them in which something is heard)."""
    reader = FrameReader(path, on_damage="keep")
    sound = open_sound(reader, 0, reader.end)
    samples = np.concatenate([chunk[0] for chunk in sound.chunks])
    sound.close()
    return len(samples) / sound.rate, share_heard(samples)


def test_sound_is_read_as_far_as_it_goes(tmp_path):
    """Of a file that was cut off, and of a broadcast whose sound changes from one channel to two."""
    whole = add_tone(write_numbered(tmp_path / "silent.mkv", 60, options={"bf": "0"}), tmp_path / "whole.mkv")
    assert heard(whole) == (pytest.approx(2.4, abs=0.1), pytest.approx(1, abs=0.1))
    (tmp_path / "cut.mkv").write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    seconds, share = heard(tmp_path / "cut.mkv")
    assert 0.5 < seconds < 2.2 and share > 0.9
    silent = write_numbered(tmp_path / "silent.ts", options={"bf": "0"})
    first = add_tone(silent, tmp_path / "first.ts")
    second = add_tone(silent, tmp_path / "second.ts", "stereo", {"output_ts_offset": "1.2"})
    (tmp_path / "both.ts").write_bytes(first.read_bytes() + second.read_bytes())
    assert heard(tmp_path / "both.ts") == (pytest.approx(2.4, abs=0.1), pytest.approx(1, abs=0.1))
