"""transformers' common tests of models and configurations on three tiny segmenters."""

import unittest

import stand_ins  # noqa: F401  before what comes from the library's tests
import torch
from tests.test_configuration_common import ConfigTester
from tests.test_modeling_common import ModelTesterMixin

from factories import random_batch, tiny_config
from modeling_cvls import CVLSConfig, CVLSModel

INPUTS = ("pixel_values_videos", "frame_mask", "frame_sizes", "input_ids", "attention_mask", "sentence_mask")


class ResNetAndBert:
    """The tiny segmenter of the other tests: its sizes, and the batches of the library's tests."""

    batch_size, num_frames, seq_length, num_sentences, size = 2, 3, 5, 2, 64
    is_training = True
    inputs = INPUTS
    parts: dict = {}

    def __init__(self, parent: unittest.TestCase):
        self.parent = parent
        config = self.get_config()
        self.hidden_size, self.num_hidden_layers = config.hidden_size, config.num_temporal_layers
        self.num_attention_heads = config.num_attention_heads

    def get_config(self) -> CVLSConfig:
        return tiny_config(num_fusion_layers=1, **self.parts)

    def batch(self) -> dict[str, torch.Tensor]:
        return random_batch(
            clips=self.batch_size, frames=self.num_frames, height=self.size, width=self.size,
            sentences=self.num_sentences, words=self.seq_length,
        )  # fmt: skip

    def prepare_config_and_inputs_for_common(self) -> tuple[CVLSConfig, dict[str, torch.Tensor]]:
        batch = self.batch()
        return self.get_config(), {name: batch[name] for name in self.inputs}


class DinoAndRoberta(ResNetAndBert):
    parts = {
        "backbone_config": {
            "model_type": "dinov2", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
            "patch_size": 16, "image_size": 64, "out_features": ["stage1", "stage2"],
        },
        "text_config": {
            "model_type": "roberta", "vocab_size": 17, "hidden_size": 16, "num_hidden_layers": 1,
            "num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 20,
        },
    }  # fmt: skip


class WithoutSizes(ResNetAndBert):
    inputs = ("pixel_values_videos", "input_ids", "attention_mask")


#: Tests of the library that do not fit this kind of model, each with the reason.
UNFITTING = {
    "test_attention_outputs": "attentions come component by component: tests/unit/test_library.py, states",
    "test_hidden_states_output": "hidden states come component by component: tests/unit/test_library.py, states",
    "test_retain_grad_hidden_states_attentions": "there is no one `hidden_states`, but one of each component",
    "test_model_outputs_equivalence": "it subtracts all outputs, and the kept channels are boolean: "
    "tests/unit/test_model.py, tuples in place of outputs",
    "test_get_text_features_output_0": "words are (B, K, L, C), as a clip has K sentences, not (B, L, C)",
    "test_get_text_features_output_1": "as the one before",
    "test_get_text_features_output_2": "as the one before",
}


class SegmenterTests(ModelTesterMixin):
    segmenter = ResNetAndBert
    all_model_classes = (CVLSModel,)
    additional_model_inputs = ("input_ids",)
    _is_composite = True
    test_resize_embeddings = True

    def setUp(self):
        self.model_tester = self.segmenter(self)
        self.config_tester = ConfigTester(self, config_class=CVLSConfig, has_text_modality=False)

        reason = UNFITTING.get(self._testMethodName)
        if reason is not None:
            self.skipTest(reason)

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        """As inherited, with what the loss needs: the library knows `labels` alone."""
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels)
        if return_labels:
            batch = self.model_tester.batch()
            inputs.update({name: value for name, value in batch.items() if name not in INPUTS})
        return inputs

    def test_reverse_loading_mapping(self):
        super().test_reverse_loading_mapping(check_keys_were_modified=False)  # shapes are converted, names are not

    def test_config(self):
        self.config_tester.run_common_tests()


class ResNetAndBertTest(SegmenterTests, unittest.TestCase):
    pass


class DinoAndRobertaTest(SegmenterTests, unittest.TestCase):
    segmenter = DinoAndRoberta


class WithoutSizesTest(SegmenterTests, unittest.TestCase):
    segmenter = WithoutSizes
