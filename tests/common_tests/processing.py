"""transformers' common tests of processors on the segmenter's."""

import unittest

import stand_ins  # noqa: F401  before what comes from the library's tests
from tests.test_processing_common import ProcessorTesterMixin

from factories import tiny_tokenizer
from modeling_cvls import CVLSProcessor, CVLSVideoProcessor

#: Tests of the library that do not fit this processor, each with the reason.
UNFITTING = {
    "test_processor_from_and_save_pretrained": "checkpoints hold their code: saving adds `auto_map`",
    "test_processor_from_and_save_pretrained_as_nested_dict": "as the one before",
    "test_subprocessor_defaults_0_text": "sentences are (B, K, L), as a clip has K of them; the tokenizer's are (N, L)",
    "test_kwargs_overrides_default_subprocessor_kwargs_1_videos": "it takes the length of (N, L), not of (B, K, L)",
    "test_subprocessor_defaults_preserved_by_kwargs_1_videos": "as the one before",
}


class CVLSProcessorTest(ProcessorTesterMixin, unittest.TestCase):
    processor_class = CVLSProcessor

    @classmethod
    def _setup_video_processor(cls) -> CVLSVideoProcessor:
        return CVLSVideoProcessor(size={"shortest_edge": 32, "longest_edge": 64})

    @classmethod
    def _setup_tokenizer(cls):
        return tiny_tokenizer(model_max_length=256)

    def setUp(self):
        reason = UNFITTING.get(self._testMethodName)
        if reason is not None:
            self.skipTest(reason)

    def prepare_text_inputs(self, batch_size=None, modalities=None):
        """As inherited, with a list of sentences for each clip."""
        text = super().prepare_text_inputs(batch_size, modalities)
        return text if batch_size is None else [[sentence] for sentence in text]
