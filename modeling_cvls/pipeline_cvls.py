"""Videos of any length and sentences in, masks at the video's own size out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers.pipelines.base import ChunkPipeline

from .frame_reader_cvls import FrameReader
from .hub_cvls import push_card
from .masks_cvls import FrameSizes, MaskOptions, frame_result, masks_of, sentence_results
from .selection_cvls import FrameSelection, read_windows, select_frames, without_missing
from .windows_cvls import LogitBlender, Window, plan_windows

Video = str | Path | bytes | np.ndarray | torch.Tensor | list | FrameReader

READING = ("on_damage",)
SELECTION = ("frame_indices", "start", "end", "fps")
WINDOWS = ("window", "overlap", "progress")
MASKS = tuple(field.name for field in fields(MaskOptions))


@dataclass(frozen=True)
class _Request:
    """What was asked of the pipeline, checked."""

    reader: FrameReader
    text: dict[str, torch.Tensor]
    selection: FrameSelection
    windows: list[list[Window]]
    options: MaskOptions
    progress: bool


@dataclass(frozen=True)
class _WindowBatch:
    """Windows that go through the model together.

    Attributes:
        windows: N of them, of equal length T.
        pixel_values: (N, T, 3, h, w), on the CPU.
        text: the model's arguments for the sentences, of one clip.
        sizes: of the frames.
        pictures: position -> frame, uint8 (H, W, 3), of those that no earlier batch had.
    """

    windows: list[Window]
    pixel_values: torch.Tensor
    text: dict[str, torch.Tensor]
    sizes: FrameSizes
    pictures: dict[int, np.ndarray]


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
        known = READING + SELECTION + WINDOWS, MASKS
        unknown = set(kwargs).difference(*known)
        if unknown:
            raise TypeError(
                f"unknown argument {', '.join(sorted(unknown))}; there are sentences, "
                f"{', '.join(READING + SELECTION + WINDOWS + MASKS)}, video_fps and batch_size"
            )
        preprocess, masks = ({name: kwargs[name] for name in names if name in kwargs} for names in known)
        MaskOptions(**masks)
        return preprocess, masks, {}

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
            on_damage (`str`, "keep"): what to do where some frames of an encoded video cannot be decoded: "keep" leaves
                them out with a warning, "error" refuses the video. A `FrameReader` brings its own.
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
            for an empty mask; "missing_frames", list of the frames that could not be decoded and are left out. For
            several videos a list of such lists.

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
        request = self._check(video, sentences, batch_size, video_fps, {**kwargs, "return_frames": False})
        found = self.postprocess(self._results(request), sentences, request.selection.order)
        return [{**result, "missing_frames": request.reader.missing_frames} for result in found]

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
        return self._results(self._check(video, sentences, batch_size, video_fps, kwargs))

    def _check(
        self, video: Video, sentences: list[str], batch_size: int | None, video_fps: float | None, given: dict
    ) -> _Request:
        preprocess, masks, _ = self._sanitize_parameters(**given)
        preprocess, masks = {**self._preprocess_params, **preprocess}, {**self._forward_params, **masks}
        if batch_size is None:
            batch_size = 1 if self._batch_size is None else self._batch_size
        if not isinstance(video, FrameReader) or video_fps is not None:
            video = FrameReader(video, video_fps, preprocess.get("on_damage", "keep"))
        reader = video
        if not all(isinstance(sentence, str) for sentence in sentences):
            raise ValueError(f"the sentences of a video are a string or a list of strings, not {sentences!r}")
        text = self.processor(text=sentences)
        selection = select_frames(reader, **{name: preprocess.get(name) for name in SELECTION})
        window, overlap = preprocess.get("window"), preprocess.get("overlap")
        window = self.model.config.num_frames if window is None else window
        overlap = window // 4 if overlap is None else overlap
        windows = plan_windows(len(selection.frames), window, overlap, selection.wanted, batch_size)
        return _Request(reader, text, selection, windows, MaskOptions(**masks), preprocess.get("progress", False))

    def preprocess(self, request: _Request) -> Iterator[_WindowBatch]:
        prepared: dict[int, torch.Tensor] = {}  # frames that a window to come needs
        for windows, pictures in read_windows(request.reader, request.selection.frames, request.windows):
            frames = np.stack(list(pictures.values()))
            clip = self.processor(videos=frames)
            prepared.update(zip(pictures, clip["pixel_values_videos"][0], strict=True))
            values = [torch.stack([prepared[position] for position in window.positions]) for window in windows]
            sizes = FrameSizes(tuple(clip["frame_sizes"][0].tolist()), frames.shape[1:3])
            yield _WindowBatch(windows, torch.stack(values), request.text, sizes, pictures)
            prepared = {position: prepared[position] for position in prepared if position >= windows[0].complete}

    def _forward(
        self, batch: _WindowBatch, blender: LogitBlender, options: MaskOptions
    ) -> tuple[Sequence[int], dict[str, torch.Tensor]]:
        pixel_values, number = batch.pixel_values.to(self.device, self.model.dtype), len(batch.windows)
        outputs = self.model(
            pixel_values_videos=pixel_values,
            frame_mask=torch.ones(pixel_values.shape[:2], dtype=torch.bool, device=self.device),
            frame_sizes=torch.tensor([batch.sizes.processed] * number, device=self.device),
            **{name: value.to(self.device).expand(number, *value.shape[1:]) for name, value in batch.text.items()},
        )
        for index, window in enumerate(batch.windows):
            blender.add(window, outputs.mask_logits[index], outputs.presence_logits[index])
        positions, *logits = blender.take(batch.windows[0].complete)
        # Here, on the model's device: masks are smaller to move than logits.
        found = masks_of(self.processor, *logits, batch.sizes, options) if positions else {}
        return positions, {name: value.cpu() for name, value in found.items()}

    def postprocess(
        self, results: Iterator[dict[str, Any]], sentences: list[str], order: list[int]
    ) -> list[dict[str, Any]]:
        return sentence_results(results, sentences, order)

    def _results(self, request: _Request) -> Iterator[dict[str, Any]]:
        """The results of the frames that are there, in the order of time."""
        return without_missing(self._results_with_substitutes(request), request.reader)

    def _results_with_substitutes(self, request: _Request) -> Iterator[dict[str, Any]]:
        blender, options = LogitBlender(), request.options
        pictures: dict[int, np.ndarray] = {}  # of frames whose masks are not complete
        hidden = not request.progress or len(request.windows) == 1
        total = sum(map(len, request.windows))
        with tqdm(total=total, desc="segmenting", unit="window", disable=hidden) as bar:
            for batch in self.preprocess(request):
                if options.return_frames:
                    pictures.update(batch.pictures)
                positions, found = self.forward(batch, blender=blender, options=options)
                for index, position in enumerate(positions):
                    result = {
                        "frame_index": int(request.selection.frames[position]),
                        "time": request.selection.time_of(position),
                        **frame_result(found, index, options),
                    }
                    if options.return_frames:
                        result["frame"] = pictures[position]
                    yield result
                pictures = {p: picture for p, picture in pictures.items() if p >= batch.windows[0].complete}
                bar.update(len(batch.windows))


__all__ = ["CVLSPipeline"]
