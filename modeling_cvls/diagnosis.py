"""Why the contrast helps, or does not: what it asks of the network, and what the network tells apart."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import expit

from .explanation import channel_overlap, content_words, similarity_in_instances
from .modeling_cvls import CVLSModel

#: Parts of the network that all losses share.
SHARED = ("vision", "language", "fusion")
#: The slope above which the contrast still has a gradient for an object, of 1/2 where it is confused with the referent.
PUSHED = 0.01


def gradients(model: CVLSModel, losses: dict[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    """What each part of the loss asks of what it shares with the others.

    Args:
        losses: as in the model's output.

    Returns:
        loss -> part of `SHARED` -> the gradient of that loss, times its weight, in one row. "masks" is BCE and Dice.
    """
    weighted = {name: getattr(model.config, f"{name}_weight") * value for name, value in losses.items()}
    weighted["masks"] = weighted.pop("bce") + weighted.pop("dice")
    found: dict[str, dict[str, torch.Tensor]] = defaultdict(dict)
    for part in SHARED:
        parameters = [p for p in getattr(model, part).parameters() if p.requires_grad]
        for name, loss in weighted.items():
            each = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True, materialize_grads=True)
            found[name][part] = torch.cat([gradient.flatten() for gradient in each])
    return dict(found)


def margins(maps: torch.Tensor, batch: dict[str, torch.Tensor]) -> np.ndarray:
    """How far the referent is ahead of its nearest look-alike.

    Args:
        maps: (B, K, T, h, w), the higher the more a position is the referent: similarities, or mask logits.
        batch: the arguments of `CVLSModel.forward` that led to them, with the truth.

    Returns:
        float (B, K, T): mean inside a referent less the highest mean inside an object that is none; not a number where
        a frame does not show both.
    """
    size = batch["instance_masks"].shape[-2:]
    found = []
    for b, clip in enumerate(maps):
        known = batch["annotated_instances"][b] & batch["annotated_frames"][b][:, None]
        masks = (batch["instance_masks"][b] & known[..., None, None]).cpu().numpy()
        means = similarity_in_instances(
            F.interpolate(clip.detach().float(), size, mode="bilinear").cpu().numpy(), masks
        )
        referred = batch["referents"][b].cpu().numpy()[:, None]
        inside = np.where(referred & ~np.isnan(means), means, -np.inf).max(axis=-1)
        others = np.where(~referred & ~np.isnan(means), means, -np.inf).max(axis=-1)
        both = np.isfinite(inside) & np.isfinite(others)
        found.append(np.subtract(inside, others, out=np.full_like(inside, np.nan), where=both))
    return np.stack(found)


def slopes(instance_similarity: torch.Tensor, referents: torch.Tensor, temperature: float) -> np.ndarray:
    r"""Which objects the contrast still pushes away from a sentence: the degradation is that it pushes none.

    The loss's derivative by the similarity $s^-/\tau$ of an unreferred object is at most
    $\sigma((s^- - s^+) / \tau)$, what it is against the referent alone: 1/2 where the two are alike, and next to 0
    where nothing is left to learn from them.

    Args:
        instance_similarity: (B, K, T, M + 1), of the model's output.
        referents: (B, K, M) bool.
        temperature: $\tau$ of the contrast.

    Returns:
        float (B, K, T, M), against the most similar referent of the frame; not a number where an object is a referent
        or not seen, or no referent is seen.
    """
    similarity = instance_similarity[..., :-1].float().cpu().numpy()
    referred = referents.cpu().numpy()[:, :, None] & ~np.isnan(similarity)
    referent = np.where(referred, similarity, -np.inf).max(axis=-1, keepdims=True)
    known = np.isfinite(referent) & ~referred & ~np.isnan(similarity)
    behind = np.subtract(referent, similarity, out=np.full_like(similarity, np.nan), where=known)
    return expit(-behind / temperature)


def diagnose(
    model: CVLSModel, batches: Iterable[tuple[dict[str, torch.Tensor], Sequence[Sequence[str]]]]
) -> tuple[dict[str, float], dict[str, tuple[float, int]]]:
    """The numbers of scripts/diagnose.py, means over batches.

    Args:
        model: in evaluation mode, in which it stays what it is.
        batches: arguments of `CVLSModel.forward`, with the truth, and the sentences of each clip.

    Returns:
        "loss NAME": the unweighted losses, "gradient of NAME on PART": its length as a share of the masks', "... cosine
        with the masks'"; "similarity margin", "similarity right" and the same of mask logits: mean of `margins`, and
        the share of them above 0; "nearest look-alike pushed" and "unreferred objects pushed": the share of `slopes`
        above `PUSHED`; "kept channels in common, ...": `channel_overlap` of the sentences of a clip.
        And for each content word: that share for the mask logits of the sentences with the word, and their number.
    """
    values: dict[str, list[float]] = defaultdict(list)
    ahead: dict[str, list[np.ndarray]] = defaultdict(list)
    of_word: dict[str, list[np.ndarray]] = defaultdict(list)
    pushed: list[np.ndarray] = []
    overlaps: list[dict] = []
    for batch, sentences in batches:
        batch = {name: value.to(model.device) for name, value in batch.items()}
        output = model(**batch)
        asked = gradients(model, output.losses)
        of_masks = asked.pop("masks")
        for name, parts in asked.items():
            for part, gradient in parts.items():
                if gradient.any():
                    masks, where = of_masks[part], f"gradient of {name} on {part}"
                    values[where].append((gradient.norm() / masks.norm()).item())
                    values[f"{where}, cosine with the masks'"].append(F.cosine_similarity(gradient, masks, 0).item())
        for name, value in output.losses.items():
            values[f"loss {name}"].append(value.item())
        of_logits = margins(output.mask_logits, batch)
        for texts, of_clip in zip(sentences, of_logits, strict=True):
            for text, of_sentence in zip(texts, of_clip, strict=False):  # a clip with fewer sentences is padded
                if not np.isnan(of_sentence).all():
                    for word in content_words(text):
                        of_word[word].append(of_sentence)
        if output.kept_channels is not None:
            for texts, channels in zip(sentences, output.kept_channels, strict=True):
                overlaps.append(channel_overlap(channels[: len(texts)].cpu().numpy(), texts))
        ahead["mask logit"].append(of_logits)
        if output.similarity is not None:
            ahead["similarity"].append(margins(output.similarity, batch))
            pushed.append(slopes(output.instance_similarity, batch["referents"], model.config.temperature))
    means = {name: float(np.mean(each)) for name, each in values.items()}
    for name, each in ahead.items():
        together = _known(each)
        means[f"{name} margin"] = float(together.mean())
        means[f"{name} right"] = float((together > 0).mean())
    if pushed:
        nearest = [np.fmax.reduce(each, axis=-1) for each in pushed]
        means["nearest look-alike pushed"] = float((_known(nearest) > PUSHED).mean())
        means["unreferred objects pushed"] = float((_known(pushed) > PUSHED).mean())
    for name, title in (("sharing", "sentences that share a word"), ("other", "sentences that share none")):
        pairs = sum(each[f"num_{name}"] for each in overlaps)
        if pairs:
            shared = sum(each[name] * each[f"num_{name}"] for each in overlaps if each[name] is not None)
            means[f"kept channels in common, {title}"] = shared / pairs
    if overlaps:
        means["kept channels in common, by chance"] = overlaps[0]["chance"]
    return means, {word: (float((_known(each) > 0).mean()), len(each)) for word, each in of_word.items()}


def _known(margins: Sequence[np.ndarray]) -> np.ndarray:
    together = np.concatenate([each.ravel() for each in margins])
    return together[~np.isnan(together)]
