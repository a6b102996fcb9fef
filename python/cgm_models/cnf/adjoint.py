"""The gradient by the adjoint equation: optimise, then discretise."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .checkpointing import depends_on_more
from .field import VectorField
from .integration import integrate
from .solver import Solver
from .steps import Rates

_self_contained: WeakKeyDictionary[VectorField, set[Hashable]] = WeakKeyDictionary()
"""The kinds of rates of a field that were seen to read no tensor that is left without a gradient."""


def integrate_with_adjoint(
    rates: Rates, field: VectorField, kind: Hashable, x: Tensor, beside: Sequence[Tensor],
    parameters: Sequence[Tensor], solver: Solver, start: float, end: float,
) -> tuple[list[Tensor], int]:  # fmt: skip
    """``integrate`` of points ``x`` and integrals ``beside`` that begin at constants, in memory that no step adds to.

    Of a loss L of x(t₁) and of the integrals I = ∫ g dt, with λ = ∂L/∂I, a(t₁) = ∂L/∂x(t₁) goes back in time by
    ``da/dt = −aᵀ ∂v/∂x − λᵀ ∂g/∂x``, x itself beside it, and ``dL/dθ = ∫ aᵀ ∂v/∂θ + λᵀ ∂g/∂θ dt`` (Chen et al. 2018,
    Neural Ordinary Differential Equations). The way back is made by the same solver with the same steps or tolerances.

    ``parameters``: the tensors, beside x, that ``rates`` depends on and that get a gradient. Others get none, with a
    warning: it cannot be known whether they are to be learnt. To find them takes an evaluation of the rates, which is
    spared where the same ``kind`` of rates of ``field`` was found without.
    """
    learnt = [parameter for parameter in parameters if parameter.requires_grad]
    known = _self_contained.setdefault(field, set())
    if kind not in known:
        if depends_on_more(rates, [x], start, learnt):
            warnings.warn(
                "gradient='adjoint' gives no gradient to what a field reads beside the points, the context and "
                "field.parameters(), and this field reads a tensor there that requires one: make it a parameter of the "
                "field, detach it, or choose gradient='discrete'",
                stacklevel=3,
            )
        else:
            known.add(kind)
    counted: list[int] = []
    results = _Adjoint.apply(rates, solver, (start, end), counted, len(beside), x, *beside, *learnt)
    return list(results), counted[0]


class _Adjoint(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rates: Rates, solver: Solver, span: tuple[float, float], counted: list[int], n_beside: int,
        x: Tensor, *rest: Tensor,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        results, n_evaluations = integrate(rates, [x], rest[:n_beside], solver, *span)
        counted.append(n_evaluations)
        ctx.rates, ctx.solver, ctx.span, ctx.n_beside = rates, solver, span, n_beside
        ctx.save_for_backward(results[0], *rest[n_beside:])
        return tuple(results)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_x: Tensor, *grad_beside: Tensor) -> tuple[Any, ...]:
        x, *parameters = ctx.saved_tensors

        def augmented(t: Any, y: Tensor, a: Tensor) -> list[Tensor]:
            with torch.enable_grad():
                y = y.detach().requires_grad_()
                rates = ctx.rates(t, y)
                pairs = [(r, g) for r, g in zip(rates, (a, *grad_beside), strict=True) if r.requires_grad]
                gradients: Sequence[Tensor | None] = [None] * (1 + len(parameters))
                if pairs:
                    gradients = torch.autograd.grad(
                        [r for r, _ in pairs], (y, *parameters), [g for _, g in pairs], allow_unused=True
                    )
            inputs = (y, *parameters)
            back = [torch.zeros_like(v) if g is None else g.neg() for v, g in zip(inputs, gradients, strict=True)]
            return [rates[0].detach(), *back]

        start, end = ctx.span
        zeros = [torch.zeros_like(parameter) for parameter in parameters]
        (_, grad_start, *grads), _ = integrate(augmented, [x, grad_x.contiguous()], zeros, ctx.solver, end, start)
        return (None,) * 5 + (grad_start,) + (None,) * ctx.n_beside + tuple(grads)
