"""A checkpoint, and `cvls segment` with it."""

import pytest
import torch
from squares import SENTENCES, moving_squares

from cvls import main
from factories import tiny_config, tiny_tokenizer
from modeling_cvls import CVLSModel, CVLSProcessor, CVLSVideoProcessor


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Untrained, with a bias under which half of what it makes of moving squares is mask."""
    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    model = CVLSModel(tiny_config()).eval()
    video_processor = CVLSVideoProcessor(size={"shortest_edge": 64, "longest_edge": 64})
    processor = CVLSProcessor(video_processor, tiny_tokenizer())
    with torch.no_grad():
        model.mask_bias -= model(**processor(videos=moving_squares(4), text=SENTENCES)).mask_logits.median()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def segment(checkpoint, capsys):
    """Runs the command in this process: exit code (0: none), what it printed, what it said of errors."""

    def run(video, output, *options, sentences=SENTENCES):
        arguments = [video, *sentences, "--model", checkpoint, "--output", output, "--presence-threshold", 0, *options]
        try:
            main(["segment", *map(str, arguments)])
            code = 0
        except SystemExit as exit_:
            code = exit_.code
        return (code, *capsys.readouterr())

    return run
