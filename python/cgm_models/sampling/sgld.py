"""Stochastic gradient Langevin dynamics, and energies of a minibatch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

from cgm_kernels import checks
from cgm_kernels.langevin import noise_state

from . import options
from .noise import uniform
from .ula import ULA


class SGLD(ULA):
    """ULA with stochastic gradients, x ← x − h_t ĝ(x) + √(2 h_t T) z with E ĝ = ∇E, and steps that may shrink.

    ``run`` takes as energy anything whose gradient is right on average: a ``MinibatchEnergy``, a callable that looks at
    another part of the data each time, or an ``EnergyGradient``. Every step evaluates it once, where it arrives. The
    gradient's noise of covariance C adds h²C to a step, and so the law tends to exp(−E/T) as h → 0. With shrinking
    steps, Σ h_t = ∞ and Σ h_t² < ∞, averages Σ h_t f(x_t) / Σ h_t converge to those of exp(−E/T): weigh the draws by
    ``samples.step_size``.

    Args:
        step_size: h, or a function that gives h_t of the step that follows t steps, as ``polynomial_decay``.
        temperature: T.
        clamp, max_grad_norm: as for ULA.

    Source: Welling & Teh 2011, "Bayesian learning via stochastic gradient Langevin dynamics" (their ε_t is 2h_t).
    """

    def __init__(
        self,
        step_size: float | Callable[[int], float],
        *,
        temperature: float = 1.0,
        clamp: Sequence[float] | None = None,
        max_grad_norm: float | None = None,
    ) -> None:
        self.schedule = step_size if callable(step_size) else None
        first = options.positive("step_size(0)", step_size(0)) if callable(step_size) else step_size
        super().__init__(first, temperature=temperature, clamp=clamp, max_grad_norm=max_grad_norm)

    def step_size_at(self, step: int) -> float:
        return self.step_size if self.schedule is None else float(self.schedule(step))

    def alike(self, step: int) -> int:
        return super().alike(step) if self.schedule is None else 1


def polynomial_decay(first: float, *, offset: float = 1.0, power: float = 0.55) -> Callable[[int], float]:
    """h_t = h_0 (1 + t/offset)^−power; its sum is infinite and that of its square finite for a power in (½, 1]."""
    options.positive("first", first)
    options.positive("offset", offset)
    options.not_negative("power", power)
    return lambda step: first * (1.0 + step / offset) ** -power


class MinibatchEnergy:
    """E(x) = prior(x) + Σ_i ℓ(x, y_i) over N data, estimated from n of them, new ones at every call:

        Ê(x) = prior(x) + (N/n) Σ_{i in batch} ℓ(x, y_i),

    drawn with replacement and shared by all chains. Ê and its gradient are right on average.

    Args:
        prior: x -> (chains,), −log of the prior density.
        loss: (x, y) -> (chains,), the sum of −log p(y_i | x) over the rows of y; with several tensors of data
            (x, y₁, y₂, ...).
        data: (N, ...), or several tensors of N rows.
        batch_size: n.
        generator: a CPU generator that the key of the batches is drawn from, default torch's own.
        noise: in place of the generator, the state (key, calls) of an energy to continue: its ``noise``.
    """

    def __init__(
        self,
        prior: Callable[[Tensor], Tensor],
        loss: Callable[..., Tensor],
        data: Tensor | Sequence[Tensor],
        batch_size: int,
        *,
        generator: Generator | None = None,
        noise: Tensor | None = None,
    ) -> None:
        self.prior, self.loss = prior, loss
        self.data = (data,) if isinstance(data, Tensor) else tuple(data)
        sizes = {len(part) if part.ndim else 0 for part in self.data}
        if len(sizes) != 1 or 0 in sizes:
            raise ValueError(
                f"data must be tensors of the same number of rows: got {[tuple(d.shape) for d in self.data]}"
            )
        self.n_data = sizes.pop()
        self.batch_size = checks.count("batch_size", batch_size)
        if noise is not None and generator is not None:
            raise ValueError("give generator or noise, and not both")
        self.noise = noise_state(generator, self.data[0].device) if noise is None else noise.clone()

    def __call__(self, x: Tensor) -> Tensor:
        rows = self._draw()
        return self.prior(x) + (self.n_data / self.batch_size) * self.loss(x, *(part[rows] for part in self.data))

    @torch.no_grad()
    def _draw(self) -> Tensor:
        """The rows of the next batch, as the key and the number of calls have it."""
        rows = (uniform(self.batch_size, self.noise) * self.n_data).long()
        return rows.clamp_(max=self.n_data - 1)  # should a uniform round to 1
