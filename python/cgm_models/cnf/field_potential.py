"""The gradient of a potential as a vector field, its divergence in closed form (OT-Flow)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cgm_kernels import PotentialFlow, potential_divergence, potential_flow, potential_gradient, potential_value
from cgm_kernels.divergence.tableaus import TABLEAUS

from ..options import check_positive, check_whole
from .field import Time, VectorField
from .solver import Solution, Solver


class Potential(nn.Module):
    """``Φ(x, τ | c) = w·N(x, τ, c) + ½ |A s|² + b·s`` with s = (x, τ): the potential of OT-Flow (Onken et al. 2021).

    N is a residual network of ``n_layers`` layers of one width, its activation log(2 cosh), the antiderivative of tanh;
    ``cgm_kernels.potential_divergence`` holds the formulas.

    Args:
        dim: of x.
        width: m, units in a layer.
        n_layers: M, the opening layer included.
        rank: of A (rank, dim + 1); 10, or the dimension where that is less, by default, and 0 for no such term.
        context_dim: of c.
        frequency: the opening layer begins so many times as large as ``nn.Linear`` makes it. Data that are fine beside
            their distance from the origin are learned many times faster with 4 to 8.
    """

    def __init__(
        self,
        dim: int,
        width: int = 32,
        n_layers: int = 2,
        rank: int | None = None,
        context_dim: int = 0,
        frequency: float = 1.0,
    ) -> None:
        super().__init__()
        width = check_whole("width", width, 1)
        n_layers = check_whole("n_layers", n_layers, 1)
        rank = min(10, dim) if rank is None else rank
        rank = check_whole("rank", rank, 0)
        check_positive("frequency", frequency)
        self.dim = dim
        inputs = [dim + 1 + context_dim, *[width] * (n_layers - 1)]
        self.layers = nn.ModuleList(nn.Linear(n, width) for n in inputs)
        with torch.no_grad():
            for parameter in self.layers[0].parameters():
                parameter.mul_(frequency)
        self.output = nn.Parameter(torch.full((width,), 3.0 / width))
        self.quadratic = nn.Parameter(nn.init.xavier_uniform_(torch.empty(rank, dim + 1))) if rank else None
        self.linear = nn.Parameter(torch.zeros(dim + 1))

    def forward(self, x: Tensor, time: Time, context: Tensor | None = None) -> Tensor:
        """Φ, (batch,)."""
        return potential_value(x, time, **self._network(), context=context)

    def derivatives(self, x: Tensor, time: Time, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``(∇Φ, ΔΦ)``: the gradient by x and τ, (batch, dim + 1), and the Laplacian in x, (batch,)."""
        return potential_divergence(x, time, **self._network(), context=context)

    def gradient(self, x: Tensor, time: Time, context: Tensor | None = None) -> Tensor:
        """∇Φ alone, (batch, dim + 1)."""
        return potential_gradient(x, time, **self._network(), context=context)

    def flow(
        self,
        x: Tensor,
        times: Sequence[float],
        mass: float = 1.0,
        context: Tensor | None = None,
        *,
        divergence: bool = True,
    ) -> PotentialFlow:
        """Points carried along −∇_xΦ / mass from the first of ``times`` to the last, and what is integrated beside."""
        return potential_flow(x, **self._network(), times=times, mass=mass, context=context, divergence=divergence)

    def _network(self) -> dict[str, Any]:
        """The arguments of the operations by name."""
        weights, biases = [layer.weight for layer in self.layers], [layer.bias for layer in self.layers]
        rest = {"quadratic": self.quadratic, "linear": self.linear}
        return {"weights": weights, "biases": biases, "output": self.output, **rest}


class PotentialField(VectorField):
    """``v(t, x) = ∇_xΦ(x, 1 − t) / mass``, ``div v = Δ_xΦ / mass``.

    τ = 1 − t is the time of the potential, which runs from the data to the latent as in the paper: there dx/dτ is
    −∇_xΦ / mass.
    """

    def __init__(self, potential: Potential, mass: float = 1.0) -> None:
        super().__init__()
        check_positive("mass", mass)
        self.potential, self.mass = potential, mass

    def forward(self, t: Time, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self._by_mass(self.potential.gradient(x, 1.0 - t, context)[:, :-1])

    def divergence(
        self,
        t: Time,
        x: Tensor,
        context: Tensor | None = None,
        *,
        probes: Tensor | None = None,
        exact: bool = False,
        frobenius: bool = False,
    ) -> tuple[Tensor, ...]:
        if probes is not None or frobenius:
            return super().divergence(t, x, context, probes=probes, exact=exact, frobenius=frobenius)
        gradient, laplacian = self.potential.derivatives(x, 1.0 - t, context)
        return self._by_mass(gradient[:, :-1]), self._by_mass(laplacian)

    def flow(
        self,
        x: Tensor,
        context: Tensor | None,
        solver: Solver,
        start: float,
        end: float,
        *,
        probes: Tensor | None,
        exact: bool,
        regularizers: bool,
    ) -> Solution | None:
        if solver.method != "rk4" or probes is not None or regularizers:
            return None
        found = self.carried(x, context, solver, start, end, divergence=exact)
        return Solution(found.x, found.divergence, None, None, solver.n_steps * TABLEAUS["rk4"].stages)

    def carried(
        self,
        x: Tensor,
        context: Tensor | None,
        solver: Solver,
        start: float,
        end: float,
        *,
        divergence: bool = True,
    ) -> PotentialFlow:
        """Points from time ``start`` to ``end`` with what is integrated over τ beside them, by steps of RK4."""
        times = [1.0 - t for t in solver.times(start, end)]

        def carry(x: Tensor, context: Tensor | None, *ends: float) -> PotentialFlow:
            return self.potential.flow(x, ends, self.mass, context, divergence=divergence)

        if solver.gradient != "checkpoint" or not torch.is_grad_enabled():
            return carry(x, context, *times)
        whole = PotentialFlow(x, x.new_zeros(len(x)) if divergence else None, *x.new_zeros(2, len(x)).unbind())
        for ends in itertools.pairwise(times):
            step = checkpoint(carry, whole.x, context, *ends, use_reentrant=False, preserve_rng_state=False)
            measured = None if whole.divergence is None else whole.divergence + step.divergence
            whole = PotentialFlow(step.x, measured, whole.transport + step.transport, whole.penalty + step.penalty)
        return whole

    def _by_mass(self, value: Tensor) -> Tensor:
        return value if self.mass == 1.0 else value / self.mass
