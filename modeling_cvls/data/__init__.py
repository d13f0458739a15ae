"""Video sentences: the schema of a data set, reading frames and masks, sampling clips, and collating."""

from .augmentation import ClipAugmentation
from .checking import check_rows, find_faults
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
    "check_rows",
    "find_faults",
    "flip_words",
    "read_frames",
    "read_masks",
    "video_of",
]
