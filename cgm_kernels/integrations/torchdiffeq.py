"""torchdiffeq: the Runge–Kutta combinations of its fixed-step and adaptive solvers, in one pass each.

Routed are the steps of ``rk4`` (the 3/8 rule), ``heun2`` and ``heun3``, and the step that all adaptive Runge–Kutta
solvers share (``dopri5``, ``dopri8``, ``bosh3``, ``fehlberg2``, ``adaptive_heun``); ``odeint``, ``odeint_adjoint`` and
events run through them, with states that are tensors or tuples. Times, step control and interpolation stay
torchdiffeq's, and so do ``euler``, ``midpoint`` and the implicit methods, which have little to fuse.

What is passed on, each for a reason named in the report: states that are not plain float32 or float64 tensors, or of
fewer elements than a fused pass saves time on; autocast, torch.func, forward mode.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchdiffeq._impl.misc import Perturb

from ..divergence.runge_kutta import runge_kutta_update
from ..divergence.tableaus import TABLEAUS
from ._flows import plain, version_check
from ._library import Library, PassOn

# Elements of a state from which the fused step was measured to be faster, on a CPU of two threads.
LEAST = {"rk4": 2**16, "heun": 2**18}


def _check(y0: Any, f0: Any, least: int = 1) -> None:
    plain(y0)
    if f0 is not None:
        plain(y0, f0)
    if y0.numel() < least:
        raise PassOn("a small state")


def _glance(least: str, place: int) -> Callable[[tuple[Any, ...]], str | None]:
    """Sees that the state, the argument at ``place``, has fewer than LEAST elements: a step costs little more then."""

    def glance(args: tuple[Any, ...]) -> str | None:
        y0 = args[place] if len(args) > place else None
        return "a small state" if type(y0) is Tensor and y0.numel() < LEAST[least] else None

    return glance


def _update(y: Tensor, stages: Sequence[Tensor], coefficients: Sequence[float], dt: Tensor) -> Tensor:
    """y + dt Σ c_i k_i; by PyTorch where a function gave stages of another shape or dtype than its state."""
    pairs = [(k, c) for k, c in zip(stages, coefficients, strict=True) if c != 0.0]
    if all(type(k) is Tensor and k.shape == y.shape and k.dtype is y.dtype and k.device == y.device for k, _ in pairs):
        return runge_kutta_update(y, [k for k, _ in pairs], [c for _, c in pairs], dt)
    return y + dt * torch.stack([c * k.expand_as(y) for k, c in pairs]).sum(0)


def _change(y: Tensor, stages: Sequence[Tensor], coefficients: Sequence[float], dt: Tensor) -> Tensor:
    """dt Σ c_i k_i"""
    return _update(y.new_zeros(()).expand_as(y), stages, coefficients, dt)


def _fixed_step(
    func: Callable[..., Tensor], times: Sequence[Tensor], rows: Sequence[Sequence[float]], weights: Sequence[float],
    dt: Tensor, y0: Tensor, first: Tensor, end: Perturb,
) -> Tensor:  # fmt: skip
    """The change of y; ``times`` are those of the stages after the ``first``, the last one perturbed to the ``end``."""
    stages = [first]
    for number, (time, row) in enumerate(zip(times, rows, strict=True), 1):
        perturb = end if number == len(rows) else Perturb.NONE
        stages.append(func(time, _update(y0, stages, row, dt), perturb=perturb))
    return _change(y0, stages, weights, dt)


def _first(func: Callable[..., Tensor], t0: Tensor, y0: Tensor, f0: Tensor | None, perturb: bool) -> Tensor:
    return func(t0, y0, perturb=Perturb.NEXT if perturb else Perturb.NONE) if f0 is None else f0


def _rk4(original: Any, func: Any, t0: Any, dt: Any, t1: Any, y0: Any, f0: Any, perturb: Any) -> Tensor:
    _check(y0, f0, LEAST["rk4"])
    rule = TABLEAUS["rk4_38"]
    times = [*(t0 + dt * node for node in rule.nodes[1:-1]), t1]
    first, end = _first(func, t0, y0, f0, perturb), Perturb.PREV if perturb else Perturb.NONE
    return _fixed_step(func, times, rule.matrix[1:], rule.weights, dt, y0, first, end)


def _butcher(
    original: Any, func: Any, t0: Any, dt: Any, t1: Any, y0: Any, butcher_tableu: Any, f0: Any, perturb: Any
) -> Tensor:
    """By rows (node, coefficients …) of a table, the last one the weights; two stages end just before t1."""
    _check(y0, f0, LEAST["heun"])
    *rows, (_, *weights) = butcher_tableu[1:]
    times = [t0 + dt * row[0] for row in rows]
    first = _first(func, t0, y0, f0, perturb)
    end = Perturb.PREV if perturb and len(rows) == 1 else Perturb.NONE
    return _fixed_step(func, times, [row[1 : 2 + n] for n, row in enumerate(rows)], weights, dt, y0, first, end)


def _adaptive_step(
    original: Any, func: Any, y0: Any, f0: Any, t0: Any, dt: Any, t1: Any, tableau: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The state and its slope after a step, the estimate of its error, and all stages (…, stages)."""
    _check(y0, f0)
    nodes, rows, weights, error = _numbers(tableau)
    t0, dt, t1 = (time.to(y0.dtype) for time in (t0, dt, t1))
    stages, y1 = [f0], y0
    for node, row in zip(nodes, rows, strict=True):
        y1 = _update(y0, stages, row, dt)
        if node == 1.0:
            stages.append(func(t1, y1, perturb=Perturb.PREV))
        else:
            stages.append(func(t0 + node * dt, y1, perturb=Perturb.NONE))
    if weights != [*rows[-1], 0.0]:  # else the last stage lies at the end of the step
        y1 = _update(y0, stages, weights, dt)
    stacked = torch.stack([torch.as_tensor(k, dtype=y0.dtype).expand_as(y0) for k in stages]).movedim(0, -1)
    return y1, stages[-1], _change(y0, stages, error, dt), stacked


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


_RK = "torchdiffeq._impl.rk_common"

LIBRARY = Library(
    name="torchdiffeq",
    package="torchdiffeq",
    routes={
        f"{_RK}.rk4_alt_step_func": _rk4,
        f"{_RK}.rk2_step_func": _butcher,
        f"{_RK}.rk3_step_func": _butcher,
        f"{_RK}._runge_kutta_step": _adaptive_step,
    },
    check=version_check("torchdiffeq", (0, 2, 5), (0, 3)),
    glances={
        f"{_RK}.rk4_alt_step_func": _glance("rk4", 4),
        f"{_RK}.rk2_step_func": _glance("heun", 4),
        f"{_RK}.rk3_step_func": _glance("heun", 4),
    },
)
