"""log Z of an energy by annealed importance sampling, with its error."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from cgm_kernels import normal
from cgm_kernels.langevin import noise_state

from ..options import check_whole
from .chains import EnergyFunction, Evaluated, evaluate, mala_choose, mala_proposal

_ACCEPTANCE = 0.6  # near the optimum of MALA, which is 0.574 in many dimensions
_PILOT_EVERY = 4


class LogPartition(NamedTuple):
    """log ∫ exp(−E(x)) dx, its standard error, and how good the weights are.

    ``effective_sample_size`` is (Σw)²/Σw² of the weights of the chains, ``acceptance`` the mean of the moves. An error
    that comes from a handful of effective samples is itself not to be trusted: take more temperatures.
    """

    value: float
    error: float
    effective_sample_size: float
    acceptance: float


def log_partition(
    energy: EnergyFunction,
    event_shape: Sequence[int],
    *,
    mean: Tensor | float = 0.0,
    std: Tensor | float = 1.0,
    n_chains: int = 1000,
    n_temperatures: int = 500,
    generator: Generator | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> LogPartition:
    """log ∫ exp(−E(x)) dx by annealed importance sampling (Neal 2001).

    ``energy`` maps points ``(n, *event)`` to ``(n,)``. Chains go from N(mean, std²), of independent dimensions, to
    exp(−E); a base as wide as the law or wider serves best. The expectation of Ẑ is Z, whence that of log Ẑ lies a
    little below log Z. ``generator`` is a CPU generator.
    """
    base = Base(mean, std, tuple(event_shape), dtype or torch.get_default_dtype(), device)
    weights, acceptance = annealed_log_weights(energy, base, n_chains, n_temperatures, generator)
    return summarise(weights, acceptance)


def summarise(log_weights: Tensor, acceptance: float) -> LogPartition:
    """What weights of independent chains say of log Z, with the standard error of log of a mean."""
    n = len(log_weights)
    value = float(torch.logsumexp(log_weights, 0)) - math.log(n)
    relative = (log_weights - value).exp()
    error = float(relative.std()) / math.sqrt(n) if n > 1 else math.inf
    ess = float(relative.sum().square() / relative.square().sum())
    return LogPartition(value, error, ess, acceptance)


class Base:
    """N(mean, std²) of independent dimensions, where the chains begin."""

    def __init__(
        self,
        mean: Tensor | float,
        std: Tensor | float,
        event_shape: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device | str | None = None,
    ) -> None:
        self.shape = event_shape
        self.mean, self.std = (torch.as_tensor(v, dtype=dtype, device=device).expand(event_shape) for v in (mean, std))
        if not bool((self.std > 0).all()):
            raise ValueError("std must be positive: got a value that is not")
        self._constant = float(self.std.double().log().sum()) + 0.5 * math.prod(event_shape) * math.log(2 * math.pi)

    def draw(self, n: int, generator: Generator | None) -> Tensor:
        z = normal((n, *self.shape), generator=generator, dtype=self.mean.dtype, device=self.mean.device)
        return self.mean + self.std * z

    def energy(self, x: Tensor) -> Tensor:
        """−log of the density: ``(n, *event) -> (n,)``."""
        return 0.5 * ((x - self.mean) / self.std).flatten(1).square().sum(1) + self._constant

    def gradient(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std.square()


@torch.no_grad()
def annealed_log_weights(
    energy: EnergyFunction, base: Base, n_chains: int, n_temperatures: int, generator: Generator | None = None
) -> tuple[Tensor, float]:
    """log w ``(n_chains,)`` in float64, the mean of w being an unbiased estimate of Z, and the mean acceptance.

    The chains pass the laws exp(−(1−β) E₀ − β E), β from 0 to 1 along a sigmoid, with one step of MALA at each. The
    step sizes come from a pilot run on other noise, so that the chains that count have fixed ones.
    """
    n_chains = check_whole("n_chains", n_chains, 2)
    n_temperatures = check_whole("n_temperatures", n_temperatures, 8)
    betas = _betas(n_temperatures)
    start = float(base.std.square().mean()) * base.mean.numel() ** (-1.0 / 3.0)
    pilot = _anneal(energy, base, n_chains, betas[::_PILOT_EVERY], None, start, generator)
    steps = _interpolated(pilot.step_sizes, len(betas))
    run = _anneal(energy, base, n_chains, betas, steps, start, generator)
    return run.log_weights, run.acceptance


class _Run(NamedTuple):
    log_weights: Tensor
    step_sizes: list[float]
    acceptance: float


def _anneal(
    energy: EnergyFunction,
    base: Base,
    n: int,
    betas: list[float],
    step_sizes: list[float] | None,
    start: float,
    generator: Generator | None,
) -> _Run:
    """One run; without ``step_sizes`` they follow the acceptance of the last move, beginning at ``start``."""
    state = noise_state(generator, device=base.mean.device)
    now = evaluate(energy, base.draw(n, generator))
    log_weights = torch.zeros(n, dtype=torch.float64, device=now.x.device)
    used, moved, h = [], 0.0, start
    for t, (before, beta) in enumerate(itertools.pairwise(betas)):
        log_weights += (beta - before) * (base.energy(now.x).double() - now.energy.double())
        h = h if step_sizes is None else step_sizes[t]
        now, rate = _move(energy, base, now, beta, h, state)
        used.append(h)
        moved += rate
        h *= math.exp(rate - _ACCEPTANCE)
    return _Run(log_weights, used, moved / len(used))


def _move(
    energy: EnergyFunction, base: Base, now: Evaluated, beta: float, h: float, state: Tensor
) -> tuple[Evaluated, float]:
    """One step of MALA at β. What is kept of a point is E and its gradient, from which those at every β follow."""

    def at_beta(point: Evaluated) -> Evaluated:
        value = torch.lerp(base.energy(point.x), point.energy, beta)
        return Evaluated(point.x, value, torch.lerp(base.gradient(point.x), point.gradient, beta))

    annealed = at_beta(now)
    new = evaluate(energy, mala_proposal(annealed, h, state))
    chosen, accepted = mala_choose(annealed, at_beta(new), h, state)
    by_event = accepted.reshape(-1, *[1] * (new.x.ndim - 1))
    kept = Evaluated(
        chosen.x,
        torch.where(accepted, new.energy, now.energy),
        torch.where(by_event, new.gradient, now.gradient),
    )
    return kept, float(accepted.float().mean())


def _betas(n: int) -> list[float]:
    """0 = β_0 < ... < β_n = 1, closer together at both ends."""
    curve = torch.sigmoid(torch.linspace(-4.0, 4.0, n + 1, dtype=torch.float64))
    curve = (curve - curve[0]) / (curve[-1] - curve[0])
    return [0.0, *curve[1:-1].tolist(), 1.0]


def _interpolated(step_sizes: list[float], n: int) -> list[float]:
    """Step sizes of the pilot, smoothed, at ``n`` temperatures; linear in their logarithm."""
    logs = torch.tensor(step_sizes, dtype=torch.float64).log()[None, None]
    smooth = torch.nn.functional.avg_pool1d(torch.nn.functional.pad(logs, (2, 2), mode="replicate"), 5, 1)
    return torch.nn.functional.interpolate(smooth, n, mode="linear", align_corners=True)[0, 0].exp().tolist()
