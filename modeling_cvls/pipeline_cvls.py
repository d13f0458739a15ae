"""Videos of any length and sentences in, masks at the video's own size out."""

from bisect import bisect_left
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
from .hub_cvls import push_card
from .rle_cvls import encode_masks

Video = str | Path | bytes | np.ndarray | torch.Tensor | list | FrameReader


class CVLSPipeline(ChunkPipeline):
    """Segments the objects of a video that sentences refer to (task "video-language-segmentation").

    The video is gone through in windows of `model.config.num_frames` frames, each of which shares some frames with the
    next; the last one is shifted back so that it is full. Frames are decoded when their turn comes, once. Where windows
    overlap, their logits are averaged, a window's weight falling from its middle to its ends, so that one fades into
    the next; those of a frame are kept only until its last window is done. A video shorter than a window is one window.
    All sentences go through the model together. Nothing else is carried from window to window.
    """

    _load_processor = True
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    def save_pretrained(self, save_directory: str | Path, **kwargs) -> None:
        """Saves the model and, which the inherited method leaves out, the processor."""
        super().save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory, **kwargs)

    def push_to_hub(self, repo_id: str, **kwargs) -> str:
        """As inherited, with the card of the checkpoint that was loaded, as [`CVLSModel.push_to_hub`]."""
        repo_id = push_card(self.model.config._name_or_path, repo_id, kwargs.get("private"), kwargs.get("token"))
        return super().push_to_hub(repo_id, **kwargs)

    def _sanitize_parameters(self, **kwargs) -> tuple[dict, dict, dict]:
        preprocess = ("frame_indices", "start", "end", "fps", "window", "overlap", "progress")
        forward = ("threshold", "presence_threshold", "exclusive")
        postprocess = ("mask_format", "return_frames")
        unknown = set(kwargs) - {*preprocess, *forward, *postprocess}
        if unknown:
            raise TypeError(
                f"unknown argument {', '.join(sorted(unknown))}; there are sentences, "
                f"{', '.join((*preprocess, *forward, *postprocess))}, video_fps and batch_size"
            )
        for name in ("threshold", "presence_threshold"):
            if not 0 <= kwargs.get(name, 0) <= 1:
                raise ValueError(f"{name} is a probability, from 0 to 1, not {kwargs[name]}")
        if kwargs.get("mask_format", "array") not in ("array", "rle"):
            raise ValueError(f"mask_format is 'array' or 'rle', not {kwargs['mask_format']!r}")
        return tuple({name: kwargs[name] for name in names if name in kwargs}
                     for names in (preprocess, forward, postprocess))  # fmt: skip

    def __call__(
        self,
        video: Video | list[Video],
        sentences: str | list[str] | list[list[str]],
        batch_size: int | None = None,
        video_fps: float | None = None,
        **kwargs,
    ) -> list[dict[str, Any]] | list[list[dict[str, Any]]]:
        """Segments what each sentence refers to.

        Args:
            video: the path or URL (http, https) of a video, the bytes of one, a folder of frames, a uint8 array or
                tensor (T, H, W, 3) or (T, 3, H, W) in RGB, a list of the frames as PIL images or encoded images (bytes
                or paths), or a `FrameReader`. With a list of lists of sentences: a list of as many videos.
            sentences: one sentence or several; for several videos, a list of sentences each.
            batch_size (`int`, 1): so many windows go through the model together. Changes the speed and the memory.
            video_fps (`float`, as the file says): frames a second of the video.
            start, end (`float`, the whole video): only the frames from `start` on and before `end`, in seconds.
            fps (`float`, all frames): go through so many frames a second, evenly spaced; at most the video's own.
            frame_indices (`list[int]`, all frames): the frames (0-based) to return, in this order; only the windows
                that hold them are computed. Not together with `start`, `end` and `fps`.
            window (`int`, `model.config.num_frames`): frames of a window. The model knows no upper bound; memory does.
            overlap (`int`, a quarter of the window): frames that a window shares with the next one.
            threshold (`float`, 0.5): a pixel belongs to the mask where its probability exceeds it.
            presence_threshold (`float`, 0.5): in a frame whose probability of containing the referent is below it, the
                mask is empty. The model gives that probability for a window; overlapping windows' are averaged like
                their masks, as logits.
            exclusive (`list[list[int]]`, none): groups of sentences (numbers, 0-based) that mean different objects: of
                their masks that overlap, only the most probable one keeps the pixel.
            mask_format (`str`, "array"): "rle" gives each mask as COCO's compressed RLE, {"size": [H, W], "counts":
                str}, which is small; needs pycocotools.
            progress (`bool`, False): show a bar over the windows, where there are several.

        Returns:
            One dict a sentence: "sentence"; "score", the largest presence probability of the frames returned;
            "masks", bool array (T, H, W) at the video's own size, or a list of T RLEs; "frame_indices", list of the T
            frames; "frame_scores", list of T floats: presence probability times the mean probability inside the mask, 0
            for an empty mask. For several videos a list of such lists.

        Raises:
            OSError, TypeError, ValueError: as `FrameReader`, for the video; ValueError for a sentence that is empty or
                too long, and for arguments outside what is possible, naming them.
        """
        if not isinstance(sentences, str) and any(isinstance(entry, list | tuple) for entry in sentences):
            videos = list(video) if isinstance(video, list | tuple) else [video]
            if len(videos) != len(sentences):
                raise ValueError(
                    f"{len(videos)} videos but {len(sentences)} lists of sentences were given: sentences must hold one "
                    "list for each video"
                )
            return [self(one, own, batch_size, video_fps, **kwargs)
                    for one, own in zip(videos, sentences, strict=True)]  # fmt: skip
        sentences = [sentences] if isinstance(sentences, str) else list(sentences)
        kwargs["return_frames"] = False
        frame_indices, results = self._start(video, sentences, batch_size, video_fps, **kwargs)
        return self.postprocess(results, sentences, frame_indices, kwargs.get("frame_indices"))

    def stream(
        self,
        video: Video,
        sentences: str | list[str],
        batch_size: int | None = None,
        video_fps: float | None = None,
        **kwargs,
    ) -> Iterator[dict[str, Any]]:
        """The same, frame by frame as they are done, in the order of time: memory does not grow with the video.

        Args:
            video, sentences, batch_size, video_fps and all others: as for the call, for one video.
            return_frames (`bool`, False): give the decoded frames too.

        Returns:
            An iterator over dicts, one a frame: "frame_index"; "time", in seconds, None where the frames a second are
            not known; "masks", bool array (K, H, W), or a list of K RLEs; "scores", list of K presence probabilities;
            "frame_scores", list of K floats as for the call; with `return_frames`, "frame", uint8 (H, W, 3). With
            `frame_indices`, each of these frames comes once.

        Raises:
            as the call, at once and not at the first frame, but for frames that cannot be decoded.
        """
        sentences = [sentences] if isinstance(sentences, str) else list(sentences)
        return self._start(video, sentences, batch_size, video_fps, **kwargs)[1]

    def _start(
        self, video: Video, sentences: list[str], batch_size: int | None, video_fps: float | None, **kwargs
    ) -> tuple[list[int], Iterator[dict[str, Any]]]:
        """Checks everything; the frames that will come, and an iterator over their results."""
        given = self._sanitize_parameters(**kwargs)
        defaults = self._preprocess_params, self._forward_params, self._postprocess_params
        preprocess, forward, postprocess = ({**default, **own} for default, own in zip(defaults, given, strict=True))
        if postprocess.get("mask_format") == "rle":
            encode_masks(np.zeros((1, 1, 1), dtype=bool))  # a missing pycocotools is missed at once
        if batch_size is None:
            batch_size = 1 if self._batch_size is None else self._batch_size
        reader = video if isinstance(video, FrameReader) and video_fps is None else FrameReader(video, video_fps)
        frame_indices, batches = self.preprocess(reader, sentences, windows_at_once=batch_size, **preprocess)
        return frame_indices, self._results(batches, reader.fps, forward, **postprocess)

    def preprocess(
        self,
        reader: FrameReader,
        sentences: list[str],
        frame_indices: list[int] | None = None,
        start: float | None = None,
        end: float | None = None,
        fps: float | None = None,
        window: int | None = None,
        overlap: int | None = None,
        windows_at_once: int = 1,
        progress: bool = False,
    ) -> tuple[list[int], Iterator[dict[str, Any]]]:
        if not all(isinstance(sentence, str) for sentence in sentences):
            raise ValueError(f"the sentences of a video are a string or a list of strings, not {sentences!r}")
        text = self.processor(text=sentences)
        # "frames" number those of the video from here on, "positions" those that are gone through
        if frame_indices is None:
            frames = _sampled_frames(reader, start, end, fps)
            wanted = np.arange(len(frames))
        else:
            if not (start is None and end is None and fps is None):
                raise ValueError("give either frame_indices or start, end and fps: both choose the frames")
            frames = np.arange(len(reader))
            wanted = np.asarray(frame_indices)
            if wanted.ndim != 1 or wanted.dtype.kind not in "iu" or wanted.size == 0:
                raise ValueError(f"frame_indices must be a list of at least one frame number, not {frame_indices!r}")
            outside = wanted[(wanted < 0) | (wanted >= len(reader))]
            if outside.size:
                raise ValueError(f"frame_indices holds {outside[0]}, but the video's frames are 0 to {len(reader) - 1}")
            wanted = np.unique(wanted)

        window = self.model.config.num_frames if window is None else window
        for name, value in (("window", window), ("batch_size", windows_at_once)):
            if value < 1:
                raise ValueError(f"{name} is a number of at least 1, not {value}")
        overlap = window // 4 if overlap is None else overlap
        if not 0 <= overlap < window:
            raise ValueError(f"overlap is a number from 0 to below the window of {window} frames, not {overlap}")
        last = max(0, len(frames) - window)
        starts = [*range(0, last, window - overlap), last]
        window = min(window, len(frames))
        batches = self._batches(reader, text, frames, wanted, window, starts, windows_at_once, progress)
        return frames[wanted].tolist(), batches

    def _batches(
        self,
        reader: FrameReader,
        text: dict[str, torch.Tensor],
        frames: np.ndarray,
        wanted: np.ndarray,
        window: int,
        starts: list[int],
        windows_at_once: int,
        progress: bool,
    ) -> Iterator[dict[str, Any]]:
        """Batches of those windows (from position `starts[i]` on) that hold a wanted position."""
        ramp = np.minimum(np.arange(window) + 1, window - np.arange(window))
        total = np.zeros(len(frames))
        for start in starts:
            total[start : start + window] += ramp
        is_wanted, is_needed = np.zeros((2, len(frames)), dtype=bool)
        is_wanted[wanted] = True
        starts = [start for start in starts if is_wanted[start : start + window].any()]
        for start in starts:
            is_needed[start : start + window] = True

        decoder = reader.frames(frames[is_needed])
        blend, pictures, prepared = _Blend(), {}, {}
        hidden = not progress or len(starts) <= windows_at_once
        with tqdm(total=len(starts), desc="segmenting", unit="window", disable=hidden) as bar:
            for first in range(0, len(starts), windows_at_once):
                batch, later = starts[first : first + windows_at_once], starts[first + windows_at_once :]
                stop = later[0] if later else len(frames)
                positions = {position for start in batch for position in range(start, start + window)}
                new = sorted(positions - prepared.keys())
                decoded = np.stack([next(decoder) for _ in new])
                pictures.update(zip(new, decoded, strict=True))
                clip = self.processor(videos=decoded)
                prepared.update(zip(new, clip["pixel_values_videos"][0], strict=True))
                pixel_values = [torch.stack([prepared[start + i] for i in range(window)]) for start in batch]
                windows = []
                for start in batch:
                    offsets = np.flatnonzero(is_wanted[start : start + window])
                    shares = torch.from_numpy(ramp[offsets] / total[start + offsets]).float()
                    windows.append(
                        {"positions": (start + offsets).tolist(), "offsets": offsets.tolist(), "shares": shares}
                    )
                yield {
                    "inputs": {
                        "pixel_values_videos": torch.stack(pixel_values),
                        "frame_mask": torch.ones(len(batch), window, dtype=torch.bool),
                        "frame_sizes": clip["frame_sizes"].expand(len(batch), 2),
                        **{name: value.expand(len(batch), *value.shape[1:]) for name, value in text.items()},
                    },
                    "windows": windows,
                    "blend": blend,
                    "stop": stop,
                    "size": decoded.shape[1:3],
                    "frames": frames,
                    "pictures": pictures,
                }
                pictures = {position: pictures[position] for position in pictures if position >= stop}
                prepared = {position: prepared[position] for position in prepared if position >= stop}
                bar.update(len(batch))

    def _forward(
        self,
        batch: dict[str, Any],
        threshold: float = 0.5,
        presence_threshold: float = 0.5,
        exclusive: list[list[int]] | None = None,
    ) -> dict[str, Any]:
        inputs, blend = batch["inputs"], batch["blend"]
        inputs["pixel_values_videos"] = inputs["pixel_values_videos"].to(self.model.dtype)
        outputs = self.model(**inputs)
        for index, window in enumerate(batch["windows"]):
            mask_logits = outputs.mask_logits[index][:, window["offsets"]].float() * window["shares"][:, None, None]
            presence_logits = outputs.presence_logits[index][:, None].float() * window["shares"]
            blend.add(window["positions"], mask_logits, presence_logits)
        positions, mask_logits, presence_logits = blend.take(batch["stop"])
        if not positions:
            return {"positions": []}
        # Here and not later: it runs on the model's device, and masks are smaller to move than logits.
        blended = SimpleNamespace(mask_logits=mask_logits, presence_logits=presence_logits)
        sizes = inputs["frame_sizes"][:1], [batch["size"]]
        (result,) = self.processor.post_process_masks(blended, *sizes, threshold, presence_threshold)
        result["masks"] = self._without_overlap(result["masks"], mask_logits, sizes, exclusive or [])
        return {"positions": positions, **result}

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

    def _results(
        self,
        batches: Iterator[dict[str, Any]],
        fps: float | None,
        forward: dict[str, Any],
        mask_format: str = "array",
        return_frames: bool = False,
    ) -> Iterator[dict[str, Any]]:
        for batch in batches:
            found = self.forward(batch, **forward)
            for index, position in enumerate(found["positions"]):
                masks, frame_index = found["masks"][:, index].numpy(), int(batch["frames"][position])
                if mask_format == "rle":
                    size = list(masks.shape[1:])
                    masks = [{"size": size, "counts": counts} for counts in encode_masks(masks)]
                result = {
                    "frame_index": frame_index,
                    "time": None if fps is None else frame_index / fps,
                    "masks": masks,
                    "scores": found["scores"][:, index].tolist(),
                    "frame_scores": found["frame_scores"][:, index].tolist(),
                }
                if return_frames:
                    result["frame"] = batch["pictures"][position]
                yield result

    def postprocess(
        self,
        results: Iterator[dict[str, Any]],
        sentences: list[str],
        frame_indices: list[int],
        order: list[int] | None = None,
    ) -> list[dict[str, Any]]:
        """The results of the frames `frame_indices`, as they come, to those of the sentences; `order`: frames of those
        in another order."""
        masks = None
        presence, frame_scores = (np.zeros((len(sentences), len(frame_indices))) for _ in range(2))
        for position, result in enumerate(results):
            if masks is None and isinstance(result["masks"], np.ndarray):
                masks = np.zeros((len(sentences), len(frame_indices), *result["masks"].shape[1:]), dtype=bool)
            elif masks is None:
                masks = np.zeros((len(sentences), len(frame_indices)), dtype=object)
            masks[:, position] = result["masks"]
            presence[:, position], frame_scores[:, position] = result["scores"], result["frame_scores"]
        if order is not None and list(order) != frame_indices:
            at = [bisect_left(frame_indices, frame) for frame in order]
            masks, frame_scores, frame_indices = masks[:, at], frame_scores[:, at], [int(frame) for frame in order]
        return [
            {
                "sentence": sentence,
                "score": float(presence[index].max()),
                "masks": masks[index].tolist() if masks.dtype == object else masks[index],
                "frame_indices": list(frame_indices),
                "frame_scores": frame_scores[index].tolist(),
            }
            for index, sentence in enumerate(sentences)
        ]


class _Blend:
    """Weighted sums of windows' logits, of the frames that have not got all their windows yet."""

    def __init__(self):
        self.sums: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def add(self, positions: list[int], mask_logits: torch.Tensor, presence_logits: torch.Tensor) -> None:
        """mask_logits (K, T, h, w) and presence_logits (K, T) of the frames at T positions, already weighted."""
        for index, position in enumerate(positions):
            new = mask_logits[:, index], presence_logits[:, index]
            sums = self.sums.get(position)
            self.sums[position] = new if sums is None else (sums[0] + new[0], sums[1] + new[1])

    def take(self, stop: int) -> tuple[list[int], torch.Tensor | None, torch.Tensor | None]:
        """Removes what lies before `stop`: positions in order, (1, K, T, h, w) and (1, K, T)."""
        positions = sorted(position for position in self.sums if position < stop)
        if not positions:
            return [], None, None
        mask_logits, presence_logits = zip(*(self.sums.pop(position) for position in positions), strict=True)
        return positions, torch.stack(mask_logits, dim=1)[None], torch.stack(presence_logits, dim=1)[None]


def _sampled_frames(reader: FrameReader, start: float | None, end: float | None, fps: float | None) -> np.ndarray:
    """The frames at times in [start, end), `fps` of them a second, evenly spaced and at most all."""
    if start is None and end is None and fps is None:
        return np.arange(len(reader))
    if reader.fps is None:
        raise ValueError(
            "start, end and fps count in seconds, but the video does not say how many frames a second it has: give "
            "video_fps"
        )
    if fps is not None and not fps > 0:
        raise ValueError(f"fps is a number of frames a second above 0, not {fps}")
    start, duration = 0 if start is None else start, len(reader) / reader.fps
    if not 0 <= start < duration or not (end is None or end > start):
        raise ValueError(
            f"start and end are seconds with 0 <= start < end, start within the {duration:.3f} seconds of the video, "
            f"not {start} and {end}"
        )
    # a frame at the very time is in, whatever the rounding of the product
    first, stop = (int(np.ceil(seconds * reader.fps - 1e-6)) for seconds in (start, duration if end is None else end))
    stop = min(stop, len(reader))
    step = 1 if fps is None else max(1, reader.fps / fps)
    frames = np.floor(first + step * np.arange(np.ceil((stop - first) / step)) + 1e-6).astype(int)
    frames = frames[frames < stop]
    if not frames.size:
        raise ValueError(f"no frame lies between {start} and {end} seconds; the video has {reader.fps:g} a second")
    return frames


__all__ = ["CVLSPipeline"]
