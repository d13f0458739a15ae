"""transformers' common tests of video processors on the segmenter's."""

import unittest

import stand_ins  # noqa: F401  before what comes from the library's tests
from tests.test_video_processing_common import VideoProcessingTestMixin, prepare_video_inputs
from transformers.utils import is_torchvision_available

from modeling_cvls import CVLSVideoProcessor

#: Tests of the library that do not fit this video processor, each with the reason.
UNFITTING = {
    "test_video_processor_from_dict_with_kwargs": "`size` is a pair of edges, and nothing is cropped",
    "test_call_numpy_4_channels": "the segmenter takes RGB: pictures of other kinds are converted",
}
if not is_torchvision_available():
    UNFITTING["test_video_processor_save_load_with_autovideoprocessor"] = "AutoVideoProcessor needs torchvision"


class VideoProcessorTester:
    """Clips of the library's tests, and the shapes that they get."""

    batch_size, num_frames, num_channels, min_resolution, max_resolution = 3, 4, 3, 30, 80

    def prepare_video_processor_dict(self) -> dict:
        return {"size": {"shortest_edge": 32, "longest_edge": 64}, "size_divisor": 32}

    def prepare_video_inputs(self, equal_resolution=False, return_tensors="pil") -> list:
        return prepare_video_inputs(
            self.batch_size, self.num_frames, self.num_channels, self.min_resolution, self.max_resolution,
            equal_resolution, return_tensors,
        )  # fmt: skip

    def expected_output_video_shape(self, videos: list) -> tuple[int, ...]:
        """(T, 3, H, W) of the padded batch; the sizes are worked out a second time."""
        sizes = []
        for video in videos:
            frame = video[0]
            if hasattr(frame, "convert"):  # a picture says its width first
                height, width = frame.size[1], frame.size[0]
            else:
                height, width = frame.shape[:2] if frame.shape[-1] == 3 else frame.shape[-2:]
            scale = min(32 / min(height, width), 64 / max(height, width))
            sizes.append([max(1, int(side * scale / 32 + 0.5)) * 32 for side in (height, width)])
        return self.num_frames, 3, *(max(sides) for sides in zip(*sizes, strict=True))


class CVLSVideoProcessorTest(VideoProcessingTestMixin, unittest.TestCase):
    fast_video_processing_class = CVLSVideoProcessor
    test_cast_dtype = True

    def setUp(self):
        super().setUp()
        self.video_processor_tester = VideoProcessorTester()
        reason = UNFITTING.get(self._testMethodName)
        if reason is not None:
            self.skipTest(reason)

    @property
    def video_processor_dict(self) -> dict:
        return self.video_processor_tester.prepare_video_processor_dict()
