"""Checkpoints: what makes one whole, which one a training goes on from, and folders that take no second training."""

import errno
import os
import shutil
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from filelock import FileLock

from factories import tiny_config, tiny_tokenizer
from modeling_cvls import CVLSModel, CVLSProcessor, CVLSVideoProcessor
from modeling_cvls.launch import check_checkpoint
from modeling_cvls.training import CVLSTrainingArguments, DataArguments, ModelArguments, build, train
from modeling_cvls.training.checkpoints import checkpoint_to_resume, full_disk_is_named

AT_EACH_STEP = {"save_strategy": "steps", "save_steps": 1}
EVERYTHING = ("config.json", "model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")


THREE_STEPS = {"max_steps": 3, "ema_decay": 0.5, **AT_EACH_STEP}


@pytest.fixture(scope="module")
def three_checkpoints(trainer_into, tmp_path_factory):
    """What a training leaves of three steps with a checkpoint at each."""
    folder = tmp_path_factory.mktemp("three")
    trainer_into(folder, **THREE_STEPS).train()
    return folder


@pytest.fixture
def trained(three_checkpoints, make_trainer, tmp_path):
    """A trainer with these checkpoints of its own."""
    shutil.copytree(three_checkpoints, tmp_path / "out")
    return make_trainer(**THREE_STEPS)


def resumed(trainer, value=True) -> str | None:
    trainer.args.resume_from_checkpoint = value
    return checkpoint_to_resume(trainer.args)


@pytest.mark.slow
def test_checkpoints_are_whole_and_nothing_unfinished_stays(trained, tmp_path):
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"checkpoint-{n}" for n in (1, 2, 3)]
    for folder in (tmp_path / "out").iterdir():
        assert {*EVERYTHING, "training_weights.safetensors"} <= {path.name for path in folder.iterdir()}
        assert resumed(trained, str(folder)) == str(folder)
    assert resumed(trained) == str(tmp_path / "out" / "checkpoint-3")


@pytest.mark.slow
@pytest.mark.parametrize("name", [*EVERYTHING, "training_weights.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "half", "empty"])
def test_what_is_not_whole_is_passed_over_and_named(trained, tmp_path, capsys, name, damage):
    newest = tmp_path / "out" / "checkpoint-3"
    path = newest / name
    if damage == "missing":
        path.unlink()
    else:
        os.truncate(path, path.stat().st_size // 2 if damage == "half" else 0)
    assert resumed(trained) == str(tmp_path / "out" / "checkpoint-2")
    said = capsys.readouterr().out
    assert f"passed over {newest}: " in said and name.split(".")[0] in said
    with pytest.raises(ValueError, match=f"the training cannot go on from {newest}: .*{name.split('.')[0]}"):
        resumed(trained, str(newest))


@pytest.mark.slow
def test_one_changed_byte_of_the_optimizer_is_found(trained, tmp_path):
    path = tmp_path / "out" / "checkpoint-3" / "optimizer.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"optimizer.pt is damaged"):
        resumed(trained, str(path.parent))


@pytest.mark.slow
def test_no_whole_checkpoint_is_an_error_and_none_at_all_a_start(trained, tmp_path):
    for folder in (tmp_path / "out").iterdir():
        (folder / "scheduler.pt").unlink()
    with pytest.raises(ValueError, match=r"no whole checkpoint to go on from; .*-3: scheduler.pt is missing.*-1: "):
        resumed(trained)
    for folder in (tmp_path / "out").iterdir():
        shutil.rmtree(folder)
    assert resumed(trained) is None
    with pytest.raises(ValueError, match="nowhere: there is no such folder"):
        resumed(trained, "nowhere")


def test_what_is_missing_is_explained(make_trainer, tmp_path):
    trainer = make_trainer(max_steps=1, save_only_model=True, **AT_EACH_STEP)
    trainer.train()
    folder = str(tmp_path / "out" / "checkpoint-1")
    with pytest.raises(ValueError, match="optimizer.pt is missing; with `save_only_model` a training cannot go on"):
        resumed(trainer, folder)
    trainer.args.ema_decay = 0.5
    (tmp_path / "out" / "checkpoint-1" / "optimizer.pt").touch()
    (tmp_path / "out" / "checkpoint-1" / "rng_state_0.pth").touch()
    (tmp_path / "out" / "checkpoint-1" / "rng_state_1.pth").touch()
    with pytest.raises(
        ValueError, match="rng_state.pth is missing; it was written by 2 processes, and goes on in as many"
    ):
        resumed(trainer, folder)


@pytest.mark.slow
def test_an_engine_that_shards_has_a_layout_of_its_own(trained, tmp_path, monkeypatch):
    """FSDP by a configuration file of Accelerate, which tells the processes by the environment."""
    newest = tmp_path / "out" / "checkpoint-3"
    (newest / "optimizer.pt").rename(newest / "optimizer.bin")  # as Accelerate calls it
    sums = newest / "SHA256SUMS"
    sums.write_text(sums.read_text().replace("optimizer.pt", "optimizer.bin"))
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert resumed(trained) == str(newest)
    (newest / "optimizer.bin").write_bytes(b"half of it")
    with pytest.raises(ValueError, match=r"optimizer.bin is damaged"):
        resumed(trained, str(newest))
    with pytest.raises(ValueError, match=r"`training.ema_decay` works where each process holds all weights"):
        CVLSTrainingArguments(output_dir=str(tmp_path), use_cpu=True, ema_decay=0.5)


def test_the_oldest_checkpoint_goes_when_the_new_one_is_there(make_trainer, tmp_path):
    trainer = make_trainer(max_steps=3, save_total_limit=1, **AT_EACH_STEP)
    trainer.train()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["checkpoint-3"]


@pytest.mark.slow
def test_a_checkpoint_can_be_written_again(trained, tmp_path):
    """A training that goes on from an older one comes by the same step again."""
    before = (tmp_path / "out" / "checkpoint-3" / "model.safetensors").read_bytes()
    trained.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2"))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"checkpoint-{n}" for n in (1, 2, 3)]
    assert len((tmp_path / "out" / "checkpoint-3" / "model.safetensors").read_bytes()) == len(before)


@pytest.mark.slow
def test_averaged_weights_resume_exactly(make_trainer, tmp_path):
    """Three steps, and two steps and one more: the same weights, averaged and not."""
    whole = make_trainer(max_steps=3, ema_decay=0.5, **AT_EACH_STEP)
    whole.train()
    shutil.move(tmp_path / "out", tmp_path / "whole")
    make_trainer(max_steps=3, ema_decay=0.5, **AT_EACH_STEP).train(
        resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2")
    )
    for name in ("model.safetensors", "training_weights.safetensors"):
        files = [(tmp_path / folder / "checkpoint-3" / name).read_bytes() for folder in ("whole", "out")]
        assert files[0] == files[1], name
    assert (tmp_path / "out/checkpoint-3/model.safetensors").read_bytes() != files[0]


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    (tmp_path / "_unfinished").mkdir()
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=10))
    with pytest.raises(OSError, match="the disk is full: a checkpoint takes about 5 MB") as raised:
        with full_disk_is_named(tmp_path, 5_000_000):
            raise RuntimeError("unexpected pos 64 vs 0")  # what torch.save says
    assert raised.value.errno == errno.ENOSPC and not (tmp_path / "_unfinished").exists()
    with pytest.raises(RuntimeError, match="something else"):
        with full_disk_is_named(tmp_path, 5):
            raise RuntimeError("something else")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_the_step_and_ends(make_trainer, tmp_path, number):
    trainer = make_trainer(max_steps=50, save_strategy="no")
    handler = signal.getsignal(number)
    compute = trainer.compute_loss

    def loss(*arguments, **options):
        if trainer.state.global_step == 1:
            os.kill(os.getpid(), number)
        return compute(*arguments, **options)

    trainer.compute_loss = loss
    output = trainer.train()
    assert output.global_step == 2 and trainer.stop.received == number
    assert resumed(trainer) == str(tmp_path / "out" / "checkpoint-2")
    assert signal.getsignal(number) == handler


# Folders that hold a training


@pytest.mark.parametrize("content", ["checkpoint-3/", "model.safetensors", "trainer_state.json"])
def test_a_folder_with_a_training_takes_no_second_one(tmp_path, content):
    path = tmp_path / content
    path.mkdir() if content.endswith("/") else path.touch()
    args = CVLSTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    with pytest.raises(ValueError, match=f"holds a training already \\({path.name}\\).*resume_from_checkpoint true"):
        train(ModelArguments(), DataArguments(), args)
    for told in ({"overwrite_output_dir": True}, {"resume_from_checkpoint": True}):
        with pytest.raises(ValueError, match="`data.dataset` is missing|no whole checkpoint"):  # it gets farther
            train(
                ModelArguments(), DataArguments(), CVLSTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **told)
            )


def test_a_finished_training_without_checkpoints_is_not_started_anew_by_resuming(tmp_path):
    args = CVLSTrainingArguments(output_dir=str(tmp_path), use_cpu=True, resume_from_checkpoint=True)
    assert checkpoint_to_resume(args) is None  # a batch system may always ask for it, from the first start on
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ValueError, match=r"holds a finished training \(model\.safetensors\) and no whole checkpoint"):
        checkpoint_to_resume(args)
    args.overwrite_output_dir = True
    assert checkpoint_to_resume(args) is None


@pytest.mark.slow
def test_two_trainings_at_once_are_refused(tmp_path):
    with FileLock(tmp_path / "_lock"):
        with pytest.raises(ValueError, match="another process is training into"):
            train(ModelArguments(), DataArguments(), CVLSTrainingArguments(output_dir=str(tmp_path), use_cpu=True))


@pytest.mark.slow
def test_loading_processes_change_nothing(make_trainer, tmp_path):
    """Two epochs and a half with no process that loads, with two, and with two that stay: the same weights."""
    found = []
    for number, stay in ((0, False), (2, False), (2, True)):
        trainer = make_trainer(
            max_steps=5, dataloader_num_workers=number, dataloader_persistent_workers=stay, dataloader_pin_memory=False
        )
        trainer.data_collator.sampler.clip_length = 2  # so that an epoch shows other clips
        trainer.train()
        found.append({name: value.clone() for name, value in trainer.model.state_dict().items()})
    for state in found[1:]:
        assert all(torch.equal(value, state[name]) for name, value in found[0].items())


@pytest.mark.parametrize("left", [0, 5, 1000])
def test_a_checkpoint_whose_weights_are_cut_off_is_named(make_model, processor, tmp_path, left):
    """Before anything is read: by the check of all commands, and by a training that starts from it."""
    make_model().save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    check_checkpoint(str(tmp_path), "--model")
    os.truncate(tmp_path / "model.safetensors", left)
    with pytest.raises(ValueError, match=rf"--model {tmp_path}/model.safetensors is damaged \(.*download it again"):
        check_checkpoint(str(tmp_path), "--model")
    with pytest.raises(ValueError, match=rf"model.checkpoint {tmp_path}/model.safetensors is damaged"):
        build(ModelArguments(checkpoint=str(tmp_path)), DataArguments(), None)


def test_a_checkpoint_s_frames_keep_their_size_unless_another_is_given(tmp_path):
    own = {"shortest_edge": 64, "longest_edge": 128}
    CVLSModel(tiny_config()).save_pretrained(tmp_path)
    CVLSProcessor(CVLSVideoProcessor(size=own), tiny_tokenizer()).save_pretrained(tmp_path)
    for given, expected in (
        ({}, own),
        ({"shortest_edge": 32}, {**own, "shortest_edge": 32}),
        ({"shortest_edge": 96, "longest_edge": 160}, {"shortest_edge": 96, "longest_edge": 160}),
    ):
        _, processor = build(ModelArguments(checkpoint=str(tmp_path)), DataArguments(**given), None)
        processor.save_pretrained(tmp_path / "saved")
        for one in (processor, CVLSProcessor.from_pretrained(tmp_path / "saved")):
            size = expected["shortest_edge"], expected["longest_edge"]
            frames = one(videos=np.zeros((1, *size, 3), np.uint8))["pixel_values_videos"]
            assert dict(one.video_processor.size) == expected and frames.shape[-2:] == size
