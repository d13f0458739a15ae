import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoProcessor, PreTrainedTokenizerFast

from factories import SHARED
from modeling_cvls.processing_cvls import CVLSProcessor
from modeling_cvls.video_processing_cvls import CVLSVideoProcessor

WORDS = ["[PAD]", "[UNK]", "the", "red", "blue", "circle", "square", "moving", "left"]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def word_tokenizer(model_max_length=8):
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", model_max_length=model_max_length
    )


@pytest.fixture
def processor():
    size = {"shortest_edge": 64, "longest_edge": 128}
    return CVLSProcessor(CVLSVideoProcessor(size=size), word_tokenizer())


def clip(num_frames, height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8)


def test_constant_frame_is_scaled_and_normalized_by_hand(processor):
    frames = np.tile(np.array([51, 102, 204], np.uint8), (2, 64, 64, 1))
    values = processor(videos=frames)["pixel_values_videos"]
    assert values.shape == (1, 2, 3, 64, 64) and values.dtype == torch.float32
    for channel, value in enumerate((0.2, 0.4, 0.8)):
        expected = (value - MEAN[channel]) / STD[channel]
        torch.testing.assert_close(values[0, :, channel], torch.full((2, 64, 64), expected))


@pytest.mark.parametrize(
    ("height", "width", "shortest", "longest", "expected"),
    [
        # 240 -> 320 would make 426 -> 568; 568 / 32 = 17.75 -> 18
        (240, 426, 320, 576, (320, 576)),
        (426, 240, 320, 576, (576, 320)),
        # 720 -> 320 would make 1280 -> 568.9; 17.8 -> 18
        (720, 1280, 320, 576, (320, 576)),
        # 480 -> 320, 854 -> 569.3; -> 18
        (480, 854, 320, 576, (320, 576)),
        # the long side decides: 1000 -> 576, 400 -> 230.4; 230.4 / 32 = 7.2 -> 7
        (400, 1000, 320, 576, (224, 576)),
        # 300 -> 200, 450 -> 300; 200 / 32 = 6.25 -> 6, 300 / 32 = 9.375 -> 9
        (300, 450, 200, 576, (192, 288)),
        # halves go up: 80 / 32 = 2.5 -> 3, 112 / 32 = 3.5 -> 4
        (80, 112, 80, 576, (96, 128)),
        (64, 64, 64, 64, (64, 64)),
        # never less than one multiple: 1000 -> 128, 10 -> 1.28
        (10, 1000, 64, 128, (32, 128)),
    ],
)
def test_size_rounding(height, width, shortest, longest, expected):
    video_processor = CVLSVideoProcessor(size={"shortest_edge": shortest, "longest_edge": longest})
    assert video_processor.processed_size(height, width) == expected
    batch = video_processor(clip(1, height, width), return_tensors="pt")
    assert batch["frame_sizes"].tolist() == [list(expected)]
    assert batch["pixel_values_videos"].shape == (1, 1, 3, *expected)


@pytest.mark.parametrize(("height", "width"), [(200, 310), (40, 60)])
def test_resizing_is_pillows_antialiased_bilinear(processor, height, width):
    # Smooth pictures up and down in size; Pillow computes in 8 bits, hence the tolerance of a gray level or so.
    y, x = np.mgrid[:height, :width]
    frame = np.stack([128 + 100 * np.sin(x / 9), 128 + 100 * np.cos(y / 7), (x + y) % 256], -1).astype(np.uint8)
    batch = processor(videos=frame[None])
    target_height, target_width = batch["frame_sizes"][0].tolist()
    expected = np.asarray(Image.fromarray(frame).resize((target_width, target_height), Image.Resampling.BILINEAR))
    values = batch["pixel_values_videos"][0, 0].permute(1, 2, 0).numpy() * STD + MEAN
    assert np.abs(values * 255 - expected).max() < 2


def test_clips_of_differing_length_and_size_are_zero_padded(processor):
    clips = [clip(3, 64, 96, seed=1), clip(1, 128, 64, seed=2)]
    batch = processor(videos=clips)
    assert batch["pixel_values_videos"].shape == (2, 3, 3, 128, 96)
    assert batch["frame_mask"].tolist() == [[True, True, True], [True, False, False]]
    assert batch["frame_sizes"].dtype == torch.int64 and batch["frame_sizes"].tolist() == [[64, 96], [128, 64]]
    for index, (height, width) in enumerate(((64, 96), (128, 64))):
        values = batch["pixel_values_videos"][index]
        frames = len(clips[index])
        expected = (torch.from_numpy(clips[index]) / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
        torch.testing.assert_close(
            values[:frames, :, :height, :width], expected.permute(0, 3, 1, 2), atol=1e-5, rtol=1e-5
        )
        values[:frames, :, :height, :width] = 0
        assert not values.any()


def test_a_frame_three_pixels_high_is_not_taken_for_channels_first(processor):
    batch = processor(videos=clip(3, 3, 3))
    assert batch["pixel_values_videos"].shape == (1, 3, 3, 64, 64)


def test_sentences_are_padded_to_the_longest(processor):
    batch = processor(text=[["the red circle moving left", "the square"], ["blue circle"]])
    assert batch["input_ids"].tolist() == [
        [[2, 3, 5, 7, 8], [2, 6, 0, 0, 0]],
        [[4, 5, 0, 0, 0], [0, 0, 0, 0, 0]],
    ]
    assert batch["attention_mask"].sum(-1).tolist() == [[5, 2], [2, 0]]
    assert batch["sentence_mask"].tolist() == [[True, True], [True, False]]
    assert batch["input_ids"].dtype == batch["attention_mask"].dtype == torch.int64
    assert batch["sentence_mask"].dtype == torch.bool


def test_sentences_of_one_clip_need_no_outer_list(processor):
    nested = processor(text=[["the red circle"]])["input_ids"]
    for text in (["the red circle"], "the red circle"):
        assert torch.equal(processor(text=text)["input_ids"], nested)


@pytest.mark.parametrize("text", ["", "  \n", ["the circle", ""], [["the circle"], ["\t"]]])
def test_empty_sentence(processor, text):
    with pytest.raises(ValueError, match=r"sentence \d of video \d is empty .*: words that describe"):
        processor(text=text)


def test_too_long_sentence_is_quoted_and_counted(processor):
    processor(text="the " * 8)
    long = "the red circle moving left the blue circle " + "left " * 30
    with pytest.raises(ValueError, match=r'"the red circle moving left .*\.\.\." has 38 tokens.* at most 8'):
        processor(text=["the circle", long])


@pytest.mark.parametrize("text", [[], [[]], [["the circle"], []]])
def test_no_sentence(processor, text):
    with pytest.raises(ValueError, match=r"video \d has no sentence"):
        processor(text=text)


def test_text_of_the_wrong_kind(processor):
    with pytest.raises(ValueError, match="list of lists of sentences .* entry 1 is 'the circle'"):
        processor(text=[["the circle"], "the circle"])


def test_number_of_videos_and_sentence_lists_must_agree(processor):
    with pytest.raises(ValueError, match="2 videos but 1 lists of sentences"):
        processor(videos=[clip(1, 64, 64)] * 2, text=["the circle", "the square"])
    with pytest.raises(ValueError, match="neither videos nor text"):
        processor()


@pytest.mark.parametrize(
    "bad",
    [
        clip(2, 8, 8).astype(np.float32),
        clip(2, 8, 8)[..., :1],
        clip(2, 8, 8)[0],
        clip(2, 8, 8).transpose(3, 0, 1, 2),
        clip(2, 8, 8)[:0],
        "video.mp4",
    ],
    ids=["float", "gray", "image", "colors before frames", "no frames", "path"],
)
def test_frames_that_are_not_uint8_rgb(processor, bad):
    with pytest.raises(ValueError, match=r"video 1 must be uint8 RGB frames of shape \(T, H, W, 3\), not "):
        processor(videos=[clip(1, 8, 8), bad])


@pytest.mark.parametrize("kind", ["channels first", "tensor", "frames", "frames channels first", "tensors", "images"])
def test_a_clip_in_other_forms(processor, kind):
    """One clip, and two of different lengths."""

    def as_kind(frames):
        first = np.moveaxis(frames, -1, 1)
        return {
            "channels first": first,
            "tensor": torch.from_numpy(first),
            "frames": list(frames),
            "frames channels first": list(first),
            "tensors": [torch.from_numpy(frame) for frame in frames],
            "images": [Image.fromarray(frame) for frame in frames],
        }[kind]

    clips = [clip(3, 40, 50, seed=1), clip(2, 60, 50, seed=2)]
    for expected, found in (
        (processor(videos=clips[0]), processor(videos=as_kind(clips[0]))),
        (processor(videos=clips), processor(videos=[as_kind(frames) for frames in clips])),
    ):
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_ambiguous_and_wrong_frames(processor):
    frames = clip(3, 3, 3)
    first = processor(videos=frames, input_data_format="channels_first")["pixel_values_videos"]
    last = processor(videos=np.moveaxis(frames, 1, -1))["pixel_values_videos"]
    assert torch.equal(first, last) and not torch.equal(first, processor(videos=frames)["pixel_values_videos"])
    gray = [Image.fromarray(frame).convert("L") for frame in clip(2, 8, 8)]
    colors = [Image.fromarray(np.asarray(image)[..., None].repeat(3, -1)) for image in gray]
    assert torch.equal(processor(videos=gray)["pixel_values_videos"], processor(videos=colors)["pixel_values_videos"])
    with pytest.raises(ValueError, match="the frames of video 0 must be of one size"):
        processor(videos=[Image.new("RGB", (8, 8)), Image.new("RGB", (8, 9))])


def test_arguments_of_the_parts(processor):
    """Flat, or in a dictionary of the part; what is no argument of either part is refused by the part."""
    text, frames = ["the red circle", "left"], clip(2, 50, 90)
    expected = processor(frames, text)
    size = {"shortest_edge": 32, "longest_edge": 64}
    for arguments in (
        {"size": size, "padding": "max_length", "max_length": 6},
        {"videos_kwargs": {"size": size}, "text_kwargs": {"padding": "max_length", "max_length": 6}},
    ):
        batch = processor(frames, text, **arguments)
        assert batch["pixel_values_videos"].shape == (1, 2, 3, 32, 64)
        assert batch["input_ids"].tolist() == [[[2, 3, 5, 0, 0, 0], [8, 0, 0, 0, 0, 0]]]
        assert torch.equal(batch["sentence_mask"], expected["sentence_mask"])
    assert processor(text=text, padding="max_length")["input_ids"].shape == (1, 2, 8)
    assert processor(text="the " * 12, truncation=True)["input_ids"].shape == (1, 1, 8)
    assert processor(text="the " * 12, truncation=True, max_length=3)["input_ids"].shape == (1, 1, 3)
    with pytest.raises(ValueError, match="has 5 tokens.* at most 4"):
        processor(text="the " * 5, max_length=4)
    arrays = processor(frames, text, common_kwargs={"return_tensors": "np"})
    assert all(isinstance(value, np.ndarray) for value in arrays.values())


def test_no_clips(processor):
    with pytest.raises(ValueError, match="videos is an empty list"):
        processor(videos=[])


def test_bad_size():
    with pytest.raises(ValueError, match="size must be"):
        CVLSVideoProcessor(size={"height": 64, "width": 64})


def test_swapped_arguments():
    with pytest.raises(TypeError, match="video_processor must be a BaseVideoProcessor, not a "):
        CVLSProcessor(word_tokenizer(), CVLSVideoProcessor())


def test_saved_and_loaded_by_auto_processor(processor, tmp_path):
    processor.video_processor.image_mean = (0.5, 0.4, 0.3)
    processor.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "processor_config.json").read_text())["video_processor"]["size_divisor"] == 32
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert type(loaded) is CVLSProcessor and type(loaded.video_processor) is CVLSVideoProcessor
    frames, text = clip(2, 50, 90), ["the red circle", "left"]
    expected, got = processor(frames, text), loaded(frames, text)
    assert set(expected) == set(got)
    assert all(torch.equal(expected[key], got[key]) for key in expected)
    with pytest.raises(ValueError, match="at most 8"):
        loaded(text="the " * 9)


def bilinear(image, height, width):
    """Bilinear interpolation (half-pixel centers, edges repeated) pixel by pixel."""
    source_height, source_width = image.shape
    out = np.zeros((height, width))
    for row in range(height):
        y = min(max((row + 0.5) * source_height / height - 0.5, 0), source_height - 1)
        y0 = int(y)
        y1 = min(y0 + 1, source_height - 1)
        for column in range(width):
            x = min(max((column + 0.5) * source_width / width - 0.5, 0), source_width - 1)
            x0 = int(x)
            x1 = min(x0 + 1, source_width - 1)
            top = image[y0, x0] * (x0 + 1 - x) + image[y0, x1] * (x - x0)
            bottom = image[y1, x0] * (x0 + 1 - x) + image[y1, x1] * (x - x0)
            out[row, column] = top * (y0 + 1 - y) + bottom * (y - y0)
    return out


def test_post_process_step_by_step(processor):
    generator = torch.Generator().manual_seed(0)
    mask_logits = 3 * torch.randn(2, 3, 2, 16, 8, generator=generator)
    presence_logits = torch.tensor([[2.0, -1.0, 0.5], [-0.2, 3.0, 0.0]])
    frame_sizes, target_sizes = [(32, 32), (64, 24)], [(21, 35), (40, 17)]
    outputs = SimpleNamespace(mask_logits=mask_logits, presence_logits=presence_logits)
    results = processor.post_process_masks(
        outputs, torch.tensor(frame_sizes), target_sizes, threshold=0.6, presence_threshold=0.45
    )
    assert len(results) == 2
    for video, result in enumerate(results):
        assert result["masks"].shape == (3, 2, *target_sizes[video]) and result["masks"].dtype == torch.bool
        for sentence in range(3):
            presence = 1 / (1 + math.exp(-presence_logits[video, sentence]))
            assert float(result["scores"][sentence]) == pytest.approx(presence, abs=1e-6)
            for frame in range(2):
                full = bilinear(mask_logits[video, sentence, frame].double().numpy(), 64, 32)
                cropped = full[: frame_sizes[video][0], : frame_sizes[video][1]]
                probability = 1 / (1 + np.exp(-bilinear(cropped, *target_sizes[video])))
                expected = probability > 0.6 if presence >= 0.45 else np.zeros_like(probability, bool)
                mask = result["masks"][sentence, frame].numpy()
                sure = np.abs(probability - 0.6) > 1e-5
                assert (mask == expected)[sure].all()
                score = presence * probability[mask].mean() if mask.any() else 0
                assert float(result["frame_scores"][sentence, frame]) == pytest.approx(score, abs=1e-5)
    # both sides of the presence threshold occurred
    assert not results[0]["masks"][1].any() and results[0]["masks"][0].any() and results[1]["masks"][0].any()


def test_empty_mask_scores_zero(processor):
    outputs = SimpleNamespace(mask_logits=torch.full((1, 1, 2, 8, 8), -9.0), presence_logits=torch.tensor([[4.0]]))
    (result,) = processor.post_process_masks(outputs, [(32, 32)], [(32, 32)])
    assert not result["masks"].any() and result["frame_scores"].tolist() == [[0, 0]] and result["scores"][0] > 0.9


def test_post_process_checks_its_sizes(processor):
    outputs = SimpleNamespace(mask_logits=torch.zeros(2, 1, 1, 8, 8), presence_logits=torch.zeros(2, 1))
    with pytest.raises(ValueError, match="outputs hold 2 videos, frame_sizes 1 and target_sizes 2"):
        processor.post_process_masks(outputs, [(32, 32)], [(32, 32)] * 2)


@pytest.mark.skipif(not (SHARED / "real_data/videos").is_dir(), reason="../shared/real_data is absent")
def test_real_video(processor):
    from modeling_cvls.frame_reader_cvls import FrameReader

    path = sorted((SHARED / "real_data/videos").glob("*.mp4"))[0]
    batch = processor(FrameReader(path).read([0, 40]), ["the red circle"])
    # 480 x 854 -> 64 x 113.9; 3.56 -> 4 multiples of 32
    assert batch["pixel_values_videos"].shape == (1, 2, 3, 64, 128)
    assert batch["pixel_values_videos"].isfinite().all()
