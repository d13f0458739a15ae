"""Clips of different lengths, sizes, sentences and instances, padded into one batch."""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from ..processing_cvls import CVLSProcessor
from .clips import ClipSampler


class ClipCollator:
    """Draws a clip of each row and pads them into a batch: a `data_collator` for Trainer.

    Args:
        processor: makes tensors of frames and sentences.
        sampler: draws the clips.
        shortest_edges: short sides, in pixels, of which each batch has one, drawn from them; None: the processor's own.
        longest_edge: the most pixels of a long side; None: the processor's own.
    """

    def __init__(
        self,
        processor: CVLSProcessor,
        sampler: ClipSampler,
        shortest_edges: Sequence[int] | None = None,
        longest_edge: int | None = None,
    ):
        self.processor = processor
        self.sampler = sampler
        size = dict(processor.video_processor.size)
        self.shortest_edges = list(shortest_edges or [size["shortest_edge"]])
        self.longest_edge = longest_edge or size["longest_edge"]
        if min(*self.shortest_edges, self.longest_edge) < 1:
            raise ValueError(f"sizes are numbers of pixels, got {self.shortest_edges} and {self.longest_edge}")

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Collates rows with the columns of `FEATURES`.

        Returns:
            everything the processor returns (pixel_values_videos (B, T, 3, H, W), frame_mask (B, T), frame_sizes
            (B, 2), input_ids and attention_mask (B, K, L), sentence_mask (B, K)), and

            - instance_masks: bool (B, T, M, H, W), at the size of pixel_values_videos;
            - annotated_frames: bool (B, T);
            - annotated_instances: bool (B, T, M);
            - referents: bool (B, K, M).

            Padding is false everywhere. M is at least 1, so that a batch without instances needs no special case.
        """
        clips = [self.sampler(row) for row in rows]
        try:
            batch = dict(
                self.processor(
                    videos=[clip["frames"] for clip in clips],
                    text=[clip["sentences"] for clip in clips],
                    size={"shortest_edge": self._shortest_edge(rows), "longest_edge": self.longest_edge},
                    return_tensors="pt",
                )
            )
        except ValueError as error:
            raise ValueError(f"videos {', '.join(repr(row['video_id']) for row in rows)}: {error}") from error
        batch_size, num_frames, _, height, width = batch["pixel_values_videos"].shape
        num_sentences = batch["sentence_mask"].shape[1]
        num_instances = max(1, *(clip["masks"].shape[1] for clip in clips))

        instance_masks = torch.zeros(batch_size, num_frames, num_instances, height, width, dtype=torch.bool)
        annotated_frames = torch.zeros(batch_size, num_frames, dtype=torch.bool)
        annotated_instances = torch.zeros(batch_size, num_frames, num_instances, dtype=torch.bool)
        referents = torch.zeros(batch_size, num_sentences, num_instances, dtype=torch.bool)
        for b, (clip, (h, w)) in enumerate(zip(clips, batch["frame_sizes"].tolist(), strict=True)):
            masks = torch.from_numpy(clip["masks"])
            t, m = masks.shape[:2]
            k = len(clip["sentences"])
            if m:
                # nearest-exact takes pixel centers, as the bilinear resize of the frames does; plain nearest is
                # shifted by up to half a pixel.
                resized = F.interpolate(masks.to(torch.uint8), size=(h, w), mode="nearest-exact")
                instance_masks[b, :t, :m, :h, :w] = resized.bool()
            annotated_frames[b, :t] = torch.from_numpy(clip["annotated_frames"])
            annotated_instances[b, :t, :m] = torch.from_numpy(clip["annotated_instances"])
            referents[b, :k, :m] = torch.from_numpy(clip["referents"])
        batch["instance_masks"] = instance_masks
        batch["annotated_frames"] = annotated_frames
        batch["annotated_instances"] = annotated_instances
        batch["referents"] = referents
        return batch

    def _shortest_edge(self, rows: Sequence[Mapping[str, Any]]) -> int:
        """The short side of a batch. One side for all of its clips leaves little padding; which one, the rows decide,
        as they decide everything that is drawn."""
        names = " ".join(row["video_id"] for row in rows)
        seed = zlib.crc32(f"{self.sampler.seed} {self.sampler.epoch} {names}".encode())
        number = torch.randint(len(self.shortest_edges), (), generator=torch.Generator().manual_seed(seed))
        return self.shortest_edges[int(number)]
