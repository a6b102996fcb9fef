"""The registered operators of the combinations of a Runge–Kutta step.

``stages`` are 1 to 16 tensors of the shape and dtype of y, any strides; ``steps`` is the step size as a tensor () on
their device, or None: then ``step`` is. The update is linear in y and the stages, and linear in the step, so that its
derivative is PyTorch's arithmetic, which has every further derivative. The error has no derivative: see
``runge_kutta.py``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._register import NAMESPACES, define
from .operators import _triton

MOST_STAGES = 16  # as most_combined in runge_kutta.h

_COMBINATION = "Tensor[] stages, float[] coefficients, Tensor? steps, float step"


def _update_fake(y: Tensor, *_: Any) -> Tensor:
    return y.new_empty(y.shape)


def _error_fake(y0: Tensor, *_: Any) -> Tensor:
    return y0.new_empty(())


def _setup(ctx: Any, inputs: Any, output: Tensor) -> None:
    _, stages, ctx.coefficients, steps, ctx.step = inputs
    by_step = steps is not None and steps.requires_grad  # in ctx.needs_input_grad each stage has a place of its own
    ctx.save_for_backward(steps, *(stages if by_step else ()))


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    steps, *stages = ctx.saved_tensors
    size = ctx.step if steps is None else steps.to(grad.dtype)
    by_stage = [grad * (size * coefficient) for coefficient in ctx.coefficients]
    by_step = None
    if stages:
        parts = [coefficient * (grad * k).sum() for coefficient, k in zip(ctx.coefficients, stages, strict=True)]
        by_step = torch.stack(parts).sum().to(steps.dtype)
    return grad, by_stage, None, by_step, None


define(
    "runge_kutta_update",
    f"(Tensor y, {_COMBINATION}) -> Tensor",
    fake=_update_fake,
    triton=_triton("runge_kutta_update"),
)
define(
    "runge_kutta_error",
    f"(Tensor y0, Tensor y1, {_COMBINATION}, float rtol, float atol) -> Tensor",
    fake=_error_fake,
    triton=_triton("runge_kutta_error"),
)
for _namespace in NAMESPACES:
    torch.library.register_autograd(f"{_namespace}::runge_kutta_update", _backward, setup_context=_setup)
