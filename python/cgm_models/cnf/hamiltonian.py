"""Flows that keep volumes: Hamiltonian dynamics and antisymmetric gradient fields, whose divergence is zero."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..flows.transform import Transform, on_vectors
from ..nets.constants import register_constant
from ..options import check_choice, check_whole, resolve_event_shape
from .continuous import ContinuousFlow, ContinuousTransform
from .field import Time, VectorField
from .field_potential import Potential
from .solver import Solution, Solver

DYNAMICS = ("separable", "canonical", "antisymmetric")


class DivergenceFreeField(VectorField):
    """A vector field whose divergence is zero by construction; the zero is returned, not computed."""

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
        if frobenius:
            value, _, square = super().divergence(t, x, context, probes=probes, exact=exact, frobenius=True)
            return value, x.new_zeros(len(x)), square
        return self(t, x, context), x.new_zeros(len(x))


class AntisymmetricField(DivergenceFreeField):
    """``v = (B − Bᵀ) ∇H(x, t, context)`` in any dimension: ``div v = Σ_ij (B − Bᵀ)_ij ∂_i ∂_j H = 0``.

    With ``canonical`` the matrix is that of Hamilton's equations for x = (q, p), and fixed: v = (∂_p H, −∂_q H).
    """

    matrix: Tensor

    def __init__(self, hamiltonian: Potential, canonical: bool = False) -> None:
        super().__init__()
        self.hamiltonian = hamiltonian
        dim = hamiltonian.dim
        if canonical:
            half = _half(dim)
            register_constant(self, "matrix", lambda: F.pad(torch.eye(half), (half, 0, 0, half)))
        else:
            self.matrix = nn.Parameter(torch.randn(dim, dim) / math.sqrt(dim))

    def forward(self, t: Time, x: Tensor, context: Tensor | None = None) -> Tensor:
        gradient = self.hamiltonian.gradient(x, t, context)
        return gradient[:, :-1] @ (self.matrix.mT - self.matrix)


class SeparableField(DivergenceFreeField):
    """``d(q, p)/dt = (∂T(p, t)/∂p, −∂V(q, t)/∂q)``: Hamilton's equations for H = T(p) + V(q)."""

    def __init__(self, kinetic: Potential, potential: Potential) -> None:
        super().__init__()
        self.kinetic, self.potential = kinetic, potential

    def forward(self, t: Time, x: Tensor, context: Tensor | None = None) -> Tensor:
        q, p = x.chunk(2, 1)
        return torch.cat((self.velocity(t, p, context), self.force(t, q, context)), 1)

    def velocity(self, t: Time, p: Tensor, context: Tensor | None = None) -> Tensor:
        """∂T/∂p."""
        return self.kinetic.gradient(p, t, context)[:, :-1]

    def force(self, t: Time, q: Tensor, context: Tensor | None = None) -> Tensor:
        """−∂V/∂q."""
        return -self.potential.gradient(q, t, context)[:, :-1]


class VerletTransform(ContinuousTransform):
    """Hamilton's equations of a ``SeparableField`` by the Störmer–Verlet (leapfrog) method, from t = 0 to t = 1.

    A step is ``p += h/2 f(q, t); q += h u(p, t + h/2); p += h/2 f(q, t + h)``: shears, so that the map as computed, not
    only its limit, keeps volumes, and the inverse undoes it to rounding. Of ``solver`` the number of steps counts, and
    whether its gradient is 'discrete' or 'checkpoint'.
    """

    field: SeparableField

    def __init__(self, field: SeparableField, solver: Solver | None = None) -> None:
        super().__init__(field, solver)
        if self.solver.gradient == "adjoint":
            raise ValueError(
                "gradient must be 'discrete' or 'checkpoint' where the steps are leapfrog ones (dynamics='separable'): "
                "got 'adjoint'"
            )

    def solve(
        self,
        x: Tensor,
        context: Tensor | None = None,
        *,
        inverse: bool = False,
        exact: bool | None = None,
        divergence: bool = True,
        regularizers: bool = False,
        state: Tensor | None = None,
    ) -> Solution:
        if regularizers:
            raise ValueError("regularizers are not integrated by leapfrog steps")
        end = self.trajectory(x, 2, context, inverse=inverse)[-1]
        return Solution(end, x.new_zeros(len(x)) if divergence else None, None, None, self.n_evaluations)

    def trajectory(self, x: Tensor, n_times: int, context: Tensor | None = None, *, inverse: bool = False) -> Tensor:
        """``(n_times, batch, dim)``: the states at evenly spaced times; the number of steps is made to divide."""
        n_times = check_whole("n_times", n_times, 2)
        each = math.ceil(self.solver.n_steps / (n_times - 1))
        times = torch.linspace(*((1.0, 0.0) if inverse else (0.0, 1.0)), each * (n_times - 1) + 1, dtype=torch.float64)
        q, p = x.chunk(2, 1)
        path, force = [x], self.field.force(float(times[0]), q, context)
        again = self.solver.gradient == "checkpoint" and torch.is_grad_enabled()
        for index, ends in enumerate(itertools.pairwise(times.tolist()), 1):
            if again:
                q, p, force = checkpoint(
                    self._step, *ends, q, p, force, context, use_reentrant=False, preserve_rng_state=False
                )
            else:
                q, p, force = self._step(*ends, q, p, force, context)
            if index % each == 0:
                path.append(torch.cat((q, p), 1))
        self._solved(len(times))
        return torch.stack(path)

    def _step(
        self, t: float, following: float, q: Tensor, p: Tensor, force: Tensor, context: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(q, p) and the force there, ``force`` that at t."""
        h = following - t
        p = p + 0.5 * h * force
        q = q + h * self.field.velocity(t + 0.5 * h, p, context)
        force = self.field.force(following, q, context)
        return q, p + 0.5 * h * force, force


class HamiltonianFlow(ContinuousFlow):
    """Dynamics of zero divergence carry the base to the data: ``log p(x) = log p_base(z)``.

    No volume changes, so that the density takes the values of the base's, rearranged: choose a base that learns
    ('learnable_normal', 'gaussian_mixture'). The flow begins at the identity. Images are taken for vectors.

    Args:
        dynamics: 'separable', H = T(p) + V(q) for x = (q, p), by leapfrog steps that keep volumes exactly; 'canonical',
            any H(q, p), and 'antisymmetric', (B − Bᵀ) ∇H in any dimension with B learned, both by classical Runge–Kutta
            steps, which keep volumes up to their error (``converged_log_prob`` says when that is small enough).
        width: units of a layer of H, of T and of V.
        n_layers: layers of each.
        n_steps: between the latent and the data.
        gradient: 'discrete' through the steps made; 'checkpoint' the same, of which only the points at the beginning of
            each step are kept and the step is made again in the backward; of Runge–Kutta steps also 'adjoint'.
        base: the base distribution by name, as RealNVP's.
        base_options: the options of the base.
        n_levels: of images with pixels k / (n_levels − 1), which are then dequantised; else the data are continuous.
        logit_alpha: with n_levels, pixels x pass logit(α + (1 − 2α) x) first.
    """

    def __init__(
        self,
        event_shape: Sequence[int] | None = None,
        context_dim: int = 0,
        dynamics: str = "separable",
        width: int = 64,
        n_layers: int = 2,
        n_steps: int = 16,
        gradient: str = "discrete",
        base: str = "normal",
        base_options: dict[str, Any] | None = None,
        n_levels: int | None = None,
        logit_alpha: float = 0.05,
        *,
        dim: int | None = None,
    ) -> None:
        shape = resolve_event_shape(event_shape, dim, context_dim)
        check_choice("dynamics", dynamics, DYNAMICS)
        size = math.prod(shape)

        def network(dim: int) -> Potential:
            made = Potential(dim, width, n_layers, rank=0, context_dim=context_dim)
            nn.init.zeros_(made.output)
            return made

        solver = Solver("rk4", n_steps, gradient=gradient)
        transform: Transform
        if dynamics == "separable":
            transform = VerletTransform(SeparableField(network(_half(size)), network(_half(size))), solver)
        else:
            field = AntisymmetricField(network(size), canonical=dynamics == "canonical")
            transform = ContinuousTransform(field, solver, exact_up_to=size)
        super().__init__(shape, context_dim, on_vectors([transform], shape), base, base_options, n_levels, logit_alpha)


def _half(dim: int) -> int:
    if dim % 2:
        raise ValueError(f"x = (q, p) needs an even number of dimensions: got {dim}; dynamics='antisymmetric' does not")
    return dim // 2
