r"""The losses of CVLS: masks (BCE, Dice), presence, and the contrastive objective with its two strategies.

Liang, Luo, Wu and Yang, "Contrastive Video-Language Segmentation" (arXiv 2109.14131), give the ideas; the equations are
this project's reading of them. B clips, K sentences per clip, T frames, M instances, R = M + 1 regions (the instances,
and last the background), P positions of the grid, D channels.

The contrastive objective is asked twice, with the same equation (`contrastive_loss`): of a sentence and the objects of
its clip before they meet, where the channel filter acts, and of what became of both when they were fused, where hard
instances are constructed. Each function is pure: tensors in, tensors out; `CVLSCriterion` puts them together.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from .configuration_cvls import CVLSConfig
from .contrastive_cvls import CVLSAligned, CVLSEmbeddings
from .layers_cvls import normalize
from .outputs_cvls import CVLSVideoFeatures


@dataclass
class CVLSTargets:
    """The truth of a batch.

    Args:
        referents: (B, K, M) bool, which instances a sentence refers to: none, one or several; none for a padding
            sentence.
        instance_masks: (B, T, M, h, w) bool, at the size of the frames or at a quarter of it.
        annotated_frames: (B, T) bool, the frames that carry masks; no padding frame does.
        annotated_instances: (B, T, M) bool, the instances that are annotated in a frame.
        sentence_mask: (B, K) bool, false on padding.
        frame_sizes: (B, 2) int64, height and width of each clip's frames; None: there is no padding.
    """

    referents: torch.Tensor
    instance_masks: torch.Tensor
    annotated_frames: torch.Tensor
    annotated_instances: torch.Tensor
    sentence_mask: torch.Tensor
    frame_sizes: torch.Tensor | None = None

    def instance_shares(self, grid: tuple[int, int]) -> torch.Tensor:
        """(B, T, M, *grid) float32: the share of each position that an instance covers."""
        masks = self.instance_masks.to(torch.float32)
        return F.interpolate(masks.flatten(0, 1), size=grid, mode="area").unflatten(0, masks.shape[:2])

    def annotated_shares(self, shares: torch.Tensor) -> torch.Tensor:
        """`instance_shares`, 0 where an instance is not annotated."""
        return shares * (self.annotated_instances & self.annotated_frames[..., None])[..., None, None]

    def pixel_mask(self, size: tuple[int, int], stride: int) -> torch.Tensor:
        """(B, *size) bool on a grid of `stride`, true inside each clip's frames."""
        device = self.instance_masks.device
        if self.frame_sizes is None:
            return torch.ones((self.instance_masks.shape[0], *size), dtype=torch.bool, device=device)
        sizes = (self.frame_sizes // stride).to(device)
        rows = torch.arange(size[0], device=device) < sizes[:, :1]
        columns = torch.arange(size[1], device=device) < sizes[:, 1:]
        return rows[:, :, None] & columns[:, None]


def targets_of(
    video: CVLSVideoFeatures,
    sentence_mask: torch.Tensor | None,
    referents: torch.Tensor,
    instance_masks: torch.Tensor | None,
    annotated_frames: torch.Tensor | None,
    annotated_instances: torch.Tensor | None,
) -> CVLSTargets:
    """The arguments of `CVLSModel.forward` as targets of the loss."""
    if annotated_frames is None or instance_masks is None:
        raise ValueError("`referents` needs `instance_masks` and `annotated_frames` for the loss")
    annotated_frames, referents = annotated_frames.bool(), referents.bool()
    sentence_mask = torch.ones_like(referents[..., 0]) if sentence_mask is None else sentence_mask.bool()
    if annotated_instances is None:
        annotated_instances = annotated_frames[..., None].expand(instance_masks.shape[:3])
    if video.frame_mask is not None:
        annotated_frames = annotated_frames & video.frame_mask
        # a window of a batch may lie behind the end of a clip, and says nothing of its sentences then
        sentence_mask = sentence_mask & video.frame_mask.any(dim=1, keepdim=True)
    return CVLSTargets(
        referents=referents & sentence_mask[..., None],
        instance_masks=instance_masks.bool(),
        annotated_frames=annotated_frames,
        annotated_instances=annotated_instances.bool(),
        sentence_mask=sentence_mask,
        frame_sizes=video.frame_sizes,
    )


@dataclass
class CVLSLosses:
    """
    Args:
        loss: scalar, the weighted sum of `parts`.
        parts: the unweighted parts of the loss whose weight is not 0: bce, dice, presence, contrast, alignment.
        instance_similarity: (B, K, T, M + 1), as in `CVLSOutput`; None without the contrast.
        kept_channels: (B, K, D) bool, as in `CVLSOutput`; None without the filter.
    """

    loss: torch.Tensor
    parts: dict[str, torch.Tensor]
    instance_similarity: torch.Tensor | None = None
    kept_channels: torch.Tensor | None = None


class CVLSCriterion(nn.Module):
    """The loss of a batch, computed in float32."""

    def __init__(self, config: CVLSConfig):
        super().__init__()
        self.config = config

    def forward(
        self,
        targets: CVLSTargets,
        mask_logits: torch.Tensor,
        presence_logits: torch.Tensor,
        similarity: torch.Tensor | None = None,
        embeddings: CVLSEmbeddings | None = None,
        shares: torch.Tensor | None = None,
        aligned: CVLSAligned | None = None,
    ) -> CVLSLosses:
        """
        Args:
            targets: the truth.
            mask_logits: (B, K, T, H/4, W/4).
            presence_logits: (B, K).
            similarity: (B, K, T, H/4, W/4), of `embeddings`.
            embeddings: what the contrast compares; None where it is off, and then no argument after it is needed.
            shares: (B, T, M, H/4, W/4), of `CVLSTargets.instance_shares`.
            aligned: sentences and objects before they meet; None where the alignment is off.
        """
        parts = self.of_masks(targets, mask_logits)
        present = targets.referents.any(dim=-1)
        parts["presence"] = presence_loss(presence_logits.float(), present, targets.sentence_mask)
        instance_similarity = kept_channels = None
        if embeddings is not None:
            parts["contrast"], instance_similarity = self.of_contrast(targets, similarity, embeddings, shares)
        if aligned is not None:
            parts["alignment"] = self.of_alignment(targets, aligned, shares)
            kept_channels = None if aligned.channels is None else aligned.channels > 0
        loss = sum(getattr(self.config, f"{name}_weight") * value for name, value in parts.items())
        return CVLSLosses(loss, parts, instance_similarity, kept_channels)

    def of_masks(self, targets: CVLSTargets, mask_logits: torch.Tensor) -> dict[str, torch.Tensor]:
        """BCE and Dice at the size of the targets' masks."""
        referred, instances = targets.referents.to(torch.float32), targets.instance_masks.to(torch.float32)
        # a pair's truth is known where all its referents are annotated; without referents, in every annotated frame
        unknown = torch.einsum("bkm,btm->bkt", referred, (~targets.annotated_instances).to(torch.float32)) > 0
        pair_mask = targets.annotated_frames[:, None] & ~unknown & targets.sentence_mask[..., None]
        truth = torch.einsum("bkm,btmhw->bkthw", referred, instances) > 0
        size = truth.shape[-2:]
        pixel_mask = targets.pixel_mask(size, 4 * mask_logits.shape[-2] // size[0])
        full_logits = F.interpolate(mask_logits.float().flatten(0, 1), size=size, mode="bilinear").view(truth.shape)
        present = targets.referents.any(dim=-1)[..., None] | self.config.empty_masks
        bce, dice = mask_losses(full_logits, truth, pair_mask & present, pixel_mask)
        return {"bce": bce, "dice": dice}

    def of_contrast(
        self, targets: CVLSTargets, similarity: torch.Tensor, embeddings: CVLSEmbeddings, shares: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The contrast of fused sentences and instances, and the similarities (B, K, T, M + 1) that it compares, not a
        number where a region does not exist."""
        grid = similarity.shape[-2:]
        regions = regions_of(shares >= 0.5, targets.annotated_instances, targets.annotated_frames)
        regions = regions & targets.pixel_mask(grid, 4).flatten(1)[:, None, None]
        hard_temperature = self.config.hard_temperature if self.config.hard_instances else None
        weights = hard_positions(similarity.float().flatten(3), regions, hard_temperature).unflatten(-1, grid)
        embeddings = CVLSEmbeddings(*(part.float() for part in embeddings))
        compared = compare(embeddings.sentence, embeddings.pool(weights))
        exists = regions.any(dim=-1)
        referred = F.pad(targets.referents, (0, 1))  # the background is never referred to
        loss = contrastive_loss(compared, exists, referred, self.config.temperature, self.config.across_frames)
        return loss, compared.detach().masked_fill(~exists[:, None], torch.nan)

    def of_alignment(self, targets: CVLSTargets, aligned: CVLSAligned, shares: torch.Tensor) -> torch.Tensor:
        """The contrast of sentences and objects before they meet."""
        exists = targets.annotated_shares(shares).sum(dim=(1, 3, 4))[:, None] > 0
        compared = compare(aligned.sentence.float(), aligned.objects.float()[:, None, None], aligned.channels)
        return contrastive_loss(compared, exists, targets.referents, self.config.temperature)


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
        sentence = normalize(channels * sentence)
        instances = normalize(channels[:, :, None, None] * instances)
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


__all__ = ["CVLSCriterion", "CVLSLosses", "CVLSTargets", "targets_of"]
