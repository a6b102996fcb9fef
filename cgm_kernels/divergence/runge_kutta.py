"""What a Runge–Kutta step does beside its evaluations, in one pass each: the combination of stages and the error norm.

Source: Hairer, Nørsett and Wanner 1993, "Solving ordinary differential equations I", II.1 and II.4. Tensors have any
shape and any strides: the stages may be views of one stacked tensor, ``k.unbind(-1)``, and are read where they lie.
Half precision is computed in float32. NaN and infinities propagate as in the formula. Combinations of more than 16
stages, calls inside ``torch.func`` transforms and forward-mode derivatives are PyTorch's arithmetic.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import backends
from .._derivatives import transformed
from .._extension import _C
from .._register import operator
from ..checks import FLOATS, like, number, tensor
from ..precision import HALVES, outside_autocast, wide
from . import runge_kutta_operators, runge_kutta_reference
from .operators import backend_of

__all__ = ["runge_kutta_error", "runge_kutta_update"]

_NUMBERS = frozenset([float, int])  # C++ would take a bool, too; other kinds of numbers take the longer way


def runge_kutta_update(
    y: Tensor, stages: Sequence[Tensor], coefficients: Sequence[float], step: Tensor | float
) -> Tensor:
    """y + h Σ_i c_i k_i, all stages in one pass.

    Args:
        y: any shape.
        stages: k_i, at least one, each of the shape and dtype of y.
        coefficients: c_i, as many numbers.
        step: h, a number or a float tensor (), of which a device's value is not waited for.

    Returns:
        A contiguous tensor of the shape and dtype of y, differentiable to any order in y, the stages and a tensor
        ``step``.

    Raises:
        TypeError, ValueError: naming the argument that has a wrong type, dtype, device, shape or value.
    """
    if _fast(y):
        steps, size = (step, 0.0) if isinstance(step, Tensor) else (None, step)
        try:
            plain = _NUMBERS.issuperset(map(type, (size, *coefficients)))
            found = _C.runge_kutta_update(y, stages, coefficients, steps, size) if plain else None
        except TypeError:  # an argument of a wrong type: said better below
            found = None
        if found is not None:
            return found
    return _update(y, stages, coefficients, step)


def runge_kutta_error(
    y0: Tensor,
    y1: Tensor,
    stages: Sequence[Tensor],
    coefficients: Sequence[float],
    step: Tensor | float,
    rtol: float,
    atol: float,
) -> Tensor:
    """The error of a step in units of its tolerance: the root of the mean over all elements of

        (h Σ_i e_i k_i / (atol + rtol max(|y0|, |y1|)))²

    This is the norm by which torchdiffeq chooses the steps of a tensor, and what ``integrations.patch("torchdiffeq")``
    has it computed by. A control that looks at each row for itself needs another one.

    Args:
        y0, y1: the state before and after the step, of one shape.
        stages, coefficients, step: as in :func:`runge_kutta_update`; e_i are the differences of the weights of the
            method and of its embedded one.
        rtol, atol: numbers, not negative.

    Returns:
        A tensor (), NaN for states without elements. Where it is to be differentiated it is PyTorch's arithmetic, right
        to any order; a step size control takes it under ``torch.no_grad()``.

    Raises:
        TypeError, ValueError: naming the argument that has a wrong type, dtype, device, shape or value.
    """
    if _fast(y0) and isinstance(y1, Tensor):
        steps, size = (step, 0.0) if isinstance(step, Tensor) else (None, step)
        try:
            plain = _NUMBERS.issuperset(map(type, (size, rtol, atol, *coefficients)))
            found = _C.runge_kutta_error(y0, y1, stages, coefficients, steps, size, rtol, atol) if plain else None
        except TypeError:  # an argument of a wrong type: said better below
            found = None
        if found is not None:
            return found
    return _error(y0, y1, stages, coefficients, step, rtol, atol)


def _fast(y: Tensor) -> bool:
    """Whether C++ may try: it looks at the arguments again, and hands back what is wrong or needs the dispatcher."""
    return (
        isinstance(y, Tensor) and y.is_cpu and not torch.compiler.is_compiling() and backends.select("cpu") == "native"
    )


@outside_autocast
def _update(y: Tensor, stages: Any, coefficients: Any, step: Any) -> Tensor:
    tensor("y", y)
    numbers_of = _combination(y, "y", stages, coefficients)
    arguments = (y, *stages), numbers_of, _step(step, y)
    return _run("runge_kutta_update", runge_kutta_reference.update, *arguments, composed=False)


@outside_autocast
def _error(y0: Tensor, y1: Any, stages: Any, coefficients: Any, step: Any, rtol: Any, atol: Any) -> Tensor:
    tensor("y0", y0)
    like("y1", y1, "y0", y0)
    if y1.shape != y0.shape:
        raise ValueError(f"y1 must have the shape of y0, {tuple(y0.shape)}: got {tuple(y1.shape)}")
    numbers_of = _combination(y0, "y0", stages, coefficients)
    tolerances = []
    for name, value in (("rtol", rtol), ("atol", atol)):
        tolerances.append(number(name, value))
        if tolerances[-1] < 0:
            raise ValueError(f"{name} must not be negative: got {value}")
    arguments = (y0, y1, *stages), numbers_of, _step(step, y0)
    return _run("runge_kutta_error", runge_kutta_reference.error, *arguments, *tolerances, composed=True)


def _combination(y: Tensor, name: str, stages: Any, coefficients: Any) -> list[float]:
    """The coefficients, one for each of the stages, which are like y."""
    for argument, value in (("stages", stages), ("coefficients", coefficients)):
        if not isinstance(value, (list, tuple)):
            raise TypeError(f"{argument} must be a list or a tuple: got {type(value).__name__}")
    if not stages:
        raise ValueError("stages must have at least one tensor: got none")
    if len(coefficients) != len(stages):
        raise ValueError(f"coefficients must be as many as stages, {len(stages)}: got {len(coefficients)}")
    for i, stage in enumerate(stages):
        like(f"stages[{i}]", stage, name, y)
        if stage.shape != y.shape:
            raise ValueError(f"stages[{i}] must have the shape of {name}, {tuple(y.shape)}: got {tuple(stage.shape)}")
    return [number(f"coefficients[{i}]", value) for i, value in enumerate(coefficients)]


def _step(step: Any, y: Tensor) -> Tensor | float:
    """A number, or a tensor () of the dtype that is computed in, on y's device."""
    if not isinstance(step, Tensor):
        if isinstance(step, bool) or not isinstance(step, numbers.Real):
            raise TypeError(f"step must be a number or a tensor (): got {type(step).__name__}")
        return float(step)
    if step.dim() != 0:
        raise ValueError(f"step must be a number or a tensor (): got shape {tuple(step.shape)}")
    if step.dtype not in FLOATS:
        raise TypeError(f"step must be float32, float64, float16 or bfloat16: got {step.dtype}")
    if step.device != y.device and step.device.type != "cpu":
        raise ValueError(f"step must be on the device of its state, {y.device}, or on the CPU: got {step.device}")
    return step.to(y.device, torch.float32 if y.dtype in HALVES else y.dtype)


def _run(
    name: str,
    reference: Callable[..., Tensor],
    tensors: tuple[Tensor, ...],
    coefficients: list[float],
    step: Tensor | float,
    *tolerances: float,
    composed: bool,
) -> Tensor:
    """The operator on ``tensors``, or the reference in float32 at least; ``composed`` where it has no derivative."""
    y = tensors[0]
    n_states = len(tensors) - len(coefficients)
    backend = backend_of(name, y.device.type)
    every = (*tensors, step) if isinstance(step, Tensor) else tensors
    plain = transformed(*every) or (composed and _wants_gradient(*every))
    if backend == "native" and y.device.type == "cpu" and y.dtype in HALVES:
        plain = True
    if plain or backend == "reference" or len(coefficients) > runge_kutta_operators.MOST_STAGES:
        widened = [*map(wide, tensors)]
        states, stages = widened[:n_states], widened[n_states:]
        return reference(*states, stages, coefficients, step, *tolerances).to(y.dtype)
    states, stages = list(tensors[:n_states]), list(tensors[n_states:])
    pair = (step, 0.0) if isinstance(step, Tensor) else (None, step)
    return operator(backend, name)(*states, stages, coefficients, *pair, *tolerances)


def _wants_gradient(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(one.requires_grad for one in tensors)
