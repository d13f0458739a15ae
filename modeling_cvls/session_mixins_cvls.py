"""Sessions by the names of transformers' video models, so that code written for Sam3Video needs few changes."""

from collections.abc import Iterator
from typing import Any

import torch

from .features_cvls import CacheOptions
from .masks_cvls import MaskOptions, frame_results
from .outputs_cvls import CVLSFrameOutput
from .selection_cvls import Video, open_reader, select_frames
from .session_cvls import CVLSVideoSession
from .windows_cvls import FrameLogits


class SessionModelMixin:
    """The model's side."""

    def propagate_in_video_iterator(
        self,
        inference_session: CVLSVideoSession,
        start_frame_idx: int = 0,
        max_frame_num_to_track: int | None = None,
        reverse: bool = False,
        show_progress_bar: bool = False,
    ) -> Iterator[CVLSFrameOutput]:
        """Segments what the prompts of a session refer to, frame by frame.

        Frames are encoded when they are needed for the first time, and never again. Masks do not depend on the
        direction.

        Args:
            inference_session: of `CVLSProcessor.init_video_session`.
            start_frame_idx: the first frame, or with `reverse` the one after the first.
            max_frame_num_to_track: the number of frames; default: all that follow.
            reverse: go from the frame before `start_frame_idx` back to the start of the video.
            show_progress_bar: show a bar over the windows.

        Returns:
            An iterator over [`CVLSFrameOutput`], for `CVLSProcessor.postprocess_outputs`.

        Raises:
            ValueError: the session has no prompt, no such frames, or is another model's.
        """
        inference_session.bind(self)
        logits = inference_session.logits_backward if reverse else inference_session.logits
        yield from logits(start_frame_idx, max_frame_num_to_track, show_progress_bar)


class SessionProcessorMixin:
    """The processor's side."""

    def init_video_session(
        self,
        video: Video | None = None,
        inference_device: str | torch.device | None = None,
        inference_state_device: str | torch.device | None = None,
        processing_device: str | torch.device | None = None,
        video_storage_device: str | torch.device | None = None,
        max_vision_features_cache_size: int | None = None,
        dtype: torch.dtype | None = torch.float16,
        max_memory: int | str | None = "4GB",
        video_fps: float | None = None,
    ) -> CVLSVideoSession:
        """A session on a video, which is not decoded before its frames are needed.

        Args:
            video: as for [`CVLSPipeline.__call__`]. A live stream, which has none yet, goes with [`CVLSPipeline.live`].
            inference_device, processing_device, video_storage_device, max_vision_features_cache_size: for code that
                gives them; the model's own device counts, frames are not stored, and all features are kept.
            inference_state_device: where features are kept: "cpu", the default, or the model's device if it is any
                other.
            dtype, max_memory: of the features, as [`CacheOptions`].
            video_fps: frames per second of the video; default: what the file says.

        Raises:
            OSError, TypeError, ValueError: as `FrameReader`; or there is no video.
        """
        if video is None:
            raise ValueError(
                "give a video: a stream whose frames come one by one is segmented by `pipeline(...).live(sentences)`"
            )
        cache = "cpu" if torch.device(inference_state_device or "cpu").type == "cpu" else "device"
        reader = open_reader(video, video_fps)
        return CVLSVideoSession(self, select_frames(reader), reader, cache=CacheOptions(cache, dtype, max_memory))

    def add_text_prompt(self, inference_session: CVLSVideoSession, text: str | list[str]) -> CVLSVideoSession:
        """Adds one sentence or several to those that are segmented; one that is there already is not added again.

        Raises:
            ValueError: a sentence is empty or too long.
        """
        text = [text] if isinstance(text, str) else list(text)
        self(text=text)
        prompts = inference_session.prompts
        prompts.extend(sentence for sentence in dict.fromkeys(text) if sentence not in prompts)
        return inference_session

    def postprocess_outputs(
        self,
        inference_session: CVLSVideoSession,
        model_outputs: CVLSFrameOutput,
        original_sizes: list | torch.Tensor | None = None,
        threshold: float = 0.5,
        presence_threshold: float = 0.5,
    ) -> dict[str, Any]:
        """The objects found in a frame, at the video's own size; each prompt finds one object or none.

        Args:
            inference_session, model_outputs: a session, and what `propagate_in_video_iterator` gave of it.
            original_sizes: for code that gives it; the video's own size counts.
            threshold, presence_threshold: as for [`CVLSPipeline.__call__`].

        Returns:
            "object_ids" (N,) int64, the numbers of the prompts whose mask is not empty; "scores" (N,) float, presence
            probability times the mean probability inside the mask; "boxes" (N, 4) float, left, top, right and bottom in
            pixels; "masks" (N, height, width) bool; "prompt_to_obj_ids", the list of the ids of each prompt.
        """
        options = MaskOptions(threshold, presence_threshold)
        logits = FrameLogits([0], model_outputs.mask_logits[:, None], model_outputs.presence_logits[:, None])
        ((_, found),) = frame_results(self, logits, inference_session.sizes, options)
        masks = torch.from_numpy(found["masks"])
        ids = masks.flatten(1).any(dim=1).nonzero()[:, 0]
        return {
            "object_ids": ids,
            "scores": torch.tensor(found["frame_scores"])[ids],
            "boxes": torch.tensor([_box_of(masks[index]) for index in ids]).view(-1, 4),
            "masks": masks[ids],
            "prompt_to_obj_ids": {
                prompt: [index] if index in ids else [] for index, prompt in enumerate(inference_session.prompts)
            },
        }


def _box_of(mask: torch.Tensor) -> list[float]:
    rows, columns = mask.any(dim=1).nonzero()[:, 0], mask.any(dim=0).nonzero()[:, 0]
    return [float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)]


__all__ = ["SessionModelMixin", "SessionProcessorMixin"]
