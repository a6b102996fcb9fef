"""Langevin chains as a loop of reference steps: differentiable to any order, and the oracle of the kernels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from . import reference
from .parameters import MixtureParameters, MlpParameters

Noise = Callable[[torch.Size, Tensor, torch.dtype], Tensor]


def chain(
    x: Tensor,
    energy: MixtureParameters | MlpParameters,
    n_steps: int,
    step_size: Tensor | float,
    temperature: Tensor | float,
    max_grad_norm: float,
    low: float,
    high: float,
    state: Tensor,
    normal: Noise,
) -> Tensor:
    """x (chains, d) after ``n_steps`` steps; ``normal`` draws the noise of the state's step and advances it."""
    for _ in range(n_steps):
        noise = normal(x.shape, state, x.dtype)
        x = reference.step(x, energy.gradient(x), noise, step_size, temperature, max_grad_norm, low, high)
    return x
