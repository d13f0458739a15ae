"""Identity over a long video: what independent windows get, and what a state carried from window to window adds.

    python benchmarks/identity.py --model outputs/demo/checkpoint --dataset outputs/demo/dataset --output RESULTS

The long videos (`modeling_cvls.synthetic.make_long_scene`) show in one part only which of three equal objects is meant.
Trains from the checkpoint with and without the state, on the same clips for the same number of steps and with several
seeds, half of each step being clips of the data set; tests on other long videos and on the data set's test split;
prints the tables and writes `results.json`. A run that is done is not done again: the same command goes on.
"""

import itertools
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from datasets import load_dataset
from jsonargparse import ArgumentParser
from tqdm import tqdm
from transformers import AutoProcessor

from ablate import machine, summary
from modeling_cvls import CVLSModel, CVLSPipeline, CVLSProcessor
from modeling_cvls.carrying_cvls import CVLSSentenceState, starts_of_windows
from modeling_cvls.data import ClipCollator, ClipSampler, check_dataset, read_frames, read_masks
from modeling_cvls.data.reading import read_referents
from modeling_cvls.launch import check_checkpoint
from modeling_cvls.synthetic import LongScene, Scene, Sentence, make_long_scene, render

TEST_SEED, TRAIN_SEED = 7, 1000  # of scenes; training adds its own seed to the latter
LONG_WINDOWS, SHORT_WINDOWS = 4, 2  # windows of a training clip
LONG_CLIPS, SHORT_CLIPS, SENTENCES = 4, 6, 4  # clips of a step; sentences of a short clip
#: Variants: whether sentences carry a state from window to window, and whether the segmenter itself is trained on.
VARIANTS = {"without state": (False, True), "with state": (True, True), "with state, the rest frozen": (True, False)}
#: Frames from the part with the motion, at least and at most; the part itself has distance 0.
DISTANCES = {
    "before": (-math.inf, -1), "in the part": (0, 0), "1 to 16": (1, 16), "17 to 64": (17, 64), "65 on": (65, math.inf)
}  # fmt: skip


@dataclass
class Clip:
    """A training clip of a long video.

    Attributes:
        frames: uint8 (T, H, W, 3).
        masks: bool (T, M, H, W).
        sentences: K of them.
        known: (K, H, W) float, where the object was at the clip's beginning (going backward, its end), for sentences
            whose part lies before it; for the others nothing, or a guess among all objects.
        evidence: (K,) float, at most 0.5 for a guess and at least 0.5 for what is known.
    """

    frames: np.ndarray
    masks: np.ndarray
    sentences: list[Sentence]
    known: np.ndarray
    evidence: np.ndarray


def draw_clip(scene: LongScene, sentences: list[Sentence], rng: np.random.Generator, length: int, back: bool) -> Clip:
    """A clip that begins with a sentence's part (in three of five), or one somewhere after it, rather while an object
    is away. Going backward, a clip begins at its end. Sentences whose part is yet to come are left out."""
    last = scene.num_frames - length
    parts = {s.instances[0]: scene.parts[s.instances[0]] for s in sentences}
    if back:
        parts = {m: (scene.num_frames - stop, scene.num_frames - start) for m, (start, stop) in parts.items()}
    after = [start for start in range(last + 1) if any(stop <= start for _, stop in parts.values())]
    if rng.random() < 0.6 or not after:
        asked = sentences[int(rng.integers(len(sentences)))].instances[0]
        start = int(np.clip(parts[asked][0] - rng.integers(-4, 8), 0, last))
    else:
        asked = None
        trips = [(scene.num_frames - t[1], scene.num_frames - t[0]) if back else t for t in scene.trips if t]
        near = [s for s in after if any(before - length < s < stop for before, stop in trips)]
        start = int(rng.choice(near if near and rng.random() < 0.5 else after))
    kept = [s for s in sentences if s.instances[0] == asked or parts[s.instances[0]][1] <= start]
    first = last - start if back else start
    frames, masks = render(scene.cut(first, first + length))
    at = render(seen_last(scene, first + length - 1 if back else first))[1][0]
    known, evidence = np.zeros((len(kept), *at.shape[1:]), np.float32), np.zeros(len(kept), np.float32)
    for k, (m,) in enumerate(sentence.instances for sentence in kept):
        if parts[m][1] <= start:
            known[k], evidence[k] = at[m], rng.uniform(0.5, 1)
        elif rng.random() < 0.5:  # windows before have guessed
            known[k], evidence[k] = at[rng.integers(len(at))], rng.uniform(0, 0.5)
    return Clip(frames, masks, kept, known, evidence)


def seen_last(scene: LongScene, frame: int) -> Scene:
    """One frame, with objects that are away at the place of the border where they left."""
    cut, corner = scene.cut(frame, frame + 1), [scene.width - 1, scene.height - 1]
    inside = tuple(replace(obj, trajectory=np.clip(obj.trajectory, 0, corner)) for obj in cut.objects)
    return replace(cut, objects=inside)


def long_batch(processor: CVLSProcessor, model: CVLSModel, seed: int, step: int) -> dict[str, torch.Tensor]:
    """The long clips of a training step as arguments of the model, with `back`, `known` and `evidence`."""
    rng = np.random.default_rng((TRAIN_SEED + seed, step))
    frames, back, clips = model.config.num_frames, bool(rng.integers(2)), []
    length = LONG_WINDOWS * (frames - frames // 4) + frames // 4
    for number in range(LONG_CLIPS):
        scene, sentences = make_long_scene(TRAIN_SEED + seed, LONG_CLIPS * step + number)
        clips.append(draw_clip(scene, sentences, rng, length, back))
    batch = dict(processor(videos=[c.frames for c in clips], text=[[s.text for s in c.sentences] for c in clips]))
    batch["instance_masks"] = padded([torch.from_numpy(clip.masks) for clip in clips], 1)
    of_clips = [torch.zeros(len(clip.sentences), batch["instance_masks"].shape[2], dtype=torch.bool) for clip in clips]
    for clip, referents in zip(clips, of_clips, strict=True):
        for k, sentence in enumerate(clip.sentences):
            referents[k, list(sentence.instances)] = True
    batch["referents"] = padded(of_clips, 0)
    batch["annotated_frames"] = torch.ones(batch["instance_masks"].shape[:2], dtype=torch.bool)
    batch["annotated_instances"] = torch.ones(batch["instance_masks"].shape[:3], dtype=torch.bool)
    batch["known"] = padded([torch.from_numpy(clip.known) for clip in clips], 0)
    batch["evidence"] = padded([torch.from_numpy(clip.evidence) for clip in clips], 0)
    return batch | {"back": back}


def padded(tensors: list[torch.Tensor], dim: int) -> torch.Tensor:
    """Stacks tensors that differ in the size of `dim`, with zeros at its end."""
    size = max(tensor.shape[dim] for tensor in tensors)
    shapes = [[size if axis == dim else n for axis, n in enumerate(tensor.shape)] for tensor in tensors]
    out = [tensor.new_zeros(shape) for tensor, shape in zip(tensors, shapes, strict=True)]
    for whole, tensor in zip(out, tensors, strict=True):
        whole.narrow(dim, 0, tensor.shape[dim]).copy_(tensor)
    return torch.stack(out)


def clip_loss(model: CVLSModel, batch: dict, presence: bool) -> torch.Tensor:
    """The mean loss of the windows of clips; with `carry_state`, the gradient goes through the state.

    Args:
        batch: arguments of the model; `back`: the windows are gone through from the last one; `known` and `evidence`
            of the beginning.
        presence: whether the presence head learns from it.
    """
    given = dict(batch)
    back, known, evidence = given.pop("back", False), given.pop("known", None), given.pop("evidence", None)
    frames, (height, width) = batch["pixel_values_videos"].shape[1], batch["pixel_values_videos"].shape[-2:]
    if model.config.carry_state and known is not None:
        stride = model.config.token_stride
        places = F.adaptive_avg_pool2d(known, (height // stride, width // stride))
        given["sentence_state"] = CVLSSentenceState(places, evidence, frames - 1 if back else 0)
    output = model(**given, window_starts=starts_of_windows(model.config, frames, back))
    return output.loss - (0 if presence else model.config.presence_weight * output.losses["presence"])


def train(arguments, variant: str, seed: int, processor: CVLSProcessor, rows) -> CVLSModel:
    """Trains a variant from the checkpoint. Backbone and pyramid stay as they are."""
    carry_state, train_on = VARIANTS[variant]
    model = CVLSModel.from_pretrained(arguments.model, carry_state=carry_state)
    torch.manual_seed(seed)
    still = (model.vision.backbone, model.vision.pyramid) if train_on else (model,)
    for parameter in itertools.chain(*(part.parameters() for part in still)):
        parameter.requires_grad_(False)
    new = list(model.carry.requires_grad_().parameters()) if carry_state else []
    ids = set(map(id, new))
    old = [parameter for parameter in model.parameters() if parameter.requires_grad and id(parameter) not in ids]
    model.train(train_on)
    groups = [{"params": old, "lr": arguments.rate}, {"params": new, "lr": arguments.new_rate, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.01)
    warmup = max(1, arguments.steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, (1 + math.cos(math.pi * step / arguments.steps)) / 2)
    )
    overlap = model.config.num_frames // 4
    sampler = ClipSampler(SHORT_WINDOWS * (model.config.num_frames - overlap) + overlap, SENTENCES, seed=seed)
    collate = ClipCollator(processor, sampler)
    order = np.random.default_rng(seed).permutation(len(rows))
    bar = tqdm(range(arguments.steps), desc=f"{variant}, seed {seed}", unit="step")
    for step in bar:
        picked = order[(np.arange(SHORT_CLIPS) + SHORT_CLIPS * step) % len(rows)]
        short = {**collate([rows[int(index)] for index in picked]), "back": step % 2 == 1}
        loss_short = clip_loss(model, short, presence=True)
        loss_long = clip_loss(model, long_batch(processor, model, seed, step), presence=False)
        optimizer.zero_grad()
        (loss_short + loss_long).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 4.0)
        optimizer.step()
        schedule.step()
        bar.set_postfix(short=f"{loss_short.item():.3f}", long=f"{loss_long.item():.3f}", refresh=False)
    return model.eval()


def measure(predicted: np.ndarray, presence: np.ndarray, masks: np.ndarray, referents: np.ndarray) -> dict:
    """What each pair of a sentence and a frame gives, each (K, T).

    Args:
        predicted: bool (K, T, H, W); presence: float (K, T), probabilities.
        masks: bool (T, M, H, W); referents: bool (K, M).

    Returns:
        "visible": a referent is in the frame; "iou": 1 where both are empty; "right": more pixels in common with the
        referent than with any other object, and at least one; "empty": there is no mask; "present".
    """
    flat = masks.reshape(*masks.shape[:2], -1).astype(np.float32)
    shared = np.einsum("ktp,tmp->ktm", predicted.reshape(*predicted.shape[:2], -1).astype(np.float32), flat)
    intersection = np.einsum("ktm,km->kt", shared, referents)  # what is visible of objects shares no pixel
    truth = np.einsum("tm,km->kt", flat.sum(axis=2), referents)
    union = predicted.sum(axis=(2, 3)) + truth - intersection
    others = np.where(referents[:, None], 0, shared).max(axis=2, initial=0)
    return {
        "visible": truth > 0,
        "iou": np.where(union > 0, intersection / np.maximum(union, 1), 1.0),
        "right": intersection > others,
        "empty": ~predicted.any(axis=(2, 3)),
        "present": presence >= 0.5,
    }


def masks_of(model: CVLSModel, processor: CVLSProcessor, frames: np.ndarray, sentences: list[str], passes: int):
    """Masks (K, T, H, W) and presence probabilities (K, T) of frames."""
    segmenter = CVLSPipeline(model=model, processor=processor, device="cpu", presence_threshold=0.0)
    results = list(segmenter.stream(frames, sentences, passes=passes))
    masks = np.stack([result["masks"] for result in results], axis=1)
    return masks, np.array([result["scores"] for result in results]).T


def evaluate_long(model: CVLSModel, processor: CVLSProcessor, videos: int, passes: int) -> dict[str, float]:
    """Referent accuracy, mean IoU and its share by distance, over the frames that show the referent."""
    found: dict[str, list] = {name: [] for name in ("distance", "visible", "iou", "right", "empty", "returned")}
    for index in tqdm(range(videos), desc=f"long videos, {passes} passes", unit="video"):
        scene, sentences = make_long_scene(TEST_SEED, index)
        frames, masks = render(scene)
        referents = np.zeros((len(sentences), masks.shape[1]), dtype=bool)
        for k, sentence in enumerate(sentences):
            referents[k, sentence.instances[0]] = True
        pairs = measure(*masks_of(model, processor, frames, [s.text for s in sentences], passes), masks, referents)
        times = np.arange(len(frames))
        for k, sentence in enumerate(sentences):
            start, stop = scene.parts[sentence.instances[0]]
            trip = scene.trips[sentence.instances[0]] or (math.inf, math.inf)
            found["distance"].append(np.minimum(times - start, 0) + np.maximum(times - stop + 1, 0))
            # away and back since the part was seen
            found["returned"].append((times >= trip[1]) & (times >= stop) & (trip[0] >= stop))
            for name in ("visible", "iou", "right", "empty"):
                found[name].append(pairs[name][k])
    pairs = {name: np.concatenate(values) for name, values in found.items()}
    shown = {"all": np.full(len(pairs["visible"]), True), "after its return": pairs["returned"]}
    for name, (low, high) in DISTANCES.items():
        shown[name] = (pairs["distance"] >= low) & (pairs["distance"] <= high)
    results = {"away: rightly empty": float(pairs["empty"][~pairs["visible"]].mean())}
    for name, chosen in shown.items():
        chosen = chosen & pairs["visible"]
        results[f"accuracy, {name}"] = float(pairs["right"][chosen].mean())
        results[f"IoU, {name}"] = float(pairs["iou"][chosen].mean())
        results[f"pairs, {name}"] = int(chosen.sum())
    return results


def evaluate_short(model: CVLSModel, processor: CVLSProcessor, rows, passes: int) -> dict[str, float]:
    """The same of a data set's test split; sentences without a referent are right where their masks are empty at a
    presence threshold of 0.5."""
    right, iou, empty = [], [], []
    for row in tqdm(rows, desc=f"test split, {passes} passes", unit="video"):
        frames = read_frames(row, range(row["num_frames"]))
        masks, annotated, _ = read_masks(row, range(row["num_frames"]))
        referents = read_referents(row, row["sentences"])
        texts = [sentence["text"] for sentence in row["sentences"]]
        pairs = measure(*masks_of(model, processor, frames, texts, passes), masks, referents)
        has_referent = np.broadcast_to(referents.any(axis=1)[:, None], pairs["iou"].shape) & annotated
        right.append(pairs["right"][has_referent])
        iou.append(pairs["iou"][has_referent])
        empty.append((pairs["empty"] | ~pairs["present"])[~has_referent & annotated])
    return {
        "short: accuracy": float(np.concatenate(right).mean()),
        "short: IoU": float(np.concatenate(iou).mean()),
        "short: rightly empty": float(np.concatenate(empty).mean()),
    }


def evaluate(
    model: CVLSModel, processor: CVLSProcessor, rows, videos: int, all_passes: Sequence[int]
) -> dict[str, dict]:
    """Number of passes -> results."""
    return {
        str(passes): evaluate_long(model, processor, videos, passes) | evaluate_short(model, processor, rows, passes)
        for passes in all_passes
    }


def run(arguments, variant: str, seed: int, processor: CVLSProcessor, rows) -> dict:
    """Trains and tests a variant with a seed; what is known of it from its file, if it was done."""
    folder = Path(arguments.output)
    path = folder / f"{variant.replace(',', '').replace(' ', '_')}-seed{seed}.json"
    if path.exists():
        return json.loads(path.read_text())
    start = time.perf_counter()
    checkpoint = path.with_suffix("")
    if (checkpoint / "config.json").exists():
        model = CVLSModel.from_pretrained(checkpoint).eval()
    else:
        model = train(arguments, variant, seed, processor, rows["train"])
        model.save_pretrained(checkpoint)
        processor.save_pretrained(checkpoint)
    trained = time.perf_counter()
    passes = (1, 2) if VARIANTS[variant][0] else (0,)
    result = {
        "variant": variant,
        "seed": seed,
        "steps": arguments.steps,
        "rates": [arguments.rate if VARIANTS[variant][1] else 0.0, arguments.new_rate],
        "training_seconds": round(trained - start, 1),
        "results": evaluate(model, processor, rows["test"], arguments.videos, passes),
    }
    path.write_text(json.dumps(result, indent=1) + "\n")
    return result


def table(runs: list[dict], columns: Sequence[str]) -> str:
    """Means and standard deviations over the seeds in points; of variants, passes and the checkpoint as it is."""
    rows: dict[str, list[dict]] = {}
    for each in runs:
        for passes, results in each["results"].items():
            name = each["variant"] + (", two passes" if passes == "2" else "")
            rows.setdefault(name, []).append(results)
    text = ["| | " + " | ".join(columns) + " | seeds |", "| --- |" + " --- |" * (len(columns) + 1)]
    for name, results in rows.items():
        cells = [summary([each[column] for each in results]) for column in columns]
        text.append(f"| {name} | " + " | ".join(cells) + f" | {len(results)} |")
    return "\n".join(text)


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="folder or Hub name of the checkpoint to start from")
    parser.add_argument("--dataset", required=True, help="the data set that it was trained on")
    parser.add_argument("--output", required=True, help="folder for weights and results")
    parser.add_argument("--seeds", type=list[int], default=[0, 1, 2], help="seeds of the trainings")
    parser.add_argument("--variants", type=list[str], default=list(VARIANTS)[:2], help=f"some of {list(VARIANTS)}")
    parser.add_argument("--steps", type=int, default=240, help="steps of a training")
    parser.add_argument("--rate", type=float, default=5e-4, help="learning rate of what the checkpoint holds")
    parser.add_argument("--new-rate", type=float, default=5e-3, help="learning rate of the state's own parameters")
    parser.add_argument("--videos", type=int, default=40, help="long videos to test on")
    parser.add_argument("--short-videos", type=int, default=300, help="videos of the test split to test on, at most")
    arguments = parser.parse_args()
    check_checkpoint(arguments.model, "--model")
    processor = AutoProcessor.from_pretrained(arguments.model)
    rows = {split: load_dataset(arguments.dataset, split=split) for split in ("train", "test")}
    for split in rows.values():
        check_dataset(split, arguments.dataset)
    rows["test"] = rows["test"].select(range(min(arguments.short_videos, len(rows["test"]))))
    output = Path(arguments.output)
    output.mkdir(parents=True, exist_ok=True)

    first = output / "checkpoint.json"
    if not first.exists():
        model = CVLSModel.from_pretrained(arguments.model).eval()
        results = evaluate(model, processor, rows["test"], arguments.videos, (0,))
        first.write_text(json.dumps({"variant": "the checkpoint as it is", "results": results}, indent=1) + "\n")
    runs = [json.loads(first.read_text())]
    for seed in arguments.seeds:
        runs += [run(arguments, variant, seed, processor, rows) for variant in arguments.variants]
        (output / "results.json").write_text(json.dumps({"machine": machine(), "runs": runs}, indent=1) + "\n")
    for name in ("accuracy", "IoU"):
        columns = [f"{name}, {shown}" for shown in ("all", *DISTANCES, "after its return")] + [f"short: {name}"]
        print(f"\n{name}, in percent\n\n{table(runs, columns)}")
    print(f"\nEmpty masks\n\n{table(runs, ['away: rightly empty', 'short: rightly empty'])}")


if __name__ == "__main__":
    main()
