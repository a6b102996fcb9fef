"""Where a training runs: the Fabric of an accelerator, a strategy and a precision."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch

from .sharding import shard

if TYPE_CHECKING:
    from lightning.fabric import Fabric

ACCELERATORS = ("auto", "cpu", "cuda")
STRATEGIES = ("auto", "single", "ddp", "fsdp")
PRECISIONS = ("32", "16-mixed", "bf16-mixed")


def under_torchrun() -> bool:
    """Whether the processes were started from outside, one call of the program each."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def launched_rank() -> int:
    """The rank of this process under torchrun, else 0."""
    return int(os.environ["RANK"]) if under_torchrun() else 0


def make_fabric(accelerator: str, devices: int, strategy: str, precision: str) -> Fabric:
    """The Fabric; processes not started by torchrun are spawned by it.

    Raises:
        ValueError: if the choices exclude each other or the machine does not have them.
    """
    try:
        from lightning.fabric import Fabric
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"the trainer needs lightning, pip install 'cgm-kernels[models]': {error}") from error
    if accelerator == "auto":
        accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    available = torch.cuda.device_count() if accelerator == "cuda" else devices
    if available < 1 or (available < devices and not under_torchrun()):
        raise ValueError(f"devices must be at most the CUDA devices there are, {available}: got {devices}")
    if precision == "16-mixed" and accelerator == "cpu":
        raise ValueError("precision '16-mixed' needs a CUDA device: on the CPU take 'bf16-mixed'")
    n_nodes = 1
    if under_torchrun():
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        n_nodes = int(os.environ["WORLD_SIZE"]) // devices
    chosen = _strategy(strategy, devices * n_nodes, precision)
    name: Any = {"32": "32-true"}.get(precision, precision)
    return Fabric(accelerator=accelerator, devices=devices, num_nodes=n_nodes, strategy=chosen, precision=name)


def _strategy(strategy: str, world: int, precision: str) -> Any:
    if strategy == "single" and world > 1:
        raise ValueError(f"strategy 'single' runs on one device: got {world}")
    if strategy == "fsdp":
        if world > 1 and not under_torchrun():
            raise ValueError(f"strategy 'fsdp' is started by torchrun --nproc-per-node={world}, not spawned")
        if precision == "16-mixed":
            raise ValueError("strategy 'fsdp' takes precision '32' or 'bf16-mixed': got '16-mixed'")
        from lightning.fabric.strategies import ModelParallelStrategy

        return ModelParallelStrategy(shard, data_parallel_size=world, tensor_parallel_size=1)
    if strategy == "single" or (strategy == "auto" and world == 1):
        return "auto"
    return "ddp" if under_torchrun() else "ddp_spawn"


def reads_every_step(fabric: Fabric) -> bool:
    """Whether the loss may be read in every step: it waits for no device, and no other process has to agree."""
    return fabric.device.type == "cpu" and fabric.world_size == 1


def spawns(fabric: Fabric) -> bool:
    """Whether Fabric starts the processes itself, so that the model has to come back from them."""
    from lightning.fabric.strategies import DDPStrategy

    return isinstance(fabric.strategy, DDPStrategy) and not under_torchrun()
