"""Fixtures of several tests; what they are made with stands in factories.py."""

import pytest
import torch

from factories import tiny_config, tiny_tokenizer
from modeling_cvls import CVLSModel, CVLSProcessor, CVLSVideoProcessor


@pytest.fixture
def make_model():
    """A function: fields of the configuration -> a tiny model in evaluation mode, always with the same weights."""

    def make(**changes) -> CVLSModel:
        torch.manual_seed(0)
        return CVLSModel(tiny_config(**changes)).eval()

    return make


@pytest.fixture
def processor() -> CVLSProcessor:
    return CVLSProcessor(CVLSVideoProcessor(size={"shortest_edge": 64, "longest_edge": 64}), tiny_tokenizer())
