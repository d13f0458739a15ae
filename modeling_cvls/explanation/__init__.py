"""What a segmenter saw: similarity maps, masks and kept channels of sentences about one window of a video.

`modeling_cvls.explanation.picture` draws pictures of it.
"""

from .measures import channel_overlap, content_words, mask_iou, similarity_in_instances
from .window import Explanation, explain, window_around

__all__ = [
    "Explanation",
    "channel_overlap",
    "content_words",
    "explain",
    "mask_iou",
    "similarity_in_instances",
    "window_around",
]
