"""Vector fields: what a continuous flow integrates."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from cgm_kernels import hutchinson_divergence

from .solver import Solution, Solver

Time = float | Tensor
"""A number, or a tensor of shape ()."""


class VectorField(nn.Module):
    """``dx/dt = v(t, x, context)`` of points ``(batch, dim)``; the context is None or ``(batch, context_dim)``.

    A subclass implements ``forward``, and ``divergence`` where it knows a better way than automatic differentiation.
    """

    def forward(self, t: Time, x: Tensor, context: Tensor | None = None) -> Tensor:
        """``v``, of the shape of ``x``."""
        raise NotImplementedError

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
        """``(v, div v)`` and, if asked for, ``mean_p |e_pᵀ J|²``, J = ∂v/∂x: (batch, dim), (batch,), (batch,).

        The divergence is the mean of ``e_pᵀ J e_p`` over the probes (P, batch, dim), or the trace of J where ``exact``
        is true; the third is then ``|J|²_F``, which for probes of unit covariance is its mean.
        """
        if exact == (probes is not None):
            raise ValueError("give probes or exact=True, and not both")
        if probes is None:
            # Σ_i e_iᵀ J e_i is the mean over the probes √d e_i.
            dim = x.shape[1]
            probes = (math.sqrt(dim) * torch.eye(dim, dtype=x.dtype, device=x.device))[:, None].expand(-1, len(x), -1)
        if not frobenius:
            return hutchinson_divergence(lambda points: self(t, points, context), x, probes=probes)
        return _with_frobenius(lambda points: self(t, points, context), x, probes)

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
        """The whole solve by a solver of fixed steps, where the field has a kernel for it; else None."""
        return None


class ModuleField(VectorField):
    """Any module ``net(t, x)``, or ``net(t, x, context)`` where a context is given, as a vector field."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, t: Time, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.net(t, x) if context is None else self.net(t, x, context)


def _with_frobenius(fn: Callable[[Tensor], Tensor], x: Tensor, probes: Sequence[Tensor] | Tensor) -> tuple[Tensor, ...]:
    differentiable = torch.is_grad_enabled()
    with torch.enable_grad():
        points = x.view_as(x) if differentiable and x.requires_grad else x.detach().requires_grad_()
        value = fn(points)
        if not value.requires_grad:
            return value, x.new_zeros(len(x)), x.new_zeros(len(x))
        divergence, square = x.new_zeros(len(x)), x.new_zeros(len(x))
        for probe in probes:
            (row,) = torch.autograd.grad(
                value, points, probe, create_graph=differentiable, retain_graph=True, materialize_grads=True
            )
            divergence = divergence + torch.linalg.vecdot(row, probe)
            square = square + torch.linalg.vecdot(row, row)
    results = (value, divergence / len(probes), square / len(probes))
    return results if differentiable else tuple(result.detach() for result in results)
