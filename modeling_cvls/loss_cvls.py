r"""The losses of CVLS: masks (BCE, Dice), presence, and the contrastive objective with its two strategies.

Liang, Luo, Wu and Yang, "Contrastive Video-Language Segmentation" (arXiv 2109.14131), give the ideas; the equations are
this project's reading of them. B clips, K sentences a clip, T frames, M instances, R = M + 1 regions (the instances,
and last the background), P positions of the grid, D channels.

The contrastive objective is asked twice, with the same equation (`contrastive_loss`): of a sentence and the objects of
its clip before they meet, where the channel filter acts, and of what became of both when they were fused, where hard
instances are constructed. Each function is pure: tensors in, tensors out.
"""

import math

import torch
import torch.nn.functional as F


def channel_filter(sentence: torch.Tensor, kept_channels: float) -> torch.Tensor:
    r"""Language-relevant Channel Filter (LCF): which channels are left to a sentence's contrast.

    The $\lceil \rho D \rceil$ channels with the largest $|\hat e_d|$ get 1, the others 0. Of a sentence that was
    standardized over the batch, as in `CVLSAlignment`, these are the channels in which it differs most from the other
    sentences: what it speaks of. A dropped channel takes no part, not even in the length of what is compared.

    Args:
        sentence: (B, K, D) $\hat e$.
        kept_channels: $\rho$ in (0, 1].

    Returns:
        (B, K, D) of zeros and ones, dtype of `sentence`; a choice, without a gradient.
    """
    kept = sentence.detach().abs().topk(math.ceil(kept_channels * sentence.shape[-1]), dim=-1).indices
    return torch.zeros_like(sentence).scatter(-1, kept, 1.0)


def compare(sentence: torch.Tensor, instances: torch.Tensor, channels: torch.Tensor | None = None) -> torch.Tensor:
    r"""The similarity $\langle \hat e, v \rangle$ of sentences and instance embeddings, on the channels that are left.

    Args:
        sentence: (B, K, D) $\hat e$.
        instances: (B, K, T, R, D) v; of size 1 where it is the same for every sentence.
        channels: (B, K, D) of zeros and ones, or None for all.

    Returns:
        (B, K, T, R) in [-1, 1].
    """
    if channels is not None:
        sentence = F.normalize(channels * sentence, dim=-1)
        instances = F.normalize(channels[:, :, None, None] * instances, dim=-1)
    return torch.einsum("bktrd,bkd->bktr", instances, sentence)


def regions_of(
    instance_masks: torch.Tensor, annotated_instances: torch.Tensor, annotated_frames: torch.Tensor
) -> torch.Tensor:
    """The regions of each annotated frame: its instances, and last the background, which no instance covers.

    Args:
        instance_masks: (B, T, M, h, w) bool, on the grid of the contrast.
        annotated_instances: (B, T, M) bool.
        annotated_frames: (B, T) bool.

    Returns:
        (B, T, M + 1, h * w) bool. A region without positions does not exist and takes no part.
    """
    masks = instance_masks & annotated_instances[..., None, None]
    background = ~masks.any(dim=2, keepdim=True)
    return (torch.cat([masks, background], dim=2) & annotated_frames[..., None, None, None]).flatten(-2)


def hard_positions(similarity: torch.Tensor, regions: torch.Tensor, hard_temperature: float | None) -> torch.Tensor:
    r"""Relative Hard Instance Construction (RHIC): what each position counts in the embedding of its region.

    $a = \mathrm{softmax}_p(s_p / \tau_h)$ over the positions of an instance: those most similar to the sentence,
    relative to the rest of the instance, weigh most. So constructed, an unreferred instance is as easily confused as it
    can be, and the referent must be ahead of it by what speaks for it most, which is what the segmenter chooses by.
    (The least similar positions of a referent would be harder still, but they lie where objects touch, and coarse
    features show the other object there. Xuan et al., "Improved Embeddings with Easy Positive Triplet Mining", 2020,
    mine the easiest positives too.) No gradient passes through the weights. The instance embedding is
    $v = \mathrm{normalize}(\sum_p a_p \hat f_p)$. $\tau_h \to \infty$, here `None`, is mean pooling.

    The background is no object that could be confused, and always its mean: its most similar positions are those along
    the referent's outline, which coarse features cannot tell from it, and which would outweigh every look-alike.

    Args:
        similarity: (B, K, T, P) $s_p = \langle \hat f_p, \hat e \rangle$.
        regions: (B, T, R, P) bool, last the background, as `regions_of` gives them.
        hard_temperature: $\tau_h$, or None.

    Returns:
        (B, K, T, R, P), of sum 1 over the positions of a region that exists, else 0.
    """
    regions = regions[:, None]  # the same for every sentence
    hardness = similarity.new_zeros((*similarity.shape[:3], *regions.shape[3:]))
    if hard_temperature is not None:
        hardness[:, :, :, :-1] = similarity.detach()[:, :, :, None] / hard_temperature
    return hardness.masked_fill(~regions, torch.finfo(similarity.dtype).min).softmax(dim=-1) * regions


def contrastive_loss(
    similarity: torch.Tensor,
    region_exists: torch.Tensor,
    referred: torch.Tensor,
    temperature: float,
    across_frames: bool = True,
) -> torch.Tensor:
    r"""The contrast of referred against unreferred regions, across the frames of a clip.

    $$L = \mathrm{mean}_{v^+} -\log \frac{\exp(\langle \hat e, v^+ \rangle / \tau)}
        {\exp(\langle \hat e, v^+ \rangle / \tau) + \sum_{v^-} \exp(\langle \hat e, v^- \rangle / \tau)}$$

    Each referred region of each annotated frame is a positive; the negatives are the unreferred regions of all
    annotated frames of the clip (`across_frames`), or of the positive's own frame.

    Args:
        similarity: (B, K, T, R) $\langle \hat e, v \rangle$ of sentences and instance embeddings.
        region_exists: (B, T, R) bool.
        referred: (B, K, R) bool; a padding sentence refers to nothing.
        temperature: $\tau$.

    Returns:
        Scalar: mean over the positives of each sentence, then over the sentences that have one (0 where none has).
    """
    logits = similarity / temperature
    exists = region_exists[:, None].expand(logits.shape)
    positive = exists & referred[:, :, None]
    negative = exists & ~referred[:, :, None]

    # a large finite number, as logsumexp over nothing but -inf has no gradient
    negatives = logits.masked_fill(~negative, torch.finfo(logits.dtype).min / 2)
    negatives = negatives.logsumexp(dim=(2, 3) if across_frames else 3, keepdim=True)
    # -log(exp(a) / (exp(a) + exp(b))) = softplus(b - a)
    losses = F.softplus(negatives - logits) * positive
    number = positive.sum(dim=(2, 3))
    return _mean(losses.sum(dim=(2, 3)) / number.clamp(min=1), number > 0)


def mask_losses(
    mask_logits: torch.Tensor,
    masks: torch.Tensor,
    pair_mask: torch.Tensor,
    pixel_mask: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Binary cross-entropy and Dice, each averaged over (sentence, frame) pairs.

    BCE is the mean over the pixels of a pair. Dice is $1 - (2 \sum p y + 1) / (\sum p + \sum y + 1)$ (Milletari et al.,
    V-Net, 2016) over the pairs whose referent is visible: an empty truth is BCE's and presence's affair.

    Args:
        mask_logits: (B, K, T, H, W).
        masks: (B, K, T, H, W) bool.
        pair_mask: (B, K, T) bool, the pairs with a known truth.
        pixel_mask: (B, H, W) bool, false on padding.

    Returns:
        Two scalars: BCE, Dice.
    """
    dtype = mask_logits.dtype
    valid = pixel_mask[:, None, None].to(dtype)
    truth = masks.to(dtype) * valid
    bce = F.binary_cross_entropy_with_logits(mask_logits, truth, reduction="none") * valid
    bce = bce.sum(dim=(-2, -1)) / valid.sum(dim=(-2, -1))
    probabilities = mask_logits.sigmoid() * valid
    overlap = (probabilities * truth).sum(dim=(-2, -1))
    dice = 1 - (2 * overlap + 1) / (probabilities.sum(dim=(-2, -1)) + truth.sum(dim=(-2, -1)) + 1)
    visible = pair_mask & (truth.sum(dim=(-2, -1)) > 0)
    return _mean(bce, pair_mask), _mean(dice, visible)


def presence_loss(presence_logits: torch.Tensor, present: torch.Tensor, sentence_mask: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy of "this clip contains a referent of this sentence".

    Args:
        presence_logits: (B, K).
        present: (B, K) bool.
        sentence_mask: (B, K) bool, false on padding.
    """
    losses = F.binary_cross_entropy_with_logits(presence_logits, present.to(presence_logits.dtype), reduction="none")
    return _mean(losses, sentence_mask)


def _mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of `values` where `mask` is true; 0, still with a graph, where it is true nowhere."""
    return (values * mask).sum() / mask.sum().clamp(min=1)
