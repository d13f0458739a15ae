"""`cvls explain`: the numbers of its picture against brute force, the pictures written, the errors named."""

import io
import itertools

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from pycocotools import mask as rle

import cvls
from modeling_cvls import CVLSPipeline
from modeling_cvls.data import FEATURES, ClipCollator
from modeling_cvls.explanation import (
    channel_overlap,
    content_words,
    explain,
    mask_iou,
    similarity_in_instances,
    window_around,
)
from modeling_cvls.explanation.rows import first_of_look_alikes
from modeling_cvls.visualization import write_video

SENTENCES = [("the red circle", "appearance"), ("the circle moving left", "temporal"), ("the green square", "none")]


def make_row(video_id, num_instances=4, kinds=("appearance", "temporal", "none"), annotated=(0, 2, 4)):
    """Six frames of 64 x 96 with rectangles that move by a pixel a frame; the last sentence has no referent."""
    rng = np.random.default_rng(0)
    frames, masks = [], []
    for number in range(6):
        picture = rng.integers(0, 120, (64, 96, 3), dtype=np.uint8)
        instances = np.zeros((num_instances, 64, 96), bool)
        for m, mask in enumerate(instances):
            mask[8 + 12 * m : 16 + 12 * m, 4 + 15 * m + number : 20 + 15 * m + number] = True
            picture[mask] += np.uint8(30 * m)
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "png")
        frames.append({"bytes": buffer.getvalue(), "path": f"{number}.png"})
        masks.append([rle.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"].decode() for mask in instances])
    return {
        "video_id": video_id,
        "video": None,
        "frames": frames,
        "num_frames": 6,
        "height": 64,
        "width": 96,
        "fps": None,
        "annotated_frames": list(annotated),
        "evaluation_frames": None,
        "instance_ids": [str(m) for m in range(num_instances)],
        "masks": [masks[frame] for frame in annotated],
        "sentences": [
            {"sentence_id": str(k), "text": text, "instances": [] if k == 2 else [k], "kind": kind}
            for k, ((text, _), kind) in enumerate(zip(SENTENCES, kinds, strict=True))
        ],
    }


@pytest.fixture
def frames():
    return np.random.default_rng(1).integers(0, 255, (4, 64, 64, 3), dtype=np.uint8)


@pytest.fixture
def files(tmp_path, make_model, processor):
    """A data set and two untrained models: with contrast ("full") and without ("baseline")."""
    rows = [make_row("few", 3), make_row("unsaid", kinds=("appearance", "spatial", "none")), make_row("first")]
    (tmp_path / "dataset").mkdir()
    Dataset.from_list([*rows, make_row("second")], features=FEATURES).to_parquet(tmp_path / "dataset" / "test.parquet")
    for name, weight in (("full", 0.1), ("baseline", 0.0)):
        make_model(contrast_weight=weight).save_pretrained(tmp_path / name)
        processor.save_pretrained(tmp_path / name)
    return tmp_path


def test_window_lies_around_the_frame():
    assert window_around(5, 20, 4) == [3, 4, 5, 6]
    assert window_around(0, 20, 4) == [0, 1, 2, 3]
    assert window_around(19, 20, 4) == [16, 17, 18, 19]
    assert window_around(2, 3, 8) == [0, 1, 2]
    for frame, num_frames, length in itertools.product(range(7), (7, 9), (1, 2, 3, 8, 20)):
        window = window_around(frame, num_frames, length)
        assert frame in window and len(window) == min(length, num_frames) and window[-1] < num_frames
    with pytest.raises(ValueError, match="no frame 20: the video's frames are 0 to 19"):
        window_around(20, 20, 4)


def test_mean_similarity_inside_masks_equals_a_loop():
    rng = np.random.default_rng(0)
    similarity = rng.uniform(-1, 1, (2, 3, 5, 7)).astype(np.float32)
    masks = rng.random((3, 4, 5, 7)) < 0.4
    masks[1, 2] = False
    found = similarity_in_instances(similarity, masks)
    for k, t, m in np.ndindex(2, 3, 4):
        values = [similarity[k, t, y, x] for y in range(5) for x in range(7) if masks[t, m, y, x]]
        expected = sum(map(float, values)) / len(values) if values else np.nan
        np.testing.assert_allclose(found[k, t, m], expected, atol=1e-6)
    assert np.isnan(found[:, 1, 2]).all() and np.isnan(found).sum() == 2


def test_overlap_of_channels_by_hand():
    sentences = ["The red circle", "a circle moving left", "the object that is blue", "one red thing"]
    assert content_words(sentences[0]) == {"red", "circle"}
    assert content_words("What's the LEFT-most thing?") == {"what", "s", "left", "most"}
    channels = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 1, 1], [1, 1, 0, 0]], bool)
    # sharing: 0-1 (circle) 1/3, 0-3 (red) 2/2; other: 0-2 0/4, 1-2 1/3, 1-3 1/3, 2-3 0/4
    overlap = channel_overlap(channels, sentences)
    assert overlap["sharing"] == pytest.approx((1 / 3 + 1) / 2) and overlap["num_sharing"] == 2
    assert overlap["other"] == pytest.approx((1 / 3 + 1 / 3) / 4) and overlap["num_other"] == 4
    # by chance: all pairs of choices of 2 out of 4
    choices = [set(choice) for choice in itertools.combinations(range(4), 2)]
    expected = np.mean([len(a & b) / len(a | b) for a in choices for b in choices])
    assert overlap["chance"] == pytest.approx(expected)
    alone = channel_overlap(channels[:1], sentences[:1])
    assert alone["sharing"] is alone["other"] is None and alone["num_other"] == 0


def test_iou_by_hand():
    mask, truth = np.zeros((2, 4, 4), bool)
    assert mask_iou(mask, truth) == 1.0
    mask[0], truth[:, 0] = True, True
    assert mask_iou(mask, truth) == pytest.approx(1 / 7)


def test_explanation_is_what_the_model_says(make_model, processor, frames):
    model = make_model()
    sentences = [text for text, _ in SENTENCES]
    seen = explain(model, processor, frames, sentences, presence_threshold=0.0)
    results = CVLSPipeline(model=model, processor=processor)(frames, sentences, presence_threshold=0.0)
    np.testing.assert_array_equal(seen.masks, np.stack([result["masks"] for result in results]))
    np.testing.assert_allclose(seen.presence, [result["score"] for result in results], atol=1e-6)

    with torch.no_grad():
        similarity = model(**processor(videos=frames, text=sentences)).similarity[0].numpy()
    assert seen.similarity.shape == (3, 4, 64, 64) and abs(seen.similarity).max() <= 1
    # enlarged by four, bilinear: around a corner that four cells share, the mean is that of the four
    corners = similarity[..., :-1, :-1] + similarity[..., 1:, :-1] + similarity[..., :-1, 1:] + similarity[..., 1:, 1:]
    found = seen.similarity[..., 2:-2, 2:-2].reshape(3, 4, 15, 4, 15, 4).mean(axis=(3, 5))
    np.testing.assert_allclose(found, corners / 4, atol=1e-5)


class AsItIs:
    """Draws a clip that is there already."""

    seed = epoch = 0

    def __call__(self, row):
        return dict(row)


def test_kept_channels_are_those_of_the_loss(make_model, processor, frames):
    """As the output of a training step has them, though no object is known here."""
    model = make_model(kept_channels=0.3)
    sentences = [text for text, _ in SENTENCES]
    seen = explain(model, processor, frames, sentences)
    assert seen.channels.sum(axis=1).tolist() == [4, 4, 4]  # ceil(0.3 * 12)
    assert (seen.channels[0] != seen.channels[1]).any()
    assert explain(make_model(channel_filter=False), processor, frames, sentences).channels is None

    masks = np.zeros((4, 2, 64, 64), bool)
    masks[:, 0, 8:32, 8:32] = masks[:, 1, 36:60, 20:50] = True
    clip = {
        "frames": frames,
        "sentences": sentences,
        "masks": masks,
        "annotated_frames": np.array([True, False, True, True]),
        "annotated_instances": np.array([[True, True], [False, False], [True, True], [True, False]]),
        "referents": np.array([[True, False], [False, True], [False, False]]),
    }
    outputs = model(**ClipCollator(processor, AsItIs())([{**clip, "video_id": "a"}]))
    np.testing.assert_array_equal(outputs.kept_channels[0].numpy(), seen.channels)


def test_without_contrast_there_is_nothing_to_show(make_model, processor, frames):
    seen = explain(make_model(contrast_weight=0.0), processor, frames, ["the red circle"])
    assert seen.similarity is None and seen.channels is None and seen.masks.shape == (1, 4, 64, 64)


def test_the_clip_is_chosen_by_the_data_alone():
    def chosen(*rows):
        return first_of_look_alikes(Dataset.from_list(list(rows), features=FEATURES))

    few, unsaid = make_row("few", 3), make_row("unsaid", kinds=("appearance", "spatial", "none"))
    bare = make_row("bare", annotated=())
    assert chosen(bare, few, unsaid, make_row("right"), make_row("later")) == 3
    assert chosen(bare, few, unsaid) == 1
    with pytest.raises(ValueError, match="no video of the split"):
        chosen(bare)


def picture(path):
    pixels = np.asarray(Image.open(path).convert("RGB"))
    assert pixels.std() > 10
    return pixels


@pytest.mark.slow
def test_pictures_of_a_data_set(files, capsys):
    given = ["--dataset", str(files / "dataset"), "--output"]
    cvls.main(["explain", *given, str(files / "new" / "a.png"), "--model", str(files / "full")])
    alone, text = picture(files / "new" / "a.png"), capsys.readouterr().out
    assert "'the red circle': full: presence" in text and "similarity inside object 0 (referent)" in text
    assert "between the clip's 3 sentences" in text
    assert "(1 pair); pairs that share none: 0." in text and "(2 pairs)" in text
    models = ["--model", str(files / "full"), "--compare", str(files / "baseline")]
    cvls.main(["explain", *given, str(files / "b.png"), *models])
    assert picture(files / "b.png").shape[1] > alone.shape[1]  # one more column
    assert "baseline: presence" in capsys.readouterr().out

    options = ["--video-id", "few", "--frame", "1", "--num-sentences", "1"]
    cvls.main(["explain", *given, str(files / "c.png"), "--model", str(files / "baseline"), *options])
    assert picture(files / "c.png").shape[0] < alone.shape[0]
    text = capsys.readouterr().out
    assert "no channels: trained without the contrast" in text and "similarity inside" not in text
    assert "IoU" not in text  # frame 1 is not annotated


@pytest.mark.slow
def test_picture_of_a_video_and_of_a_model_without_filter(files, make_model, processor, capsys):
    make_model(channel_filter=False).save_pretrained(files / "unfiltered")
    (files / "unfiltered" / "processor_config.json").write_bytes(
        (files / "full" / "processor_config.json").read_bytes()
    )
    for file in (files / "full").glob("token*"):
        (files / "unfiltered" / file.name).write_bytes(file.read_bytes())
    video = files / "clip.mp4"
    write_video(video, np.random.default_rng(0).integers(0, 255, (5, 48, 64, 3), dtype=np.uint8), 8)
    output = files / "video.png"
    sentences = ["the red circle costs $5 and $6", "a " + "very " * 9 + "long sentence"]
    cvls.main(["explain", str(video), *sentences, "--model", str(files / "unfiltered"), "--output", str(output)])
    picture(output)
    assert "the channel filter is off: every sentence keeps all channels" in capsys.readouterr().out
    cvls.main(["explain", str(video), *sentences, "--model", str(files / "full"), "--output", str(output)])
    assert "between the clip's 2 sentences" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "dataset", "--video-id", "nowhere"], "--video-id nowhere: split test has no such video"),
        (["--dataset", "dataset", "--frame", "6"], "no frame 6: the video's frames are 0 to 5"),
        (["--dataset", "dataset", "--split", "train"], "train"),
        (["--dataset", "dataset", "--compare", "./missing"], "missing: there is no such folder"),
        (["--dataset", "dataset", "--names", "a", "b"], "2 names for 1 model"),
        (["--dataset", "dataset", "--num-sentences", "0"], "at least 1"),
        (["--dataset", "dataset", "--output", "a.jpg"], "must end in .png"),
        (["clip.mp4"], "at least one sentence"),
        (["clip.mp4", "the cat", "--dataset", "dataset"], "not both"),
        (["missing.mp4", "the cat"], "missing.mp4"),
    ],
)
def test_errors_are_named(files, arguments, message, capsys, monkeypatch):
    monkeypatch.chdir(files)
    with pytest.raises(SystemExit) as stopped:
        cvls.main(["explain", "--model", "full", "--output", "a.png", *arguments])
    assert stopped.value.code == 2 and message in capsys.readouterr().err
    assert not (files / "a.png").exists()
