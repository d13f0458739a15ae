"""Checkpoints that appear whole or not at all, and finding the newest whole one to go on from."""

import errno
import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, sort_checkpoints

from ..atomic import only_one
from ..names import check_path
from .adapters import ADAPTER, ADAPTER_WEIGHTS
from .arguments import CVLSTrainingArguments

#: Where a checkpoint is written, in `output_dir`, before it gets its name, and the lock of the folder. The Trainer
#: uploads nothing that begins so.
UNFINISHED, LOCK = "_unfinished", "_lock"

#: Names the SHA-256 of each file of a checkpoint, by which one that was changed is found.
SUMS = "SHA256SUMS"

#: The weights that a training with `ema_decay` goes on from; those that are evaluated and used are the averaged ones.
TRAINING_WEIGHTS = "training_weights.safetensors"


def finish(written: Path, final: Path) -> None:
    """Gives a folder its name when all of it is on the disk, and removes the folder that it was written in. Where the
    name is taken, the old folder goes last. The sums of its files are written beside them, as `sha256sum` writes them.
    """
    files = sorted(path for path in written.rglob("*") if path.is_file())
    lines = [f"{_sha256(path)}  {path.relative_to(written).as_posix()}\n" for path in files]
    (written / SUMS).write_text("".join(lines), encoding="utf-8")
    for path in [*written.rglob("*"), written]:
        _flush(path)
    replaced = written.with_name(f"replaced-{final.name}")
    if final.exists():
        os.rename(final, replaced)
    os.rename(written, final)
    _flush(final.parent)
    shutil.rmtree(written.parent, ignore_errors=True)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # Windows cannot flush a folder
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def full_disk_is_named(folder: Path, needed: int) -> Iterator[None]:
    """Turns what the libraries raise where a disk is full, of which some never say so, into an error that does.

    Args:
        folder: where is written; what is unfinished in it is removed.
        needed: bytes that are about to be written.

    Raises:
        OSError: `ENOSPC`, naming the folder and the bytes.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        free = shutil.disk_usage(folder).free
        shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
        if free >= needed and getattr(error, "errno", None) != errno.ENOSPC:
            raise
        raise OSError(
            errno.ENOSPC,
            f"the disk is full: a checkpoint takes about {needed / 1e6:,.0f} MB. The checkpoints before it are whole; "
            "free some space and go on with --training.resume_from_checkpoint true",
            str(folder),
        ) from error


def checkpoint_to_resume(args: CVLSTrainingArguments) -> str | None:
    """The checkpoint that `args.resume_from_checkpoint` asks for: the folder it names, or the newest whole one in
    `output_dir` where it is true, or None where there is none to go on from.

    Raises:
        ValueError: the folder is not a whole checkpoint; or there are checkpoints, but not one whole one; or there is
            a finished model without any, which a training from the start would replace.
    """
    wanted = args.resume_from_checkpoint
    if not wanted:
        return None
    if isinstance(wanted, str):
        fault = fault_of(Path(wanted), args)
        if fault:
            raise ValueError(f"the training cannot go on from {wanted}: {fault}")
        return wanted
    faults = []
    for folder in reversed(sort_checkpoints(args.output_dir)):
        fault = fault_of(Path(folder), args)
        if fault is None:
            for line in faults:
                print(f"passed over {line}")
            return str(folder)
        faults.append(f"{folder}: {fault}")
    if faults:
        raise ValueError(f"no whole checkpoint to go on from; {'; '.join(faults)}")
    finished = next(Path(args.output_dir).glob("model*.safetensors"), None)
    if finished and not args.overwrite_output_dir:
        raise ValueError(
            f"{args.output_dir} holds a finished training ({finished.name}) and no whole checkpoint to go on from. To "
            "replace it: --training.overwrite_output_dir true; or choose another --training.output_dir"
        )
    return None


def fault_of(folder: Path, args: CVLSTrainingArguments) -> str | None:
    """Why a training cannot go on exactly from a checkpoint, or None where it can."""
    if not folder.is_dir():
        return "there is no such folder"
    try:
        json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
        weights = {"model.safetensors"}
        index = folder / "model.safetensors.index.json"
        if index.exists():
            named = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
            weights = {check_path(name, "a file of weights") for name in named}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return f"trainer_state.json or the index of the weights cannot be read ({error})"
    if args.is_sharded:  # the engine has a layout of its own, and checks it
        return _changed(folder, set()) if (folder / SUMS).is_file() else None
    rank = f"_{args.process_index}" if args.world_size > 1 else ""
    states = {"optimizer.pt", "scheduler.pt", f"rng_state{rank}.pth"} | ({"scaler.pt"} if args.fp16 else set())
    if args.ema_decay:
        weights.add(TRAINING_WEIGHTS)
    if args.lora_rank:
        weights.add(ADAPTER_WEIGHTS)
    elif (folder / ADAPTER).exists():
        return "it was written with `lora_rank`"
    for name in sorted({"config.json"} | weights | states):
        if not (folder / name).is_file():
            return f"{name} is missing{_explained(name, folder)}"
    if (folder / SUMS).is_file():
        return _changed(folder, {"config.json", "trainer_state.json"} | weights | states)
    return _damaged(folder, weights, states)


def _changed(folder: Path, needed: set[str]) -> str | None:
    """Which file of a checkpoint is not as it was when it was saved."""
    try:
        lines = [line.partition("  ") for line in (folder / SUMS).read_text(encoding="utf-8").splitlines()]
        sums = {check_path(name, "a file's name"): digest for digest, _, name in lines}
    except ValueError as error:
        return f"{SUMS} is damaged ({error})"
    if not needed <= sums.keys():
        return f"{SUMS} is damaged (it does not name {min(needed - sums.keys())})"
    for name, digest in sums.items():
        if not (folder / name).is_file():
            return f"{name} is missing{_explained(name, folder)}"
        if _sha256(folder / name) != digest:
            return f"{name} is damaged (its sum is not the one in {SUMS})"
    return None


def _damaged(folder: Path, weights: set[str], states: set[str]) -> str | None:
    """As `_changed`, as far as can be told of a checkpoint without sums, as they were before version 0.2."""
    for name in sorted(weights):
        try:
            with safe_open(folder / name, "pt"):
                pass
        except (OSError, SafetensorError) as error:
            return f"{name} is damaged ({error})"
    for name in sorted(states):
        try:
            with zipfile.ZipFile(folder / name) as archive:
                damaged = archive.testzip()
        except (OSError, zipfile.BadZipFile) as error:
            damaged = str(error)
        if damaged:
            return f"{name} is damaged ({damaged})"
    return None


def _explained(name: str, folder: Path) -> str:
    if name.startswith("rng_state"):
        number = len(list(folder.glob("rng_state_*.pth"))) or 1
        return f"; it was written by {number} process{'es' * (number > 1)}, and goes on in as many"
    if name == TRAINING_WEIGHTS:
        return "; it was written without `ema_decay`"
    if name == ADAPTER_WEIGHTS:
        return "; it was written without `lora_rank`"
    if name == "optimizer.pt":
        return "; with `save_only_model` a training cannot go on"
    return ""


def check_output_dir(args: CVLSTrainingArguments) -> None:
    """A folder that holds a training takes no second one.

    Raises:
        ValueError: it does, and `args` neither goes on with it nor overwrites it.
    """
    folder = Path(args.output_dir)
    if args.resume_from_checkpoint or args.overwrite_output_dir or not folder.is_dir():
        return
    found = [
        *folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"),
        *folder.glob("model*.safetensors"),
        *folder.glob("*_state.json"),
    ]
    if found:
        raise ValueError(
            f"{folder} holds a training already ({found[0].name}). To go on with it: --training.resume_from_checkpoint "
            "true; to replace it: --training.overwrite_output_dir true; or choose another --training.output_dir"
        )


def only_training(args: CVLSTrainingArguments) -> AbstractContextManager[None]:
    """No second training into the same folder starts inside the `with`.

    Raises:
        ValueError: another one is running.
    """
    if args.process_index > 0:
        return nullcontext()
    another = f"another process is training into {args.output_dir}; choose another output_dir"
    return only_one(Path(args.output_dir) / LOCK, ValueError(another))
