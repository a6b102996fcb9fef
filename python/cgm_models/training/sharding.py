"""Tensors that FSDP spreads over the processes, and the whole tensors they stand for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


def shard(module: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Spread parameters, gradients and the optimiser's state over the processes, beginning from those of the first."""
    from torch.distributed.fsdp import fully_shard

    for tensor in [*module.parameters(), *module.buffers()]:
        torch.distributed.broadcast(tensor.detach(), 0)
    fully_shard(module, mesh=mesh["data_parallel"])  # in place
    return module


def whole(tensor: Tensor) -> Tensor:
    """``tensor`` gathered from all processes, if it is spread over them; all must ask for it."""
    return tensor.full_tensor() if _is_spread(tensor) else tensor  # type: ignore[attr-defined]


def own_part(tensor: Tensor) -> Tensor:
    """The part that this process holds, in the same memory."""
    return tensor.to_local() if _is_spread(tensor) else tensor  # type: ignore[attr-defined]


def spread_as(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole ``tensor``, the same in all processes, spread as ``like`` is, if that is and the shapes agree."""
    if not _is_spread(like) or tensor.shape != like.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = like.device_mesh, like.placements  # type: ignore[attr-defined]
    return distribute_tensor(tensor.to(like.device), mesh, placements, src_data_rank=None)


def _is_spread(tensor: Tensor) -> bool:
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)
