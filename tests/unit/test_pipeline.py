import io
import json
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as rle_ops
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import ModelOutput

from factories import SHARED
from modeling_cvls.frame_reader_cvls import FrameReader
from modeling_cvls.pipeline_cvls import CVLSPipeline
from modeling_cvls.processing_cvls import CVLSProcessor
from modeling_cvls.selection_cvls import select_frames
from modeling_cvls.video_processing_cvls import CVLSVideoProcessor
from modeling_cvls.visualization import VideoWriter, write_video

REAL_VIDEOS = sorted((SHARED / "real_data/videos").glob("*.mp4"))
SIZE = 64
GRID = SIZE // 4
WINDOW = 5


class FakeConfig(PreTrainedConfig):
    model_type = "fake-segmenter"
    num_frames = WINDOW
    max_sentence_length = None
    carry_state = False


@dataclass
class FakeOutput(ModelOutput):
    mask_logits: torch.Tensor | None = None
    presence_logits: torch.Tensor | None = None


def logits_of(start, number):
    """What the fake answers for a frame in the window from frame `start` on: grid of mask logits, of two sentences."""
    return 2 * torch.randn(2, GRID, GRID, generator=torch.Generator().manual_seed(1000 * start + number))


def presence_of(start):
    """Logits: the circle is present in every window, the square in those from frame 5 on, surer with every frame."""
    return torch.tensor([3.0, (start - 4.5) / 2])


class FakeVision(torch.nn.Module):
    """Features of a frame are its number, read off its brightness (frame f is gray of 12 f)."""

    def get_frame_features(self, pixel_values_videos):
        red = pixel_values_videos[:, :, 0].float().mean((2, 3)) * 0.229 + 0.485
        numbers = (red * 255 / 12).round().to(pixel_values_videos.dtype)[..., None, None, None]
        return SimpleNamespace(pixel_features=numbers, token_features=numbers)

    def get_motion_features(self, pixel_features):
        return torch.zeros_like(pixel_features)

    def get_window_features(self, token_features, motion_features):
        return SimpleNamespace(last_hidden_state=token_features + motion_features)


class FakeSegmenter(PreTrainedModel):
    """Answers with `logits_of` and `presence_of` the window's first frame."""

    config_class = FakeConfig

    def __init__(self, config):
        super().__init__(config)
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.vision = FakeVision()
        self.calls = []

    def get_text_features(self, input_ids, attention_mask, sentence_mask):
        assert sentence_mask.all() and attention_mask.any()
        return BaseModelOutputWithPooling(input_ids[..., None], input_ids[..., 1:2])

    def forward(self, video_features, text_features, attention_mask, sentence_state=None):
        assert sentence_state is None
        mask_logits, presence_logits = [], []
        pixels, tokens = video_features.pixel_features, video_features.last_hidden_state
        assert (pixels == tokens).all() and len(attention_mask) == len(pixels)
        for clip, ids in zip(pixels, text_features.pooler_output, strict=True):
            numbers = clip.flatten().int().tolist()
            self.calls.append(numbers)
            sentences = ids[:, 0] - 2
            mask_logits.append(torch.stack([logits_of(numbers[0], number) for number in numbers], dim=1)[sentences])
            presence_logits.append(presence_of(numbers[0])[sentences])
        return FakeOutput(torch.stack(mask_logits).to(self.dtype), torch.stack(presence_logits).to(self.dtype))


def numbered_frames(num_frames, size=SIZE):
    return np.stack([np.full((size, size, 3), 12 * number, np.uint8) for number in range(num_frames)])


def sigmoid(value):
    return 1 / (1 + np.exp(-value))


def brute_force(number, starts, sentence, window=WINDOW):
    """Probabilities (H, W) and presence of a frame: the mean over all windows, weighted by the distance to the nearer
    end of the window."""
    covering = [start for start in starts if start <= number < start + window]
    weights = [min(number - start + 1, start + window - number) for start in covering]
    logits = sum(weight * logits_of(start, number).double() for weight, start in zip(weights, covering, strict=True))
    presence = sum(weight * presence_of(start).double() for weight, start in zip(weights, covering, strict=True))
    logits = torch.nn.functional.interpolate(logits[None] / sum(weights), (SIZE, SIZE), mode="bilinear")[0]
    return sigmoid(logits[sentence].numpy()), sigmoid(presence[sentence].item() / sum(weights))


def check_frame(mask, frame_score, number, starts, sentence, window=WINDOW):
    probability, presence = brute_force(number, starts, sentence, window)
    expected = (probability > 0.5) & (presence >= 0.5)
    sure = np.abs(probability - 0.5) > 1e-5
    np.testing.assert_array_equal(mask[sure], expected[sure])
    score = presence * probability[expected].mean() if expected.any() else 0
    assert frame_score == pytest.approx(score, abs=1e-4)
    return presence


@pytest.fixture
def pipe():
    backend = Tokenizer(models.WordLevel({"[PAD]": 0, "the": 1, "circle": 2, "square": 3}, unk_token="[PAD]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", model_max_length=6)
    video_processor = CVLSVideoProcessor(size={"shortest_edge": SIZE, "longest_edge": 2 * SIZE})
    return CVLSPipeline(
        model=FakeSegmenter(FakeConfig()), processor=CVLSProcessor(video_processor, tokenizer), device="cpu"
    )


# first frames of the windows, by the number of frames and the overlap; the last window is shifted back
STARTS = {
    (13, 0): [0, 5, 8],
    (13, 1): [0, 4, 8],
    (13, 2): [0, 3, 6, 8],
    (13, 4): [0, 1, 2, 3, 4, 5, 6, 7, 8],
    (11, 1): [0, 4, 6],
    (10, 1): [0, 4, 5],
    (9, 1): [0, 4],
    (6, 1): [0, 1],
    (5, 1): [0],
}


@pytest.mark.parametrize(("num_frames", "overlap"), list(STARTS))
@pytest.mark.parametrize("batch_size", [1, 3])
def test_overlapping_windows_blend_as_by_brute_force(pipe, num_frames, overlap, batch_size):
    arguments = {} if overlap == 1 else {"overlap": overlap}  # a quarter of 5 frames
    starts = STARTS[num_frames, overlap]
    results = pipe(numbered_frames(num_frames), ["the circle", "the square"], batch_size=batch_size, **arguments)
    assert pipe.model.calls == [list(range(start, start + WINDOW)) for start in starts]
    assert [result["sentence"] for result in results] == ["the circle", "the square"]
    for sentence, result in enumerate(results):
        assert result["frame_indices"] == list(range(num_frames))
        assert result["masks"].shape == (num_frames, SIZE, SIZE) and result["masks"].dtype == bool
        presences = [
            check_frame(result["masks"][number], result["frame_scores"][number], number, starts, sentence)
            for number in range(num_frames)
        ]
        assert result["score"] == pytest.approx(max(presences), abs=1e-6) and isinstance(result["score"], float)
    circle, square = results
    assert circle["masks"].any((1, 2)).all() and not square["masks"][:2].any()


@pytest.mark.parametrize("num_frames", [1, 3])
def test_a_short_video_is_one_window(pipe, num_frames):
    (result,) = pipe(numbered_frames(num_frames), "the circle")
    assert pipe.model.calls == [list(range(num_frames))]
    for number in range(num_frames):
        check_frame(result["masks"][number], result["frame_scores"][number], number, [0], 0, window=num_frames)


def test_frame_indices_compute_only_their_windows(pipe):
    (result,) = pipe(numbered_frames(13), "the circle", frame_indices=[12, 1, 8, 1])
    assert pipe.model.calls == [[0, 1, 2, 3, 4], [4, 5, 6, 7, 8], [8, 9, 10, 11, 12]]
    assert result["frame_indices"] == [12, 1, 8, 1]
    for position, number in enumerate([12, 1, 8, 1]):
        check_frame(result["masks"][position], result["frame_scores"][position], number, [0, 4, 8], 0)
    pipe.model.calls.clear()
    pipe(numbered_frames(13), "the circle", frame_indices=[5, 7])
    assert pipe.model.calls == [[4, 5, 6, 7, 8]]


def test_frames_are_decoded_once_when_their_window_comes_and_results_come_with_them(pipe, monkeypatch):
    read, events = FrameReader.read, []
    monkeypatch.setattr(FrameReader, "read", lambda self, ids: events.append(str(*ids)) or read(self, ids))
    forward = pipe.model.forward
    monkeypatch.setattr(pipe.model, "forward", lambda **inputs: events.append("model") or forward(**inputs))
    for result in pipe.stream(numbered_frames(13), ["the circle", "the square"]):
        events.append(result["frame_index"])
    assert events == [
        *"01234", "model", 0, 1, 2, 3,
        *"5678", "model", 4, 5, 6, 7,
        *"9", "10", "11", "12", "model", 8, 9, 10, 11, 12,
    ]  # fmt: skip


@pytest.mark.parametrize("arguments", [{}, {"frame_indices": [9, 3, 4]}, {"batch_size": 2, "overlap": 3}])
def test_the_stream_gives_what_the_call_gives(pipe, arguments):
    video, sentences = numbered_frames(13), ["the circle", "the square"]
    called = pipe(video, sentences, **arguments)
    encoded = pipe(video, sentences, mask_format="rle", **arguments)
    plain = list(pipe.stream(video, sentences, video_fps=4, return_frames=True, **arguments))
    rle = list(pipe.stream(video, sentences, mask_format="rle", **arguments))
    order = sorted(called[0]["frame_indices"])
    assert [result["frame_index"] for result in plain] == [result["frame_index"] for result in rle] == order
    for one, other in zip(plain, rle, strict=True):
        assert one["time"] == one["frame_index"] / 4 and other["time"] is None
        np.testing.assert_array_equal(one["frame"], video[one["frame_index"]])
        for sentence, result in enumerate(called):
            position = result["frame_indices"].index(one["frame_index"])
            np.testing.assert_array_equal(one["masks"][sentence], result["masks"][position])
            np.testing.assert_array_equal(rle_ops.decode(other["masks"][sentence]), result["masks"][position])
            assert encoded[sentence]["masks"][position] == other["masks"][sentence]
            assert one["frame_scores"][sentence] == result["frame_scores"][position]
            assert one["scores"][sentence] <= result["score"]
        assert json.loads(json.dumps(other)) == other
    assert [result["score"] for result in called] == np.max([result["scores"] for result in plain], axis=0).tolist()


def test_no_seam_shows(pipe, monkeypatch):
    """Windows that disagree on where the object ends, by 6 of 16 columns: alone, the edge jumps; blended, it glides."""
    columns = torch.arange(GRID).expand(2, GRID, GRID)
    monkeypatch.setattr(f"{__name__}.logits_of", lambda start, number: (5.0 if start % 2 else 11.0) - columns)
    monkeypatch.setattr(f"{__name__}.presence_of", lambda start: torch.ones(2))

    def largest_jump(overlap):
        (result,) = pipe(numbered_frames(21), "the circle", overlap=overlap)
        edges = result["masks"].sum(2)[:, SIZE // 2]
        return np.abs(np.diff(edges)).max()

    assert largest_jump(0) == 24 and largest_jump(2) == 24 / 3


def test_several_videos_with_sentences_of_their_own(pipe, tmp_path):
    write_video(tmp_path / "b.mp4", numbered_frames(7), 10)
    videos = [numbered_frames(6), tmp_path / "b.mp4", [Image.fromarray(frame) for frame in numbered_frames(3)]]
    sentences = [["the circle", "the square"], ["the square"], ["the circle"]]
    several = pipe(videos, sentences)
    assert [[result["sentence"] for result in results] for results in several] == sentences
    for video, own, results in zip(videos, sentences, several, strict=True):
        for one, other in zip(pipe(video, own), results, strict=True):
            np.testing.assert_array_equal(one["masks"], other["masks"])
            assert one["frame_scores"] == other["frame_scores"]
    with pytest.raises(ValueError, match="3 videos but 1 lists of sentences"):
        pipe(videos, [["the circle"]])
    with pytest.raises(ValueError, match="the sentences of a video are a string or a list of strings"):
        pipe.stream(videos[0], [["the circle"]])


@pytest.mark.parametrize(
    ("arguments", "frames"),
    [
        ({"start": 0.28}, list(range(7, 20))),  # 0.28 * 25 is a little more than 7
        ({"end": 0.2}, list(range(5))),
        ({"start": 0.3, "end": 0.41}, [8, 9, 10]),
        ({"start": 0.7, "end": 9}, [18, 19]),
        ({"fps": 5}, [0, 5, 10, 15]),
        ({"fps": 10}, [0, 2, 5, 7, 10, 12, 15, 17]),
        ({"fps": 30}, list(range(20))),
        ({"start": 0.2, "end": 0.6, "fps": 12.5}, [5, 7, 9, 11, 13]),
    ],
)
def test_times_and_rate(pipe, arguments, frames):
    """20 frames, 25 a second. The windows go over the frames chosen and nothing else."""
    video = numbered_frames(20)
    (result,) = pipe(video, "the circle", video_fps=25, **arguments)
    assert result["frame_indices"] == frames
    assert sorted({number for call in pipe.model.calls for number in call}) == frames
    (alone,) = pipe(video[frames], "the circle")
    np.testing.assert_array_equal(result["masks"], alone["masks"])


def test_defaults_are_set_where_the_pipeline_is_made(pipe):
    lenient = CVLSPipeline(model=pipe.model, processor=pipe.processor, presence_threshold=0, overlap=0, batch_size=2)
    frames = numbered_frames(13)
    (result,) = lenient(frames, "the square")
    assert result["masks"][0].any() and pipe.model.calls[1] == [5, 6, 7, 8, 9]
    assert not lenient(frames, "the square", presence_threshold=0.5)[0]["masks"][0].any()


def test_a_list_of_images_is_one_video(pipe):
    images = [Image.fromarray(frame) for frame in numbered_frames(6)]
    encoded = []
    for image in images:
        buffer = io.BytesIO()
        image.save(buffer, "png")
        encoded.append(buffer.getvalue())
    expected = pipe(numbered_frames(6), "the circle")[0]["masks"]
    arrays, tensors = list(numbered_frames(6)), list(torch.from_numpy(numbered_frames(6)).movedim(-1, 1))
    for video in (images, encoded, arrays, tensors):
        np.testing.assert_array_equal(pipe(video, "the circle")[0]["masks"], expected)


def test_thresholds(pipe):
    frames = numbered_frames(3)
    assert not pipe(frames, "the circle", presence_threshold=0.96)[0]["masks"].any()
    # the probability exceeds 0.9 only away from the outline
    inner, whole = (pipe(frames, "the circle", threshold=t)[0]["masks"] for t in (0.9, 0.5))
    assert inner.sum() < whole.sum() and not (inner & ~whole).any() and inner.any()
    assert pipe(frames, "the square", presence_threshold=0)[0]["masks"].any()


def test_masks_are_of_the_videos_own_size(pipe):
    (result,) = pipe(np.zeros((2, 80, 80, 3), np.uint8), "the circle")
    assert result["masks"].shape == (2, 80, 80)


def test_a_model_in_half_precision_gets_its_own_type(pipe):
    (expected,) = pipe(numbered_frames(13), "the circle")
    pipe.model.to(torch.bfloat16)
    (result,) = pipe(numbered_frames(13), "the circle")
    assert (result["masks"] == expected["masks"]).mean() > 0.99


def test_progress_only_where_asked_for(pipe, capsys):
    pipe(numbered_frames(13), "the circle")
    assert capsys.readouterr().err == ""
    pipe(numbered_frames(13), "the circle", progress=True)
    assert "3/3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"frame_indices": [0, 13]}, ValueError, "frame_indices holds 13, but the video's frames are 0 to 12"),
        ({"frame_indices": [-1]}, ValueError, "frame_indices holds -1"),
        ({"frame_indices": []}, ValueError, "at least one frame number"),
        ({"frame_indices": [0.5]}, ValueError, "at least one frame number"),
        ({"sentences": ["the circle", " "]}, ValueError, "sentence 1 of video 0 is empty"),
        ({"sentences": "the circle " * 4}, ValueError, "has 8 tokens.*at most 6"),
        ({"sentences": []}, ValueError, "no sentence"),
        ({"threshold": 1.5}, ValueError, "threshold is a probability"),
        ({"treshold": 0.5}, TypeError, "unknown argument treshold"),
        ({"mask_format": "png"}, ValueError, "mask_format is 'array' or 'rle', not 'png'"),
        ({"overlap": 5}, ValueError, "overlap is a number from 0 to below the window of 5 frames, not 5"),
        ({"start": 1}, ValueError, "start, end and fps count in seconds, .* give video_fps"),
        ({"start": 2, "video_fps": 10}, ValueError, "start within the 1.300 seconds of the video, not 2 and None"),
        ({"start": 1, "end": 1, "video_fps": 10}, ValueError, "0 <= start < end"),
        ({"start": 0.01, "end": 0.02, "video_fps": 10}, ValueError, "no frame lies between 0.01 and 0.02 seconds"),
        ({"fps": 0, "video_fps": 10}, ValueError, "fps is a number of frames per second above 0, not 0"),
        ({"video_fps": -1}, ValueError, "frames per second of a video are a number above 0, not -1"),
        ({"frame_indices": [0], "end": 1}, ValueError, "either frame_indices or start, end and fps"),
        ({"video": "absent.mp4"}, FileNotFoundError, "no video file at absent.mp4"),
    ],
)
def test_bad_arguments(pipe, arguments, error, message):
    arguments = {"video": numbered_frames(13), "sentences": "the circle"} | arguments
    for function in (pipe, pipe.stream):  # the stream at once, not when its first frame is asked for
        with pytest.raises(error, match=message):
            function(**arguments)
    assert pipe.model.calls == []


@pytest.mark.skipif(not REAL_VIDEOS, reason="../shared/real_data/videos is absent")
def test_real_video(pipe):
    (result,) = pipe(REAL_VIDEOS[0], "the circle", frame_indices=[0, 33])
    reader = FrameReader(REAL_VIDEOS[0])
    assert result["masks"].shape == (2, reader.height, reader.width)


def test_times_are_those_of_presentation(pipe, tmp_path):
    """A frame at 0, then a long still stretch, then many: as a screen is recorded."""
    times = [0, 3, 3.04, 3.08, 8.2, 8.24, 9, 9.5, 9.96, 10.2]
    with VideoWriter(tmp_path / "screen.mp4", 25, end=11) as writer:
        for frame, time in zip(numbered_frames(10), times, strict=True):
            writer.write(frame, time)
    results = list(pipe.stream(tmp_path / "screen.mp4", "the circle", start=9, end=10))
    assert [result["frame_index"] for result in results] == [6, 7, 8]
    assert [result["time"] for result in results] == pytest.approx([9, 9.5, 9.96], abs=1e-4)
    (result,) = pipe(tmp_path / "screen.mp4", "the circle", fps=1)  # shown at 0, 1, 2, ..., 10 s
    assert result["frame_indices"] == [0, 1, 3, 6, 8] and result["missing_frames"] == []
    (result,) = pipe(tmp_path / "screen.mp4", "the circle", fps=100)
    assert result["frame_indices"] == list(range(10))


@pytest.mark.parametrize("rate", [30, 30000 / 1001, 60])
def test_a_clock_of_milliseconds_loses_no_frame(rate):
    """33, 34, 33 ms ... are 30 frames per second, of which none is left out; of 60, every other one."""
    reader = FrameReader(np.zeros((200, 2, 2, 3), np.uint8), rate)
    reader.times = np.round(np.arange(200) / rate, 3)
    frames = select_frames(reader, fps=30).frames
    assert frames.tolist() == list(range(0, 200, 2 if rate == 60 else 1))


def test_missing_frames_are_left_out_and_named(pipe, tmp_path):
    write_video(tmp_path / "whole.mp4", numbered_frames(20), 10)
    reader = FrameReader(tmp_path / "whole.mp4", on_damage="keep")
    real, missing = reader.frames, {0, 7, 8, 19}

    def frames(indices):
        for index, frame in zip(indices, real(indices), strict=True):
            if index in missing:
                reader._frames.missing.add(int(index))
            yield None if index in missing else frame

    reader.frames = frames
    there = [index for index in range(20) if index not in missing]
    with pytest.warns(UserWarning, match=r"whole.mp4 is damaged .*: 4 of its frames .* left out \(0, 7 to 8, 19\)"):
        (result,) = pipe(reader, "the circle")
    assert result["frame_indices"] == there and result["missing_frames"] == sorted(missing)
    assert len(result["masks"]) == len(result["frame_scores"]) == 16
    with pytest.warns(UserWarning, match="left out"):
        assert [result["frame_index"] for result in pipe.stream(reader, "the circle")] == there
    with (
        pytest.raises(ValueError, match="none of the frames that were asked for"),
        pytest.warns(UserWarning, match="left"),
    ):
        pipe(reader, "the circle", frame_indices=[7])
