"""Segmenting video files, and folders of them that several processes share out, to files."""

from .files import Settings, Summary, outputs_of, segment_video
from .folders import check_links, check_settings, left_out_of, outputs_in, segment_folder, videos_in

__all__ = [
    "Settings",
    "Summary",
    "check_links",
    "check_settings",
    "left_out_of",
    "outputs_in",
    "outputs_of",
    "segment_folder",
    "segment_video",
    "videos_in",
]
