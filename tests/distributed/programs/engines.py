"""Two processes train the tiny segmenter by each engine; what they found is written as JSON and as a checkpoint.

torchrun --nproc-per-node 2 engines.py FOLDER
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from accelerate import FullyShardedDataParallelPlugin
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from factories import ROOT, random_batch, tiny_config
from modeling_cvls import CVLSModel

STEPS = 3


def new_model() -> CVLSModel:
    """In evaluation mode: batch norms count each process's own clips otherwise."""
    torch.manual_seed(0)
    return CVLSModel(tiny_config()).eval()


def batch_of(step: int, rank: int) -> dict[str, torch.Tensor]:
    """The clips of a process; in the second step no sentence has a referent."""
    batch = random_batch(clips=1, frames=2, seed=10 * step + rank)
    if step == 1:
        batch["referents"][:] = False
    return batch


def optimizer_of(model: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05, momentum=0.9)


def train(model: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> list[float]:
    losses = []
    for step in steps:
        optimizer.zero_grad()
        loss = model(**batch_of(step, dist.get_rank())).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def with_ddp(folder: Path) -> dict:
    """Without a search for parameters that have no gradient: there are none."""
    model = new_model()
    wrapped = DistributedDataParallel(model, find_unused_parameters=False)
    losses = train(wrapped, optimizer_of(model), range(STEPS))
    if dist.get_rank() == 0:
        model.save_pretrained(folder / "model")
    return {"losses": losses}


def sharded() -> CVLSModel:
    """What accelerate makes of the model by the configuration that comes with the project; its Accelerator itself has
    FSDP2 for accelerators only."""
    settings = load_config_from_file(str(ROOT / "configs" / "accelerate" / "fsdp2.yaml")).fsdp_config
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=settings["fsdp_version"],
        auto_wrap_policy=settings["fsdp_auto_wrap_policy"].lower(),
        reshard_after_forward=settings["fsdp_reshard_after_forward"],
        cpu_ram_efficient_loading=settings["fsdp_cpu_ram_efficient_loading"],
    )
    state = SimpleNamespace(fsdp_plugin=plugin)
    accelerator = SimpleNamespace(state=state, mixed_precision="no", device=torch.device("cpu"), is_main_process=True)
    return fsdp2_prepare_model(accelerator, new_model())


def with_fsdp(folder: Path) -> dict:
    """Trains, saves before the last step, goes on in a new model from there, and saves the whole."""
    model = sharded()
    assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
    optimizer = optimizer_of(model)
    losses = train(model, optimizer, range(STEPS - 1))
    weights, states = get_state_dict(model, optimizer)
    dcp.save({"model": weights, "optimizer": states}, checkpoint_id=folder / "state")
    losses += train(model, optimizer, range(STEPS - 1, STEPS))

    again = sharded()
    optimizer = optimizer_of(again)
    weights, states = get_state_dict(again, optimizer)
    dcp.load({"model": weights, "optimizer": states}, checkpoint_id=folder / "state")
    set_state_dict(again, optimizer, model_state_dict=weights, optim_state_dict=states)
    resumed = train(again, optimizer, range(STEPS - 1, STEPS))
    whole = get_model_state_dict(again, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if dist.get_rank() == 0:
        again.save_pretrained(folder / "model", state_dict=whole)
    return {"losses": losses, "resumed": resumed}


def main(folder: str) -> None:
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    for engine, run in (("ddp", with_ddp), ("fsdp", with_fsdp)):
        output = Path(folder) / engine
        output.mkdir(exist_ok=True)
        (output / f"{dist.get_rank()}.json").write_text(json.dumps(run(output)))
        dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
