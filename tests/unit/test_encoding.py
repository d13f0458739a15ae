"""Frames of a long video are encoded once, and the logits are those of each window by itself."""

from collections import Counter

import pytest
import torch

from factories import NOISE, SENTENCES
from modeling_cvls.encoding_cvls import SentenceLogits, WindowEncoder
from modeling_cvls.windows_cvls import plan_windows


def in_steps(model, processor, batches):
    """position -> mask logits (K, h, w) and presence logits (K,)."""
    encoder, sentences = WindowEncoder(model, processor), SentenceLogits(model, processor(text=SENTENCES))
    found, added = {}, 0
    for windows in batches:
        encoder.add({position: NOISE[position] for position in range(added, windows[-1].stop)})
        added = windows[-1].stop
        logits = sentences.add(encoder.encode(windows))
        for index, position in enumerate(logits.positions):
            found[position] = logits.mask_logits[:, index], logits.presence_logits[:, index]
    return found


def window_by_window(model, processor, batches):
    """The same from whole forward passes over the frames of each window."""
    sums = {}
    for window in (window for windows in batches for window in windows):
        inputs = processor(videos=NOISE[window.start : window.stop], text=SENTENCES)
        with torch.no_grad():
            output = model(**inputs)
        for position, weight in zip(window.wanted.tolist(), window.weights.tolist(), strict=True):
            masks, presence = sums.get(position, (0, 0))
            masks = masks + weight * output.mask_logits[0, :, position - window.start]
            sums[position] = masks, presence + weight * output.presence_logits[0]
    return sums


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize(("window", "overlap"), [(4, 1), (4, 0), (5, 4), (20, 5)])
def test_logits_are_those_of_each_window_by_itself(make_model, processor, window, overlap, batch_size):
    model = make_model()
    batches = plan_windows(len(NOISE), window, overlap, batch_size=batch_size)
    found, expected = in_steps(model, processor, batches), window_by_window(model, processor, batches)
    assert list(found) == list(range(len(NOISE))) and found.keys() == expected.keys()
    for position, logits in found.items():
        for one, other in zip(logits, expected[position], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("overlap", "batch_size"), [(0, 1), (2, 1), (2, 2), (3, 1)])
def test_backbone_pyramid_and_text_encoder_work_once(make_model, processor, overlap, batch_size):
    model, seen = make_model(), Counter()
    for name in ("vision.backbone", "vision.pyramid.smooth", "language"):

        def count(module, args, kwargs, name=name):
            seen[name] += len(args[0] if args else kwargs["input_ids"])

        model.get_submodule(name).register_forward_pre_hook(count, with_kwargs=True)
    in_steps(model, processor, plan_windows(len(NOISE), 4, overlap, batch_size=batch_size))
    assert seen == {"vision.backbone": 13, "vision.pyramid.smooth": 13, "language": 2}


def test_frames_of_another_size_are_refused(make_model, processor):
    encoder = WindowEncoder(make_model(), processor)
    encoder.add({0: NOISE[0]})
    with pytest.raises(ValueError, match="a frame is 40 x 64 pixels .*, those before it are 48 x 64"):
        encoder.add({1: NOISE[1, :40]})
