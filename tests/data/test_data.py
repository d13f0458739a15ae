"""Schema, reading, sampling, flipping and collating of video sentences."""

from collections import Counter

import av
import numpy as np
import pytest
import torch
from datasets import Dataset, IterableDataset
from PIL import Image
from rows import decoded, encode_mask, make_row
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from modeling_cvls.data import (
    FEATURES,
    ClipCollator,
    ClipSampler,
    FrameSampling,
    check_dataset,
    flip_words,
    read_frames,
    read_masks,
)
from modeling_cvls.data.loading import load_rows
from modeling_cvls.processing_cvls import CVLSProcessor
from modeling_cvls.video_processing_cvls import CVLSVideoProcessor

# Schema


def test_check_dataset():
    row, _ = make_row()
    dataset = Dataset.from_list([row], features=FEATURES)
    check_dataset(dataset, "toy")
    check_dataset(dataset.to_iterable_dataset(), "toy")
    with pytest.raises(ValueError, match=r"toy\[train\] .* lacks the columns masks, sentences .*schema.py"):
        check_dataset(dataset.remove_columns(["sentences", "masks"]), "toy[train]")

    def rows():
        yield {"text": "x"}

    streamed = IterableDataset.from_generator(rows)
    with pytest.raises(ValueError, match="lacks the columns video_id, .*it has text"):
        check_dataset(streamed, "toy")


def test_a_data_set_or_split_that_is_not_there_names_its_argument(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match=r"--dataset no_such_data: there is no such folder, .* on the Hub"):
        load_rows("no_such_data", "--dataset")
    row, _ = make_row()
    Dataset.from_list([row], features=FEATURES).to_parquet(tmp_path / "train.parquet")
    assert load_rows(str(tmp_path), "--dataset", "train")["video_id"][:] == [row["video_id"]]
    with pytest.raises(ValueError, match=rf"--dataset {tmp_path}: .*test.*train"):
        load_rows(str(tmp_path), "--dataset", "test")


# Reading


def test_read_frames_of_images_and_files(tmp_path):
    row, frames = make_row()
    np.testing.assert_array_equal(read_frames(row, [4, 0, 4]), frames[[4, 0, 4]])
    for t, frame in enumerate(row["frames"]):
        path = tmp_path / f"{t}.png"
        path.write_bytes(frame["bytes"])
        row["frames"][t] = {"bytes": None, "path": str(path)}
    np.testing.assert_array_equal(read_frames(row, [2, 3]), frames[2:4])


def make_video(path, num_frames=5, height=36, width=52):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "1"})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for t in range(num_frames):
            picture = np.full((height, width, 3), 40 + 40 * t, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


@pytest.mark.parametrize("embedded", [True, False])
def test_read_frames_of_a_video(tmp_path, embedded):
    path = tmp_path / "v.mp4"
    make_video(path)
    row, _ = make_row(num_frames=5, height=36, width=52)
    row |= {"frames": None, "video": {"bytes": path.read_bytes() if embedded else None, "path": str(path)}}
    frames = read_frames(row, [4, 1])
    assert frames.shape == (2, 36, 52, 3) and frames.dtype == np.uint8
    np.testing.assert_allclose(frames.mean((1, 2, 3)), [200, 80], atol=3)


def test_read_frames_refuses(tmp_path):
    row, _ = make_row("clip7")
    with pytest.raises(ValueError, match="video 'clip7': .*neither video nor frames"):
        read_frames(row | {"frames": None}, [0])
    with pytest.raises(ValueError, match="video 'clip7': .*neither bytes nor a path"):
        read_frames(row | {"video": {"bytes": None, "path": None}}, [0])
    with pytest.raises(ValueError, match=r"video 'clip7': frame 6 of "):
        read_frames(row, [0, 6])
    with pytest.raises(ValueError, match="video 'clip7': .*frames are 40 x 64 .* row's height x width is 41 x 64"):
        read_frames(row | {"height": 41}, [0])
    with pytest.raises(ValueError, match="video 'clip7': .*cannot be decoded"):
        read_frames(row | {"video": {"bytes": b"rubbish", "path": "x.mp4"}}, [0])
    with pytest.raises(ValueError, match="video 'clip7': .*cannot be decoded"):
        read_frames(row | {"frames": [{"bytes": b"rubbish", "path": None}]}, [0])
    with pytest.raises(ValueError, match="video 'clip7': .*absent.mp4"):
        read_frames(row | {"video": {"bytes": None, "path": str(tmp_path / "absent.mp4")}}, [0])


def test_read_masks():
    row, _ = make_row(instances=3)
    masks, annotated_frames, annotated_instances = read_masks(row, [0, 1, 4, 5])
    assert masks.shape == (4, 3, 40, 64) and masks.dtype == bool
    assert annotated_frames.tolist() == [False, True, True, False]
    assert annotated_instances.tolist() == [[False] * 3, [True] * 3, [True, False, True], [False] * 3]
    assert not masks[0].any() and not masks[3].any() and not masks[2, 1].any()
    for t, a in [(1, 0), (2, 1)]:
        for m in range(3):
            if row["masks"][a][m] is not None:
                np.testing.assert_array_equal(masks[t, m], decoded(row["masks"][a][m], row))


def test_masks_of_every_shape_pass_and_every_other_size_is_refused():
    row, _ = make_row(instances=1, annotated=(1,))
    generator = np.random.default_rng(3)
    for trial in range(200):
        # From empty to full, with runs from one pixel to thousands, as the code of the runs has several lengths.
        height, width = generator.integers(1, 90, 2)
        mask = np.kron(generator.random((90, 90)) < generator.random(), np.ones((1 + trial % 7,) * 2))[:height, :width]
        sized = row | {"height": int(height), "width": int(width), "masks": [[encode_mask(mask)]]}
        np.testing.assert_array_equal(read_masks(sized, [1])[0][0, 0], mask.astype(bool))
        for wrong in (1, -1):
            if height + wrong > 0:
                with pytest.raises(ValueError, match=rf"video 'a', frame 1, instance '0'.* {height * width} pixels"):
                    read_masks(sized | {"height": int(height) + wrong}, [1])


def test_read_masks_refuses():
    row, _ = make_row("clip7")
    with pytest.raises(ValueError, match="clip7.*, frame 1, instance '0'.* 2560 pixels, .* 20 x 64 = 1280"):
        read_masks(row | {"height": 20}, [1])
    with pytest.raises(ValueError, match="clip7.*: masks of 1 frames, but 2 annotated frames"):
        read_masks(row | {"masks": row["masks"][:1]}, [1])
    with pytest.raises(ValueError, match="clip7.*frame 1: 2 masks, but 1 instance_ids"):
        read_masks(row | {"instance_ids": ["0"]}, [1])
    with pytest.raises(ValueError, match="clip7.*not the counts of a COCO compressed RLE"):
        read_masks(row | {"masks": [["ä", None], [None, None]]}, [1])


# Clips


@pytest.mark.parametrize(
    ("num_frames", "annotated", "length"), [(9, [0], 4), (9, [8], 4), (9, [2, 3, 8], 2), (9, [4], 1), (3, [1], 8)]
)
def test_sample_clip_draws_every_valid_window_alike(num_frames, annotated, length):
    windows = [list(range(start, start + min(length, num_frames))) for start in range(num_frames)]
    valid = [tuple(w) for w in windows if w[-1] < num_frames and set(w) & set(annotated)]
    generator = torch.Generator().manual_seed(0)
    draws = 400 * len(valid)
    seen = Counter(tuple(FrameSampling()(num_frames, annotated, length, generator)) for _ in range(draws))
    assert set(seen) == set(valid)
    assert all(abs(count - 400) < 6 * 20 for count in seen.values())  # six standard deviations at most


@pytest.mark.parametrize(("num_frames", "annotated", "length"), [(5, [], 2), (5, [5], 2), (0, [0], 2), (5, [1], 0)])
def test_sample_clip_refuses(num_frames, annotated, length):
    with pytest.raises(ValueError, match="annotated_frames|at least one frame"):
        FrameSampling()(num_frames, annotated, length)


@pytest.mark.parametrize(
    ("text", "flipped"),
    [
        ("the left dog, right of the cat", "the right dog, left of the cat"),
        ("LEFT Right left.", "RIGHT Left right."),
        ("the Leftmost and the rightmost one", "the Rightmost and the leftmost one"),
        ("moving leftwards, then rightward, then leftward", "moving rightwards, then leftward, then rightward"),
        ("on the left-hand side, right-handed", "on the right-hand side, left-handed"),
        ("left-most (right)", "right-most (left)"),
        ("a bright leftover, upright, cleft, alright, lefty", "a bright leftover, upright, cleft, alright, lefty"),
    ],
)
def test_flip_words(text, flipped):
    assert flip_words(text) == flipped
    assert flip_words(flipped) == text


def test_clip_without_flip_is_the_row():
    row, frames = make_row(num_frames=3, annotated=(0, 2), instances=3, sentences=3)
    row["sentences"][0]["instances"] = [0, 2]
    row["sentences"][2]["instances"] = []
    clip = ClipSampler(8, flip_probability=0)(row)
    np.testing.assert_array_equal(clip["frames"], frames)
    np.testing.assert_array_equal(clip["masks"], read_masks(row, range(3))[0])
    assert clip["annotated_frames"].tolist() == [True, False, True]
    assert clip["annotated_instances"].tolist() == [[True] * 3, [False] * 3, [True, False, True]]
    assert clip["sentences"] == [sentence["text"] for sentence in row["sentences"]]
    assert clip["referents"].tolist() == [[True, False, True], [False, True, False], [False] * 3]


def test_flip_mirrors_frames_masks_and_words_together():
    row, frames = make_row(num_frames=3, annotated=(0, 2))
    straight, mirrored = ClipSampler(3, flip_probability=0)(row), ClipSampler(3, flip_probability=1)(row)
    width = row["width"]
    for x in range(width):
        np.testing.assert_array_equal(mirrored["frames"][:, :, x], frames[:, :, width - 1 - x])
        np.testing.assert_array_equal(mirrored["masks"][..., x], straight["masks"][..., width - 1 - x])
    assert mirrored["sentences"] == ["the bird on the right ", "the bird on the right and left "]
    for name in ("annotated_frames", "annotated_instances", "referents"):
        np.testing.assert_array_equal(mirrored[name], straight[name])

    sampler = ClipSampler(1, flip_probability=0.5)
    flips = 0
    for sampler.epoch in range(200):
        clip = sampler(row)
        flipped = clip["sentences"][0].endswith("right ")
        flips += flipped
        source = frames[:, :, ::-1] if flipped else frames
        assert any(np.array_equal(clip["frames"][0], frame) for frame in source)
    assert 60 < flips < 140


@pytest.mark.slow
def test_sentences_are_drawn_with_their_referents():
    row, _ = make_row(sentences=5, instances=5)
    for k, sentence in enumerate(row["sentences"]):
        sentence["text"] = f"number {k}"
    seen = set()
    for seed in range(200):
        clip = ClipSampler(2, sentences_per_clip=2, seed=seed)(row)
        chosen = [int(text.split()[1]) for text in clip["sentences"]]
        assert chosen == sorted(chosen) and len(chosen) == 2
        assert clip["referents"].tolist() == [[m == k for m in range(5)] for k in chosen]
        seen.add(tuple(chosen))
    assert len(seen) == 10


@pytest.mark.slow
def test_seed_epoch_and_video_decide():
    """The same clip whatever was drawn before; another one for another seed, epoch or video, more often than not."""
    rows = [make_row(name, num_frames=40, annotated=tuple(range(40)), sentences=4)[0] for name in "ab"]

    def draw(row, seed, epoch):
        sampler = ClipSampler(2, 2, seed=seed)
        sampler.epoch = epoch
        clip = sampler(row)
        return clip["frames"].tobytes(), tuple(clip["sentences"])

    clips = [draw(row, seed, epoch) for row in rows for seed in range(3) for epoch in range(3)]
    assert clips == [draw(row, seed, epoch) for row in rows for seed in range(3) for epoch in range(3)]
    assert len(set(clips)) > 12


def test_sampler_refuses():
    row, _ = make_row("clip7")
    sampler = ClipSampler(2)
    with pytest.raises(ValueError, match="'clip7' has no sentences"):
        sampler(row | {"sentences": []})
    with pytest.raises(ValueError, match="'clip7': no annotated frame"):
        sampler(row | {"annotated_frames": [], "masks": []})
    row["sentences"][1]["instances"] = [2]
    with pytest.raises(ValueError, match=r"'clip7', sentence 'clip7/1': instances \[2\] do not exist"):
        sampler(row)
    for arguments in ({"clip_length": 0}, {"sentences_per_clip": 0}, {"flip_probability": 1.5}):
        with pytest.raises(ValueError, match=next(iter(arguments))):
            ClipSampler(**{"clip_length": 2} | arguments)


# Collation


@pytest.fixture(scope="module")
def processor():
    words = ["[PAD]", "[UNK]", "the", "bird", "on", "left", "right", "and"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=32
    )
    video_processor = CVLSVideoProcessor(size={"shortest_edge": 32, "longest_edge": 96})
    return CVLSProcessor(video_processor, tokenizer)


def test_batch_holds_every_clip_and_pads_with_nothing(processor):
    rows = [
        make_row("a", num_frames=6, height=40, width=64, instances=2, sentences=1, annotated=(1, 4), seed=1)[0],
        make_row("b", num_frames=3, height=64, width=40, instances=3, sentences=4, annotated=(0,), seed=2)[0],
        make_row("c", num_frames=2, height=33, width=95, instances=0, sentences=2, annotated=(1,), seed=3)[0],
    ]
    collate = ClipCollator(processor, ClipSampler(4, flip_probability=0))
    torch.manual_seed(0)
    batch = collate(rows)
    torch.manual_seed(0)
    alone = [collate([row]) for row in rows]

    # Frames 4, 3, 2; sizes 32 x 64 (40 x 64 scaled by 0.8 and rounded), 64 x 32, 32 x 96; sentences 1, 4, 2.
    assert batch["frame_sizes"].tolist() == [[32, 64], [64, 32], [32, 96]]
    assert {name: tuple(tensor.shape) for name, tensor in batch.items()} == {
        "pixel_values_videos": (3, 4, 3, 64, 96),
        "frame_mask": (3, 4),
        "frame_sizes": (3, 2),
        "input_ids": (3, 4, 11),  # the bird on the left + three times: and right
        "attention_mask": (3, 4, 11),
        "sentence_mask": (3, 4),
        "instance_masks": (3, 4, 3, 64, 96),
        "annotated_frames": (3, 4),
        "annotated_instances": (3, 4, 3),
        "referents": (3, 4, 3),
    }
    assert batch["frame_mask"].sum(1).tolist() == [4, 3, 2]
    assert batch["sentence_mask"].sum(1).tolist() == [1, 4, 2]
    for b, single in enumerate(alone):
        for name, tensor in batch.items():
            inside = tuple(slice(0, size) for size in single[name].shape[1:])
            assert torch.equal(tensor[b][inside], single[name][0]), name
            rest = tensor[b].clone()
            rest[inside] = 0
            assert not rest.any(), name
    for name in ("instance_masks", "annotated_frames", "annotated_instances", "referents"):
        assert batch[name].dtype == torch.bool
    assert batch["referents"][1].tolist() == [
        [True, False, False],
        [False, True, False],
        [False, False, True],
        [False] * 3,
    ]
    assert not batch["instance_masks"][2].any() and batch["annotated_frames"][2].tolist() == [False, True, False, False]


def test_masks_lie_where_their_pixels_are(processor):
    """Every processed pixel takes the label under its center: compared with Pillow's nearest resize."""
    row, _ = make_row(num_frames=2, height=45, width=80, instances=2, annotated=(0, 1))
    batch = ClipCollator(processor, ClipSampler(2, flip_probability=0))([row])
    height, width = batch["frame_sizes"][0].tolist()
    assert (height, width) == (32, 64)
    for t in range(2):
        for m in range(2):
            expected = np.zeros((height, width), bool)
            if row["masks"][t][m] is not None:
                image = Image.fromarray(decoded(row["masks"][t][m], row))
                expected = np.asarray(image.resize((width, height), Image.NEAREST))
            np.testing.assert_array_equal(batch["instance_masks"][0, t, m], expected)


def test_batches_have_one_of_the_short_sides_and_the_rows_decide_which(processor):
    rows = [make_row(name, num_frames=2, annotated=(0, 1))[0] for name in "abcdefghijkl"]
    collator = ClipCollator(processor, ClipSampler(2, seed=3), [32, 64, 96], 128)
    sizes = [collator([row])["frame_sizes"].tolist()[0] for row in rows]  # of 40 x 64 pixels
    assert {tuple(size) for size in sizes} == {(32, 64), (64, 96), (96, 128)}
    assert [collator([row])["frame_sizes"].tolist()[0] for row in reversed(rows)] == sizes[::-1]
    collator.sampler.epoch = 1
    assert [collator([row])["frame_sizes"].tolist()[0] for row in rows] != sizes
    batch = collator(rows)
    assert len(batch["frame_sizes"].unique(dim=0)) == 1 and batch["instance_masks"].any()
    with pytest.raises(ValueError, match="sizes are numbers of pixels, got \\[0\\]"):
        ClipCollator(processor, ClipSampler(2), [0])


def test_batch_without_any_instance_has_one_padding_instance(processor):
    rows = [make_row(name, instances=0, sentences=1)[0] for name in "ab"]
    batch = ClipCollator(processor, ClipSampler(2))(rows)
    assert batch["instance_masks"].shape[2] == batch["referents"].shape[2] == 1
    assert not batch["instance_masks"].any() and not batch["referents"].any()
    assert batch["annotated_frames"].any(1).all()


def test_collator_works_in_a_data_loader(processor):
    rows = [make_row(str(n), seed=n)[0] for n in range(4)]
    dataset = Dataset.from_list(rows, features=FEATURES)
    collator = ClipCollator(processor, ClipSampler(2))
    loader = torch.utils.data.DataLoader(dataset, batch_size=2, collate_fn=collator, num_workers=1)
    assert [batch["pixel_values_videos"].shape[0] for batch in loader] == [2, 2]
