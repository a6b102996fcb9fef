"""Where a training runs: the Fabric of an accelerator, a strategy and a precision."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch

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
    from lightning.fabric import Fabric

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
    chosen = _strategy(strategy, devices * n_nodes, accelerator)
    name: Any = {"32": "32-true"}.get(precision, precision)
    return Fabric(accelerator=accelerator, devices=devices, num_nodes=n_nodes, strategy=chosen, precision=name)


def _strategy(strategy: str, world: int, accelerator: str) -> Any:
    if strategy == "single" and world > 1:
        raise ValueError(f"strategy 'single' runs on one device: got {world}")
    if strategy == "fsdp":
        if world > 1 and not under_torchrun():
            raise ValueError(f"strategy 'fsdp' is started by torchrun --nproc-per-node={world}, not spawned")
        return _fully_sharded()
    if strategy == "single" or (strategy == "auto" and world == 1):
        return "auto"
    return "ddp" if under_torchrun() else "ddp_spawn"


def _fully_sharded() -> Any:
    from lightning.fabric.strategies import FSDPStrategy

    # Fabric keeps its own class to GPUs; a subclass of it runs on gloo as well, as FSDP itself does.
    class FullySharded(FSDPStrategy):
        pass

    return FullySharded(sync_module_states=True)


def spawns(fabric: Fabric) -> bool:
    """Whether Fabric starts the processes itself, so that the model has to come back from them."""
    from lightning.fabric.strategies import DDPStrategy

    return isinstance(fabric.strategy, DDPStrategy) and not under_torchrun()
