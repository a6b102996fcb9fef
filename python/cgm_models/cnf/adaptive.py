"""dopri5: steps that follow their error, by the fused combinations of stages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from cgm_kernels.divergence.tableaus import Tableau

from .solver import Solver
from .steps import Rates, stages, updated

DOPRI5 = Tableau(
    (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0),
    (
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    ),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0.0),
    5,
)
"""Dormand and Prince 1980, "A family of embedded Runge-Kutta formulae". Its last stage is the first one of the next."""

_FOURTH = (5179 / 57600, 0.0, 7571 / 16695, 393 / 640, -92097 / 339200, 187 / 2100, 1 / 40)
_ERROR = tuple(fifth - fourth for fifth, fourth in zip(DOPRI5.weights, _FOURTH, strict=True))
_SAFETY = 0.9
_LEAST, _MOST = 0.2, 10.0  # lengths of the next step, in units of this one's
_LEAST_ERROR = 4.0  # relative, in units of the rounding


def integrate_adaptively(
    rates: Rates, coupled: Sequence[Tensor], beside: Sequence[Tensor], solver: Solver, start: float, end: float
) -> tuple[list[Tensor], int]:
    """``integrate`` by dopri5: in no step has a row an error above its tolerance, and the last step ends at ``end``.

    The lengths of the steps are chosen as in Hairer, Nørsett and Wanner 1993, II.4, each read back from the device
    once; a gradient takes them as constants. The field is not evaluated beyond ``end``, where it may not exist. A
    relative error below some units in the last place of the state is not sought: no step is short enough for it.
    """
    points, n = coupled[0], len(coupled)
    if not points.numel():
        return [*coupled, *beside], 0
    _check_finite(points, solver)
    wide = torch.promote_types(points.dtype, torch.float32)  # an error of half precision is above any rtol
    solver = replace(solver, rtol=max(solver.rtol, _LEAST_ERROR * torch.finfo(wide).eps))
    state = [part.to(wide) for part in (*coupled, *beside)]

    def rates_wide(t: float, *at: Tensor) -> Sequence[Tensor]:
        t = min(t, end) if start < end else max(t, end)  # t + (end − t) may be beyond the end by a rounding
        found = rates(t, *(part.to(own.dtype) for part, own in zip(at, coupled, strict=True)))
        return [rate.to(wide) for rate in found]

    t, slope = start, rates_wide(start, *state[:n])
    step, n_evaluations = _first_step(rates_wide, state, slope, n, solver, (start, end)), 2
    while t != end:
        last = abs(step) >= abs(end - t)
        step = end - t if last else step
        _check_step(t, step, solver)
        slopes, reached = stages(rates_wide, DOPRI5, t, step, state[:n], slope)
        n_evaluations += len(slopes) - 1
        found = [*reached, *(updated(state[i], slopes, i, DOPRI5.weights, step) for i in range(n, len(state)))]
        ratio = _error_ratio(state, found, slopes, step, solver)
        if ratio <= 1.0:
            t, state, slope = end if last else t + step, found, slopes[-1]
        step *= _factor(ratio)
    return [part.to(own.dtype) for part, own in zip(state, (*coupled, *beside), strict=True)], n_evaluations


def _check_finite(points: Tensor, solver: Solver) -> None:
    if lost := int((~points.isfinite()).flatten(1).any(1).sum()):
        raise ValueError(f"{solver.method} needs finite points: {lost} of {len(points)} rows are not")


def _check_step(t: float, step: float, solver: Solver) -> None:
    if t + step == t or not math.isfinite(step):
        raise FloatingPointError(
            f"{solver.method} found no step small enough for rtol={solver.rtol:g}, atol={solver.atol:g} at t={t:g}: "
            "the field is too steep for them, or not finite"
        )


def _factor(ratio: float) -> float:
    """How much longer the next step is, by the error of this one; a step that was accepted is not shortened."""
    if not math.isfinite(ratio):
        return _LEAST
    least = _LEAST if ratio > 1.0 else 1.0
    return _MOST if ratio == 0.0 else min(_MOST, max(least, _SAFETY * ratio ** (-1 / DOPRI5.order)))


@torch.no_grad()
def _error_ratio(
    before: Sequence[Tensor], after: Sequence[Tensor], slopes: Sequence[Sequence[Tensor]], step: float, solver: Solver
) -> float:
    """The error of the hardest row, in units of its tolerance."""
    ratios = []
    for i, (old, new) in enumerate(zip(before, after, strict=True)):
        error = updated(torch.zeros_like(old), slopes, i, _ERROR, step)
        ratios.append(error / (solver.atol + solver.rtol * torch.maximum(old.abs(), new.abs())))
    return float(hardest_row(ratios, len(before[0])))


@torch.no_grad()
def _first_step(
    rates: Rates, state: Sequence[Tensor], slope: Sequence[Tensor], n_coupled: int, solver: Solver,
    span: tuple[float, float],
) -> float:  # fmt: skip
    """Hairer's guess, from a step of Euler's that changes the state by a hundredth; NaN where the field is infinite."""
    start, end = span
    scales = [solver.atol + solver.rtol * part.abs() for part in state]

    def size(parts: Sequence[Tensor]) -> float:
        scaled = [part / scale for part, scale in zip(parts, scales, strict=True)]
        return float(hardest_row(scaled, len(state[0])))

    far, fast = size(state), size(slope)
    if not math.isfinite(fast):
        return math.nan
    trial = min(1e-6 if far < 1e-5 or fast < 1e-5 else 0.01 * far / fast, abs(end - start))
    signed = math.copysign(trial, end - start)
    moved = [updated(y, [slope], i, (1.0,), signed) for i, y in enumerate(state[:n_coupled])]
    bent = size([b - a for a, b in zip(slope, rates(start + signed, *moved), strict=True)]) / trial
    if not math.isfinite(bent):  # beyond what the step may reach
        return signed * 1e-3
    steepest = max(fast, bent)
    guess = max(1e-6, trial * 1e-3) if steepest <= 1e-15 else (0.01 / steepest) ** (1 / DOPRI5.order)
    return math.copysign(min(100 * trial, guess), end - start)


def hardest_row(state: Sequence[Tensor], n_rows: int) -> Tensor:
    """The norm that chooses the step: the largest, over rows and over the parts of the state, of a row's rms.

    No row has a larger error than it would have alone, whatever else is in the batch; torchdiffeq's own norm is the
    root mean square over the whole batch, which lets a few hard rows hide among many easy ones. A part without a row
    for each point, as the gradient of a parameter, counts as one row. (``cgm_kernels.runge_kutta_error`` is
    torchdiffeq's norm: one number for all rows, from which the largest cannot be had.)
    """
    parts = [part.reshape(n_rows, -1) if part.shape[:1] == (n_rows,) else part.reshape(1, -1) for part in state]
    return torch.stack([part.square().mean(1).max().sqrt() for part in parts if part.numel()]).max()
