"""The registered operators of the masked inverse: schemas, fakes, and what autograd keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._derivatives import pulled_back
from .._register import define, operator, register
from . import masked_adjoint, triton_masked
from .masked_reference import ACTIVATIONS, masked_inverse
from .scales import Scale

ACTIVATION_INDEX = {name: index for index, name in enumerate(ACTIVATIONS)}
_NETWORK = (
    "Tensor parameters, Tensor? row_bias, Tensor numbers, int[] widths, int[] starts, int n_steps, int activation, "
    "bool residual, int kind, float bound, float offset, float eps, bool standardize"
)


def _fake(y: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return y.new_empty(y.shape), y.new_empty(y.shape[:1])


def _backward_fake(
    grad_x: Tensor | None, grad_log_det: Tensor | None, x: Tensor, y: Tensor, parameters: Tensor,
    row_bias: Tensor | None, *_: Any,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    rows = y.new_empty(0 if row_bias is None else row_bias.shape)
    return y.new_empty(y.shape), parameters.new_empty(parameters.shape), rows


def _setup(ctx: Any, inputs: Any, output: Any) -> Sequence[Tensor]:
    y, parameters, row_bias, numbers, *ctx.options = inputs
    return output[0], y, parameters, row_bias, numbers


def _backward(
    ctx: Any, grad_x: Tensor | None, grad_log_det: Tensor | None, *saved: Tensor
) -> tuple[Tensor | None, ...]:
    x, y, parameters, row_bias, numbers = saved
    if grad_x is None and grad_log_det is None:
        return (None,) * (4 + len(ctx.options))
    grad_y, grad_parameters, grad_rows = operator(ctx.backend, "masked_inverse_backward")(
        grad_x, grad_log_det, x, y, parameters, row_bias, numbers, *ctx.options
    )
    rows = None if row_bias is None else grad_rows
    return grad_y, grad_parameters, rows, *([None] * (1 + len(ctx.options)))


def _adjoint(grad_x: Tensor | None, grad_log_det: Tensor | None, x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    with torch.autocast(x.device.type, enabled=False):  # a backward may be called where autocast is on
        return masked_adjoint.masked_inverse_backward(grad_x, grad_log_det, x, *rest)


def _backward_composed(
    grad_x: Tensor | None, grad_log_det: Tensor | None, x: Tensor, y: Tensor, parameters: Tensor,
    row_bias: Tensor | None, numbers: Tensor, widths: Sequence[int], starts: Sequence[int], n_steps: int,
    activation: int, residual: bool, *rest: Any,
) -> list[Tensor]:  # fmt: skip
    """Of the inverse the usual way, with the packed network in the place of the masked one."""
    *scale, standardize = rest
    places = numbers[: widths[0]].long()

    def forward(y: Tensor, parameters: Tensor, row_bias: Tensor | None) -> tuple[Tensor, Tensor]:
        net = masked_adjoint.Network.unpacked(parameters, numbers, widths, n_steps, activation, residual)
        found, log_det = masked_inverse(
            y[:, places], lambda x: net.evaluate(x.T, row_bias, starts).T, "interleaved_scale_shift", Scale(*scale),
            standardize,
        )  # fmt: skip
        return found[:, places.argsort()], log_det

    return pulled_back(forward, (y, parameters, row_bias), (grad_x, grad_log_det))


# An operator, so that graphs hold the adjoint sweep whole. The extension has it for the CPU; else it is torch code.
define(
    "masked_inverse_backward",
    f"(Tensor? grad_x, Tensor? grad_log_det, Tensor x, Tensor y, {_NETWORK}) -> (Tensor, Tensor, Tensor)",
    fake=_backward_fake,
    triton=_adjoint,
    composed=_backward_composed,
)
torch.library.impl("cgm_native::masked_inverse_backward", "CUDA", _adjoint)

register(
    "masked_inverse",
    f"(Tensor y, {_NETWORK}) -> (Tensor, Tensor)",
    fake=_fake,
    setup_context=_setup,
    backward=_backward,
    triton=triton_masked.masked_inverse,
    values=2,
)
