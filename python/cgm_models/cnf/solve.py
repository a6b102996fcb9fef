"""One solve of a continuous flow: the fused kernel where the field and the solver allow it, else step by step."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .adjoint import integrate_with_adjoint
from .checkpointing import integrate_with_checkpoints
from .field import Time, VectorField
from .integration import integrate
from .solver import Solution, Solver


def solve(
    field: VectorField,
    x: Tensor,
    context: Tensor | None,
    solver: Solver,
    start: float = 0.0,
    end: float = 1.0,
    *,
    probes: Tensor | None = None,
    exact: bool = False,
    regularizers: bool = False,
) -> Solution:
    """Points ``(batch, dim)`` carried along ``field`` from time ``start`` to ``end``.

    The divergence is integrated beside them, by ``probes`` (P, batch, dim) or as the exact trace, or with neither left
    out; with ``regularizers`` |v|² and the squared norm of the Jacobian, too. These integrals are float32 where the
    points are of half precision. A solver of fixed steps reads nothing back from the device.
    """
    measured = exact or probes is not None
    if regularizers and not measured:
        raise ValueError("regularizers need probes or exact=True")
    if not math.isfinite(end - start) or end == start:
        raise ValueError(f"start and end must be finite, and not the same time: got {start} and {end}")
    adjoint = solver.gradient == "adjoint" and torch.is_grad_enabled()
    if not solver.adaptive and not adjoint:
        whole = field.flow(x, context, solver, start, end, probes=probes, exact=exact, regularizers=regularizers)
        if whole is not None:
            return whole

    summed = torch.float32 if x.dtype.itemsize < 4 else x.dtype

    def rates(t: Time, points: Tensor) -> Sequence[Tensor]:
        if not measured:
            return (field(t, points, context),)
        value, *rest = field.divergence(t, points, context, probes=probes, exact=exact, frobenius=regularizers)
        if not regularizers:
            return value, rest[0].to(summed)
        wide = value.to(summed)
        return value, rest[0].to(summed), torch.linalg.vecdot(wide, wide), rest[1].to(summed)

    beside = [x.new_zeros(len(x), dtype=summed) for _ in range((1 + 2 * regularizers) if measured else 0)]
    parameters = [*field.parameters(), *([] if context is None else [context])]
    if adjoint:
        kind = (measured, exact, regularizers, context is None)
        state, n_evaluations = integrate_with_adjoint(rates, field, kind, x, beside, parameters, solver, start, end)
    elif solver.gradient == "checkpoint":
        state, n_evaluations = integrate_with_checkpoints(rates, [x], beside, parameters, solver, start, end)
    else:
        state, n_evaluations = integrate(rates, [x], beside, solver, start, end)
    parts: list[Tensor | None] = [*state[1:], *[None] * (3 - len(beside))]
    return Solution(state[0], parts[0], parts[1], parts[2], n_evaluations)
