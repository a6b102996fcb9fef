"""Underdamped Langevin dynamics by the BAOAB splitting."""

from __future__ import annotations

import math

from torch import Tensor

from cgm_kernels import normal

from . import options
from .sampler import Sampler
from .state import State
from .target import Target


class UnderdampedLangevin(Sampler):
    """Langevin dynamics with momentum, dx = p dt, dp = −∇E(x) dt − γ p dt + √(2γT) dW, by steps BAOAB:

        p ← p − ½h ∇E(x)                              B
        x ← x + ½h p                                  A
        p ← e^{−γh} p + √((1 − e^{−2γh}) T) z         O
        x ← x + ½h p                                  A
        p ← p − ½h ∇E(x)                              B

    Nothing is rejected. For a quadratic energy the positions have the exact law exp(−E/T) for every stable h, less than
    2/ω for the largest frequency ω = √(curvature), while the momenta have the variance T(1 − h²ω²/4); for other
    energies the law of the positions is off by O(h²).

    Args:
        step_size: h, a time: the √(2h) of ULA's.
        friction: γ; near the frequencies of the energy chains forget fastest, and far above them this is ULA.
        temperature: T, positive.

    Source: Leimkuhler & Matthews 2013, "Rational construction of stochastic numerical methods for molecular sampling".
    """

    def __init__(self, step_size: float, friction: float = 1.0, *, temperature: float = 1.0) -> None:
        super().__init__(step_size, options.positive("temperature", temperature))
        self.friction = options.positive("friction", friction)

    def prepare(self, state: State) -> None:
        self._momentum(state)

    def step(self, state: State, target: Target) -> None:
        h, x, p = self.step_size, state.position, self._momentum(state)
        decay = math.exp(-self.friction * h)
        spread = math.sqrt(-math.expm1(-2.0 * self.friction * h) * self.temperature)
        p = p - 0.5 * h * state.gradient
        x = x + 0.5 * h * p
        p = decay * p + spread * normal(x.shape, state=state.noise, dtype=x.dtype)
        x = x + 0.5 * h * p
        self.arrive(state, target, x)
        state.momentum = p - 0.5 * h * state.gradient

    def _momentum(self, state: State) -> Tensor:
        """The momentum, drawn from its law where there is none."""
        if state.momentum is None:
            x = state.position
            state.momentum = math.sqrt(self.temperature) * normal(x.shape, state=state.noise, dtype=x.dtype)
        return state.momentum
