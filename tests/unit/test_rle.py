"""Run lengths against pycocotools and against runs counted pixel by pixel."""

from itertools import groupby

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from modeling_cvls.rle_cvls import decode_mask, encode_masks, run_lengths


def counted_runs(mask):
    """Down the columns, the first run outside the mask."""
    pixels = mask.T.flatten().tolist()
    runs = [len(list(group)) for _, group in groupby(pixels)]
    return [0, *runs] if pixels[0] else runs


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (40, 64), (301, 200)])
def test_masks_come_back_and_codes_are_those_of_pycocotools(shape):
    generator = np.random.default_rng(0)
    masks = np.stack(
        [np.zeros(shape), np.ones(shape), *(generator.random((4, *shape)) < generator.random((4, 1, 1)))]
    ).astype(bool)
    for mask, counts in zip(masks, encode_masks(masks), strict=True):
        assert counts == coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"].decode()
        assert run_lengths(counts).tolist() == counted_runs(mask)
        decoded = decode_mask(counts, *shape)
        assert decoded.dtype == bool
        np.testing.assert_array_equal(decoded, mask)
    np.testing.assert_array_equal(encode_masks(masks * np.uint8(7)), encode_masks(masks))


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ("065", r"11 pixels, .* 3 x 4 = 12"),
        ("", r"0 pixels"),
        ("ä", "not the counts of a COCO compressed RLE"),
        ("O=", "a run of negative length"),  # -1 and 13
        ("06P", "not the counts of a COCO compressed RLE"),  # ends within a number
        ("0/<", "not the counts of a COCO compressed RLE"),  # a character before the code's first
        ("0PPPPPPPP06", "not the counts of a COCO compressed RLE"),  # a number that no mask has
    ],
)
def test_what_is_no_mask_of_that_size_is_refused(counts, message):
    with pytest.raises(ValueError, match=message):
        decode_mask(counts, 3, 4)
