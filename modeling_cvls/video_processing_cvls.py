"""Frames to model input: resize, scale, normalize, pad."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL.Image import Image
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    ChannelDimension,
    PILImageResampling,
    SizeDict,
)
from transformers.processing_utils import Unpack, VideosKwargs
from transformers.video_processing_utils import BaseVideoProcessor


class CVLSVideoProcessorKwargs(VideosKwargs, total=False):
    """Keyword arguments of the video processor.

    size_divisor (`int`): both sides of the processed frames are multiples of it.
    """

    size_divisor: int


class CVLSVideoProcessor(BaseVideoProcessor):
    """Resizes clips keeping their aspect, normalizes them and pads them to a batch, with torch alone.

    `size` is {"shortest_edge": s, "longest_edge": l} in pixels: frames are scaled so that their short side is s, or so
    that their long side is l where it would exceed l; then both sides are rounded to the nearest multiple of
    `size_divisor` (at least one multiple). Bilinear with antialias.
    """

    resample = PILImageResampling.BILINEAR
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    size = {"shortest_edge": 320, "longest_edge": 576}
    default_to_square = False
    size_divisor = 32
    do_resize = True
    do_rescale = True
    do_normalize = True
    # Converting colors in the base class needs torchvision: frames come as RGB (FrameReader gives them so).
    do_convert_rgb = False
    do_sample_frames = False
    valid_kwargs = CVLSVideoProcessorKwargs
    model_input_names = ["pixel_values_videos", "frame_mask", "frame_sizes"]

    def __init__(self, **kwargs: Unpack[CVLSVideoProcessorKwargs]):
        super().__init__(**kwargs)
        size = dict(self.size)
        if set(size) != {"shortest_edge", "longest_edge"}:
            raise ValueError(f'size must be {{"shortest_edge": s, "longest_edge": l}} in pixels, not {size}')

    def processed_size(
        self, height: int, width: int, size: SizeDict | None = None, size_divisor: int | None = None
    ) -> tuple[int, int]:
        """(height, width) that frames of `height` x `width` pixels are resized to."""
        size = size or self.size
        size_divisor = size_divisor or self.size_divisor
        scale = min(size["shortest_edge"] / min(height, width), size["longest_edge"] / max(height, width))
        # Halves go up: Python's round would send them to the even multiple, now up, now down.
        return tuple(max(1, int(side * scale / size_divisor + 0.5)) * size_divisor for side in (height, width))

    def preprocess(self, videos: Any, **kwargs: Unpack[CVLSVideoProcessorKwargs]) -> BatchFeature:
        """Makes a padded batch of clips.

        Args:
            videos: one clip or a list of B clips, whose T, H and W may differ. A clip is a uint8 RGB array or tensor
                (T, H, W, 3) or (T, 3, H, W), or a list of T frames: PIL images, or such arrays without the T. Where
                both H, W, 3 and 3, H, W fit, the last axis is taken for the colors, unless `input_data_format` says
                otherwise.

        Returns:
            pixel_values_videos (B, T, 3, H, W) float32, zero where padded; frame_mask (B, T) bool, false for padding
            frames; frame_sizes (B, 2) int64, the height and width that a clip fills of the padded H and W.

        Raises:
            ValueError: a clip is none of these, or has no frames.
        """
        data_format = kwargs.pop("input_data_format", None)
        clips = clips_of(videos)
        if not clips:
            raise ValueError("videos is an empty list: at least one clip was expected")
        clips = [_channels_last(clip, index, data_format) for index, clip in enumerate(clips)]
        return super().preprocess(clips, input_data_format=ChannelDimension.LAST, **kwargs)

    def _preprocess(
        self,
        videos: list[torch.Tensor],
        do_resize: bool,
        size: SizeDict,
        size_divisor: int,
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean: tuple[float, ...],
        image_std: tuple[float, ...],
        return_tensors: str | None = None,
        **kwargs,
    ) -> BatchFeature:
        processed = []
        for video in videos:
            video = video.float()
            if do_resize:
                target = self.processed_size(*video.shape[-2:], size, size_divisor)
                video = F.interpolate(video, target, mode="bilinear", align_corners=False, antialias=True)
            if do_rescale:
                video = video * rescale_factor
            if do_normalize:
                mean, std = video.new_tensor(image_mean), video.new_tensor(image_std)
                video = (video - mean[:, None, None]) / std[:, None, None]
            processed.append(video)

        frames, height, width = (max(video.shape[axis] for video in processed) for axis in (0, 2, 3))
        pixel_values = processed[0].new_zeros(len(processed), frames, 3, height, width)
        frame_mask = torch.zeros(len(processed), frames, dtype=torch.bool)
        for index, video in enumerate(processed):
            pixel_values[index, : len(video), :, : video.shape[2], : video.shape[3]] = video
            frame_mask[index, : len(video)] = True
        data = {
            "pixel_values_videos": pixel_values,
            "frame_mask": frame_mask,
            "frame_sizes": torch.tensor([video.shape[2:] for video in processed], dtype=torch.int64),
        }
        return BatchFeature(data=data, tensor_type=return_tensors)


def clips_of(videos: Any) -> list:
    """A list of clips of one clip or several, each an array or a list of frames."""
    if not isinstance(videos, list | tuple):
        return list(videos) if getattr(videos, "ndim", 0) == 5 else [videos]
    is_one_clip = bool(videos) and all(isinstance(frame, Image) or getattr(frame, "ndim", 0) == 3 for frame in videos)
    return [videos] if is_one_clip else list(videos)


def _channels_last(clip: Any, index: int, data_format: str | ChannelDimension | None) -> np.ndarray | torch.Tensor:
    """A clip as one uint8 array (T, H, W, 3); `index` is its number, for the error."""
    if isinstance(clip, list | tuple):
        frames = [np.asarray(frame.convert("RGB")) if isinstance(frame, Image) else frame for frame in clip]
        shapes = {getattr(frame, "shape", None) for frame in frames}
        if len(shapes) > 1:
            raise ValueError(f"the frames of video {index} must be of one size, not of {sorted(map(str, shapes))}")
        if all(isinstance(frame, torch.Tensor | np.ndarray) for frame in frames):
            clip = torch.stack(frames) if isinstance(frames[0], torch.Tensor) else np.stack(frames)
    is_array = isinstance(clip, np.ndarray | torch.Tensor) and clip.ndim == 4
    if is_array and (data_format == ChannelDimension.FIRST or (data_format is None and clip.shape[-1] != 3)):
        clip = clip.movedim(1, -1) if isinstance(clip, torch.Tensor) else np.moveaxis(clip, 1, -1)
    if not is_array or clip.dtype not in (np.uint8, torch.uint8) or clip.shape[-1] != 3 or 0 in clip.shape:
        described = f"{clip.dtype} {tuple(clip.shape)}" if hasattr(clip, "shape") else type(clip).__name__
        raise ValueError(
            f"video {index} must be uint8 RGB frames of shape (T, H, W, 3), not {described}; (T, 3, H, W) and lists of "
            "frames, as arrays or PIL images, are taken too"
        )
    return clip


CVLSVideoProcessor.register_for_auto_class()

__all__ = ["CVLSVideoProcessor", "CVLSVideoProcessorKwargs"]
