"""Every part of the loss against plain loops written from the equations, in float64, values and gradients."""

import itertools
import math

import pytest
import torch

from factories import tiny_config
from modeling_cvls.contrastive_cvls import channel_filter
from modeling_cvls.loss_cvls import (
    CVLSCriterion,
    CVLSTargets,
    compare,
    contrastive_loss,
    hard_positions,
    mask_losses,
    presence_loss,
    regions_of,
)

B, K, T, M, H, W, D = 2, 3, 4, 3, 4, 5, 6
P = H * W


def pooled(positions, weights):
    """v = normalize(sum_p a_p f^_p): (B, K, T, P, D), (B, K, T, R, P) -> (B, K, T, R, D)."""
    return torch.nn.functional.normalize(weights @ positions, dim=-1)


@pytest.fixture
def scene():
    """Embeddings, instances and referents of two clips, with an unannotated frame, an instance that is annotated
    nowhere, one that covers nothing, a sentence without and one with two referents."""
    generator = torch.Generator().manual_seed(1)
    owners = torch.randint(-1, M, (B, T, H, W), generator=generator)
    masks = owners[:, :, None] == torch.arange(M)[:, None, None]
    masks[0, 1, 2] = False
    annotated_frames = torch.ones(B, T, dtype=torch.bool)
    annotated_frames[1, 2] = False
    annotated_instances = annotated_frames[..., None].repeat(1, 1, M)
    annotated_instances[1, :, 0] = False
    referents = torch.zeros(B, K, M, dtype=torch.bool)
    referents[0, 0, 2] = referents[0, 1, 0] = referents[0, 1, 1] = referents[1, 0, 1] = referents[1, 1, 0] = True
    embeddings = torch.randn(B, K, T, P, D, generator=generator, dtype=torch.float64)
    sentences = torch.randn(B, K, D, generator=generator, dtype=torch.float64)
    return masks, annotated_frames, annotated_instances, referents, embeddings, sentences


def loop_of_the_equations(scene, tau, tau_h, across_frames):
    """The contrast, region by region and position by position."""
    masks, annotated_frames, annotated_instances, referents, embeddings, sentences = scene
    per_sentence = []
    for b in range(B):
        for k in range(K):
            e = sentences[b, k] / sentences[b, k].norm()
            positives, negatives = [], []
            for t in range(T):
                if not annotated_frames[b, t]:
                    continue
                known = [m for m in range(M) if annotated_instances[b, t, m]]
                regions = [(bool(referents[b, k, m]), masks[b, t, m].flatten()) for m in known]
                covered = [any(region[p] for _, region in regions) for p in range(P)]
                regions.append((False, torch.tensor([not c for c in covered])))
                for number, (is_referred, region) in enumerate(regions):
                    positions = [p for p in range(P) if region[p]]
                    if not positions:
                        continue
                    total, weights = 0.0, []
                    is_background = number == len(known)
                    for p in positions:
                        f = embeddings[b, k, t, p] / embeddings[b, k, t, p].norm()
                        s = float(f.detach() @ e.detach())
                        weights.append(1.0 if tau_h is None or is_background else math.exp(s / tau_h))
                        total = total + weights[-1] * f
                    total = total / sum(weights)
                    (positives if is_referred else negatives).append((t, (total / total.norm()) @ e))
            losses = []
            for t, positive in positives:
                against = [n for (other, n) in negatives if across_frames or other == t]
                denominator = (positive / tau).exp() + sum((n / tau).exp() for n in against)
                losses.append(-((positive / tau).exp() / denominator).log())
            if losses:
                per_sentence.append(sum(losses) / len(losses))
    return sum(per_sentence) / len(per_sentence)


@pytest.mark.parametrize("across_frames", [True, False])
@pytest.mark.parametrize("tau_h", [None, 0.5, 0.05])
def test_contrast_equals_the_equations(scene, tau_h, across_frames):
    masks, annotated_frames, annotated_instances, referents, embeddings, sentences = scene
    results = []
    for plain in (True, False):
        f, e = embeddings.clone().requires_grad_(), sentences.clone().requires_grad_()
        if plain:
            loss = loop_of_the_equations((*scene[:4], f, e), 0.2, tau_h, across_frames)
        else:
            f_hat, e_hat = f / f.norm(dim=-1, keepdim=True), e / e.norm(dim=-1, keepdim=True)
            regions = regions_of(masks, annotated_instances, annotated_frames)
            referred = torch.nn.functional.pad(referents, (0, 1))
            similarity = torch.einsum("bktpd,bkd->bktp", f_hat, e_hat)
            instances = pooled(f_hat, hard_positions(similarity, regions, tau_h))
            compared = torch.einsum("bktrd,bkd->bktr", instances, e_hat)
            loss = contrastive_loss(compared, regions.any(-1), referred, 0.2, across_frames)
        loss.backward()
        results.append((loss.detach(), f.grad, e.grad))
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


def test_contrast_without_referents_is_zero_and_has_a_gradient(scene):
    masks, annotated_frames, annotated_instances, _, embeddings, sentences = scene
    embeddings.requires_grad_()
    regions = regions_of(masks, annotated_instances, annotated_frames)
    referred = torch.zeros(B, K, M + 1, dtype=torch.bool)
    instances = pooled(embeddings, hard_positions(embeddings[..., 0], regions, 0.5))
    compared = torch.einsum("bktrd,bkd->bktr", instances, sentences)
    loss = contrastive_loss(compared, regions.any(-1), referred, 0.1)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(embeddings.grad, torch.zeros_like(embeddings))


def test_contrast_without_negatives_is_zero():
    """A referent that fills every frame has nothing to be told apart from."""
    regions = torch.tensor([[[[True, True], [False, False]]]])  # B, T, R, P = 1, 1, 2, 2: no background left
    embeddings = torch.randn(1, 1, 1, 2, 3, dtype=torch.float64, requires_grad=True)
    referred = torch.tensor([[[True, False]]])
    instances = pooled(embeddings, hard_positions(embeddings[..., 0], regions, None))
    loss = contrastive_loss(instances.sum(dim=-1), regions.any(-1), referred, 0.1)
    loss.backward()
    assert loss.item() == 0
    assert embeddings.grad.isfinite().all()


def filter_case():
    """Two clips, two sentences, two frames, three instances and the background, six channels. One instance is not seen
    in one frame; one sentence refers to two instances."""
    generator = torch.Generator().manual_seed(6)
    sentence = torch.randn(2, 2, 6, generator=generator, dtype=torch.float64)
    instances = torch.randn(2, 2, 2, 4, 6, generator=generator, dtype=torch.float64)
    exists = torch.ones(2, 2, 4, dtype=torch.bool)
    exists[0, 1, 2] = False
    referred = torch.tensor([[[1, 0, 0, 0], [0, 0, 1, 0]], [[0, 1, 1, 0], [1, 0, 0, 0]]]).bool()
    return sentence, instances, exists, referred


@pytest.mark.parametrize(("share", "left"), [(0.5, 3), (0.01, 1), (0.51, 4), (1.0, 6)])
def test_filter_keeps_the_channels_in_which_a_sentence_stands_out(share, left):
    sentence = filter_case()[0].requires_grad_()
    mask = channel_filter(sentence, share)
    assert not mask.requires_grad
    for values, row in zip(sentence.flatten(0, 1).tolist(), mask.flatten(0, 1).tolist(), strict=True):
        largest = sorted(range(6), key=lambda d: -abs(values[d]))[:left]
        assert row == [1.0 if d in largest else 0.0 for d in range(6)]


def test_dropped_channels_do_nothing():
    """LCF: they change neither what is compared nor the loss, and get no gradient; the kept ones do."""
    sentence, instances, exists, referred = filter_case()
    channels = channel_filter(sentence, 0.5)
    sentence.requires_grad_(), instances.requires_grad_()
    compared = compare(sentence, instances, channels)
    for b, k in itertools.product(range(2), range(2)):
        kept = channels[b, k] > 0
        cosine = torch.nn.functional.cosine_similarity(instances[b, k][..., kept], sentence[b, k][kept], dim=-1)
        torch.testing.assert_close(compared[b, k], cosine)
    contrastive_loss(compared, exists, referred, 0.1).backward()
    assert (sentence.grad[channels == 0] == 0).all() and (sentence.grad[channels > 0] != 0).all()
    dropped = (channels == 0)[:, :, None, None].expand_as(instances)
    assert (instances.grad[dropped] == 0).all() and (instances.grad[~dropped] != 0).any()
    noise = 10 * (channels == 0)
    changed = compare(sentence + noise, instances - noise[:, :, None, None], channels)
    torch.testing.assert_close(changed, compared, rtol=0, atol=1e-12)


def test_without_a_filter_all_channels_are_compared():
    sentence, instances, *_ = filter_case()
    expected = (sentence[:, :, None, None] * instances).sum(dim=-1)
    torch.testing.assert_close(compare(sentence, instances), expected)
    # the same instances for every sentence
    expected = (sentence[:, :, None, None] * instances[:, :1]).sum(dim=-1)
    torch.testing.assert_close(compare(sentence, instances[:, :1]), expected)


def test_mask_losses_equal_the_formulas():
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(B, K, T, H, W, generator=generator, dtype=torch.float64, requires_grad=True)
    masks = torch.rand(B, K, T, H, W, generator=generator) > 0.6
    masks[0, 0] = False  # a sentence without referent
    pair_mask = torch.rand(B, K, T, generator=generator) > 0.3
    pixel_mask = torch.ones(B, H, W, dtype=torch.bool)
    pixel_mask[1, :, 3:] = False
    bce, dice = mask_losses(logits, masks, pair_mask, pixel_mask)

    all_bce, all_dice = [], []
    for b, k, t in torch.nonzero(pair_mask).tolist():
        entropy, overlap, total, pixels, area = 0.0, 0.0, 0.0, 0, 0
        for y in range(H):
            for x in range(W):
                if not pixel_mask[b, y, x]:
                    continue
                p, truth = 1 / (1 + (-logits[b, k, t, y, x]).exp()), float(masks[b, k, t, y, x])
                entropy = entropy - (truth * p.log() + (1 - truth) * (1 - p).log())
                overlap, total = overlap + p * truth, total + p + truth
                pixels, area = pixels + 1, area + truth
        all_bce.append(entropy / pixels)
        if area:
            all_dice.append(1 - (2 * overlap + 1) / (total + 1))
    expected = (sum(all_bce) / len(all_bce), sum(all_dice) / len(all_dice))
    for found, wanted in zip((bce, dice), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
        gradients = [torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in (found, wanted)]
        torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("empty_masks", [True, False])
def test_masks_without_a_referent_are_trained_where_asked_for(empty_masks):
    logits = torch.tensor([[2.0, -1.0], [0.5, 3.0]])[None, :, None, None].requires_grad_()  # two sentences, two pixels
    targets = CVLSTargets(
        referents=torch.tensor([[[True], [False]]]),
        instance_masks=torch.tensor([True, False])[None, None, None, None],
        annotated_frames=torch.ones(1, 1, dtype=torch.bool),
        annotated_instances=torch.ones(1, 1, 1, dtype=torch.bool),
        sentence_mask=torch.ones(1, 2, dtype=torch.bool),
    )
    losses = CVLSCriterion(tiny_config(empty_masks=empty_masks))(targets, logits, torch.zeros(1, 2)).parts
    losses["bce"].backward()
    present = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-1))) / 2
    absent = (math.log(1 + math.exp(0.5)) + math.log(1 + math.exp(3))) / 2
    assert losses["bce"].item() == pytest.approx((present + absent) / 2 if empty_masks else present, rel=1e-6)
    assert bool(logits.grad[0, 1].any()) is empty_masks
    # presence learns both, log 2 each at a logit of 0
    assert losses["presence"].item() == pytest.approx(math.log(2), rel=1e-6)


def test_presence_loss_leaves_padding_out():
    logits = torch.tensor([[2.0, -1.0], [0.5, 100.0]], dtype=torch.float64)
    present = torch.tensor([[True, True], [False, False]])
    sentence_mask = torch.tensor([[True, True], [True, False]])
    expected = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(1)) + math.log(1 + math.exp(0.5))) / 3
    assert presence_loss(logits, present, sentence_mask).item() == pytest.approx(expected, abs=1e-12)
