"""The registered operators of sliced optimal transport: schemas, fakes, and what autograd keeps.

``sliced_forward`` returns the value and, for each cloud, what its backward needs, as ``keep_x`` and ``keep_y`` say:

=============  ==========================================================================================
``NOTHING``       an empty tensor: no gradient is wanted, and the kernel sorts keys alone
``COEFFICIENTS``  (B, L, n): the derivative of each direction's cost by each projected point
``GRADIENT``      (B, n, d): the gradient of the mean cost, accumulated over directions
=============  ==========================================================================================
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._register import register
from . import triton

NOTHING, COEFFICIENTS, GRADIENT = 0, 1, 2

_COEFFICIENT_BYTES = 32 * 2**20


def keep_for(cloud: Tensor, n_projections: int) -> int:
    """What to keep for the gradient of ``cloud``.

    Coefficients save a pass over the gradient while they are the smaller of the two and small; the gradient itself
    never grows with the number of directions.
    """
    if not cloud.requires_grad or not torch.is_grad_enabled():
        return NOTHING
    few = n_projections <= cloud.shape[-1]
    small = cloud.numel() // cloud.shape[-1] * n_projections * cloud.element_size() <= _COEFFICIENT_BYTES
    return COEFFICIENTS if few and small else GRADIENT


def _kept_shape(cloud: Tensor, projections: Tensor, keep: int) -> tuple[int, ...]:
    batch = cloud.shape[0] if cloud.dim() == 3 else 1
    if keep == NOTHING:
        return (0,)
    n, d = cloud.shape[-2:]
    return (batch, projections.shape[1], n) if keep == COEFFICIENTS else (batch, n, d)


def _sliced_fake(
    x: Tensor,
    y: Tensor,
    projections: Tensor,
    x_weights: Tensor | None,
    y_weights: Tensor | None,
    p: float,
    root: bool,
    keep_x: int,
    keep_y: int,
) -> tuple[Tensor, Tensor, Tensor]:
    kept_x, kept_y = (x.new_empty(_kept_shape(c, projections, keep)) for c, keep in ((x, keep_x), (y, keep_y)))
    return x.new_empty(x.shape[:-2]), kept_x, kept_y


def _sliced_setup(ctx: Any, inputs: Any, output: Any) -> tuple[Tensor, ...]:
    x, y, projections, _, _, p, root, keep_x, keep_y = inputs
    ctx.power, ctx.root, ctx.keeps, ctx.shapes = p, root, (keep_x, keep_y), (x.shape, y.shape)
    return projections, *output


def _sliced_backward(
    ctx: Any, grad_value: Tensor | None, projections: Tensor, value: Tensor, *kept: Tensor
) -> tuple[Tensor | None, ...]:
    grads: list[Tensor | None] = [None, None]
    if grad_value is not None:
        scale = cost_gradient(grad_value, value, ctx.power, ctx.root).reshape(-1, 1, 1)
        for k in (0, 1):
            if ctx.keeps[k] == COEFFICIENTS:
                directions = projections.T * (scale / projections.shape[1])
                grads[k] = (kept[k].transpose(-1, -2) @ directions).reshape(ctx.shapes[k])
            elif ctx.keeps[k] == GRADIENT:
                grads[k] = (kept[k] * scale).reshape(ctx.shapes[k])
    return (*grads, *([None] * 7))


def cost_gradient(grad_value: Tensor, value: Tensor, p: float, root: bool) -> Tensor:
    """The gradient by the mean cost c: that of the value, or of value = c^(1/p), taken as 0 where c = 0."""
    if not root or p == 1.0:
        return grad_value
    zero = value == 0
    # Near 0 the slope overflows while the coefficients underflow: a finite slope keeps their product from being NaN.
    slope = (torch.where(zero, 1.0, value).pow(1.0 - p) / p).clamp(max=torch.finfo(value.dtype).max)
    return torch.where(zero, 0.0, grad_value * slope)


def _rows_fake(
    x: Tensor,
    y: Tensor,
    x_weights: Tensor | None,
    y_weights: Tensor | None,
    p: float,
    keep_x: bool,
    keep_y: bool,
    keep_x_weights: bool,
    keep_y_weights: bool,
) -> tuple[Tensor, ...]:
    keeps = ((x, keep_x), (y, keep_y), (x, keep_x_weights), (y, keep_y_weights))
    kept = (torch.empty(points.shape if keep else (0,), dtype=x.dtype, device=x.device) for points, keep in keeps)
    return x.new_empty(x.shape[:-1]), *kept


def _rows_setup(ctx: Any, inputs: Any, output: Any) -> tuple[Tensor, ...]:
    ctx.keeps = inputs[5:]
    ctx.shapes = [None if tensor is None else tensor.shape for tensor in inputs[:4]]
    ctx.weight_dtypes = [None if tensor is None else tensor.dtype for tensor in inputs[2:4]]
    return output


def _rows_backward(ctx: Any, grad_value: Tensor | None, _: Tensor, *saved: Tensor) -> tuple[Tensor | None, ...]:
    grads: list[Tensor | None] = [None] * 4
    for k, (keep, kept) in enumerate(zip(ctx.keeps, saved, strict=True)):
        if not keep or grad_value is None:
            continue
        grad = kept * grad_value.unsqueeze(-1)
        grad = grad.sum_to_size(ctx.shapes[k])
        grads[k] = grad if k < 2 else grad.to(ctx.weight_dtypes[k - 2])
    return (*grads, *([None] * 5))


register(
    "sliced_forward",
    "(Tensor x, Tensor y, Tensor projections, Tensor? x_weights, Tensor? y_weights, float p, bool root, "
    "int keep_x, int keep_y) -> (Tensor, Tensor, Tensor)",
    fake=_sliced_fake,
    setup_context=_sliced_setup,
    backward=_sliced_backward,
    triton=triton.sliced_forward,
    once=True,
)

register(
    "wasserstein_1d_forward",
    "(Tensor x, Tensor y, Tensor? x_weights, Tensor? y_weights, float p, bool keep_x, bool keep_y, "
    "bool keep_x_weights, bool keep_y_weights) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    fake=_rows_fake,
    setup_context=_rows_setup,
    backward=_rows_backward,
    triton=triton.wasserstein_1d_forward,
    once=True,
)
