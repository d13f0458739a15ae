"""What was found in a video, and the formats that other tools read it in."""

from .video import FORMATS, VideoResult, segment

__all__ = ["FORMATS", "VideoResult", "segment"]
