"""Langevin chains on an energy: the samples that a training contrasts with the data."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from cgm_kernels import langevin_step, mala_accept
from cgm_kernels.langevin import noise_state

SAMPLERS = ("ula", "mala")
EnergyFunction = Callable[[Tensor], Tensor]


class ChainOptions(NamedTuple):
    """How chains move: x' = x − h ∇E(x) + √(2hT) z, K times; with "mala" accepted by Metropolis and Hastings.

    ``clamp`` and ``max_grad_norm`` are those of ``cgm_kernels.langevin_step``. MALA at temperature T has the law
    exp(−E/T) and takes neither of them.
    """

    n_steps: int
    step_size: float
    sampler: str = "ula"
    temperature: float = 1.0
    clamp: tuple[float, float] | None = None
    max_grad_norm: float | None = None


class Evaluated(NamedTuple):
    """Points (n, *event) with their energies (n,) and gradients."""

    x: Tensor
    energy: Tensor
    gradient: Tensor


def evaluate(energy: EnergyFunction, x: Tensor) -> Evaluated:
    """Energy and gradient at ``x``; no gradient of parameters is computed."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = energy(x)
        (gradient,) = torch.autograd.grad(value.sum(), x)
    return Evaluated(x.detach(), value.detach(), gradient)


@torch.no_grad()
def run_chains(energy: EnergyFunction, x: Tensor, options: ChainOptions, generator: Generator | None = None) -> Tensor:
    """Where chains from ``x`` (n, *event) are after ``options.n_steps``; ``x`` itself stays.

    One key of the noise is drawn from ``generator``, a CPU generator, by default torch's own.
    """
    state = noise_state(generator, device=x.device)
    if options.sampler == "mala":
        return _mala(energy, x, options, state)
    x, (_, h, _, temperature, clamp, bound) = x.detach().clone(), options
    for _ in range(options.n_steps):
        gradient = evaluate(energy, x).gradient
        langevin_step(x, gradient, h, temperature=temperature, clamp=clamp, max_grad_norm=bound, state=state, out=x)
    return x


def _mala(energy: EnergyFunction, x: Tensor, options: ChainOptions, state: Tensor) -> Tensor:
    temperature = options.temperature

    def tempered(points: Tensor) -> Tensor:
        return energy(points) / temperature

    now = evaluate(tempered, x)
    for _ in range(options.n_steps):
        proposal = mala_proposal(now, options.step_size * temperature, state)
        now, _ = mala_choose(now, evaluate(tempered, proposal), options.step_size * temperature, state)
    return now.x


def mala_proposal(now: Evaluated, step_size: float, state: Tensor) -> Tensor:
    """x' = x − h ∇E(x) + √(2h) z."""
    return langevin_step(now.x, now.gradient, step_size, state=state)


def mala_choose(now: Evaluated, new: Evaluated, step_size: float, state: Tensor) -> tuple[Evaluated, Tensor]:
    """The proposal ``new`` with the probability min(1, π(x') q(x | x') / (π(x) q(x' | x))), else ``now``.

    Gives also which chains (n,) moved. Here log q(b | a) = −|b − a + h ∇E(a)|² / 4h up to a constant.
    """
    forward = (new.x - now.x + step_size * now.gradient).flatten(1).square().sum(1)
    backward = (now.x - new.x + step_size * new.gradient).flatten(1).square().sum(1)
    log_ratio = now.energy - new.energy + (forward - backward) / (4.0 * step_size)
    x, accepted = mala_accept(now.x, new.x, log_ratio, state=state)
    by_event = accepted.reshape(-1, *[1] * (x.ndim - 1))
    chosen = Evaluated(
        x,
        torch.where(accepted, new.energy, now.energy),
        torch.where(by_event, new.gradient, now.gradient),
    )
    return chosen, accepted
