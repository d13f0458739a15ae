"""Videos of any length and sentences in, masks at the video's own size out."""

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers.pipelines.base import ChunkPipeline

from .frame_reader_cvls import FrameReader


class CVLSPipeline(ChunkPipeline):
    """Segments the objects of a video that sentences refer to (task "video-language-segmentation").

    The video is gone through in consecutive windows of `model.config.num_frames` frames, decoded when their turn comes;
    the last one is shifted back so that it is full, and its frames that were done already keep their earlier result. A
    video shorter than a window is one window. All sentences go through the model together.
    """

    _load_processor = True
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    def _sanitize_parameters(self, **kwargs) -> tuple[dict, dict, dict]:
        names = ("sentences", "frame_indices", "window", "windows_at_once", "progress")
        preprocess = {key: kwargs.pop(key) for key in names if key in kwargs}
        names = ("threshold", "presence_threshold", "exclusive")
        forward = {key: kwargs.pop(key) for key in names if key in kwargs}
        if kwargs:
            raise TypeError(
                f"unknown argument {', '.join(kwargs)}; there are sentences, threshold, presence_threshold, "
                "exclusive, frame_indices, window, batch_size and progress"
            )
        for name in ("threshold", "presence_threshold"):
            if not 0 <= forward.get(name, 0) <= 1:
                raise ValueError(f"{name} is a probability, from 0 to 1, not {forward[name]}")
        return preprocess, forward, {}

    def __call__(
        self,
        video: str | Path | bytes | np.ndarray | list,
        sentences: str | list[str],
        batch_size: int | None = None,
        **kwargs,
    ) -> list[dict[str, Any]]:
        """Segments what each sentence refers to.

        Args:
            video: the path of a video, the bytes of one, a uint8 array (T, H, W, 3) in RGB, or a list of the frames as
                PIL images or encoded images (bytes or paths).
            sentences: one sentence or several.
            batch_size (`int`, 1): so many windows go through the model together. Changes the speed and the memory.
            window (`int`, `model.config.num_frames`): frames of a window. The model knows no upper bound; memory does.
            threshold (`float`, 0.5): a pixel belongs to the mask where its probability exceeds it.
            presence_threshold (`float`, 0.5): where a window's probability of containing the referent is below it, the
                masks are empty.
            exclusive (`list[list[int]]`, none): groups of sentences (numbers, 0-based) that mean different objects: of
                their masks that overlap, only the most probable one keeps the pixel.
            frame_indices (`list[int]`, all frames): the frames (0-based) to return, in this order; only the windows
                that hold them are computed.
            progress (`bool`, False): show a bar over the windows, where there are several.

        Returns:
            One dict a sentence: "sentence"; "score", the largest presence probability of the windows computed;
            "masks", bool array (T, H, W) at the video's own size; "frame_indices", list of the T frames;
            "frame_scores", list of T floats: presence probability times the mean probability inside the mask, 0 for an
            empty mask.

        Raises:
            FileNotFoundError, TypeError, ValueError: as `FrameReader`, for the video; ValueError for a sentence that is
                empty or too long, a threshold outside 0 to 1, frame indices that are empty or outside the video.
        """
        if batch_size is None:
            batch_size = self._batch_size
        # The base class would batch what `preprocess` yields by a collation of its own.
        kwargs["windows_at_once"] = 1 if batch_size is None else batch_size
        # The reader also keeps the base class from taking a list of frames for a list of inputs.
        return super().__call__(FrameReader(video), sentences=sentences, batch_size=1, **kwargs)

    def preprocess(
        self,
        reader: FrameReader,
        sentences: str | list[str],
        frame_indices: list[int] | None = None,
        window: int | None = None,
        windows_at_once: int = 1,
        progress: bool = False,
    ) -> Iterator[dict[str, Any]]:
        sentences = [sentences] if isinstance(sentences, str) else list(sentences)
        text = self.processor(text=sentences)
        frames = np.arange(len(reader)) if frame_indices is None else np.asarray(frame_indices)
        if frames.ndim != 1 or frames.dtype.kind not in "iu" or frames.size == 0:
            raise ValueError(f"frame_indices must be a list of at least one frame number, not {frame_indices!r}")
        outside = frames[(frames < 0) | (frames >= len(reader))]
        if outside.size:
            raise ValueError(f"frame_indices holds {outside[0]}, but the video's frames are 0 to {len(reader) - 1}")

        window = self.model.config.num_frames if window is None else window
        for name, value in (("window", window), ("batch_size", windows_at_once)):
            if value < 1:
                raise ValueError(f"{name} is a number of at least 1, not {value}")
        window = min(window, len(reader))
        window_of_frame = frames // window
        windows = np.unique(window_of_frame).tolist()
        hidden = not progress or len(windows) <= windows_at_once
        with tqdm(total=len(windows), desc="segmenting", unit="window", disable=hidden) as bar:
            for first in range(0, len(windows), windows_at_once):
                batch = windows[first : first + windows_at_once]
                starts = [min(index * window, len(reader) - window) for index in batch]
                positions = [np.flatnonzero(window_of_frame == index) for index in batch]
                decoded = [reader.read(range(start, start + window)) for start in starts]
                clips = self.processor(videos=decoded)
                repeated = {name: value.expand(len(batch), *value.shape[1:]) for name, value in text.items()}
                # Counted before they are handed over: the base class does not come back after the last window.
                bar.update(len(batch))
                yield {
                    "is_last": batch[-1] == windows[-1],
                    "inputs": {**clips, **repeated},
                    "positions": positions,
                    "offsets": [frames[at] - start for at, start in zip(positions, starts, strict=True)],
                    "sentences": sentences,
                    "frame_indices": frames.tolist(),
                    "size": decoded[0].shape[1:3],
                }

    def _forward(
        self,
        batch: dict[str, Any],
        threshold: float = 0.5,
        presence_threshold: float = 0.5,
        exclusive: list[list[int]] | None = None,
    ) -> dict[str, Any]:
        inputs = batch.pop("inputs")
        inputs["pixel_values_videos"] = inputs["pixel_values_videos"].to(self.model.dtype)
        outputs = self.model(**inputs)
        # Here and not in postprocess: it runs on the model's device, and masks are smaller to keep than logits.
        windows = []
        for index, (positions, offsets) in enumerate(zip(batch.pop("positions"), batch.pop("offsets"), strict=True)):
            this = slice(index, index + 1)
            wanted = SimpleNamespace(
                mask_logits=outputs.mask_logits[this, :, offsets], presence_logits=outputs.presence_logits[this]
            )
            sizes = inputs["frame_sizes"][this], [batch["size"]]
            (result,) = self.processor.post_process_masks(wanted, *sizes, threshold, presence_threshold)
            result["masks"] = self._without_overlap(result["masks"], wanted.mask_logits, sizes, exclusive or [])
            windows.append({"positions": positions, **result})
        return {**batch, "windows": windows}

    def _without_overlap(
        self, masks: torch.Tensor, mask_logits: torch.Tensor, sizes: tuple, groups: list[list[int]]
    ) -> torch.Tensor:
        """Masks (K, T, H, W) of which each group's share no pixel; `mask_logits` (1, K, T, h, w) say who keeps it."""
        kept = masks.clone() if groups else masks
        for first, second in (pair for group in groups for pair in combinations(group, 2)):
            both = masks[first] & masks[second]
            if both.any():
                # Resizing is linear: where the difference of logits is positive at the video's size, so is theirs.
                ahead = SimpleNamespace(
                    mask_logits=mask_logits[:, second, None] - mask_logits[:, first, None],
                    presence_logits=mask_logits.new_zeros((1, 1)),
                )
                (result,) = self.processor.post_process_masks(ahead, *sizes, presence_threshold=0)
                kept[first] &= ~(both & result["masks"][0])
                kept[second] &= ~(both & ~result["masks"][0])
        return kept

    def postprocess(self, batches: list[dict[str, Any]]) -> list[dict[str, Any]]:
        sentences, frame_indices = batches[0]["sentences"], batches[0]["frame_indices"]
        masks = np.zeros((len(sentences), len(frame_indices), *batches[0]["size"]), dtype=bool)
        frame_scores = np.zeros((len(sentences), len(frame_indices)))
        windows = [window for batch in batches for window in batch["windows"]]
        for window in windows:
            masks[:, window["positions"]] = window["masks"].numpy()
            frame_scores[:, window["positions"]] = window["frame_scores"].numpy()
        return [
            {
                "sentence": sentence,
                "score": max(float(window["scores"][index]) for window in windows),
                "masks": masks[index],
                "frame_indices": list(frame_indices),
                "frame_scores": frame_scores[index].tolist(),
            }
            for index, sentence in enumerate(sentences)
        ]


__all__ = ["CVLSPipeline"]
