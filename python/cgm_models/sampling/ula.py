"""The unadjusted Langevin algorithm."""

from __future__ import annotations

from collections.abc import Sequence

from cgm_kernels import langevin_step
from cgm_kernels.langevin import checks
from cgm_kernels.langevin.chain import langevin_chain

from .sampler import Sampler
from .state import State
from .target import Target


class ULA(Sampler):
    """x ← x − h ∇E(x) + √(2hT) z: Langevin diffusion in steps of size h, none of them rejected.

    Its stationary law differs from p by O(h): on N(0, s²) with T = 1 the variance is s²/(1 − h/(2s²)), and it diverges
    from h = 2s² on. On an energy of ``cgm_kernels.langevin.energies`` all steps between two draws are one call of
    ``langevin_chain``.

    Args:
        step_size: h.
        temperature: T; 0 is gradient descent.
        clamp: (low, high), within which every number of x is kept after each step, as pixels are. The law is then
            another one.
        max_grad_norm: c; a gradient longer than that, over the event of its chain, is scaled to it.

    Source: Roberts & Tweedie 1996, "Exponential convergence of Langevin distributions and their discrete
    approximations".
    """

    def __init__(
        self,
        step_size: float,
        *,
        temperature: float = 1.0,
        clamp: Sequence[float] | None = None,
        max_grad_norm: float | None = None,
    ) -> None:
        super().__init__(step_size, temperature)
        checks.bounds(clamp)
        checks.norm_bound(max_grad_norm)
        self.clamp = None if clamp is None else (float(clamp[0]), float(clamp[1]))
        self.max_grad_norm = max_grad_norm

    def step(self, state: State, target: Target) -> None:
        moved = langevin_step(
            state.position,
            state.gradient,
            self.step_size_at(state.step),
            temperature=self.temperature_at(state.step),
            clamp=self.clamp,
            max_grad_norm=self.max_grad_norm,
            state=state.noise,
            out=state.position,
        )
        self.arrive(state, target, moved)

    def advance(self, state: State, target: Target, n_steps: int) -> None:
        if target.closed_form is None or not n_steps:
            super().advance(state, target, n_steps)
            return
        end = state.step + n_steps
        while state.step < end:
            part = min(self.alike(state.step), end - state.step)
            state.position = langevin_chain(
                state.position,
                target.closed_form,
                part,
                self.step_size_at(state.step),
                temperature=self.temperature_at(state.step),
                clamp=self.clamp,
                max_grad_norm=self.max_grad_norm,
                state=state.noise,
            )
            state.step += part
        state.energy, state.gradient = target.evaluate(state.position)

    def step_size_at(self, step: int) -> float:
        """h of the step that follows ``step`` steps."""
        return self.step_size

    def temperature_at(self, step: int) -> float:
        """T of the step that follows ``step`` steps."""
        return self.temperature

    def alike(self, step: int) -> int:
        """How many steps from there on have the same h and T, at least."""
        return 1 << 30

    def step_size_of(self, state: State) -> float:
        return self.step_size_at(max(0, state.step - 1))
