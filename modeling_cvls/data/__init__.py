"""Video sentences: the schema of a data set, reading frames and masks, sampling clips, and collating."""

from .augmentation import ClipAugmentation
from .clips import ClipSampler, flip_words
from .collation import ClipCollator
from .reading import read_frames, read_masks, video_of
from .sampling import FrameSampling
from .schema import FEATURES, check_dataset

__all__ = [
    "FEATURES",
    "ClipAugmentation",
    "ClipCollator",
    "ClipSampler",
    "FrameSampling",
    "check_dataset",
    "flip_words",
    "read_frames",
    "read_masks",
    "video_of",
]
