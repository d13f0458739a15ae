"""How long the page takes for a further sentence on a clip that is open, in processor time, whatever else runs."""

import time

import pytest

from modeling_cvls.demo.clips import Clips
from modeling_cvls.demo.decoding import ClipLimits, Decoder
from modeling_cvls.demo.examples import read_examples, write_examples
from modeling_cvls.demo.results import segment_clip


@pytest.mark.slow
def test_a_second_answer_takes_less_than_a_second(segmenter, tmp_path):
    """On the page's own example, of 8 frames of 256 x 256 pixels."""
    write_examples(tmp_path / "examples")
    path, _ = read_examples(tmp_path / "examples", 3)[0]
    decoder = Decoder(ClipLimits())
    clips = Clips(segmenter, decoder, tmp_path)
    taken = []
    try:
        for number, sentence in enumerate(("the red circle", "the blue square", "the small square")):
            folder = tmp_path / str(number)
            folder.mkdir()
            with clips.open(path) as opened:
                start = time.process_time()
                results = segment_clip(opened, [sentence], folder, lambda *_, **__: None)
                taken.append(time.process_time() - start)
            assert ("encoding" in results.seconds) == (number == 0) and results.sentences[0]["frames"] == 8
    finally:
        clips.close()
        decoder.close()
    assert min(taken[1:]) < 1
