"""Videos of any length and sentences in, masks at the video's own size out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers.pipelines.base import ChunkPipeline

from .carrying_cvls import passes_of
from .configuration_cvls import CVLSConfig
from .encoding_cvls import SentenceLogits, WindowEncoder, forget
from .features_cvls import CacheOptions
from .frame_reader_cvls import FrameReader
from .hub_cvls import push_card
from .live_cvls import CVLSLive, LiveOptions
from .masks_cvls import MaskOptions, frame_results, sentence_results
from .selection_cvls import FrameSelection, Video, open_reader, read_windows, select_frames, without_missing
from .session_cvls import CVLSVideoSession, is_saved_session
from .windows_cvls import Window, plan_windows, window_and_overlap

READING = ("on_damage",)
SELECTION = ("frame_indices", "start", "end", "fps")
WINDOWS = ("window", "overlap", "passes", "progress")
MASKS = tuple(field.name for field in fields(MaskOptions))


@dataclass(frozen=True)
class _Request:
    """What was asked of the pipeline, checked."""

    reader: FrameReader
    sentences: list[str]
    text: dict[str, torch.Tensor]
    selection: FrameSelection
    window_and_overlap: tuple[int, int]
    windows: list[list[Window]]
    batch_size: int
    passes: int
    options: MaskOptions
    progress: bool


class CVLSPipeline(ChunkPipeline):
    """Segments the objects of a video that sentences refer to (task "video-language-segmentation").

    The video is gone through in windows of `model.config.num_frames` frames, each of which shares some frames with the
    next; the last one is shifted back so that it is full. Frames are decoded when their turn comes, once. Where windows
    overlap, their logits are averaged, a window's weight falling from its middle to its ends, so that one fades into
    the next; those of a frame are kept only until its last window is done. A video shorter than a window is one window.
    All sentences go through the model together. Nothing else is carried from window to window.

    A model with `carry_state` is different: each sentence carries a state from window to window, which says where its
    object was and how much evidence there was for it. With `passes=1` the state goes from the first window to the last.
    With `passes=2` it also goes from the last window to the first, and each window takes the direction with more
    evidence up to it; the whole video is encoded before the first result. With `passes=0` there is no state. Where a
    state is carried, windows go through the model one after the other, also those that hold none of `frame_indices`.
    """

    _load_processor = True
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.processor.limit_sentences(self.model.config)

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
                tensor (T, H, W, 3) or (T, 3, H, W) in RGB, a list of the frames as PIL images, arrays or encoded images
                (bytes or paths), or a `FrameReader`. With a list of lists of sentences: a list of as many videos.
            sentences: one sentence or several; for several videos, a list of sentences each.
            batch_size (`int`, 1): this many windows go through the model together. Changes the speed and the memory.
            video_fps (`float`, as the file says): frames per second of the video.
            on_damage (`str`, "keep"): what to do where some frames of an encoded video cannot be decoded: "keep" leaves
                them out with a warning, "error" refuses the video. A `FrameReader` brings its own.
            start, end (`float`, the whole video): only the frames from `start` on and before `end`, in seconds.
            fps (`float`, all frames): go through this many frames per second, evenly spaced; at most the video's own.
            frame_indices (`list[int]`, all frames): the frames (0-based) to return, in this order; only the windows
                that hold them are computed. Not together with `start`, `end` and `fps`.
            window (`int`, `model.config.num_frames`): frames of a window. The model knows no upper bound; memory does.
            overlap (`int`, a quarter of the window): frames that a window shares with the next one.
            threshold (`float`, 0.5): a pixel belongs to the mask where its probability exceeds it.
            presence_threshold (`float`, 0.5): the mask is empty in a frame whose probability of containing the referent
                is below it. That is a window's probability; where windows overlap, their logits are averaged.
            exclusive (`list[list[int]]`, none): groups of sentences (numbers, 0-based) that mean different objects: of
                their masks that overlap, only the most probable one keeps the pixel.
            mask_format (`str`, "array"): "rle" gives each mask as COCO's compressed RLE, {"size": [H, W], "counts":
                str}, which is small; needs pycocotools.
            passes (`int`, 2): how a state is carried, 0 to 2, as described with the class.
            progress (`bool`, False): show a bar over the windows, where there are several.

        Returns:
            One dict per sentence: "sentence"; "score", the largest presence probability of the frames returned;
            "masks", bool array (T, H, W) at the video's own size, or a list of T RLEs; "frame_indices", list of the T
            frames; "frame_scores", list of T floats: presence probability times the mean probability inside the mask, 0
            for an empty mask; "missing_frames", list of the frames that could not be decoded and are left out;
            "gaps", as of [`FrameReader`]. For several videos a list of such lists.

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
        request = self._check(video, sentences, batch_size, video_fps, {**kwargs, "return_frames": False}, passes=2)
        found = self.postprocess(self._results(request), sentences, request.selection.order)
        damage = {"missing_frames": request.reader.missing_frames, "gaps": request.reader.gaps}
        return [result | damage for result in found]

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
            passes (`int`, 1): as for the call. With 2, frames come when the whole video was encoded.
            return_frames (`bool`, False): give the decoded frames too.

        Returns:
            An iterator over dicts, one per frame: "frame_index"; "time" in seconds, None where it is not known;
            "masks", bool array (K, H, W), or a list of K RLEs; "scores", list of K presence probabilities;
            "frame_scores", list of K floats as for the call; with `return_frames`, "frame", uint8 (H, W, 3). With
            `frame_indices`, each of these frames comes once.

        Raises:
            as the call, at once and not at the first frame, but for frames that cannot be decoded.
        """
        sentences = [sentences] if isinstance(sentences, str) else list(sentences)
        return self._results(self._check(video, sentences, batch_size, video_fps, kwargs, passes=1))

    def open(
        self,
        video: Video,
        cache: str = "cpu",
        dtype: torch.dtype | None = torch.float16,
        max_memory: int | str | None = "4GB",
        video_fps: float | None = None,
        **kwargs,
    ) -> CVLSVideoSession:
        """Decodes and encodes a video once, so that sentences can be asked at any time for their own share of the cost.

        Args:
            video: as for the call, or the folder of a session that was saved.
            cache, dtype, max_memory: where the features are kept, as [`CacheOptions`].
            video_fps, on_damage, start, end, fps, window, overlap, progress: as for the call; not of a saved session.

        Returns:
            A [`CVLSVideoSession`] with `ask`, `stream` and `save`.

        Raises:
            as the call; ValueError too where a saved session belongs to another checkpoint.
        """
        options, given = CacheOptions(cache, dtype, max_memory), {**self._preprocess_params, **kwargs}
        unknown = set(kwargs) - {"on_damage", "start", "end", "fps", "window", "overlap", "progress"}
        if unknown:
            raise TypeError(f"unknown argument {', '.join(sorted(unknown))} for opening a video")
        if is_saved_session(video):
            if kwargs or video_fps is not None:
                raise ValueError(f"{video} is a saved session, whose frames and windows are chosen already")
            session = CVLSVideoSession.load(video, self.model, self.processor, options)
        else:
            reader = open_reader(video, video_fps, given.get("on_damage", "keep"))
            selection = select_frames(reader, **{name: given.get(name) for name in ("start", "end", "fps")})
            windows = _window_of(self.model.config, given)
            session = CVLSVideoSession(self.processor, selection, reader, *windows, options, self.model)
            session.encode(given.get("progress", False))
        session.options, session.passes = MaskOptions(**self._forward_params), self._preprocess_params.get("passes")
        return session

    def live(
        self, sentences: str | list[str], fps: float | None = None, look_ahead: int | None = None, **kwargs
    ) -> CVLSLive:
        """Segments a stream while it comes.

        Args:
            sentences: one or several; they may be changed on the way.
            fps: take this many frames per second, evenly spaced; default: all that come.
            look_ahead: the latency in frames, as [`LiveOptions`]; default: a window less one, as of a file.
            window, overlap, threshold, presence_threshold, exclusive, mask_format, return_frames: as for `stream`.

        Returns:
            A [`CVLSLive`] with `push` for single frames, and `run` for a camera, a URL or an iterable.

        Raises:
            TypeError, ValueError: as the call.
        """
        preprocess, masks, _ = self._sanitize_parameters(**kwargs)
        if preprocess.keys() - {"window", "overlap"}:
            raise TypeError(f"a live stream takes no {', '.join(sorted(preprocess.keys() - {'window', 'overlap'}))}")
        window, overlap = _window_of(self.model.config, {**self._preprocess_params, **preprocess})
        look_ahead = window - 1 if look_ahead is None else look_ahead
        carries = self._preprocess_params.get("passes") != 0
        options = LiveOptions(fps, window, overlap, look_ahead, carries)
        masks = MaskOptions(**{**self._forward_params, **masks})
        return CVLSLive(self.model, self.processor, sentences, options, masks)

    def _check(
        self,
        video: Video,
        sentences: list[str],
        batch_size: int | None,
        video_fps: float | None,
        given: dict,
        passes: int,
    ) -> _Request:
        """`passes`: their number where none is given."""
        preprocess, masks, _ = self._sanitize_parameters(**given)
        preprocess, masks = {**self._preprocess_params, **preprocess}, {**self._forward_params, **masks}
        if batch_size is None:
            batch_size = 1 if self._batch_size is None else self._batch_size
        reader = open_reader(video, video_fps, preprocess.get("on_damage", "keep"))
        if not all(isinstance(sentence, str) for sentence in sentences):
            raise ValueError(f"the sentences of a video are a string or a list of strings, not {sentences!r}")
        text = self.processor(text=sentences)
        selection = select_frames(reader, **{name: preprocess.get(name) for name in SELECTION})
        passes = passes_of(self.model.config, preprocess.get("passes", passes))
        window, overlap = _window_of(self.model.config, preprocess)
        return _Request(
            reader=reader,
            sentences=sentences,
            text=text,
            selection=selection,
            window_and_overlap=(window, overlap),
            windows=plan_windows(len(selection.frames), window, overlap, selection.wanted, batch_size, passes),
            batch_size=batch_size,
            passes=passes,
            options=MaskOptions(**masks),
            progress=preprocess.get("progress", False),
        )

    def preprocess(self, request: _Request) -> Iterator[tuple[Sequence[Window], dict[int, np.ndarray]]]:
        return read_windows(request.reader, request.selection.frames, request.windows)

    def _forward(
        self,
        step: tuple[Sequence[Window], dict[int, np.ndarray]],
        encoder: WindowEncoder,
        sentences: SentenceLogits,
        options: MaskOptions,
    ) -> list[tuple[int, dict[str, Any]]]:
        windows, pictures = step
        encoder.add(pictures)
        encoded = encoder.encode(windows)
        logits = sentences.add(encoded)
        return [] if logits is None else frame_results(self.processor, logits, encoded.sizes, options)

    def postprocess(self, results: Iterator[dict], sentences: list[str], order: list[int]) -> list[dict[str, Any]]:
        return sentence_results(results, sentences, order)

    def _results(self, request: _Request) -> Iterator[dict[str, Any]]:
        """The results of the frames that are there, in the order of time."""
        if request.passes == 2:
            return self._results_of_session(request)
        return without_missing(self._results_with_substitutes(request), request.reader)

    def _results_of_session(self, request: _Request) -> Iterator[dict[str, Any]]:
        """Two passes need the features of the whole video: a session keeps them, on disk where memory ends."""
        video, cache = (request.selection, request.reader, *request.window_and_overlap), CacheOptions(dtype=None)
        with CVLSVideoSession(self.processor, *video, cache, self.model) as session:
            session.options = request.options
            session.encode(request.progress)
            options = {"batch_size": request.batch_size, "passes": request.passes, "progress": request.progress}
            yield from session.stream(request.sentences, **options)

    def _results_with_substitutes(self, request: _Request) -> Iterator[dict[str, Any]]:
        encoder = WindowEncoder(self.model, self.processor)
        sentences = SentenceLogits(self.model, request.text, request.passes)
        waiting: dict[int, np.ndarray] = {}  # frames whose masks are not complete, where they are asked for
        hidden = not request.progress or len(request.windows) == 1
        total = sum(map(len, request.windows))
        with tqdm(total=total, desc="segmenting", unit="window", disable=hidden) as bar:
            for windows, pictures in self.preprocess(request):
                if request.options.return_frames:
                    waiting.update(pictures)
                parts = {"encoder": encoder, "sentences": sentences, "options": request.options}
                for position, result in self.forward((windows, pictures), **parts):
                    result = {**request.selection.frame(position), **result}
                    if request.options.return_frames:
                        result["frame"] = waiting[position]
                    yield result
                forget(waiting, windows[-1].complete)
                bar.update(len(windows))


def _window_of(config: CVLSConfig, given: dict) -> tuple[int, int]:
    return window_and_overlap(config.num_frames, given.get("window"), given.get("overlap"))


__all__ = ["CVLSPipeline"]
