"""Stacks of couplings on Triton: the implementations of the registered operators.

Triton itself is imported by the first launch. Nothing here waits for the device once the tables of a stack are there,
so that a CUDA graph can capture it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..divergence.triton_launch import contiguous, flags
from ..divergence.triton_plan import WARPS
from .checks import log_det_dtype
from .triton_stack_table import Stack, tables


def coupling_stack_forward(
    x: Tensor, log_det: Tensor | None, parameters: Tensor, conditioning: Tensor | None, widths: Sequence[int],
    channels: Sequence[int], activation: int, scale: int, bound: float, offset: float, eps: float, inverse: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """y, the log-determinant plus ``log_det``, and what the layers transformed, (B, size) of each."""
    stack, wide, batch = Stack.of(widths, channels), log_det_dtype(x.dtype), len(x)
    y, total = x.new_empty(x.shape), x.new_empty(batch, dtype=wide)
    kept = x.new_empty(batch * sum(layer.size for layer in stack.channels) if keep else 0)
    if batch == 0:
        return y, total, kept
    from .triton_stack_kernels import coupling_stack_kernel

    chosen = stack.plan(x, activation)
    rows = chosen.programs * chosen.block
    with torch.cuda.device_of(x):
        coupling_stack_kernel[(chosen.programs,)](
            x.contiguous(), contiguous(log_det, total), _layers(stack, parameters.contiguous(), x.shape[1]),
            contiguous(conditioning, x), y, total, kept, x.new_empty(rows * stack.columns),
            x.new_empty(rows * 2 * stack.moved, dtype=wide), batch, chosen.jobs,
            flags(chosen, wide, conditioning is not None, True), _coupling(scale, bound, offset, eps, inverse),
            BEFORE=log_det is not None, KEEP=keep, num_warps=WARPS,
        )  # fmt: skip
    return y, total, kept


@torch.no_grad()  # a backward that is to be differentiated runs with gradients on
def coupling_stack_backward(
    grad_y: Tensor | None, grad_log_det: Tensor | None, y: Tensor, kept: Tensor, parameters: Tensor,
    conditioning: Tensor | None, widths: Sequence[int], channels: Sequence[int], activation: int, scale: int,
    bound: float, offset: float, eps: float, inverse: bool, want_parameters: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The gradients by x, parameters (none unless wanted) and conditioning; what rows share is added in fixed order."""
    stack, wide, batch = Stack.of(widths, channels), log_det_dtype(y.dtype), len(y)
    grad_x, share = y.new_empty(y.shape), stack.n_parameters
    by_added = y.new_zeros(0 if conditioning is None else conditioning.shape, dtype=wide)
    if batch == 0:
        return grad_x, y.new_zeros(share if want_parameters else 0), by_added.to(y.dtype)
    from .triton_stack_kernels import coupling_stack_backward_kernel

    chosen, d = stack.plan(y, activation, share), y.shape[1]
    rows, shared = chosen.programs * chosen.block, y.new_zeros(chosen.programs, share, dtype=wide)
    with torch.cuda.device_of(y):
        coupling_stack_backward_kernel[(chosen.programs,)](
            y.contiguous(), kept.contiguous(), _layers(stack, parameters.contiguous(), d), contiguous(conditioning, y),
            contiguous(grad_y, y), contiguous(grad_log_det, shared), grad_x, shared, by_added,
            y.new_empty(rows * (3 * stack.columns + d)),
            y.new_empty(rows * (d + 2 * stack.moved + stack.passing), dtype=wide), batch, chosen.jobs, share,
            flags(chosen, wide, conditioning is not None, True), _coupling(scale, bound, offset, eps, inverse),
            GRAD_Y=grad_y is not None, GRAD_LOG_DET=grad_log_det is not None,
            WANT_WEIGHTS=want_parameters, num_warps=WARPS,
        )  # fmt: skip
    by_parameters = shared.sum(0).to(y.dtype) if want_parameters else y.new_empty(0)
    return grad_x, by_parameters, by_added.to(y.dtype)


def _layers(stack: Stack, parameters: Tensor, d: int) -> Any:
    """As the kernels take them; the parameters contiguous."""
    from .triton_stack_kernels import Layers

    perceptrons, places = tables(stack, parameters.device)
    return Layers(
        parameters, perceptrons, places, len(stack.channels), stack.hidden, stack.columns, d, stack.moved, stack.passing
    )


def _coupling(*options: Any) -> Any:
    from triton import language as tl

    from .triton_stack_kernels import Coupling

    return Coupling(*map(tl.constexpr, options))
