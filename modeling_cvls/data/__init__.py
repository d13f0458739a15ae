"""Video sentences: the schema of a data set, reading frames and masks, sampling clips, and collating."""

from .clips import ClipSampler, flip_words, sample_clip
from .collation import ClipCollator
from .reading import read_frames, read_masks, video_of
from .schema import FEATURES, check_dataset

__all__ = [
    "FEATURES",
    "ClipCollator",
    "ClipSampler",
    "check_dataset",
    "flip_words",
    "read_frames",
    "read_masks",
    "sample_clip",
    "video_of",
]
