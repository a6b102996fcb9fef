"""torchdiffeq: what its Runge–Kutta solvers do beside evaluating the field, in one pass each.

Solves by ``rk4`` (the 3/8 rule), ``heun2`` and ``heun3`` make fused steps where the state is large enough to gain by
them; that is looked at once a solve, so that small ones cost what they did. Of the adaptive Runge–Kutta solvers
(``dopri5``, ``dopri8``, ``bosh3``, ``fehlberg2``, ``adaptive_heun``) the step that they share is routed, and the error
norm where it is torchdiffeq's own for a tensor (a tuple's is a norm of several). ``odeint``, ``odeint_adjoint`` and
events run through them, with states that are tensors or tuples. Times, step control and interpolation stay
torchdiffeq's, and so do ``euler``, ``midpoint`` and the multistep methods, which have little to fuse.

What is passed on, each for a reason named in the report: states that are not plain float32 or float64 tensors, or of
fewer elements than a fused pass saves time on, or on a device where that has not been measured; autocast, torch.func,
forward mode.
"""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchdiffeq._impl.misc import Perturb, _rms_norm

from ..divergence.runge_kutta import runge_kutta_error, runge_kutta_update
from ..divergence.tableaus import TABLEAUS, Tableau
from ._flows import plain, version_check
from ._library import Library, PassOn

# By type of device: elements of a state from which a solve was measured to be faster, by benchmarks/runge_kutta.py. A
# GPU's are not known yet: its states are torchdiffeq's.
LEAST = {"cpu": {"RK4": 2**16, "Heun2": 2**18, "Heun3": 2**16, "adaptive": 1}}

_OTHER_NORM = "a norm of one's own, or of a tuple"
_RULES = {
    "RK4": TABLEAUS["rk4_38"],
    "Heun2": Tableau((0.0, 1.0), ((), (1.0,)), (1 / 2, 1 / 2), 2),
    "Heun3": Tableau((0.0, 1 / 3, 2 / 3), ((), (1 / 3,), (0.0, 2 / 3)), (1 / 4, 0.0, 3 / 4), 3),
}


def _unfit(y0: Any, method: str) -> str | None:
    """Why a state gains nothing, as far as is known; None where it does, or where it is no plain tensor."""
    if type(y0) is not Tensor:
        return None
    least = LEAST.get(y0.device.type)
    if least is None:
        return f"not measured on {y0.device.type}"
    return "a small state" if y0.numel() < least[method] else None


def _alike(y: Tensor, stages: Sequence[Tensor]) -> bool:
    return all(type(k) is Tensor and k.shape == y.shape and k.dtype is y.dtype and k.device == y.device for k in stages)


def _update(y: Tensor, stages: Sequence[Tensor], coefficients: Sequence[float], dt: Tensor) -> Tensor:
    """y + dt Σ c_i k_i; by PyTorch where a function gave stages of another shape or dtype than its state."""
    pairs = [(k, c) for k, c in zip(stages, coefficients, strict=True) if c != 0.0]
    if _alike(y, [k for k, _ in pairs]):
        return runge_kutta_update(y, [k for k, _ in pairs], [c for _, c in pairs], dt)
    return y + dt * torch.stack([c * k.expand_as(y) for k, c in pairs]).sum(0)


def _change(y: Tensor, stages: Sequence[Tensor], coefficients: Sequence[float], dt: Tensor) -> Tensor:
    """dt Σ c_i k_i"""
    return _update(y.new_zeros(()).expand_as(y), stages, coefficients, dt)


def _solve(original: Any, self: Any, *times: Any, **rest: Any) -> Any:
    """A solve of fixed steps, or until an event, whose steps are ours."""
    plain(self.y0)
    self._step_func = functools.partial(_fixed_step, self)
    try:
        return original(self, *times, **rest)
    finally:
        del self._step_func


def _fixed_step(solver: Any, func: Callable[..., Tensor], t0: Tensor, dt: Tensor, t1: Tensor, y0: Tensor) -> Any:
    """The change of y and the slope at t0."""
    rule = _RULES[type(solver).__name__]
    first, last = (Perturb.NEXT, Perturb.PREV) if solver.perturb else (Perturb.NONE, Perturb.NONE)
    stages = [func(t0, y0, perturb=first)]
    for node, row in zip(rule.nodes[1:], rule.matrix[1:], strict=True):
        time = t1 if node == 1.0 and rule.order == 4 else t0 + dt * node  # as torchdiffeq rounds them
        stages.append(func(time, _update(y0, stages, row, dt), perturb=last if node == 1.0 else Perturb.NONE))
    return _change(y0, stages, rule.weights, dt), stages[0]


def _adaptive_step(
    original: Any, func: Any, y0: Any, f0: Any, t0: Any, dt: Any, t1: Any, tableau: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The state and its slope after a step, the estimate of its error, and all stages (…, stages)."""
    plain(y0, f0)
    if f0.shape != y0.shape:
        raise PassOn("a slope of another shape")  # which torchdiffeq refuses for most
    nodes, rows, weights, error = _numbers(tableau)
    t0, dt, t1 = (time.to(y0.dtype) for time in (t0, dt, t1))
    kept = None if torch.is_grad_enabled() else y0.new_empty((1 + len(rows), *y0.shape))
    stages, y1 = [_keep(f0, y0, kept, 0)], y0
    for number, (node, row) in enumerate(zip(nodes, rows, strict=True), 1):
        y1 = _update(y0, stages, row, dt)
        end = node == 1.0
        slope = func(t1 if end else t0 + node * dt, y1, perturb=Perturb.PREV if end else Perturb.NONE)
        stages.append(_keep(slope, y0, kept, number))
    if weights != [*rows[-1], 0.0]:  # else the last stage lies at the end of the step
        y1 = _update(y0, stages, weights, dt)
    whole = torch.stack(stages) if kept is None else kept
    return y1, stages[-1], _change(y0, stages, error, dt), whole.movedim(0, -1)


def _keep(slope: Any, y0: Tensor, kept: Tensor | None, number: int) -> Tensor:
    """A copy of the slope in the state's shape and dtype: a field may write all its slopes to one tensor.

    Where a gradient is wanted it cannot, and the slope itself is taken.
    """
    if kept is not None:
        return kept[number].copy_(torch.as_tensor(slope))
    given = torch.as_tensor(slope, dtype=y0.dtype, device=y0.device).expand_as(y0)
    return given if given.requires_grad else given.clone()


def _error_ratio(original: Any, error_estimate: Any, rtol: Any, atol: Any, y0: Any, y1: Any, norm: Any) -> Tensor:
    """The root mean square of the error in units of its tolerance, from which nobody takes a gradient."""
    plain(y0, y1, error_estimate)
    if norm is not _rms_norm:
        raise PassOn(_OTHER_NORM)
    if not y0.shape == y1.shape == error_estimate.shape or rtol.dim() or atol.dim():
        raise PassOn("tolerances or states of several shapes")
    tolerances = float(rtol), float(atol)
    if not all(0.0 <= tolerance < math.inf for tolerance in tolerances):
        raise PassOn("tolerances that are negative or infinite")
    with torch.no_grad():
        return runge_kutta_error(y0, y1, [error_estimate], [1.0], 1.0, *tolerances)


_Numbers = tuple[list[float], list[list[float]], list[float], list[float]]
_tableaus: dict[tuple[int, ...], tuple[list[weakref.ref[Tensor]], _Numbers]] = {}


def _numbers(tableau: Any) -> _Numbers:
    """Nodes, rows, weights and error weights on the host, read once: a solver of a GPU holds them there."""
    parts = [tableau.alpha, *tableau.beta, tableau.c_sol, tableau.c_error]
    key = tuple(map(id, parts))
    kept = _tableaus.get(key)
    if kept is not None and all(reference() is part for reference, part in zip(kept[0], parts, strict=True)):
        return kept[1]
    nodes, *rows, weights, error = (part.tolist() for part in parts)
    references = [weakref.ref(part, lambda _: _tableaus.pop(key, None)) for part in parts]
    _tableaus[key] = references, (nodes, rows, weights, error)
    return _tableaus[key][1]


def _glance_at_solver(args: tuple[Any, ...]) -> str | None:
    return _unfit(args[0].y0, type(args[0]).__name__) if type(args[0]).__name__ in _RULES else None


def _glance_at_step(args: tuple[Any, ...]) -> str | None:
    return _unfit(args[1], "adaptive") if len(args) > 1 else None


def _glance_at_norm(args: tuple[Any, ...]) -> str | None:
    if len(args) == 6 and args[5] is not _rms_norm:
        return _OTHER_NORM
    return _unfit(args[3], "adaptive") if len(args) > 3 else None


_IMPL = "torchdiffeq._impl"
_SOLVES = [f"{_IMPL}.fixed_grid:{name}.{solve}" for name in _RULES for solve in ("integrate", "integrate_until_event")]

LIBRARY = Library(
    name="torchdiffeq",
    package="torchdiffeq",
    routes={
        f"{_IMPL}.rk_common._runge_kutta_step": _adaptive_step,
        f"{_IMPL}.misc._compute_error_ratio": _error_ratio,
    },
    check=version_check("torchdiffeq", (0, 2, 5), (0, 3)),
    glances=dict.fromkeys(_SOLVES, _glance_at_solver)
    | {
        f"{_IMPL}.rk_common._runge_kutta_step": _glance_at_step,
        f"{_IMPL}.misc._compute_error_ratio": _glance_at_norm,
    },
    methods=dict.fromkeys(_SOLVES, _solve),
)
