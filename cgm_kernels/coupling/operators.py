"""The registered operators of the affine couplings: schemas, fakes, and what autograd keeps.

The forward map keeps its input and the inverse its output: σ is computed again in the backward, by an operator of its
own, so that a compiled graph sees both. Gradients that nobody wants are not written. The backward's own derivatives are
those of the reference's gradients, at the input that an inverse's output is mapped to.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._derivatives import pulled_back
from .._register import define, operator, register
from . import reference, triton
from .checks import log_det_dtype
from .layout import Layout
from .scales import INDEX, Scale

_SCALE = "int scale, float bound, float offset, float eps"
_GATE = INDEX["gate"]


def _empty(like: Tensor, shape: tuple[int, ...] | torch.Size | None = None) -> Tensor:
    return torch.empty(like.shape if shape is None else shape, dtype=like.dtype, device=like.device)


# ---- affine: (x, log_scale, shift) of one shape


def _affine_fake(x: Tensor, log_scale: Tensor, shift: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    event_dims = rest[-2]
    return _empty(x), x.new_empty(x.shape[: x.dim() - event_dims], dtype=log_det_dtype(x.dtype))


def _affine_setup(ctx: Any, inputs: Any, output: Any) -> tuple[Tensor | None, ...]:
    x, log_scale, shift, *ctx.options = inputs
    ctx.wanted = tuple(ctx.needs_input_grad[:3])
    inverse = ctx.options[-1]
    return output[0] if inverse else x, log_scale, shift if ctx.options[0] == _GATE else None


def _affine_backward(
    ctx: Any, grad_y: Tensor | None, grad_log_det: Tensor | None, kept: Tensor, log_scale: Tensor, shift: Tensor | None
) -> tuple[Tensor | None, ...]:
    if grad_y is None and grad_log_det is None:
        return (None,) * 9
    run = operator(ctx.backend, "affine_backward")
    inverse, plain = ctx.options[-1], ctx.options[0] != _GATE
    same = plain and not inverse  # the shift is added as it is: its gradient is that of y
    wanted = (ctx.wanted[0], ctx.wanted[1], ctx.wanted[2] and not same)
    grads = run(grad_y, grad_log_det, kept, log_scale, shift, *ctx.options, *wanted)
    found: list[Tensor | None] = [grad if want else None for grad, want in zip(grads, wanted, strict=True)]
    if same and ctx.wanted[2]:
        found[2] = grad_y
    return (*found, *([None] * 6))


def _affine_backward_fake(
    grad_y: Tensor | None,
    grad_log_det: Tensor | None,
    kept: Tensor,
    log_scale: Tensor,
    shift: Tensor | None,
    *rest: Any,
) -> tuple[Tensor, ...]:
    return tuple(_empty(kept, None if want else (0,)) for want in rest[-3:])


def _affine_backward_composed(
    grad_y: Tensor | None,
    grad_log_det: Tensor | None,
    kept: Tensor,
    log_scale: Tensor,
    shift: Tensor | None,
    *rest: Any,
) -> tuple[Tensor, ...]:
    *numbers, event_dims, inverse = rest[:-3]
    scale = Scale(*numbers)
    shift = torch.zeros_like(kept) if shift is None else shift  # without a gate no gradient depends on it
    x = reference.affine(kept, log_scale, shift, scale, event_dims, False)[0] if inverse else kept

    def forward(x: Tensor, log_scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        return reference.affine(x, log_scale, shift, scale, event_dims, inverse)

    found = pulled_back(forward, (x, log_scale, shift), (grad_y, grad_log_det))
    return tuple(grad if want else _empty(kept, (0,)) for grad, want in zip(found, rest[-3:], strict=True))


register(
    "affine_forward",
    f"(Tensor x, Tensor log_scale, Tensor shift, {_SCALE}, int event_dims, bool inverse) -> (Tensor, Tensor)",
    fake=_affine_fake,
    setup_context=_affine_setup,
    backward=_affine_backward,
    triton=triton.affine_forward,
    values=2,
)
define(
    "affine_backward",
    f"(Tensor? grad_y, Tensor? grad_log_det, Tensor kept, Tensor log_scale, Tensor? shift, {_SCALE}, int event_dims, "
    "bool inverse, bool want_x, bool want_log_scale, bool want_shift) -> (Tensor, Tensor, Tensor)",
    fake=_affine_backward_fake,
    triton=triton.affine_backward,
    composed=_affine_backward_composed,
)


# ---- affine_event: x and parameters whole; start, count, step, order are layout.Layout


def _event_fake(x: Tensor, parameters: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return _empty(x), x.new_empty(x.shape[:1], dtype=log_det_dtype(x.dtype))


def _event_setup(ctx: Any, inputs: Any, output: Any) -> tuple[Tensor, ...]:
    x, parameters, log_det, *ctx.options = inputs
    ctx.running = log_det is not None
    return output[0] if ctx.options[-1] else x, parameters


def _event_backward(
    ctx: Any, grad_y: Tensor | None, grad_log_det: Tensor | None, kept: Tensor, parameters: Tensor
) -> tuple[Tensor | None, ...]:
    grads: tuple[Tensor | None, Tensor | None] = (None, None)
    if grad_y is not None or grad_log_det is not None:
        run = operator(ctx.backend, "affine_event_backward")
        grads = run(grad_y, grad_log_det, kept, parameters, *ctx.options)
    return (*grads, grad_log_det if ctx.running else None, *([None] * 9))


def _event_backward_fake(
    grad_y: Tensor | None, grad_log_det: Tensor | None, kept: Tensor, parameters: Tensor, *rest: Any
) -> tuple[Tensor, Tensor]:
    return _empty(kept), _empty(parameters)


def _event_backward_composed(
    grad_y: Tensor | None, grad_log_det: Tensor | None, kept: Tensor, parameters: Tensor, *rest: Any
) -> list[Tensor]:
    place, scale, inverse = Layout(*rest[:4]), Scale(*rest[4:8]), rest[8]
    x = reference.affine_event(kept, parameters, None, place, scale, False)[0] if inverse else kept

    def forward(x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        return reference.affine_event(x, parameters, None, place, scale, inverse)

    return pulled_back(forward, (x, parameters), (grad_y, grad_log_det))


_EVENT = f"int start, int count, int step, int order, {_SCALE}, bool inverse"

register(
    "affine_event_forward",
    f"(Tensor x, Tensor parameters, Tensor? log_det, {_EVENT}) -> (Tensor, Tensor)",
    fake=_event_fake,
    setup_context=_event_setup,
    backward=_event_backward,
    triton=triton.affine_event_forward,
    values=2,
)
define(
    "affine_event_backward",
    f"(Tensor? grad_y, Tensor? grad_log_det, Tensor kept, Tensor parameters, {_EVENT}) -> (Tensor, Tensor)",
    fake=_event_backward_fake,
    triton=triton.affine_event_backward,
    composed=_event_backward_composed,
)


# ---- channel: x (outer, C, inner), multiplier and added (C,) float32 or float64: m·x + a, or (x − a)·m where inverse


def _channel_fake(x: Tensor, multiplier: Tensor, added: Tensor, inverse: bool) -> Tensor:
    return _empty(x)


def _channel_setup(ctx: Any, inputs: Any, output: Any) -> tuple[Tensor, ...]:
    ctx.inverse = inputs[3]
    return inputs[:3]


def _channel_backward(
    ctx: Any, grad_y: Tensor | None, x: Tensor, multiplier: Tensor, added: Tensor
) -> tuple[Tensor | None, ...]:
    if grad_y is None:
        return (None,) * 4
    return (*operator(ctx.backend, "channel_backward")(grad_y, x, multiplier, added, ctx.inverse), None)


def _channel_backward_fake(
    grad_y: Tensor, x: Tensor, multiplier: Tensor, added: Tensor, inverse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return _empty(x), _empty(multiplier), _empty(added)


def _channel_backward_composed(
    grad_y: Tensor, x: Tensor, multiplier: Tensor, added: Tensor, inverse: bool
) -> list[Tensor]:
    def forward(x: Tensor, multiplier: Tensor, added: Tensor) -> Tensor:
        multiplier, added = multiplier.unsqueeze(-1), added.unsqueeze(-1)
        return (x - added) * multiplier if inverse else x * multiplier + added

    return pulled_back(forward, (x, multiplier, added), (grad_y,))


register(
    "channel_forward",
    "(Tensor x, Tensor multiplier, Tensor added, bool inverse) -> Tensor",
    fake=_channel_fake,
    setup_context=_channel_setup,
    backward=_channel_backward,
    triton=triton.channel_forward,
)
define(
    "channel_backward",
    "(Tensor grad_y, Tensor x, Tensor multiplier, Tensor added, bool inverse) -> (Tensor, Tensor, Tensor)",
    fake=_channel_backward_fake,
    triton=triton.channel_backward,
    composed=_channel_backward_composed,
)
