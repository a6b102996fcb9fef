"""Vector fields: what a continuous flow integrates."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from cgm_kernels import hutchinson_divergence
from cgm_kernels.divergence.hutchinson import mean_of_dots, value_and_products

from .solver import Solution, Solver

Time = float | Tensor
"""A number, or a tensor of shape (); ``PerceptronField`` takes one of shape (batch,), too."""


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
        value, products = value_and_products(lambda points: self(t, points, context), x, probes)
        return value, mean_of_dots(products, probes), mean_of_dots(products, products)

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
