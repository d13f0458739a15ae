"""benchmarks/sessions.py: the operations of long videos against counts by hand, the limits, the printed tables."""

import pytest

from cost import BACKBONE, CVLS, Setting, flops_of
from factories import tiny_config
from modeling_cvls import CVLSConfig
from sessions import LONG_VIDEO_LIMIT, SECOND_SENTENCE_LIMIT, flops_of_video, main, measure_flops


@pytest.mark.slow
def test_operations_of_a_video_of_one_window_are_those_of_a_clip():
    costs = flops_of_video(tiny_config(), 4, 64, 96)
    counts = flops_of(Setting(tiny_config(), 1, 64, 96), [1])
    assert costs.backbone == counts[BACKBONE, 0]["Global"]
    assert costs.encoding + costs.sentence == counts[CVLS, 1]["Global"]


@pytest.mark.slow
def test_operations_of_a_long_video():
    """Each further window of 4, which shares 1 frame, adds the vision of 3 frames, and a window's own part."""
    one, two, three = (flops_of_video(tiny_config(), frames, 64, 96) for frames in (4, 7, 10))
    assert two.backbone - one.backbone == three.backbone - two.backbone == 3 * one.backbone / 4
    assert two.encoding - one.encoding == three.encoding - two.encoding < one.encoding
    assert two.sentence - one.sentence == three.sentence - two.sentence < one.sentence  # words are encoded once


@pytest.mark.slow
def test_limits_of_the_default_model(capsys):
    assert measure_flops(CVLSConfig(), 128) == []
    printed = capsys.readouterr().out
    assert f"| {LONG_VIDEO_LIMIT} |" in printed and f"| {SECOND_SENTENCE_LIMIT} |" in printed


def test_memory_of_a_stream(capsys):
    main(["--part", "live", "--frames", "300"])
    row = capsys.readouterr().out.splitlines()[-1]
    assert row.startswith("| 300 |") and row.endswith("| 1.05 |")
