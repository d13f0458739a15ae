"""Why the contrast helps, or does not: what it asks of the network, and what the network tells apart.

    python benchmarks/diagnosis.py --model CHECKPOINT [CHECKPOINT ...] --dataset DATASET --split test

Prints one column for each checkpoint: the losses; the length of each loss's gradient on the parts that all losses
share, as a share of the mask losses' gradient, and its cosine with it (1: it asks for the same); by how much and how
often the referent is ahead of its nearest look-alike, and how many of the look-alikes the contrast still pushes away;
how far sentences that share a word keep the same channels. A second table lists the words that are understood worst:
how often the referent is ahead in the sentences that contain them. Given the checkpoints of one training, the tables
show how all of this changes.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset, load_dataset
from jsonargparse import ArgumentParser
from scipy.special import expit
from tqdm import tqdm
from transformers import AutoProcessor

from modeling_cvls import CVLSModel
from modeling_cvls.data import ClipCollator, ClipSampler, check_dataset
from modeling_cvls.explanation import channel_overlap, content_words, similarity_in_instances
from modeling_cvls.launch import check_checkpoint

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
    """The numbers of both tables, means over batches.

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
        for name, value in compared_gradients(model, output.losses).items():
            values[name].append(value)
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
        together = finite(each)
        means[f"{name} margin"] = float(together.mean())
        means[f"{name} right"] = float((together > 0).mean())
    if pushed:
        nearest = [np.fmax.reduce(each, axis=-1) for each in pushed]
        means["nearest look-alike pushed"] = float((finite(nearest) > PUSHED).mean())
        means["unreferred objects pushed"] = float((finite(pushed) > PUSHED).mean())
    means |= mean_overlap(overlaps)
    return means, {word: (float((finite(each) > 0).mean()), len(each)) for word, each in of_word.items()}


def compared_gradients(model: CVLSModel, losses: dict[str, torch.Tensor]) -> dict[str, float]:
    """The length of each loss's gradient as a share of that of the masks' losses, and its cosine with it."""
    found = {}
    asked = gradients(model, losses)
    of_masks = asked.pop("masks")
    for name, parts in asked.items():
        for part, gradient in parts.items():
            if gradient.any():
                masks, where = of_masks[part], f"gradient of {name} on {part}"
                found[where] = (gradient.norm() / masks.norm()).item()
                found[f"{where}, cosine with the masks'"] = F.cosine_similarity(gradient, masks, 0).item()
    return found


def mean_overlap(overlaps: list[dict]) -> dict[str, float]:
    """Means of `channel_overlap` over the pairs of sentences of all clips."""
    means = {}
    for name, title in (("sharing", "sentences that share a word"), ("other", "sentences that share none")):
        pairs = sum(each[f"num_{name}"] for each in overlaps)
        if pairs:
            shared = sum(each[name] * each[f"num_{name}"] for each in overlaps if each[name] is not None)
            means[f"kept channels in common, {title}"] = shared / pairs
    if overlaps:
        means["kept channels in common, by chance"] = overlaps[0]["chance"]
    return means


def finite(margins: Sequence[np.ndarray]) -> np.ndarray:
    together = np.concatenate([each.ravel() for each in margins])
    return together[~np.isnan(together)]


def diagnose_checkpoint(
    name: str, dataset: Dataset, batch_size: int
) -> tuple[dict[str, float], dict[str, tuple[float, int]]]:
    """What `diagnose` returns, for the checkpoint `name` on a data set."""
    model, processor = CVLSModel.from_pretrained(name), AutoProcessor.from_pretrained(name)
    model.to(torch.accelerator.current_accelerator() or "cpu")
    collate = ClipCollator(processor, ClipSampler(model.config.num_frames, flip_probability=0.0))
    starts = tqdm(range(0, len(dataset), batch_size), desc=Path(name).name, unit="batch")
    parts = (list(dataset.select(range(s, min(s + batch_size, len(dataset))))) for s in starts)
    batches = ((collate(rows), [[s["text"] for s in row["sentences"]] for row in rows]) for rows in parts)
    return diagnose(model, batches)


def print_table(names: list[str], columns: list[dict[str, float]], rows: Iterable[str]) -> None:
    print("\n| | " + " | ".join(names) + " |\n| --- |" + " --- |" * len(columns))
    for row in rows:
        cells = [f"{column[row]:.3f}" if row in column and np.isfinite(column[row]) else "" for column in columns]
        print(f"| {row} | " + " | ".join(cells) + " |")


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, nargs="+", help="folders or Hub names of checkpoints")
    parser.add_argument("--dataset", required=True, help="folder or Hub name that load_dataset loads")
    parser.add_argument("--split", default="test", help="split of the data set")
    parser.add_argument("--videos", type=int, help="number of videos, from the first; without it, the whole split")
    parser.add_argument("--batch-size", type=int, default=8, help="clips in a batch")
    parser.add_argument("--words", type=int, default=10, help="number of words to list")
    parser.add_argument("--sentences", type=int, default=20, help="list only words that so many sentences contain")
    arguments = parser.parse_args()
    for name in arguments.model:
        try:
            check_checkpoint(name, "--model")
        except (FileNotFoundError, ValueError) as error:
            parser.error(str(error))
    dataset = load_dataset(arguments.dataset, split=arguments.split)
    check_dataset(dataset, arguments.dataset)
    if arguments.videos:
        dataset = dataset.select(range(min(arguments.videos, len(dataset))))

    columns, understood = [], []
    for name in arguments.model:
        numbers, words = diagnose_checkpoint(name, dataset, arguments.batch_size)
        columns.append(numbers)
        understood.append({word: share for word, (share, number) in words.items() if number >= arguments.sentences})

    print_table(arguments.model, columns, dict.fromkeys(name for column in columns for name in column))
    worst = sorted(understood[0], key=lambda word: sum(column[word] for column in understood))[: arguments.words]
    print_table([f"right, {name}" for name in arguments.model], understood, worst)


if __name__ == "__main__":
    main()
