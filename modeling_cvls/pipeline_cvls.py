"""Videos of any length and sentences in, masks at the video's own size out."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm
from transformers.pipelines.base import ChunkPipeline

from .frame_reader_cvls import FrameReader


class CVLSPipeline(ChunkPipeline):
    """Segments the objects of a video that sentences refer to (task "video-language-segmentation").

    The video is gone through in consecutive windows of `model.config.num_frames` frames, one window decoded at a time;
    the last one is shifted back so that it is full, and its frames that were done already keep their earlier result. A
    video shorter than a window is one window. All sentences go through the model together.
    """

    _load_processor = True
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    def _sanitize_parameters(self, **kwargs) -> tuple[dict, dict, dict]:
        preprocess = {key: kwargs.pop(key) for key in ("sentences", "frame_indices", "progress") if key in kwargs}
        forward = {key: kwargs.pop(key) for key in ("threshold", "presence_threshold") if key in kwargs}
        if kwargs:
            raise TypeError(
                f"unknown argument {', '.join(kwargs)}; there are sentences, threshold, presence_threshold, "
                "frame_indices and progress"
            )
        for name, value in forward.items():
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is a probability, from 0 to 1, not {value}")
        return preprocess, forward, {}

    def __call__(
        self, video: str | Path | bytes | np.ndarray | list, sentences: str | list[str], **kwargs
    ) -> list[dict[str, Any]]:
        """Segments what each sentence refers to.

        Args:
            video: the path of a video, the bytes of one, a uint8 array (T, H, W, 3) in RGB, or a list of the frames as
                PIL images or encoded images (bytes or paths).
            sentences: one sentence or several.
            threshold (`float`, 0.5): a pixel belongs to the mask where its probability exceeds it.
            presence_threshold (`float`, 0.5): where a window's probability of containing the referent is below it, the
                masks are empty.
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
        # The reader also keeps the base class from taking a list of frames for a list of inputs.
        return super().__call__(FrameReader(video), sentences=sentences, **kwargs)

    def preprocess(
        self,
        reader: FrameReader,
        sentences: str | list[str],
        frame_indices: list[int] | None = None,
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

        window = min(self.model.config.num_frames, len(reader))
        window_of_frame = frames // window
        windows = np.unique(window_of_frame).tolist()
        hidden = not progress or len(windows) == 1
        with tqdm(total=len(windows), desc="segmenting", unit="window", disable=hidden) as bar:
            for index in windows:
                start = min(index * window, len(reader) - window)
                positions = np.flatnonzero(window_of_frame == index)
                clip = self.processor(videos=reader.read(range(start, start + window)))
                # Counted before it is handed over: the base class does not come back after the last window.
                bar.update()
                yield {
                    "is_last": index == windows[-1],
                    "inputs": {**clip, **text},
                    "positions": positions,
                    "offsets": frames[positions] - start,
                    "sentences": sentences,
                    "frame_indices": frames.tolist(),
                    "size": (reader.height, reader.width),
                }

    def _forward(
        self, window: dict[str, Any], threshold: float = 0.5, presence_threshold: float = 0.5
    ) -> dict[str, Any]:
        inputs = window.pop("inputs")
        frame_sizes = inputs["frame_sizes"]
        inputs["pixel_values_videos"] = inputs["pixel_values_videos"].to(self.model.dtype)
        outputs = self.model(**inputs)
        # Here and not in postprocess: it runs on the model's device, and masks are smaller to keep than logits.
        outputs.mask_logits = outputs.mask_logits[:, :, window.pop("offsets")]
        (result,) = self.processor.post_process_masks(
            outputs, frame_sizes, [window["size"]], threshold, presence_threshold
        )
        return {**window, **result}

    def postprocess(self, windows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        sentences, frame_indices = windows[0]["sentences"], windows[0]["frame_indices"]
        masks = np.zeros((len(sentences), len(frame_indices), *windows[0]["size"]), dtype=bool)
        frame_scores = np.zeros((len(sentences), len(frame_indices)))
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
