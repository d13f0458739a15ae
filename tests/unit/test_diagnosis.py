"""What benchmarks/diagnosis.py reports, against gradients and means taken by hand."""

import math

import numpy as np
import pytest
import torch

from diagnosis import PUSHED, diagnose, gradients, margins, slopes
from factories import random_batch
from modeling_cvls.loss_cvls import contrastive_loss


def test_gradients_are_those_of_the_weighted_losses(make_model):
    """Added up over the losses they are what a training step sees."""
    model, batch = make_model(), random_batch()
    asked = gradients(model, model(**batch).losses)
    assert set(asked) == {"masks", "presence", "contrast", "alignment"}
    model(**batch).loss.backward()
    for part in ("vision", "language", "fusion"):
        whole = torch.cat(
            [
                (torch.zeros_like(p) if p.grad is None else p.grad).flatten()
                for p in getattr(model, part).parameters()
                if p.requires_grad
            ]
        )
        torch.testing.assert_close(sum(gradient[part] for gradient in asked.values()), whole, rtol=1e-3, atol=1e-5)
    # it compares what has not been fused yet
    assert asked["alignment"]["language"].any() and not asked["alignment"]["fusion"].any()


def test_margins_by_hand():
    """Four objects of a quarter of the frame each; the first sentence refers to 1, the second to 0 and 2, the third to
    none. In frame 1 object 3 is not annotated, frame 2 is not annotated at all."""
    masks = torch.zeros(1, 3, 4, 8, 8, dtype=torch.bool)
    for m, (y, x) in enumerate([(0, 0), (0, 4), (4, 0), (4, 4)]):
        masks[:, :, m, y : y + 4, x : x + 4] = True
    known = torch.ones(1, 3, 4, dtype=torch.bool)
    known[0, 1, 3] = False
    batch = {
        "instance_masks": masks,
        "annotated_instances": known,
        "annotated_frames": torch.tensor([[True, True, False]]),
        "referents": torch.tensor([[[0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]]).bool(),
    }
    inside = torch.tensor([[0.1, 0.6, 0.2, 0.9], [0.3, 0.1, 0.5, 0.4], [1.0, 1.0, 1.0, 1.0]])
    maps = (inside[None, :, None, :, None, None] * masks[:, None]).sum(dim=3)
    none = float("nan")
    expected = [[0.6 - 0.9, 0.6 - 0.2, none], [0.5 - 0.4, 0.5 - 0.1, none], [none, none, none]]
    np.testing.assert_allclose(margins(maps, batch), [expected], atol=1e-6)


def test_slopes_are_the_derivatives_of_the_loss():
    """Of one referent against one object at a time, by autograd; object 3 is seen in the first frame only."""
    similarity = torch.randn(2, 2, 2, 5, generator=torch.Generator().manual_seed(0)).tanh()
    similarity[:, :, 1, 3] = torch.nan
    referents = torch.tensor([[[0, 1, 0, 0], [0, 0, 0, 1]], [[1, 0, 1, 0], [0, 0, 0, 0]]]).bool()
    expected = np.full((2, 2, 2, 4), np.nan, dtype=np.float32)
    for b, k, t, m in np.ndindex(expected.shape):
        values = similarity[b, k, t]
        seen = [r for r in range(4) if referents[b, k, r] and not values[r].isnan()]
        if not seen or m in seen or values[m].isnan():
            continue
        pair = torch.stack([max(values[r] for r in seen), values[m]]).view(1, 1, 1, 2).requires_grad_()
        exists, referred = torch.ones(1, 1, 2, dtype=torch.bool), torch.tensor([[[True, False]]])
        contrastive_loss(pair, exists, referred, 0.1).backward()
        expected[b, k, t, m] = 0.1 * pair.grad[0, 0, 0, 1]
    np.testing.assert_allclose(slopes(similarity, referents, 0.1), expected, rtol=1e-4)


def test_the_output_has_what_the_contrast_compares(make_model):
    """The loss again, from the output alone; what is not a number is not seen."""
    model, batch = make_model().eval(), random_batch()
    output = model(**batch)
    exists = ~output.instance_similarity.isnan()
    assert exists[:, :, :, :-1].any() and torch.equal(exists[:, 0], exists[:, -1])
    loss = contrastive_loss(
        output.instance_similarity.nan_to_num(),
        exists[:, 0],
        torch.nn.functional.pad(batch["referents"], (0, 1)),
        model.config.temperature,
    )
    torch.testing.assert_close(loss, output.losses["contrast"])
    numbers, _ = diagnose(model, [(batch, [["a cross"] * 3] * 2)])
    found = slopes(output.instance_similarity, batch["referents"], model.config.temperature)
    assert numbers["unreferred objects pushed"] == pytest.approx((found[~np.isnan(found)] > PUSHED).mean())
    frames = [
        frame[~np.isnan(frame)].max() > PUSHED
        for frame in found.reshape(-1, found.shape[-1])
        if not np.isnan(frame).all()
    ]
    assert numbers["nearest look-alike pushed"] == pytest.approx(np.mean(frames))


def test_words_count_the_sentences_that_have_them(make_model):
    """Two clips of three sentences, the second clip with a padding sentence."""
    model, batch = make_model().eval(), random_batch(sentences=3)
    batch["sentence_mask"][1, 2] = False
    batch["referents"][:] = torch.tensor([[[1, 0], [0, 1], [0, 0]], [[1, 0], [0, 1], [0, 0]]]).bool()
    sentences = [["the red cross", "a Cross", "a blue cross"], ["the red disc", "something"]]
    _, words = diagnose(model, [(batch, sentences)])
    right = margins(model(**batch).mask_logits, batch) > 0
    assert words == {
        "red": (np.mean([right[0, 0], right[1, 0]]), 2),
        "cross": (np.mean(right[0, :2]), 2),  # the third has no referent to be right about
        "disc": (np.mean(right[1, 0]), 1),
        "something": (np.mean(right[1, 1]), 1),
    }


def test_overlap_of_kept_channels_is_over_the_pairs_of_all_clips(make_model):
    """The second clip has a sentence less; what pads it is in no pair."""
    model, batch = make_model(kept_channels=0.5).eval(), random_batch(sentences=3)
    batch["sentence_mask"][1, 2] = False
    sentences = [["the red cross", "a cross", "a disc"], ["the red disc", "a blue square"]]
    numbers, _ = diagnose(model, [(batch, sentences)])
    kept = model(**batch).kept_channels.numpy()

    def jaccard(b, i, j):
        return (kept[b, i] & kept[b, j]).sum() / (kept[b, i] | kept[b, j]).sum()

    other = [jaccard(0, 0, 2), jaccard(0, 1, 2), jaccard(1, 0, 1)]
    assert numbers["kept channels in common, sentences that share a word"] == pytest.approx(jaccard(0, 0, 1))
    assert numbers["kept channels in common, sentences that share none"] == pytest.approx(np.mean(other))


@pytest.mark.slow
def test_diagnose_averages_over_batches_and_leaves_the_model_alone(make_model):
    model, batches = make_model().eval(), [random_batch(seed=seed) for seed in (1, 2)]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    sentences = [["a cross"] * 3] * 2
    numbers, _ = diagnose(model, [(batch, sentences) for batch in batches])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(math.isfinite(value) for value in numbers.values())
    outputs = [model(**batch) for batch in batches]
    assert numbers["loss contrast"] == pytest.approx(np.mean([o.losses["contrast"].item() for o in outputs]), rel=1e-5)
    ahead = np.concatenate([margins(o.similarity, b) for o, b in zip(outputs, batches, strict=True)])
    assert numbers["similarity right"] == pytest.approx((ahead[~np.isnan(ahead)] > 0).mean())

    contrast, masks = (
        torch.cat([gradients(model, o.losses)[name]["fusion"] for o in outputs[:1]]) for name in ("contrast", "masks")
    )
    alone, _ = diagnose(model, [(batches[0], sentences)])
    cosine = (contrast @ masks / contrast.norm() / masks.norm()).item()
    assert alone["gradient of contrast on fusion"] == pytest.approx((contrast.norm() / masks.norm()).item(), rel=1e-4)
    assert alone["gradient of contrast on fusion, cosine with the masks'"] == pytest.approx(cosine, rel=1e-3)


def test_the_baseline_has_no_similarity_to_report(make_model):
    numbers, _ = diagnose(make_model(contrast_weight=0).eval(), [(random_batch(), [["a cross"] * 3] * 2)])
    assert "mask logit margin" in numbers
    assert not any("similarity" in name or "contrast" in name for name in numbers)
