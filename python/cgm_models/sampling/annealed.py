"""Langevin dynamics through a schedule of noise levels or temperatures."""

from __future__ import annotations

from collections.abc import Sequence

from . import options
from .ula import ULA


class AnnealedLangevin(ULA):
    """ULA through levels i = 1 … n, each for ``steps_per_level`` steps; then the last level goes on. One of

    noise levels σ_1 > … > σ_n (Song & Ermon 2019, "Generative modeling by estimating gradients of the data
    distribution"): the energy is called with ``sigma=σ_i`` and is that of the data blurred by N(0, σ_i² I); the steps
    shrink with the noise, h_i = h σ_i²/σ_n². (Their α_i is 2h_i, and their step uses half of it.)

    temperatures T_1 > … > T_n (simulated annealing; Kirkpatrick, Gelatt & Vecchi 1983, "Optimization by simulated
    annealing"): the energy stays, and the steps of size h have the noise √(2hT_i) z, so that level i samples
    exp(−E/T_i). With T_n = 1 the chains end in exp(−E); towards 0 they end in minima of E.

    The schedule counts the steps of the warm-up too, and of the runs that a run continues. Energies of draws are those
    of the level that the next step has.

    Args:
        step_size: h of the last level.
        noise_levels, temperatures: the schedule, one of them; any order is taken, the falling one is meant.
        steps_per_level: steps on each level; ``len(sampler)`` is the length of the whole schedule.
        clamp, max_grad_norm: as for ULA.
    """

    def __init__(
        self,
        step_size: float,
        *,
        noise_levels: Sequence[float] | None = None,
        temperatures: Sequence[float] | None = None,
        steps_per_level: int = 100,
        clamp: Sequence[float] | None = None,
        max_grad_norm: float | None = None,
    ) -> None:
        super().__init__(step_size, clamp=clamp, max_grad_norm=max_grad_norm)
        if (noise_levels is None) == (temperatures is None):
            raise ValueError("give noise_levels or temperatures, and not both")
        self.noise_levels = None if noise_levels is None else options.positives("noise_levels", noise_levels)
        self.temperatures = None if temperatures is None else options.positives("temperatures", temperatures)
        self.steps_per_level = options.whole("steps_per_level", steps_per_level, 1)
        self.n_levels = len(self.noise_levels or self.temperatures or ())

    def __len__(self) -> int:
        return self.n_levels * self.steps_per_level

    def level(self, step: int) -> int:
        """The level, from 0, of the step that follows ``step`` steps."""
        return min(step // self.steps_per_level, self.n_levels - 1)

    def conditions(self, step: int) -> dict[str, float]:
        return {} if self.noise_levels is None else {"sigma": self.noise_levels[self.level(step)]}

    def step_size_at(self, step: int) -> float:
        if self.noise_levels is None:
            return self.step_size
        return self.step_size * (self.noise_levels[self.level(step)] / self.noise_levels[-1]) ** 2

    def temperature_at(self, step: int) -> float:
        return 1.0 if self.temperatures is None else self.temperatures[self.level(step)]

    def alike(self, step: int) -> int:
        if self.level(step) == self.n_levels - 1:
            return super().alike(step)
        return self.steps_per_level - step % self.steps_per_level
