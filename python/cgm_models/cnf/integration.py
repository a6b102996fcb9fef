"""Systems of tensors integrated in time, for every vector field."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from cgm_kernels import runge_kutta_update
from cgm_kernels.divergence.tableaus import TABLEAUS

from .solver import Solver

Rates = Callable[..., Sequence[Tensor]]
"""``rates(t, *coupled)``: the time derivatives of the coupled tensors, then those of what is integrated beside them."""


def integrate(
    rates: Rates, coupled: Sequence[Tensor], beside: Sequence[Tensor], solver: Solver, start: float, end: float
) -> tuple[list[Tensor], int]:
    """All tensors at time ``end``, and how often ``rates`` was evaluated.

    ``rates`` depends on t and on the tensors of ``coupled``, the first of which has a row for each point; those of
    ``beside`` are only accumulated, and cost one update a step rather than one a stage. ``solver.gradient`` is
    'discrete' or 'checkpoint' here.
    """
    if solver.adaptive:
        return _adaptive(rates, coupled, beside, solver, start, end)
    state = [*coupled, *beside]
    times = solver.times(start, end)
    again = solver.gradient == "checkpoint" and torch.is_grad_enabled()
    for t, following in itertools.pairwise(times):
        if again:
            state = list(
                checkpoint(
                    advance, rates, len(coupled), solver.method, t, following - t, *state,
                    use_reentrant=False, preserve_rng_state=False,
                )
            )  # fmt: skip
        else:
            state = advance(rates, len(coupled), solver.method, t, following - t, *state)
    return state, evaluations(solver)


def evaluations(solver: Solver) -> int:
    """Of the rates, in all steps of a fixed size."""
    return solver.n_steps * TABLEAUS[solver.method].stages


def advance(rates: Rates, n_coupled: int, method: str, t: float, step: float, *state: Tensor) -> list[Tensor]:
    """``y + h Σ_i b_i k_i``, ``k_i = rates(t + c_i h, y + h Σ_j a_ij k_j)``: an explicit Runge–Kutta step."""
    tableau = TABLEAUS[method]
    slopes: list[Sequence[Tensor]] = []
    for node, row in zip(tableau.nodes, tableau.matrix, strict=True):
        at = list(state[:n_coupled])
        if row:
            at = [_updated(y, [slope[i] for slope in slopes], row, step) for i, y in enumerate(at)]
        slopes.append(rates(t + node * step, *at))
    return [_updated(y, [slope[i] for slope in slopes], tableau.weights, step) for i, y in enumerate(state)]


def _updated(y: Tensor, slopes: Sequence[Tensor], coefficients: Sequence[float], step: float) -> Tensor:
    """Stages whose coefficient is zero are left out: they need not be read."""
    used = [(slope, c) for slope, c in zip(slopes, coefficients, strict=True) if c != 0.0]
    return runge_kutta_update(y, [slope for slope, _ in used], [c for _, c in used], step)


def _adaptive(
    rates: Rates, coupled: Sequence[Tensor], beside: Sequence[Tensor], solver: Solver, start: float, end: float
) -> tuple[list[Tensor], int]:
    odeint, first = _torchdiffeq(), coupled[0]
    state, n_evaluations = (*coupled, *beside), 0
    if not first.numel():
        return list(state), 0
    if lost := int((~first.isfinite()).flatten(1).any(1).sum()):
        raise ValueError(f"{solver.method} needs finite points: {lost} of {len(first)} rows are not")
    wide = torch.float32 if first.dtype.itemsize < 4 else first.dtype  # an error of half precision is above any rtol

    def counted(t: Tensor, at: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        nonlocal n_evaluations
        n_evaluations += 1
        narrow = [values.to(own.dtype) for values, own in zip(at, coupled, strict=False)]
        return tuple(rate.to(wide) for rate in rates(t, *narrow))

    try:
        path = odeint(
            counted, tuple(part.to(wide) for part in state),
            torch.tensor([start, end], dtype=wide, device=first.device), rtol=solver.rtol, atol=solver.atol,
            method=solver.method, options={"norm": lambda state: hardest_row(state, len(first))},
        )  # fmt: skip
    except AssertionError as error:
        raise FloatingPointError(
            f"{solver.method} found no step small enough for rtol={solver.rtol:g}, atol={solver.atol:g} ({error}): the "
            "field is too steep for them, or not finite"
        ) from error
    return [values[-1].to(own.dtype) for values, own in zip(path, state, strict=True)], n_evaluations


def hardest_row(state: Sequence[Tensor], n_rows: int) -> Tensor:
    """The norm that chooses the step: the largest, over rows and over the parts of the state, of a row's rms.

    No row has a larger error than it would have alone, whatever else is in the batch; torchdiffeq's own norm is the
    root mean square over the whole batch, which lets a few hard rows hide among many easy ones. A part without a row
    for each point, as the gradient of a parameter, counts as one row. (``cgm_kernels.runge_kutta_error`` is
    torchdiffeq's norm: one number for all rows, from which the largest cannot be had.)
    """
    parts = [part.reshape(n_rows, -1) if part.shape[:1] == (n_rows,) else part.reshape(1, -1) for part in state]
    return torch.stack([part.square().mean(1).max().sqrt() for part in parts if part.numel()]).max()


def _torchdiffeq() -> Callable[..., tuple[Tensor, ...]]:
    try:
        from torchdiffeq import odeint  # type: ignore[import-untyped]
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "solver='dopri5' needs torchdiffeq: pip install torchdiffeq, or choose a solver of fixed steps"
        ) from None
    return odeint
