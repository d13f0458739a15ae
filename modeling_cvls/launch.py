"""How commands start: several processes, also on CPUs, and the checkpoint that they are given."""

import atexit
import dataclasses
import json
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig

from .configuration_cvls import CVLSConfig
from .modeling_cvls import CVLSModel
from .pipeline_cvls import CVLSPipeline
from .processing_cvls import CVLSProcessor

#: The files of a checkpoint that are json.
JSON_FILES = ("config.json", "*processor_config.json", "*token*.json", "model*.index.json")


def prepare_processes() -> None:
    """Call first in a command that several processes may run: one on each GPU, or several on CPUs.

    Processes on CPUs leave their group when the command ends. Otherwise one may abort after its work is done, where
    gloo's threads still hold tensors while the interpreter goes (pytorch/pytorch pull request 179291).

    Raises:
        ValueError: `accelerate launch --cpu` was asked for several processes. It prepares the environment of all of
            them, starts one, and leaves the others to MPI (huggingface/accelerate issue 2741): the one would run alone,
            without a word.
    """
    atexit.register(_leave_group)
    several = os.environ.get("ACCELERATE_USE_CPU") == "True" and "MASTER_ADDR" in os.environ
    started = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
    if several and not any(name in os.environ for name in started):
        raise ValueError(
            "`accelerate launch --cpu` starts only one process, whatever --num_processes says; start N processes with: "
            f"torchrun --nproc-per-node N {shlex.join(sys.argv)}"
        )


def _leave_group() -> None:
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    if distributed and torch.distributed.get_backend() == torch.distributed.Backend.GLOO:
        torch.distributed.destroy_process_group()


def process_state() -> PartialState:
    """Prepares and joins the processes. Accelerate joins those on CPUs only if told so, and they wait for the slowest
    one, which may have long videos."""
    prepare_processes()
    cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    return PartialState(cpu=cpu, timeout=timedelta(days=1))


def check_checkpoint(name: str | Path, argument: str) -> None:
    """Looks at a checkpoint before anything is read or computed. A name on the Hub is only asked for its type.

    Raises:
        OSError, ValueError: naming the argument and the file: `name` is a folder that does not exist, holds another
            model, or holds a file that is damaged. Transformers would look for the first on the Hub, and load the
            second.
    """
    folder = Path(name)
    if not folder.is_dir() and (str(name).startswith((".", "/", "~")) or str(name).count("/") > 1):
        raise FileNotFoundError(f"{argument} {name}: there is no such folder")
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise ValueError(
            f"{argument} {name} holds an adapter (LoRA) alone: give the folder of the checkpoint that it is merged into"
        )
    for path in sorted(found for pattern in JSON_FILES for found in folder.glob(pattern)):
        try:
            json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise _damaged(f"{argument} {path}", error) from error
    with _loading(f"{argument} {folder / 'config.json'}"):
        model_type = AutoConfig.from_pretrained(name).model_type
    if model_type != "cvls":
        raise ValueError(f"{argument} {name} holds a model of type {model_type!r}; one of type 'cvls' was expected")
    for weights in sorted(folder.glob("model*.safetensors")):
        try:
            with safe_open(weights, "pt"):  # which holds the file's size against what its header says
                pass
        except (OSError, SafetensorError) as error:
            raise _damaged(f"{argument} {weights}", error) from error


def load_model(name: str | Path, argument: str, **kwargs) -> CVLSModel:
    """`CVLSModel.from_pretrained` of a checkpoint that is whole.

    Args:
        name: folder or Hub name of the checkpoint.
        argument: how messages call where the name is from, such as "--model".
        kwargs: as `from_pretrained` takes them. Where fields of the configuration are among them, weights that the
            checkpoint lacks are drawn anew, and what is wrong with a field is said as the library says it.

    Raises:
        OSError, ValueError: as `check_checkpoint`; weights are missing or do not fit the configuration.
    """
    check_checkpoint(name, argument)
    changed = kwargs.keys() & {field.name for field in dataclasses.fields(CVLSConfig)}
    with nullcontext() if changed else _loading(f"{argument} {name}: its weights (model.safetensors) or config.json"):
        model, info = CVLSModel.from_pretrained(name, output_loading_info=True, **kwargs)
    missing = sorted(info["missing_keys"])
    if missing and not changed:
        raise ValueError(
            f"{argument} {name}: its weights (model.safetensors) lack {len(missing)} of the model's, such as "
            f"{missing[0]}; save or download it again"
        )
    return model


def load_processor(name: str | Path, argument: str, model: CVLSModel | None = None) -> CVLSProcessor:
    """The processor of a checkpoint.

    Args:
        name, argument: as for `load_model`.
        model: that of the checkpoint, which must have an embedding for every token; None: it is not looked at.

    Raises:
        OSError, ValueError: as `check_checkpoint`; naming the files that may be damaged.
    """
    if model is None:  # which was loaded from files that were looked at
        check_checkpoint(name, argument)
    with _loading(f"{argument} {name}: its processor_config.json, tokenizer.json or tokenizer_config.json"):
        processor = CVLSProcessor.from_pretrained(name)
        processor(videos=np.zeros((1, 32, 32, 3), np.uint8), text="a")  # what is wrong is found here, and not later
        last = max(processor.tokenizer.get_vocab().values())
    if model is not None and last >= (number := model.get_input_embeddings().weight.shape[0]):
        raise ValueError(
            f"{argument} {name}: its tokenizer.json or tokenizer_config.json has tokens up to number {last}, but its "
            f"model.safetensors has embeddings of {number}, from number 0 on; save or download them again"
        )
    return processor


def load_pipeline(name: str | Path, argument: str, device: str | torch.device | None = None) -> CVLSPipeline:
    """The pipeline of a checkpoint on a device; by default on an accelerator where there is one.

    Raises:
        OSError, ValueError: as `load_model` and `load_processor`.
    """
    model = load_model(name, argument)
    return CVLSPipeline(model=model, processor=load_processor(name, argument, model), device=device)


@contextmanager
def _loading(what: str) -> Iterator[None]:
    """Whatever the libraries run into in a damaged file becomes a `ValueError` that names the file."""
    try:
        yield
    except (OSError, ImportError):  # which name the file, the repository or what is not installed
        raise
    except Exception as error:
        raise _damaged(what, error) from error


def _damaged(what: str, error: Exception) -> ValueError:
    why = " ".join(str(error).split()) or type(error).__name__
    return ValueError(f"{what} is damaged ({why[:120]}); save or download it again")
