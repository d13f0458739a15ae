"""A model that has never been trained, and rows to measure it on."""

import pytest
import torch
from noise import make_row


@pytest.fixture
def model(make_model):
    """Untrained, with a bias under which masks are neither empty nor full."""
    model = make_model()
    with torch.no_grad():
        model.mask_bias.fill_(0.05)
    return model


@pytest.fixture
def rows():
    """Three videos of different sizes and lengths; sentences with one, two and no referents."""
    return [
        make_row("first", 5, (64, 64), [[0], [1], [0, 1], []], annotated=[0, 2, 4], seed=1),
        make_row("second", 7, (48, 80), [[1], [0]], annotated=[1, 2, 6], seed=2),
        make_row("third", 2, (90, 60), [[0], [0], [1]], seed=3),
    ]
