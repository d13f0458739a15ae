"""Fixtures of several tests; what they are made with stands in factories.py."""

import sys
from functools import partial

import pytest
import torch
from datasets import Dataset

from factories import NOISE, SENTENCES, moving_square, tiny_config, tiny_tokenizer
from modeling_cvls import CVLSModel, CVLSPipeline, CVLSProcessor, CVLSVideoProcessor
from modeling_cvls.data import FEATURES, ClipCollator, ClipSampler
from modeling_cvls.training import CVLSTrainer, CVLSTrainingArguments


@pytest.fixture(scope="session")
def make_model():
    """A function: fields of the configuration -> a tiny model in evaluation mode, always with the same weights."""

    def make(**changes) -> CVLSModel:
        torch.manual_seed(0)
        return CVLSModel(tiny_config(**changes)).eval()

    return make


def tiny_processor() -> CVLSProcessor:
    return CVLSProcessor(CVLSVideoProcessor(size={"shortest_edge": 64, "longest_edge": 64}), tiny_tokenizer())


@pytest.fixture
def processor() -> CVLSProcessor:
    return tiny_processor()


@pytest.fixture(scope="session")
def square_rows() -> Dataset:
    """Four videos of a moving square."""
    return Dataset.from_list([moving_square(number) for number in range(4)], features=FEATURES)


@pytest.fixture(scope="session")
def trainer_into(make_model, square_rows):
    """A function: a folder, arguments of the training -> a trainer of the tiny model; two of four clips at a step."""

    def make(folder, **arguments) -> CVLSTrainer:
        args = CVLSTrainingArguments(
            output_dir=str(folder), per_device_train_batch_size=2, use_cpu=True, report_to="none",
            disable_tqdm=True, **{"max_steps": 2, "learning_rate": 0.01, "save_strategy": "no", **arguments},
        )  # fmt: skip
        processor = tiny_processor()
        return CVLSTrainer(
            make_model(), args, train_dataset=square_rows, eval_dataset=square_rows,
            data_collator=ClipCollator(processor, ClipSampler(4)), processing_class=processor,
        )  # fmt: skip

    return make


@pytest.fixture
def make_trainer(trainer_into, tmp_path):
    """A function: arguments of the training -> a trainer as above, into the folder `out`."""
    return partial(trainer_into, tmp_path / "out")


@pytest.fixture(params=["decord", "PyAV alone"])
def decoders(request, monkeypatch):
    """With decord, where it is installed, and without."""
    if request.param == "PyAV alone":
        monkeypatch.setitem(sys.modules, "decord", None)


@pytest.fixture
def segmenter(make_model, processor) -> CVLSPipeline:
    """A pipeline with a tiny model; about half of what it makes of `NOISE` and `SENTENCES` is mask."""
    model = make_model()
    with torch.no_grad():
        model.mask_bias -= model(**processor(videos=NOISE[:4], text=SENTENCES)).mask_logits.median()
    return CVLSPipeline(model=model, processor=processor, device="cpu", presence_threshold=0)
