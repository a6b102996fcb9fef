"""The Metropolis-adjusted Langevin algorithm."""

from __future__ import annotations

from torch import Tensor

from cgm_kernels import langevin_step

from . import options
from .metropolis import inner, metropolis
from .sampler import Sampler
from .state import State
from .target import Target


class MALA(Sampler):
    """A Langevin step is the proposal, y = x − h ∇E(x) + √(2hT) z, accepted with probability

        min(1, π(y) q(x | y) / (π(x) q(y | x))),    q(y | x) = N(y; x − h ∇E(x), 2hT I),

    which makes π(x) ∝ exp(−E(x)/T) the exact stationary law for every h. On N(0, s²) in one dimension the mean
    acceptance is 1 − (2/π)·atan((h/(2s²))^1.5).

    Args:
        step_size: h, where a warm-up starts to look for one that is accepted as wanted.
        temperature: T, positive.
        target_acceptance: what the warm-up aims at, by default the best in many dimensions, 0.574; None keeps h.

    Sources: Besag 1994, in the discussion of Grenander & Miller, "Representations of knowledge in complex systems";
    Roberts & Rosenthal 1998, "Optimal scaling of discrete approximations to Langevin diffusions".
    """

    needs_energy = True

    def __init__(self, step_size: float, *, temperature: float = 1.0, target_acceptance: float | None = 0.574) -> None:
        super().__init__(step_size, options.positive("temperature", temperature))
        if target_acceptance is not None:
            self.target_acceptance = options.share("target_acceptance", target_acceptance)

    def step(self, state: State, target: Target) -> None:
        mala_step(state, target, self.step_size_of(state), self.temperature)


def mala_step(state: State, target: Target, step_size: float | Tensor, temperature: float | Tensor) -> None:
    """One proposal and its acceptance; h and T are numbers or tensors () or (rows,)."""
    x, energy, gradient = state.position, state.energy, state.gradient
    proposal = langevin_step(x, gradient, step_size, temperature=temperature, state=state.noise)
    there, gradient_there = target.evaluate(proposal)
    log_ratio = mala_log_ratio(x, proposal, energy, there, gradient, gradient_there, step_size, temperature)
    metropolis(state, proposal, there, gradient_there, log_ratio)


def mala_log_ratio(
    x: Tensor,
    y: Tensor,
    energy_x: Tensor,
    energy_y: Tensor,
    gradient_x: Tensor,
    gradient_y: Tensor,
    step_size: float | Tensor,
    temperature: float | Tensor,
) -> Tensor:
    """``(chains,)``: log π(y) q(x | y) − log π(x) q(y | x), multiplied out so that nothing is divided by h:

        [E(x) − E(y) + ½⟨∇E(x) + ∇E(y), y − x + ½h(∇E(x) − ∇E(y))⟩] / T.

    With h = 0 in the brackets it is the error of the trapezoidal rule for E(y) − E(x), of third order in y − x.
    """
    if isinstance(step_size, Tensor) and step_size.ndim:
        step_size = step_size.view(-1, *[1] * (x.ndim - 1))
    path = y - x + 0.5 * step_size * (gradient_x - gradient_y)
    return (energy_x - energy_y + 0.5 * inner(gradient_x + gradient_y, path)) / temperature
