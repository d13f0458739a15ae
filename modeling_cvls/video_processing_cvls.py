"""Frames to model input: resize, scale, normalize, pad."""

import numpy as np
import torch
import torch.nn.functional as F
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


class CVLSVideosKwargs(VideosKwargs, total=False):
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
    valid_kwargs = CVLSVideosKwargs
    model_input_names = ["pixel_values_videos", "frame_mask", "frame_sizes"]

    def __init__(self, **kwargs: Unpack[CVLSVideosKwargs]):
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

    def preprocess(self, videos: np.ndarray | list[np.ndarray], **kwargs: Unpack[CVLSVideosKwargs]) -> BatchFeature:
        """Makes a padded batch of clips.

        Args:
            videos: one clip, a uint8 RGB array or tensor (T, H, W, 3), or a list of B clips, whose T, H and W may
                differ.

        Returns:
            pixel_values_videos (B, T, 3, H, W) float32, zero where padded; frame_mask (B, T) bool, false for padding
            frames; frame_sizes (B, 2) int64, the height and width that a clip fills of the padded H and W.

        Raises:
            ValueError: a clip is not uint8 RGB (T, H, W, 3) or has no frames.
        """
        clips = list(videos) if isinstance(videos, list | tuple) else [videos]
        if not clips:
            raise ValueError("videos is an empty list: at least one clip was expected")
        for index, clip in enumerate(clips):
            described = f"{clip.dtype} {tuple(clip.shape)}" if hasattr(clip, "shape") else type(clip).__name__
            if (
                not isinstance(clip, np.ndarray | torch.Tensor)
                or clip.dtype not in (np.uint8, torch.uint8)
                or clip.ndim != 4
                or clip.shape[-1] != 3
                or 0 in clip.shape
            ):
                raise ValueError(f"video {index} must be uint8 RGB frames of shape (T, H, W, 3), not {described}")
        kwargs["input_data_format"] = ChannelDimension.LAST
        return super().preprocess(clips, **kwargs)

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


CVLSVideoProcessor.register_for_auto_class()

__all__ = ["CVLSVideoProcessor"]
