"""What was found in a video, and the formats that other tools read it in."""

from .files import check_free
from .video import FORMATS, SUFFIXES, VideoResult, segment

__all__ = ["FORMATS", "SUFFIXES", "VideoResult", "check_free", "segment"]
