"""Langevin steps in plain PyTorch: differentiable to any order, and the oracle of the kernels.

Tensors are float32 or float64 here; the state is always given, and advanced.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import philox
from .state import uniform_step


def normal(shape: Sequence[int], state: Tensor, dtype: torch.dtype) -> Tensor:
    """The standard normals of the state's step."""
    z = philox.normal_reference(shape, state[0], state[1], dtype=dtype, device=state.device)
    state[1] += 1
    return z


def step(
    x: Tensor,
    grad: Tensor,
    noise: Tensor,
    step_size: Tensor | float,
    temperature: Tensor | float,
    max_grad_norm: float,
    low: float,
    high: float,
) -> Tensor:
    """x − h·g + √(2hT)·z within [low, high], with given noise z.

    h and T are numbers or tensors () or (chains,); an infinite ``max_grad_norm``, ``low`` or ``high`` asks for nothing.
    """
    if max_grad_norm < float("inf"):
        grad = project(grad, max_grad_norm)
    h, temperature = _along_chains(step_size, x), _along_chains(temperature, x)
    variance = 2.0 * h * temperature
    deviation = variance.sqrt() if isinstance(variance, Tensor) else variance**0.5
    moved = x - h * grad + deviation * noise
    return moved.clamp(low, high) if low > -float("inf") or high < float("inf") else moved


def project(grad: Tensor, max_norm: float) -> Tensor:
    """g·min(1, c/‖g‖) of each chain; a chain whose norm is NaN or infinite becomes NaN.

    The norm is that of g over its largest element, so that it overflows only where an element does.
    """
    if grad.numel() == 0:
        return grad
    dims = list(range(1, grad.dim())) or [-1]
    flat = grad if grad.dim() > 1 else grad.unsqueeze(-1)
    largest = flat.detach().abs().amax(dims, keepdim=True)
    largest = torch.where(largest == 0, torch.ones_like(largest), largest)
    relative = torch.linalg.vector_norm(flat / largest, dim=dims, keepdim=True)
    exceeds = ~(relative * largest <= max_norm)
    # A tensor over a tensor: PyTorch takes a number over one as a product with the reciprocal, which may overflow.
    scale = (torch.full_like(largest, max_norm) / largest) / torch.where(exceeds, relative, torch.ones_like(relative))
    finite = relative.detach().isfinite() & largest.isfinite()
    scale = torch.where(finite, torch.where(exceeds, scale, torch.ones_like(scale)), torch.full_like(scale, torch.nan))
    return (flat * scale).reshape(grad.shape)


def _along_chains(value: Tensor | float, x: Tensor) -> Tensor | float:
    return value.reshape(-1, *[1] * (x.dim() - 1)) if isinstance(value, Tensor) and value.dim() == 1 else value


def mala_accept(x: Tensor, proposal: Tensor, log_ratio: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """The proposal where log u < log_ratio, else x; log u in float64."""
    u = philox.uniform(log_ratio.shape, state[0], uniform_step(state), device=state.device)
    state[1] += 1
    accepted = u.log() < log_ratio.double()
    return choose(accepted, x, proposal), accepted


def choose(accepted: Tensor, x: Tensor, proposal: Tensor) -> Tensor:
    """The proposal for the chains that are accepted, x for the others."""
    return torch.where(accepted.reshape((*accepted.shape, *[1] * (x.dim() - accepted.dim()))), proposal, x)
