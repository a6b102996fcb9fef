"""Accept or reject: what makes a proposal exact."""

from __future__ import annotations

import torch
from torch import Tensor

from cgm_kernels import mala_accept

from .state import State


def metropolis(state: State, proposal: Tensor, energy: Tensor, gradient: Tensor, log_ratio: Tensor) -> None:
    """Move the chains that accept to ``proposal``, where the energy and its gradient are given; the others stay.

    A chain accepts with probability min(1, exp(log_ratio)), and never where the energy is not finite or the ratio NaN.
    """
    log_ratio = torch.where(energy.isfinite(), log_ratio, -torch.inf)
    state.position, accepted = mala_accept(state.position, proposal, log_ratio, state=state.noise)
    state.energy = torch.where(accepted, energy, state.energy)
    moved = accepted.view(-1, *[1] * (gradient.ndim - 1))
    state.gradient = torch.where(moved, gradient, state.gradient)
    state.statistics = {"acceptance": acceptance_probability(log_ratio)}
    state.step += 1


def acceptance_probability(log_ratio: Tensor) -> Tensor:
    """min(1, e^ratio), 0 for NaN."""
    return log_ratio.clamp(max=0.0).exp().nan_to_num(0.0)


def inner(a: Tensor, b: Tensor) -> Tensor:
    """⟨a, b⟩ of each chain, ``(chains,)``."""
    product = a * b
    return product if a.ndim == 1 else product.flatten(1).sum(1)
