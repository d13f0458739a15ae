import importlib.util
import io
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import ModelOutput

from modeling_cvls import frame_reader_cvls
from modeling_cvls.frame_reader_cvls import FrameReader
from modeling_cvls.pipeline_cvls import CVLSPipeline
from modeling_cvls.processing_cvls import CVLSProcessor
from modeling_cvls.video_processing_cvls import CVLSVideoProcessor
from modeling_cvls.visualisation import write_video

REPOSITORY = Path(__file__).parents[1]
REAL_VIDEOS = sorted((REPOSITORY.parent / "shared/real_data/videos").glob("*.mp4"))
SIZE = 64
WINDOW = 5


class FakeConfig(PreTrainedConfig):
    model_type = "fake-segmenter"
    num_frames = WINDOW


@dataclass
class FakeOutput(ModelOutput):
    mask_logits: torch.Tensor | None = None
    presence_logits: torch.Tensor | None = None


class FakeSegmenter(PreTrainedModel):
    """Reads the number of each frame off its brightness (frame f is grey of 12 f) and answers with masks that say which
    window a frame was computed in: 4 (s + 1) pixels high, 4 (f + 1) wide, where s is the window's first frame.

    "circle" is present in every window, "square" in those from frame 5 on, surer with every frame."""

    config_class = FakeConfig

    def __init__(self, config):
        super().__init__(config)
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.calls = []

    def forward(self, pixel_values_videos, frame_mask, frame_sizes, input_ids, attention_mask, sentence_mask):
        assert frame_mask.all() and sentence_mask.all() and attention_mask.any()
        red = pixel_values_videos[0, :, 0].float().mean((1, 2)) * 0.229 + 0.485
        numbers = (red * 255 / 12).round().int()
        self.calls.append(numbers.tolist())
        num_sentences, grid = input_ids.shape[1], pixel_values_videos.shape[-1] // 4
        logits = torch.full((1, num_sentences, len(numbers), grid, grid), -4.0, dtype=pixel_values_videos.dtype)
        for index, number in enumerate(numbers.tolist()):
            logits[:, :, index, : int(numbers[0]) + 1, : number + 1] = 4.0
        square = input_ids[..., 1] == 3
        presence = torch.where(square, (numbers[0] - 4.5) / 2, 3.0)
        return FakeOutput(mask_logits=logits, presence_logits=presence)


def numbered_frames(num_frames):
    return np.stack([np.full((SIZE, SIZE, 3), 12 * number, np.uint8) for number in range(num_frames)])


def expected_mask(start, number):
    mask = np.zeros((SIZE, SIZE), bool)
    mask[: 4 * (start + 1), : 4 * (number + 1)] = True
    # Its corner pixel lies 5/8 of a cell inside in both directions: 4 * (2 * (5 / 8) ** 2 - 1) is below zero.
    mask[4 * (start + 1) - 1, 4 * (number + 1) - 1] = False
    return mask


def sigmoid(value):
    return 1 / (1 + np.exp(-value))


@pytest.fixture
def pipe():
    backend = Tokenizer(models.WordLevel({"[PAD]": 0, "the": 1, "circle": 2, "square": 3}, unk_token="[PAD]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", model_max_length=6)
    video_processor = CVLSVideoProcessor(size={"shortest_edge": SIZE, "longest_edge": 2 * SIZE})
    return CVLSPipeline(
        model=FakeSegmenter(FakeConfig()), processor=CVLSProcessor(video_processor, tokenizer), device="cpu"
    )


# 13 frames in windows of 5: frames 8 and 9 lie in the second and in the shifted last window, and belong to the second.
WINDOW_OF_FRAME = [0] * 5 + [5] * 5 + [8] * 3


def test_each_frame_comes_from_its_window(pipe):
    results = pipe(numbered_frames(13), ["the circle", "the square"])
    assert pipe.model.calls == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [8, 9, 10, 11, 12]]
    assert [result["sentence"] for result in results] == ["the circle", "the square"]
    for result in results:
        assert result["frame_indices"] == list(range(13))
        assert result["masks"].shape == (13, SIZE, SIZE) and result["masks"].dtype == bool
        assert len(result["frame_scores"]) == 13
    circle, square = results
    for number, start in enumerate(WINDOW_OF_FRAME):
        np.testing.assert_array_equal(circle["masks"][number], expected_mask(start, number))
        # the square is absent from the first window
        np.testing.assert_array_equal(square["masks"][number], expected_mask(start, number) & (start > 0))
    assert circle["score"] == pytest.approx(sigmoid(3.0)) and square["score"] == pytest.approx(sigmoid(3.5 / 2))
    assert square["frame_scores"][:5] == [0] * 5
    # inside the mask all logits lie between 0 (its outline) and 4
    assert all(0.5 * sigmoid(3.0) < score <= sigmoid(4.0) * sigmoid(3.0) + 1e-6 for score in circle["frame_scores"])
    assert square["frame_scores"][12] < square["score"] and isinstance(square["score"], float)


@pytest.mark.parametrize("num_frames", [1, 3, 5, 6, 10, 11])
def test_any_length(pipe, num_frames):
    (result,) = pipe(numbered_frames(num_frames), "the circle")
    for number in range(num_frames):
        covering = [calls for calls in pipe.model.calls if number in calls]
        np.testing.assert_array_equal(result["masks"][number], expected_mask(covering[0][0], number))
    assert all(len(call) == min(num_frames, WINDOW) for call in pipe.model.calls)
    assert len(pipe.model.calls) == -(-num_frames // WINDOW)


def test_frame_indices_compute_only_their_windows(pipe):
    (result,) = pipe(numbered_frames(13), "the circle", frame_indices=[12, 1, 2])
    assert pipe.model.calls == [[0, 1, 2, 3, 4], [8, 9, 10, 11, 12]]
    assert result["frame_indices"] == [12, 1, 2] and len(result["frame_scores"]) == 3
    for position, number in enumerate([12, 1, 2]):
        np.testing.assert_array_equal(result["masks"][position], expected_mask(WINDOW_OF_FRAME[number], number))
    full = pipe(numbered_frames(13), "the circle")[0]
    assert result["frame_scores"] == [full["frame_scores"][number] for number in (12, 1, 2)]


def test_only_one_window_is_decoded_at_a_time(pipe, monkeypatch):
    read, events = FrameReader.read, []
    monkeypatch.setattr(FrameReader, "read", lambda self, ids: events.append(list(ids)) or read(self, ids))
    forward = pipe.model.forward
    monkeypatch.setattr(pipe.model, "forward", lambda **inputs: events.append("model") or forward(**inputs))
    pipe(numbered_frames(13), ["the circle", "the square"])
    assert events == [[0, 1, 2, 3, 4], "model", [5, 6, 7, 8, 9], "model", [8, 9, 10, 11, 12], "model"]


def test_a_list_of_images_is_one_video(pipe):
    images = [Image.fromarray(frame) for frame in numbered_frames(6)]
    encoded = []
    for image in images:
        buffer = io.BytesIO()
        image.save(buffer, "png")
        encoded.append(buffer.getvalue())
    expected = pipe(numbered_frames(6), "the circle")[0]["masks"]
    for video in (images, encoded):
        np.testing.assert_array_equal(pipe(video, "the circle")[0]["masks"], expected)


def test_thresholds(pipe):
    frames = numbered_frames(3)
    assert not pipe(frames, "the circle", presence_threshold=0.96)[0]["masks"].any()
    # the probability exceeds 0.9 only away from the outline
    inner, whole = (pipe(frames, "the circle", threshold=t)[0]["masks"] for t in (0.9, 0.5))
    assert inner.sum() < whole.sum() and not (inner & ~whole).any() and inner.any()
    assert pipe(frames, "the square", presence_threshold=0)[0]["masks"].any()


def test_masks_are_of_the_videos_own_size(pipe):
    (result,) = pipe(np.zeros((2, 100, 150, 3), np.uint8), "the circle")
    assert result["masks"].shape == (2, 100, 150)


def test_a_model_in_half_precision_gets_its_own_type(pipe):
    pipe.model.to(torch.bfloat16)
    (result,) = pipe(numbered_frames(3), "the circle")
    np.testing.assert_array_equal(result["masks"][2], expected_mask(0, 2))


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
        ({"video": "absent.mp4"}, FileNotFoundError, "no video file at absent.mp4"),
    ],
)
def test_bad_arguments(pipe, arguments, error, message):
    arguments = {"video": numbered_frames(13), "sentences": "the circle"} | arguments
    with pytest.raises(error, match=message):
        pipe(**arguments)
    assert pipe.model.calls == []


# scripts/segment.py


@pytest.fixture
def segment(pipe, monkeypatch):
    specification = importlib.util.spec_from_file_location("segment", REPOSITORY / "scripts/segment.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    monkeypatch.setattr(module, "pipeline", lambda task, model, device: pipe)
    monkeypatch.setattr(
        module, "AutoConfig", SimpleNamespace(from_pretrained=lambda model: SimpleNamespace(model_type=model))
    )
    return module


def test_segment_writes_the_video_with_masks_and_legend(segment, tmp_path, capsys):
    write_video(tmp_path / "in.mp4", numbered_frames(13), 12.5)
    output = tmp_path / "folder" / "out.mp4"
    segment.main([str(tmp_path / "in.mp4"), "the circle", "the square", "--model", "cvls", "--output", str(output)])
    written = frame_reader_cvls.FrameReader(output)
    assert len(written) == 13 and written.fps == 12.5
    # the mask of the first frame is 4 of 64 pixels wide and high, on black
    first = written.read([0])[0]
    factor = written.width // SIZE
    assert first[2 * factor, 2 * factor].max() > 60 and first[20 * factor, 20 * factor].max() < 40
    assert written.height > SIZE * factor
    printed = capsys.readouterr().out
    assert "0.953  mask in 100% of the frames  the circle" in printed
    assert f"0.852  mask in {8 / 13:4.0%} of the frames  the square" in printed and str(output) in printed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"video": "absent.mp4"}, "no video file at absent.mp4"),
        ({"video": __file__}, "test_pipeline.py cannot be decoded as a video"),
        ({"model": "bert"}, "a model of type bert; one of type cvls was expected"),
        ({"sentence": " "}, "sentence 0 of video 0 is empty"),
        ({"model": "./absent"}, "--model ./absent: there is no such folder"),
        ({"output": "in.mp4"}, "is the video itself"),
        ({"output": "in.mp4/out.mp4"}, "in.mp4"),
        ({"output": "out.avi"}, "the name must end in .mp4"),
    ],
)
def test_segment_names_mistakes_without_a_traceback(segment, tmp_path, capsys, change, message):
    write_video(tmp_path / "in.mp4", numbered_frames(2), 10)
    values = {"video": str(tmp_path / "in.mp4"), "sentence": "the circle", "model": "cvls", "output": "out.mp4"}
    values |= change
    output = str(tmp_path / values["output"])
    with pytest.raises(SystemExit) as exit_:
        segment.main([values["video"], values["sentence"], "--model", values["model"], "--output", output])
    captured = capsys.readouterr()
    assert exit_.value.code == 2 and message in captured.err and captured.out == ""


@pytest.mark.skipif(not REAL_VIDEOS, reason="../shared/real_data/videos is absent")
def test_real_video(pipe):
    (result,) = pipe(REAL_VIDEOS[0], "the circle", frame_indices=[0, 33])
    reader = FrameReader(REAL_VIDEOS[0])
    assert result["masks"].shape == (2, reader.height, reader.width)
