"""Which frames are drawn, and what is done to a clip: against truths that do not come from the code under test."""

import colorsys
from collections import Counter

import numpy as np
import pytest
import torch

from modeling_cvls.data import ClipAugmentation, FrameSampling
from modeling_cvls.data.augmentation import COLOR, MOTION, PLACE, change_colors, crop, hue_rotation, warp_still


def generator(seed=0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Frames


def draws(sampling, *arguments, number=400):
    source = generator()
    return [sampling(*arguments, source) for _ in range(number)]


@pytest.mark.parametrize("mode", ["consecutive", "sparse", "nearby"])
@pytest.mark.parametrize(
    ("frames", "annotated", "length"), [(1, [0], 5), (4, [2], 5), (12, [0], 5), (40, [3, 39], 6), (9, [8], 2)]
)
def test_clips_are_ascending_different_frames_around_an_annotated_one(mode, frames, annotated, length):
    for clip in draws(FrameSampling(mode, stride=3), frames, annotated, length, number=60):
        assert len(clip) == min(frames, length) and clip == sorted(set(clip))
        assert clip[0] >= 0 and clip[-1] < frames and set(clip) & set(annotated)


def test_stride():
    """Frames 2 apart of 9 that show frame 4: all windows of 3, but those at odd frames."""
    found = Counter(map(tuple, draws(FrameSampling(stride=2), 9, [4], 3)))
    assert set(found) == {(0, 2, 4), (2, 4, 6), (4, 6, 8)} and min(found.values()) > 90
    assert draws(FrameSampling(stride=5), 9, [4], 3, number=1) == [[0, 4, 8]]  # as far apart as the video allows


def test_sparse_clips_have_a_frame_with_one_close_before_and_one_close_after():
    annotated = list(range(50))
    middles, others = set(), set()
    for clip in draws(FrameSampling("sparse"), 50, annotated, 5):
        anchors = [
            frame
            for frame in clip
            if frame % 5 == 0
            and (frame == 0 or {frame - 1, frame - 2, frame - 3} & set(clip))
            and {frame + 1, frame + 2, frame + 3} & set(clip)
        ]
        assert anchors
        middles.add(anchors[0])
        others |= set(clip)
    assert middles >= {0, 5, 25, 45} and others == set(annotated)
    # where few frames are annotated, the frame is one of them
    assert all(31 in clip for clip in draws(FrameSampling("sparse"), 50, [31], 5, number=50))


def test_nearby_clips_stay_within_reach():
    spans = {(min(clip), max(clip)) for clip in draws(FrameSampling("nearby", reach=8), 100, [50], 6)}
    assert min(start for start, _ in spans) == 42 and max(end for _, end in spans) == 58
    assert draws(FrameSampling("nearby", reach=1), 100, [0], 4, number=1) == [[0, 1, 2, 3]]


@pytest.mark.parametrize("arguments", [("other",), ("consecutive", 0), ("nearby", 1, 0)])
def test_ways_that_do_not_exist_are_refused(arguments):
    with pytest.raises(ValueError, match="must be"):
        FrameSampling(*arguments)


# Words


@pytest.mark.parametrize(
    "text", ["the dog on the left", "the TOPMOST bird", "cat in the upper-right corner", "the center one"]
)
def test_places_are_found(text):
    assert PLACE.search(text)


@pytest.mark.parametrize(
    "text", ["a red bird", "the dark-brown dog", "man in black", "the whitish cat", "a greenish thing", "light grey"]
)
def test_colors_are_found(text):
    assert COLOR.search(text)


@pytest.mark.parametrize(
    "text",
    ["a dog walking", "the bird that flies", "man who jumped first", "a cat that goes away", "the last one to leave",
     "the ball before it fell", "moving up", "the car that turns around"],
)  # fmt: skip
def test_motion_and_order_are_found(text):
    assert MOTION.search(text)


@pytest.mark.parametrize(
    "text", ["the large dog", "a thing with a ring", "a king near the building", "two similar birds"]
)
def test_other_words_are_not(text):
    assert not (MOTION.search(text) or COLOR.search(text) or PLACE.search(text))


# Clips


def make_clip(frames=3, height=60, width=90, text="the dog", seed=0):
    """Frames whose red channel is 255 exactly inside the mask of the one instance, and 0 outside."""
    masks = np.zeros((frames, 2, height, width), bool)
    for t in range(frames):
        masks[t, 0, 20:40, 30 + 4 * t : 50 + 4 * t] = True
        masks[t, 1, :10, :10] = True
    pictures = np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)
    pictures[..., 0] = 255 * masks[:, 0]
    return {
        "frames": pictures, "sentences": [text], "masks": masks, "referents": np.array([[True, False]]),
        "annotated_frames": np.arange(frames) % 2 == 0, "annotated_instances": np.ones((frames, 2), bool),
    }  # fmt: skip


def test_nothing_changes_unless_asked():
    clip = make_clip()
    assert ClipAugmentation()(clip, generator()) is clip


def test_a_crop_is_one_part_of_all_frames_with_its_masks():
    sizes = set()
    for seed in range(40):
        clip = make_clip()
        cut = crop(clip, 0.5, generator(seed))
        height, width = cut["frames"].shape[1:3]
        sizes.add((height, width))
        assert height >= 30 and width >= 45
        places = [
            (y, x)
            for y in range(61 - height)
            for x in range(91 - width)
            if np.array_equal(clip["frames"][:, y : y + height, x : x + width], cut["frames"])
        ]
        ((y, x),) = places
        assert np.array_equal(clip["masks"][:, :, y : y + height, x : x + width], cut["masks"])
        assert cut["masks"][:, 0].sum() >= 0.25 * clip["masks"][:, 0].sum()
    assert len(sizes) > 20


def test_a_crop_that_loses_a_referent_is_not_made():
    """Both corners are referred to, and no part of half the sides shows both."""
    clip = make_clip()
    clip["masks"][:] = False
    clip["masks"][:, 0, :3, :3] = clip["masks"][:, 1, -3:, -3:] = True
    clip["referents"] = np.eye(2, dtype=bool)
    clip["sentences"] = ["a", "b"]
    for seed in range(20):
        cut = crop(clip, 0.5, generator(seed))
        assert cut["masks"][:, 0].any() and cut["masks"][:, 1].any()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"crop_probability": 1}, "the dog on the left"),
        ({"reverse_probability": 1}, "the dog running"),
        ({"still_frames": 4}, "the dog"),  # a clip of several frames is no still
    ],
)
def test_sentences_that_a_change_would_make_untrue_keep_the_clip(arguments, words):
    clip = make_clip(text=words)
    found = ClipAugmentation(**arguments)(clip, generator())
    assert np.array_equal(found["frames"], clip["frames"]) and np.array_equal(found["masks"], clip["masks"])


def test_a_reversed_clip_is_the_clip_backward():
    clip = make_clip(frames=4)
    found = ClipAugmentation(reverse_probability=1)(clip, generator())
    for name in ("frames", "masks", "annotated_frames", "annotated_instances"):
        assert np.array_equal(found[name], clip[name][::-1]), name
    assert found["sentences"] == clip["sentences"]


def test_colors_change_alike_in_all_frames_and_keep_the_hue_where_a_color_is_named():
    source = generator()
    frames = np.zeros((2, 8, 8, 3), np.uint8)
    frames[:, :4] = [200, 60, 50]  # red
    frames[:, 4:] = [60, 70, 190]  # blue
    hues = set()
    for _ in range(100):
        found = change_colors(frames, source, hue=False)
        assert np.array_equal(found[0], found[1])
        for part, hue in ((found[0, 0, 0], 4 / 360), (found[0, 7, 7], 235 / 360)):
            there = colorsys.rgb_to_hsv(*(part / 255.0))[0]
            assert min(abs(there - hue), 1 - abs(there - hue)) < 0.03
        free = change_colors(frames, source, hue=True)
        hues.add(round(colorsys.rgb_to_hsv(*(free[0, 0, 0] / 255.0))[0], 1))
    assert len(hues) > 3
    color = ClipAugmentation(color_probability=1)
    clip = make_clip(text="the red dog") | {"frames": frames}
    for seed in range(20):
        assert colorsys.rgb_to_hsv(*(color(clip, generator(seed))["frames"][0, 0, 0] / 255.0))[0] < 0.05


def test_hue_rotation_keeps_grays_and_turns_a_third_into_the_next_channel():
    torch.testing.assert_close(hue_rotation(1.0) @ torch.ones(3), torch.ones(3))
    torch.testing.assert_close(hue_rotation(2 * np.pi / 3) @ torch.tensor([1.0, 0, 0]), torch.tensor([0, 1.0, 0]))


def test_a_still_becomes_copies_whose_masks_lie_where_their_pixels_are():
    """The red channel is the mask, so after any warp it must still be."""
    for seed in range(5):
        clip = make_clip(frames=1)
        found = warp_still(clip, 5, generator(seed))
        assert found["frames"].shape == (5, 60, 90, 3) and found["masks"].shape == (5, 2, 60, 90)
        assert found["annotated_frames"].shape == (5,) and found["annotated_instances"].shape == (5, 2)
        red = found["frames"][..., 0] > 127
        union, both = (red | found["masks"][:, 0]), (red & found["masks"][:, 0])
        assert (both.sum((1, 2)) / union.sum((1, 2))).min() > 0.9  # edges are softened
        assert all(not np.array_equal(found["masks"][0], other) for other in found["masks"][1:])
        # turned by at most 20 degrees, shifted by at most 10 % of each side
        centers = np.array([np.argwhere(mask[0]).mean(0) for mask in found["masks"]]) - [29.5, 39.5]
        assert np.abs(centers).max() < 9 + 45 * np.sin(np.deg2rad(20)) + 4


def test_a_warped_copy_keeps_its_referent():
    clip = make_clip(frames=1)
    clip["masks"][:] = False
    clip["masks"][:, 0, :6, :6] = True  # a corner that most turns would move out
    for seed in range(10):
        assert warp_still(clip, 4, generator(seed))["masks"][:, 0].any(axis=(1, 2)).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"crop_probability": 1.5}, "crop_probability must be between 0 and 1, got 1.5"),
        ({"color_probability": -1}, "color_probability must be between 0 and 1, got -1"),
        ({"smallest_crop": 0}, "smallest_crop is a share"),
        ({"still_frames": 0}, "still_frames must be at least 1, got 0"),
    ],
)
def test_wrong_values_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ClipAugmentation(**arguments)
