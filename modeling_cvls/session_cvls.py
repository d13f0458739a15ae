"""A video is encoded once; then sentences can be asked about it at any time, at a sentence's share of the cost."""

import hashlib
import json
import os
import shutil
import warnings
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from .carrying_cvls import passes_of
from .encoding_cvls import EncodedWindows, SentenceLogits, WindowEncoder, forget, stack
from .features_cvls import CacheOptions, FeatureStore, fingerprint
from .frame_reader_cvls import FrameReader
from .masks_cvls import FrameSizes, MaskOptions, frame_results, sentence_results
from .outputs_cvls import CVLSFrameOutput
from .selection_cvls import FrameSelection, read_windows, without_missing
from .windows_cvls import FrameLogits, Window, plan_windows, window_and_overlap

INDEX = "session.json"
FORMAT = "cvls-session-1"


class CVLSVideoSession:
    """A video and its features, as [`CVLSPipeline.open`] and `CVLSProcessor.init_video_session` make it.

    The features are those of the windows that [`CVLSPipeline`] goes through: of each frame the pixel features, of each
    window the tokens after temporal attention. They are computed once, in the order of time, and kept as `cache` says.
    A context manager: at its end memory and temporary files are given back.

    Attributes:
        selection: the frames that are gone through.
        store: the features.
        options: how masks are made, unless `ask` and `stream` are told otherwise.
        passes: of `ask` and `stream`, unless these are told otherwise; None: 2 and 1.
        prompts: the sentences that `CVLSProcessor.add_text_prompt` added.
    """

    def __init__(
        self,
        processor,
        selection: FrameSelection,
        reader: FrameReader | None = None,
        window: int | None = None,
        overlap: int | None = None,
        cache: CacheOptions | None = None,
        model=None,
    ):
        self.processor, self.selection, self.reader = processor, selection, reader
        self._sizes: FrameSizes | None = None
        self.options = MaskOptions()
        self.passes: int | None = None
        self.prompts: list[str] = []
        self._given_windows = window, overlap
        self.store = FeatureStore(cache or CacheOptions())
        self._steps: Iterator[None] | None = None
        self._closed = False
        self._missing: list[int] = []  # of a saved session
        self._gaps: list[tuple[float, int]] = []  # the same
        self._model = None
        if model is not None:
            self.bind(model)

    def bind(self, model) -> None:
        """The model that encodes and answers; one for the whole life of the session."""
        if self._model is not None:
            if self._model is not model:
                raise ValueError("the features of this session are those of another model: open the video again")
            return
        self._model = model
        self._window, self._overlap = window_and_overlap(model.config.num_frames, *self._given_windows)
        self._windows = [window for (window,) in plan_windows(len(self), self._window, self._overlap)]
        self._stops = [window.stop for window in self._windows]

    @property
    def model(self):
        """The model that encodes and answers."""
        if self._model is None:
            raise ValueError("this session has no model yet: model.propagate_in_video_iterator(session) gives it one")
        return self._model

    @property
    def sizes(self) -> FrameSizes:
        """(height, width) of the frames, as the model gets them and their own."""
        if self._sizes is None:
            raise ValueError("the size of the frames is not known before the first is encoded")
        return self._sizes

    def __len__(self) -> int:
        """The number of frames that are gone through."""
        return len(self.selection.frames)

    @property
    def num_frames(self) -> int:
        """As `len`. This, the next two and `reset_state` have the names of transformers' sessions."""
        return len(self)

    @property
    def video_height(self) -> int:
        """Of the video's frames, in pixels."""
        return self.sizes.own[0] if self.reader is None else self.reader.height

    @property
    def video_width(self) -> int:
        """Of the video's frames, in pixels."""
        return self.sizes.own[1] if self.reader is None else self.reader.width

    def reset_state(self) -> None:
        """Forgets the prompts, so that others can be added; the features stay."""
        self.prompts.clear()

    @property
    def missing_frames(self) -> list[int]:
        """The numbers of frames that could not be decoded; they have no results."""
        return self._missing if self.reader is None else self.reader.missing_frames

    @property
    def gaps(self) -> list[tuple[float, int]]:
        """As of [`FrameReader`]."""
        return self._gaps if self.reader is None else self.reader.gaps

    @property
    def num_bytes_in_memory(self) -> int:
        """Bytes of the features that are kept in memory; the others are on disk."""
        return self.store.num_bytes_in_memory

    def encode(self, progress: bool = False) -> None:
        """Encodes what is not encoded yet, so that sentences cost their own share only.

        Raises:
            ValueError: a frame cannot be decoded. What was encoded before is kept.
        """
        self._check_ready()
        hidden = not progress or len(self.store) == len(self._windows)
        with tqdm(
            total=len(self._windows), initial=len(self.store), desc="encoding", unit="window", disable=hidden
        ) as bar:
            for index in range(len(self.store), len(self._windows)):
                self._encode_to(index)
                bar.update()

    def ask(self, sentences: str | list[str], **kwargs) -> list[dict[str, Any]]:
        """Segments what each sentence refers to, from the features.

        Args:
            sentences: one sentence or several.
            frame_indices (`list[int]`, all frames gone through): frames of the video to return, in this order.
            batch_size (`int`, 1): this many windows go through the model together.
            passes (`int`, 2): as for [`CVLSPipeline.__call__`].
            threshold, presence_threshold, exclusive, mask_format, progress: as for [`CVLSPipeline.__call__`].

        Returns:
            One dict per sentence, as [`CVLSPipeline.__call__`].

        Raises:
            TypeError, ValueError: as [`CVLSPipeline.__call__`].
        """
        sentences = [sentences] if isinstance(sentences, str) else list(sentences)
        order = kwargs.get("frame_indices")
        order = self.selection.order if order is None else list(order)
        passes = 2 if self.passes is None else self.passes
        results = self.stream(sentences, **{"passes": passes, **kwargs, "return_frames": False})
        found = sentence_results(results, sentences, order)
        damage = {"missing_frames": self.missing_frames, "gaps": self.gaps}
        return [result | damage for result in found]

    def stream(
        self,
        sentences: str | list[str],
        frame_indices: Sequence[int] | None = None,
        batch_size: int = 1,
        passes: int | None = None,
        progress: bool = False,
        **kwargs,
    ) -> Iterator[dict[str, Any]]:
        """The same, frame by frame as they are done, in the order of time.

        Args:
            sentences, frame_indices, batch_size, progress and all others: as for `ask`.
            passes: as for `ask`; default: 1.
            return_frames (`bool`, False): give the frames too, which decodes them again.

        Returns:
            An iterator over dicts, one per frame, as [`CVLSPipeline.stream`].
        """
        unknown = set(kwargs) - {field.name for field in fields(MaskOptions)}
        if unknown:
            raise TypeError(f"unknown argument {', '.join(sorted(unknown))}")
        self._check_ready()
        options = replace(self.options, **kwargs)
        if options.return_frames and self.reader is None:
            raise ValueError("a saved session holds features and no frames: open the video for return_frames")
        sentences = [sentences] if isinstance(sentences, str) else list(sentences)
        text = self.processor(text=sentences)
        wanted = self._positions(frame_indices)
        own = 1 if self.passes is None else self.passes
        passes = passes_of(self.model.config, own if passes is None else passes)
        batches = plan_windows(len(self), self._window, self._overlap, wanted, batch_size, passes)
        results = self._results(self._logits(text, batches, progress, passes), wanted, options)
        if self.reader is not None:
            return without_missing(results, self.reader)
        return (result for result in results if result["frame_index"] not in self._missing)

    def logits(self, first: int = 0, number: int | None = None, progress: bool = False) -> Iterator[CVLSFrameOutput]:
        """The logits of the prompts, for `number` frames (default: all) from position `first` on."""
        self._check_ready()
        if not self.prompts:
            raise ValueError("there is no prompt yet: add one with processor.add_text_prompt(session, text)")
        stop = len(self) if number is None else min(len(self), first + number)
        if not 0 <= first < stop:
            raise ValueError(f"the frames to go through start from 0 to {len(self) - 1}, at least one, not at {first}")
        passes = passes_of(self.model.config, 1)
        batches = plan_windows(len(self), self._window, self._overlap, np.arange(first, stop), passes=passes)
        for logits in self._logits(self.processor(text=self.prompts), batches, progress, passes):
            for index, position in enumerate(logits.positions):
                frame = int(self.selection.frames[position])
                if frame not in self.missing_frames:
                    yield CVLSFrameOutput(frame, logits.mask_logits[:, index], logits.presence_logits[:, index])
        if self.reader is not None and self.reader.damage is not None:
            warnings.warn(self.reader.damage, stacklevel=2)

    def logits_backward(
        self, stop: int, number: int | None = None, progress: bool = False
    ) -> Iterator[CVLSFrameOutput]:
        """The same for the `number` frames (default: all) before position `stop`, the last one first. As windows are
        blended in the order of time, as many frames as a window has are gone through at once; where a state goes
        through all windows, all frames, whose logits are kept as the features are."""
        first = 0 if number is None else max(0, stop - number)
        if self.model.config.carry_state and first < stop:
            yield from self._kept_backward(self.logits(first, stop - first, progress))
            return
        for end in range(stop, first, -self._window):
            start = max(first, end - self._window)
            yield from reversed(list(self.logits(start, end - start, progress)))

    def _kept_backward(self, outputs: Iterator[CVLSFrameOutput]) -> Iterator[CVLSFrameOutput]:
        frames: list[int] = []
        with closing(FeatureStore(replace(self.store.options, dtype=None))) as store:
            for output in outputs:
                frames.append(output.frame_idx)
                store.append({"mask_logits": output.mask_logits, "presence_logits": output.presence_logits})
            for index in reversed(range(len(frames))):
                logits = {name: tensor.to(self.model.device) for name, tensor in store[index].items()}
                yield CVLSFrameOutput(frames[index], **logits)

    def _check_ready(self) -> None:
        self.model  # noqa: B018  says that there is none
        if self._closed:
            raise ValueError("this session is closed: open the video again")

    def _results(
        self, logits: Iterator[FrameLogits], wanted: np.ndarray, options: MaskOptions
    ) -> Iterator[dict[str, Any]]:
        frames = None
        if options.return_frames and self.reader is not None:
            frames = self.reader.frames(self.selection.frames[wanted])
        for of_frames in logits:
            for position, result in frame_results(self.processor, of_frames, self.sizes, options):
                result = {**self.selection.frame(position), **result}
                if frames is not None:
                    result["frame"] = next(frames)
                yield result

    def _logits(
        self, text: dict[str, torch.Tensor], batches: list[list[Window]], progress: bool, passes: int
    ) -> Iterator[FrameLogits]:
        sentences = SentenceLogits(self.model, text, passes)
        pixels: dict[int, torch.Tensor] = {}  # of frames that a window to come needs
        total, back = sum(map(len, batches)), batches[::-1] if passes == 2 else []
        hidden = not progress or len(batches) == 1
        if back:
            self.encode(progress)
        with tqdm(total=total * max(1, passes), desc="segmenting", unit="window", disable=hidden) as bar:
            for windows in back:
                sentences.look_back(self._windows_of(windows, {}))
                bar.update(len(windows))
            for windows in batches:
                found = sentences.add(self._windows_of(windows, pixels))
                if found is not None:
                    yield found
                forget(pixels, windows[-1].needed)
                bar.update(len(windows))

    def _windows_of(self, windows: list[Window], pixels: dict[int, torch.Tensor]) -> EncodedWindows:
        """The features of windows; those of their frames join `pixels`, where they are not there yet."""
        tokens = torch.stack([self._load(window.stop, window.positions, pixels) for window in windows])
        return EncodedWindows(windows, stack(pixels, windows), tokens, self.sizes)

    def _load(self, stop: int, positions: range, pixels: dict[int, torch.Tensor]) -> torch.Tensor:
        """The tokens of the window that ends at `stop`; its frames join `pixels`."""
        device, dtype = self.model.device, self.model.dtype
        index = bisect_right(self._stops, stop - 1)
        self._encode_to(index)
        group = self.store[index]
        for position in positions:
            if position not in pixels:
                # a frame lies with the first window that holds it
                home = bisect_right(self._stops, position)
                of_home = (group if home == index else self.store[home])["pixel_features"].to(device, dtype)
                first = self._stops[home] - len(of_home)
                pixels.update((first + i, features) for i, features in enumerate(of_home) if first + i >= position)
        return group["token_features"].to(device, dtype)

    def _encode_to(self, index: int) -> None:
        while len(self.store) <= index:
            if self._steps is None:
                self._steps = self._encode()
            try:
                next(self._steps)
            except BaseException:
                self._steps = None  # a step that failed is tried anew
                raise

    def _encode(self) -> Iterator[None]:
        """Encodes one window after the other, from the first one on that is not kept yet."""
        encoder, windows = WindowEncoder(self.model, self.processor), self._windows[len(self.store) :]
        for (window,), pictures in read_windows(self.reader, self.selection.frames, [[window] for window in windows]):
            encoder.add(pictures)
            encoded = encoder.encode([window])
            self._sizes = encoded.sizes
            first = self._stops[len(self.store) - 1] if len(self.store) else 0
            self.store.append(
                {
                    "pixel_features": encoded.pixel_features[0, max(0, first - window.start) :],
                    "token_features": encoded.token_features[0],
                }
            )
            yield

    def _positions(self, frame_indices: Sequence[int] | None) -> np.ndarray:
        if frame_indices is None:
            return self.selection.wanted
        indices = np.asarray(frame_indices)
        if indices.ndim != 1 or indices.dtype.kind not in "iu" or indices.size == 0:
            raise ValueError(f"frame_indices must be a list of at least one frame number, not {frame_indices!r}")
        absent = indices[~np.isin(indices, self.selection.frames)]
        if absent.size:
            frames = self.selection.frames
            raise ValueError(
                f"frame_indices holds {absent[0]}, which is none of the {len(frames)} frames that this session went "
                f"through, {frames[0]} to {frames[-1]}"
            )
        return np.searchsorted(self.selection.frames, np.unique(indices))

    def save(self, path: str | Path, progress: bool = False) -> None:
        """Writes the features into a new folder, from which [`CVLSPipeline.open`] opens the session again.

        The folder holds a session.json and safetensors files, and names the checkpoint that the features belong to.
        The frames are not in it.

        Raises:
            FileExistsError: there is something at `path`.
            OSError: it cannot be written.
        """
        path = Path(path)
        if path.exists():
            raise FileExistsError(f"{path} is there already: give the session a new name")
        self.encode(progress)
        partial = path.with_name(f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()}.partial")
        if partial.exists():
            shutil.rmtree(partial)
        partial.mkdir(parents=True)
        try:
            self.store.save(partial)
            index = {
                "format": FORMAT,
                "checkpoint": {"name": self.model.name_or_path, "fingerprint": fingerprint(self.model)},
                "window": self._window,
                "overlap": self._overlap,
                "processed_size": self.sizes.processed,
                "size": self.sizes.own,
                "frames": self.selection.frames.tolist(),
                "missing_frames": self.missing_frames,
                "gaps": self.gaps,
                "times": None if self.selection.times is None else self.selection.times.tolist(),
            }
            (partial / INDEX).write_text(json.dumps(index) + "\n", encoding="utf-8")
            partial.replace(path)
        finally:
            if partial.exists():
                shutil.rmtree(partial)

    @classmethod
    def load(cls, path: str | Path, model, processor, cache: CacheOptions | None = None) -> "CVLSVideoSession":
        """A session that `save` wrote.

        Raises:
            FileNotFoundError: there is none, or a file of it is missing.
            ValueError: it belongs to another checkpoint, or is damaged.
        """
        path, cache = Path(path), cache or CacheOptions()
        try:
            index = json.loads((path / INDEX).read_text(encoding="utf-8"))
            checkpoint, frames, times = index["checkpoint"], np.array(index["frames"]), index["times"]
            sizes = FrameSizes(tuple(index["processed_size"]), tuple(index["size"]))
            window, overlap, version = index["window"], index["overlap"], index["format"]
            missing, gaps = index["missing_frames"], [tuple(gap) for gap in index.get("gaps", [])]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{path / INDEX} is damaged: it is not what session.save wrote") from error
        if version != FORMAT:
            raise ValueError(f"{path} is of the format {version!r}; this version of the code reads {FORMAT!r}")
        if checkpoint["fingerprint"] != fingerprint(model):
            raise ValueError(
                f"{path} holds features of the checkpoint {checkpoint['name']!r} (fingerprint "
                f"{checkpoint['fingerprint'][:12]}), and the model that is loaded, {model.name_or_path!r}, has other "
                f"weights (fingerprint {fingerprint(model)[:12]}): load that checkpoint, in the same dtype, or open "
                "the video again"
            )
        times = None if times is None else np.array(times)
        selection = FrameSelection(frames, np.arange(len(frames)), frames.tolist(), times)
        session = cls(processor, selection, None, window, overlap, cache, model)
        session._sizes, session._missing, session._gaps = sizes, missing, gaps
        session.store = FeatureStore.load(path, len(session._windows), cache, model.device)
        return session

    def close(self) -> None:
        """Gives memory and temporary files back; the session cannot be asked any more."""
        self.store.close()
        self._steps, self._closed = None, True

    def __enter__(self) -> "CVLSVideoSession":
        return self

    def __exit__(self, *exception) -> None:
        self.close()


def is_saved_session(video: object) -> bool:
    """Whether `video` is the folder of a saved session."""
    return isinstance(video, str | Path) and (Path(video) / INDEX).is_file()


__all__ = ["CVLSVideoSession", "is_saved_session"]
