"""The Langevin operations of the Triton backend: the implementations of the registered operators, in PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from . import reference
from .checks import computed_in


def langevin_step(
    x: Tensor,
    grad: Tensor,
    state: Tensor | None,
    key: int,
    step_sizes: Tensor | None,
    step_size: float,
    temperatures: Tensor | None,
    temperature: float,
    max_grad_norm: float,
    low: float,
    high: float,
) -> Tensor:
    """The step, contiguous."""
    dtype = computed_in(x.dtype)
    noise = reference.normal(x.shape, _source(state, key, x.device), dtype)
    h = step_size if step_sizes is None else step_sizes
    kt = temperature if temperatures is None else temperatures
    return reference.step(x.to(dtype), grad.to(dtype), noise, h, kt, max_grad_norm, low, high).to(x.dtype).contiguous()


def langevin_step_out(
    x: Tensor,
    grad: Tensor,
    state: Tensor | None,
    key: int,
    step_sizes: Tensor | None,
    step_size: float,
    temperatures: Tensor | None,
    temperature: float,
    max_grad_norm: float,
    low: float,
    high: float,
    out: Tensor,
) -> None:
    """The step, written to ``out``, which may overlap x and grad in any way."""
    arguments = (state, key, step_sizes, step_size, temperatures, temperature, max_grad_norm, low, high)
    out.copy_(langevin_step(x, grad, *arguments))


def normal_fill(out: Tensor, state: Tensor | None, key: int) -> None:
    """Standard normals into ``out``."""
    out.copy_(reference.normal(out.shape, _source(state, key, out.device), computed_in(out.dtype)))


def mala_accept(
    x: Tensor, proposal: Tensor, log_ratio: Tensor, state: Tensor | None, key: int
) -> tuple[Tensor, Tensor]:
    """The chosen of x and the proposal, and which chains accept."""
    chosen, accepted = reference.mala_accept(x, proposal, log_ratio, _source(state, key, x.device))
    return chosen.contiguous(), accepted


def _source(state: Tensor | None, key: int, device: torch.device) -> Tensor:
    return torch.tensor((key, 0), dtype=torch.int64, device=device) if state is None else state
