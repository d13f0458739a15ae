"""Trains a segmenter on real pixels, on one core or on a GPU: a frozen backbone, words that are read once, views drawn
when needed.

Every other step is of many single pictures, as the field pretrains, and every other one of a few clips: composites,
and real videos as they are.
"""

import copy
import hashlib
import json
import math
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import efficientnet_lite  # noqa: F401  (registers the backbone)
import numpy as np
import torch
import torch.nn.functional as F
from filelock import FileLock
from parts import MEAN, STD, TEXT, VISION
from sources import is_held_out, read_stills, read_videos
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import AutoTokenizer
from transformers.modeling_outputs import BaseModelOutput
from views import View, ViewSampler, composite_view, jitter

from modeling_cvls import CVLSModel, CVLSProcessor, CVLSVideoProcessor
from modeling_cvls.atomic import written_together
from modeling_cvls.composites import Catalog, SourceFolders, read_catalog
from modeling_cvls.composites.catalog import PEOPLE

#: A small segmenter on these parts.
FIELDS = {
    "hidden_size": 128,
    "pixel_size": 64,
    "token_stride": 16,
    "num_temporal_layers": 1,
    "num_fusion_layers": 2,
    "num_attention_heads": 4,
    "num_frames": 4,
    # masks that learn to be empty where a sentence does not quite fit fill a part of the object only
    "empty_masks": False,
}
EMA_DECAY = 0.998
SAVE_MINUTES = 5


@dataclass(frozen=True)
class Recipe:
    """What a training does.

    Attributes:
        seed: of the weights and of all that is drawn.
        steps: of the optimizer. The learning rate falls to nothing by then.
        minutes: of training at most; the rate falls as if the steps were that many.
        rate: the learning rate.
        pictures, clips: how many a step of each kind has at the first of the sizes, and as many pixels at the others.
        sizes: heights and widths of the frames, in pixels, of which each step has one; tests have the last.
        composite_pictures, composite_clips: the shares of composites among them.
        sources: the share of the videos and pictures for training that are used.
        dropout: of the channels of words, and of whole channels of the backbone's maps.
        config: fields of CVLSConfig besides `FIELDS`, such as {"contrast_weight": 0}.
    """

    seed: int = 0
    steps: int = 3000
    minutes: float = 90
    rate: float = 1e-3
    pictures: int = 16
    clips: int = 5
    sizes: tuple[tuple[int, int], ...] = ((128, 224), (160, 288), (192, 352))
    composite_pictures: float = 0.4
    composite_clips: float = 0.75
    sources: float = 1.0
    dropout: float = 0.1
    config: dict[str, Any] = field(default_factory=dict)


class CachedEncoder(nn.Module):
    """A frozen text encoder that reads each sentence once."""

    def __init__(self, encoder: nn.Module, dropout: float):
        super().__init__()
        self.encoder = [encoder.eval()]  # in a list: neither trained nor saved
        self.dropout = dropout
        self.known: dict[tuple[int, ...], torch.Tensor] = {}

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **kwargs: Any) -> BaseModelOutput:
        device, lengths = input_ids.device, attention_mask.sum(dim=1).tolist()
        keys = [tuple(ids[:length]) for ids, length in zip(input_ids.tolist(), lengths, strict=True)]
        for length in {len(key) for key in keys if key not in self.known}:
            new = list({key for key in keys if len(key) == length and key not in self.known})
            with torch.no_grad():
                states = self.encoder[0](input_ids=torch.tensor(new, device=device)).last_hidden_state
            self.known.update(zip(new, states.half(), strict=True))
        words = torch.zeros(*input_ids.shape, self.known[keys[0]].shape[-1], device=device)
        for row, key in enumerate(keys):
            words[row, : len(key)] = self.known[key]
        return BaseModelOutput(last_hidden_state=F.dropout(words, self.dropout, self.training))


def names_of(data: Path) -> dict[str, dict[str, list[str]]]:
    """What the objects of the training videos are called. People are also persons."""
    names = json.loads((data / "ref_davis_train" / "names.json").read_text(encoding="utf-8"))
    for objects in names.values():
        for key, words in objects.items():
            if PEOPLE.intersection(words) and key != "*":
                objects[key] = [*words, "person"]
    return names


def catalog_of(data: Path) -> Catalog:
    """What composites are made from: the training videos and the stills."""
    videos, stills = data / "ref_davis_train", data / "real_objects"
    return read_catalog(SourceFolders(videos, json.dumps(names_of(data), sort_keys=True), stills, divide="source"))


class ClipSource:
    """Draws the views of a step."""

    def __init__(self, data: Path, recipe: Recipe, num_frames: int):
        of_kinds = (
            read_videos(data / "ref_davis_train", data / "ref_davis_train" / "names.json"),
            read_stills(data / "real_objects"),
        )
        shown = []
        for sources in of_kinds:
            ordered = sorted(sources, key=lambda source: source.name)
            training = [source for number, source in enumerate(ordered) if not is_held_out(number)]
            kept = np.random.default_rng(0).permutation(len(training))[: round(recipe.sources * len(training))]
            shown.append([training[number] for number in sorted(kept)])
        self.recipe, self.num_frames = recipe, num_frames
        catalog, names = catalog_of(data), {source.name for sources in shown for source in sources}
        self.catalog = replace(
            catalog, sources={name: source for name, source in catalog.sources.items() if name in names}
        )
        self.samplers = {
            (frames, size): ViewSampler(*shown, frames, *size) for frames in (1, num_frames) for size in recipe.sizes
        }

    def draw(self, step: int) -> list[View]:
        recipe = self.recipe
        rng = np.random.default_rng((recipe.seed, step))
        size = recipe.sizes[rng.integers(len(recipe.sizes))]
        clips = step % 2 == 1
        number, frames = (recipe.clips, self.num_frames) if clips else (recipe.pictures, 1)
        number = max(round(number * math.prod(recipe.sizes[0]) / math.prod(size)), 1)
        share = recipe.composite_clips if clips else recipe.composite_pictures
        return [
            composite_view(self.catalog, rng, frames, *size)
            if rng.random() < share
            else self.samplers[frames, size](rng)
            for _ in range(number)
        ]


def collate(views: list[View], processor: CVLSProcessor, rng: np.random.Generator) -> dict[str, torch.Tensor]:
    """Views -> the arguments of the model's forward, masks at a quarter of the frames' size, the frames still uint8."""
    text = processor(text=[[sentence for sentence, _ in view.sentences] for view in views])
    frames = torch.from_numpy(np.stack([jitter(rng, view.frames) for view in views]))
    number = max(1, *(view.number for view in views))
    labels = torch.from_numpy(np.stack([view.labels for view in views]))
    masks = labels[:, :, None] == torch.arange(1, number + 1, dtype=torch.uint8)[:, None, None]
    masks = F.avg_pool2d(masks.flatten(0, 2).float()[:, None], 4)[:, 0].unflatten(0, masks.shape[:3]) >= 0.5
    referents = torch.zeros(*text["sentence_mask"].shape, number, dtype=torch.bool)
    for b, view in enumerate(views):
        for k, (_, instances) in enumerate(view.sentences):
            referents[b, k, list(instances)] = True
    return {
        "pixel_values_videos": frames.permute(0, 1, 4, 2, 3),
        "instance_masks": masks,
        "annotated_frames": torch.ones(masks.shape[:2], dtype=torch.bool),
        "referents": referents,
        **text,
    }


class Batches(Dataset):
    """The batch of each step.

    Args:
        shared: a folder in which trainings that run at the same time share what they draw; None: each draws its own.
    """

    def __init__(self, clips: ClipSource, processor: CVLSProcessor, shared: Path | None):
        self.clips, self.processor, self.shared = clips, processor, shared

    def __getitem__(self, step: int) -> dict[str, torch.Tensor]:
        if self.shared is None:
            return self._draw(step)
        # of the recipe, what decides what is drawn: a training that draws otherwise has other files
        drawn = replace(self.clips.recipe, steps=0, minutes=0, rate=0, dropout=0, config={})
        path = self.shared / f"{hashlib.sha256(repr(drawn).encode()).hexdigest()[:16]}-{step}.pt"
        with FileLock(f"{path}.lock"):
            if not path.exists():
                with written_together(path) as folder:
                    torch.save(self._draw(step), folder / path.name)
        return torch.load(path, weights_only=True)

    def _draw(self, step: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng((self.clips.recipe.seed, step, 1))
        return collate(self.clips.draw(step), self.processor, rng)


@dataclass(frozen=True)
class Machine:
    """Where a training runs.

    Attributes:
        device: of the model.
        workers: processes that draw the batches; 0: the one that trains.
        shared: see `Batches`.
    """

    device: torch.device = torch.device("cpu")
    workers: int = 0
    shared: Path | None = None


class Training:
    """A training that goes on where it was stopped.

    Args:
        parts: folder with the pretrained parts.
        data: folder with ref_davis_train and real_objects.
        output: folder of the checkpoint, and of the state that a stopped training goes on from.
        machine: where it runs.
        init: a checkpoint to start from; None: the pretrained parts.
    """

    def __init__(
        self, recipe: Recipe, parts: Path, data: Path, output: Path, machine: Machine, init: Path | None = None
    ):
        torch.manual_seed(recipe.seed)
        self.recipe, self.output, self.machine = recipe, output, machine
        fields = {**FIELDS, **recipe.config}
        self.model = (
            CVLSModel.from_pretrained(init)
            if init
            else CVLSModel.from_vision_text_pretrained(str(parts / VISION), str(parts / TEXT), **fields)
        )
        size = dict(zip(("shortest_edge", "longest_edge"), recipe.sizes[-1], strict=True))
        self.processor = CVLSProcessor(
            CVLSVideoProcessor(size=size, image_mean=[MEAN] * 3, image_std=[STD] * 3),
            AutoTokenizer.from_pretrained(parts / TEXT),
        )
        self.encoder = self.model.language.encoder
        self.model.language.encoder = CachedEncoder(self.encoder, recipe.dropout)
        self.model.vision.backbone.requires_grad_(False).to(memory_format=torch.channels_last)
        self.model.to(machine.device)
        self.encoder.to(machine.device)
        self.model.vision.pyramid.register_forward_pre_hook(self._drop_channels)
        self.trained = {name: value for name, value in self.model.named_parameters() if value.requires_grad}
        self.averaged = {name: value.detach().clone() for name, value in self.trained.items()}
        groups = [
            {"params": [value for value in self.trained.values() if (value.ndim > 1) == wide], "weight_decay": decay}
            for wide, decay in ((True, 0.05), (False, 0.0))
        ]
        self.optimizer = torch.optim.AdamW(groups)
        self.step, self.seconds = 0, 0.0
        clips = ClipSource(data, recipe, self.model.config.num_frames)
        self.batches = Batches(clips, self.processor, machine.shared)
        output.mkdir(parents=True, exist_ok=True)
        if (output / "state.pt").exists():
            self._resume()

    def _drop_channels(self, pyramid: nn.Module, arguments: tuple) -> tuple:
        maps, *rest = arguments
        return [F.dropout2d(each, self.recipe.dropout, pyramid.training) for each in maps], *rest

    def _resume(self) -> None:
        state = torch.load(self.output / "state.pt", weights_only=True, map_location=self.machine.device)
        self.model.load_state_dict(state["trained"], strict=False)
        self.averaged, self.step, self.seconds = state["averaged"], state["step"], state["seconds"]
        self.optimizer.load_state_dict(state["optimizer"])
        print(f"going on with {self.output} at step {self.step}", flush=True)

    @property
    def share_done(self) -> float:
        return max(self.step / self.recipe.steps, self.seconds / 60 / self.recipe.minutes)

    def save(self) -> None:
        """The checkpoint, with the averaged weights, and the state to go on from."""
        whole = copy.deepcopy(self.model)
        whole.load_state_dict(self.averaged, strict=False)
        whole.language.encoder = self.encoder
        whole.save_pretrained(self.output)
        self.processor.save_pretrained(self.output)
        state = {"trained": {name: value.detach() for name, value in self.trained.items()}, "averaged": self.averaged}
        state |= {"step": self.step, "seconds": self.seconds, "optimizer": self.optimizer.state_dict()}
        with written_together(self.output / "state.pt") as folder:
            torch.save(state, folder / "state.pt")

    def _train_step(self, batch: dict[str, torch.Tensor]) -> dict[str, float]:
        recipe = self.recipe
        rate = recipe.rate * min(1, (self.step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * self.share_done))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        self.model.vision.backbone.eval()
        batch = {name: value.to(self.machine.device) for name, value in batch.items()}
        batch["pixel_values_videos"] = (batch["pixel_values_videos"].float() / 255 - MEAN) / STD
        out = self.model(**batch)
        out.loss.backward()
        nn.utils.clip_grad_norm_(list(self.trained.values()), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        keep = min(EMA_DECAY, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.averaged.values()), list(self.trained.values()), 1 - keep)
        return dict(zip(out.losses, torch.stack(list(out.losses.values())).tolist(), strict=True))

    def run(self) -> None:
        """Trains to the end; a line of losses every 20 steps goes to train.jsonl."""
        losses, saved = [], time.monotonic()
        batches = iter(
            DataLoader(
                self.batches, None, sampler=range(self.step, self.recipe.steps), num_workers=self.machine.workers
            )
        )
        with open(self.output / "train.jsonl", "a", encoding="utf-8") as log:
            while self.share_done < 1:
                start = time.monotonic()
                losses.append(self._train_step(next(batches)))
                self.step += 1
                self.seconds += time.monotonic() - start
                if self.step % 20 == 0:
                    means = {name: round(float(np.mean([of[name] for of in losses])), 4) for name in losses[0]}
                    losses = []
                    line = {"step": self.step, "minutes": round(self.seconds / 60, 2), **means}
                    print(json.dumps(line), file=log, flush=True)
                    print(f"{self.share_done:4.0%} {line}", flush=True)
                if time.monotonic() - saved > 60 * SAVE_MINUTES:
                    self.save()
                    saved = time.monotonic()
        self.save()
        (self.output / "done").touch()
