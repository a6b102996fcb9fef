"""The affine couplings on Triton: the implementations of the registered operators.

Triton itself is imported by the first launch. Nothing here waits for the device, so that a CUDA graph can capture it.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .checks import log_det_dtype
from .layout import Layout
from .triton_rows import PROGRAMS, TILE_BYTES, Rows, Shape, backward, forward, vector_length

_LONG_INNER = 32  # from which a row of a tile lies in one channel; reasoned, and not yet measured on a GPU


def affine_forward(
    x: Tensor,
    log_scale: Tensor,
    shift: Tensor,
    scale: int,
    bound: float,
    offset: float,
    eps: float,
    event_dims: int,
    inverse: bool,
) -> tuple[Tensor, Tensor]:
    """y and the log-determinant of the map that was applied."""
    batch = x.shape[: x.dim() - event_dims]
    y, log_det = _like(x), x.new_empty(batch, dtype=log_det_dtype(x.dtype))
    shape = Shape.whole(math.prod(batch), math.prod(x.shape[len(batch) :]))
    inputs = [Rows.of(tensor, len(batch)) for tensor in (x, log_scale, shift)]
    forward(shape, inputs, y, None, log_det, (scale, bound, offset, eps), inverse)
    return y, log_det


def affine_backward(
    grad_y: Tensor | None,
    grad_log_det: Tensor | None,
    kept: Tensor,
    log_scale: Tensor,
    shift: Tensor | None,
    scale: int,
    bound: float,
    offset: float,
    eps: float,
    event_dims: int,
    inverse: bool,
    want_x: bool,
    want_log_scale: bool,
    want_shift: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients by x, log_scale and shift, empty where they are not wanted."""
    dims = kept.dim() - event_dims
    shape = Shape.whole(math.prod(kept.shape[:dims]), math.prod(kept.shape[dims:]))
    wants = (want_x, want_log_scale, want_shift)
    grads = [_like(kept) if want else kept.new_empty(0) for want in wants]
    outputs = [Rows.of(grad, dims) if want else None for grad, want in zip(grads, wants, strict=True)]
    inputs = [None if tensor is None else Rows.of(tensor, dims) for tensor in (grad_y, kept, log_scale, shift)]
    backward(shape, inputs, grad_log_det, outputs, (scale, bound, offset, eps), inverse)
    return grads[0], grads[1], grads[2]


def affine_event_forward(
    x: Tensor,
    parameters: Tensor,
    log_det: Tensor | None,
    start: int,
    count: int,
    step: int,
    order: int,
    scale: int,
    bound: float,
    offset: float,
    eps: float,
    inverse: bool,
) -> tuple[Tensor, Tensor]:
    """The whole event with its transformed channels, and the log-determinant plus ``log_det``."""
    layout = Layout(start, count, step, order)
    y, total = _like(x), x.new_empty(x.shape[:1], dtype=log_det_dtype(x.dtype))
    inputs = [Rows.of(tensor, 1) for tensor in (x, *layout.split_parameters(parameters))]
    forward(Shape.event(x, layout), inputs, y, log_det, total, (scale, bound, offset, eps), inverse)
    return y, total


def affine_event_backward(
    grad_y: Tensor | None,
    grad_log_det: Tensor | None,
    kept: Tensor,
    parameters: Tensor,
    start: int,
    count: int,
    step: int,
    order: int,
    scale: int,
    bound: float,
    offset: float,
    eps: float,
    inverse: bool,
) -> tuple[Tensor, Tensor]:
    """The gradients by x and parameters, each written as the one tensor it is."""
    layout = Layout(start, count, step, order)
    grad_x, grad_parameters = _like(kept), _like(parameters)
    tensors = (grad_y, kept, *layout.split_parameters(parameters))
    inputs = [None if tensor is None else Rows.of(tensor, 1) for tensor in tensors]
    outputs = [Rows.of(tensor, 1) for tensor in (grad_x, *layout.split_parameters(grad_parameters))]
    backward(Shape.event(kept, layout), inputs, grad_log_det, outputs, (scale, bound, offset, eps), inverse)
    return grad_x, grad_parameters


def channel_forward(x: Tensor, multiplier: Tensor, added: Tensor, inverse: bool) -> Tensor:
    """m·x + a of every channel of x (outer, channels, inner), or (x − a)·m."""
    y = _like(x)
    if x.numel() == 0:
        return y
    from . import triton_kernels as kernels

    outer, channels, inner = x.shape
    by_row = inner >= _LONG_INNER
    rows, columns = (outer * channels, inner) if by_row else (outer, channels * inner)
    vector, tile = vector_length(columns), _channel_tile(x, columns)
    blocks = -(-columns // tile["COLUMNS"])
    with torch.cuda.device_of(x):
        kernels.channel_kernel[(-(-rows // tile["ROWS"]) * blocks,)](
            x.contiguous(), multiplier.contiguous(), added.contiguous(), y,
            rows, columns // vector, channels, inner, blocks, INVERSE=inverse, BY_ROW=by_row, VECTOR=vector, **tile,
        )  # fmt: skip
    return y


def channel_backward(
    grad_y: Tensor, x: Tensor, multiplier: Tensor, added: Tensor, inverse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients by x, multiplier and added; partial sums of fixed order, then a sum of PyTorch over them."""
    grad_x = _like(x)
    if x.numel() == 0:
        return grad_x, torch.zeros_like(multiplier), torch.zeros_like(added)
    from . import triton_kernels as kernels

    outer, channels, inner = x.shape
    by_row = inner >= _LONG_INNER
    columns, row = inner if by_row else channels * inner, channels * inner
    vector, tile = vector_length(columns), _channel_tile(x, columns)
    row_tiles, column_tiles = -(-outer // tile["ROWS"]), -(-columns // tile["COLUMNS"])
    places, tiles = (channels, row_tiles * column_tiles) if by_row else (column_tiles, row_tiles)
    splits = min(tiles, -(-PROGRAMS // places))
    products, sums = multiplier.new_empty(2, splits, channels if by_row else columns)
    with torch.cuda.device_of(x):
        kernels.channel_backward_kernel[(places * splits,)](
            grad_y.contiguous(), x.contiguous(), multiplier.contiguous(), added.contiguous(), grad_x, products, sums,
            outer, columns // vector, row // vector, channels, inner, row_tiles, column_tiles, splits,
            INVERSE=inverse, BY_ROW=by_row, VECTOR=vector, **tile,
        )  # fmt: skip
    by_multiplier, by_added = (part.view(splits, channels, -1).sum((0, 2)) for part in (products, sums))
    return grad_x, by_multiplier, -multiplier * by_added if inverse else by_added


def _like(tensor: Tensor) -> Tensor:
    """Contiguous whatever the strides of ``tensor`` are."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)


def _channel_tile(x: Tensor, columns: int) -> dict[str, Any]:
    """Several rows, between which the columns share their multipliers."""
    elements = TILE_BYTES // x.element_size()
    width = min(1 << (columns - 1).bit_length(), elements // 8)
    return {"ROWS": elements // width, "COLUMNS": width}
