"""The longest sentence: the smaller of the limits of tokenizer and text encoder, known before a training."""

import pytest
from datasets import Dataset

from factories import tiny_config
from modeling_cvls import CVLSPipeline
from modeling_cvls.training.building import check_sentences

LONG = " ".join(["circle"] * 20)


def test_the_smaller_limit_counts(make_model, processor):
    model = make_model()  # its text encoder has 16 positions
    for of_tokenizer, expected in ((10**30, 16), (12, 12)):
        processor.tokenizer.model_max_length = of_tokenizer
        processor.limit_sentences(model.config)
        assert processor.tokenizer.model_max_length == expected
    processor.tokenizer.model_max_length = 10**30  # as where a tokenizer does not state it
    pipe = CVLSPipeline(model=model, processor=processor)
    with pytest.raises(ValueError, match="has 20 tokens, special tokens included; the text encoder takes at most 16"):
        pipe.processor(text=[LONG])


@pytest.mark.parametrize(("model_type", "longest"), [("bert", 16), ("roberta", 14)])
def test_positions_of_a_text_encoder(model_type, longest):
    """RoBERTa's positions begin behind the one of the padding, number 1."""
    text = {**tiny_config().text_config.to_dict(), "model_type": model_type, "pad_token_id": 1}
    assert tiny_config(text_config=text).max_sentence_length == longest


def test_a_long_sentence_is_found_before_the_training(make_model, processor, square_rows):
    processor.limit_sentences(make_model().config)
    check_sentences(square_rows, processor)
    rows = square_rows.to_list()
    rows[2]["sentences"][0]["text"] = LONG
    with pytest.raises(ValueError, match=f"video '{rows[2]['video_id']}': the sentence \"circle .* has 20 tokens"):
        check_sentences(Dataset.from_list(rows, features=square_rows.features), processor)
