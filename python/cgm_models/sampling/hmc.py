"""Hamiltonian Monte Carlo."""

from __future__ import annotations

import math

from torch import Tensor

from cgm_kernels import normal

from . import options
from .metropolis import inner, metropolis
from .noise import uniform
from .sampler import Sampler
from .state import State
from .target import Target

_DIVERGED = 1000.0  # an error of the energy that no stable trajectory makes; the bound of Stan


class HMC(Sampler):
    """A fresh momentum p ~ N(0, T I), then L leapfrog steps of size h through H(x, p) = E(x) + ½‖p‖²,

        p ← p − ½h ∇E(x),    x ← x + h p,    p ← p − ½h ∇E(x),

    whose end is accepted with probability min(1, exp((H(x, p) − H(x′, p′))/T)). The leapfrog keeps volumes and is its
    own inverse once p is reversed, hence the stationary law is exp(−E/T) for every h.

    The statistic ``diverging`` tells which trajectories the leapfrog lost: an error of H beyond 1000 T, or not finite.

    Args:
        step_size: h, where a warm-up starts to look for one that is accepted as wanted.
        n_leapfrog: L; a trajectory needs L + 1 gradients, of which the first is that of the last draw.
        temperature: T, positive.
        target_acceptance: what the warm-up aims at, by default 0.8; None keeps h.
        jitter: a share of h; each trajectory has its own step size, uniform on h(1 ± jitter), so that none keeps in
            step with a period of the energy.

    Sources: Duane, Kennedy, Pendleton & Roweth 1987, "Hybrid Monte Carlo"; Neal 2011, "MCMC using Hamiltonian
    dynamics".
    """

    needs_energy = True

    def __init__(
        self,
        step_size: float,
        n_leapfrog: int = 10,
        *,
        temperature: float = 1.0,
        target_acceptance: float | None = 0.8,
        jitter: float = 0.0,
    ) -> None:
        super().__init__(step_size, options.positive("temperature", temperature))
        self.n_leapfrog = options.whole("n_leapfrog", n_leapfrog, 1)
        if target_acceptance is not None:
            self.target_acceptance = options.share("target_acceptance", target_acceptance)
        self.jitter = options.not_negative("jitter", jitter)
        if self.jitter >= 1.0:
            raise ValueError(f"jitter must be less than 1: got {jitter}")

    def step(self, state: State, target: Target) -> None:
        x = state.position
        p = math.sqrt(self.temperature) * normal(x.shape, state=state.noise, dtype=x.dtype)
        h = self._step_sizes(state)
        y, q, energy, gradient = leapfrog(target, x, p, state.gradient, h, self.n_leapfrog)
        error = energy - state.energy + 0.5 * (inner(q, q) - inner(p, p))
        metropolis(state, y, energy, gradient, -error / self.temperature)
        # Written so that NaN counts as diverged.
        state.statistics["diverging"] = (~(error <= _DIVERGED * self.temperature)).to(x.dtype)

    def _step_sizes(self, state: State) -> float | Tensor:
        """h, or where it is jittered h of each chain, (chains, 1, …)."""
        h, x = self.step_size_of(state), state.position
        if not self.jitter:
            return h
        u = uniform(len(x), state.noise, x.dtype)
        return h * (1.0 - self.jitter + 2.0 * self.jitter * u).view(-1, *[1] * (x.ndim - 1))


def leapfrog(
    target: Target, x: Tensor, p: Tensor, gradient: Tensor, h: float | Tensor, n_steps: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``(x, p, E(x), ∇E(x))`` after ``n_steps`` leapfrog steps of size h from (x, p), where the gradient is given."""
    p = p - 0.5 * h * gradient
    for _ in range(n_steps - 1):
        x = x + h * p
        p = p - h * target.gradient(x)
    x = x + h * p
    energy, gradient = target.evaluate(x)
    return x, p - 0.5 * h * gradient, energy, gradient
