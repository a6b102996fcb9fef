"""The elementwise steps of OT-Flow's potential on Triton. Imported only when one is launched: it needs triton.

Each is described, under its name, in csrc/divergence/potential_kernels.h, and its mathematics is that of
potential_formula.h. Matrices are (rows, width) and contiguous; a ``_row`` is the distance from row to row, 0 where all
rows share one.
"""

# mypy: disallow-incomplete-defs=False
# A kernel's pointers and sizes have no Python type; tl.constexpr marks the rest.

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..coupling.triton_math import INTERPRETED, exp, log1p, tanh

_BLOCK = 8192 if INTERPRETED.value else 512


@triton.jit
def _place(width, size, BLOCK: tl.constexpr):
    """The elements of this program, their rows and columns, and which of them there are."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    return i, i // width, i % width, i < size


@triton.jit
def _curvature(t):
    return (1.0 - t) * (1.0 + t)


@triton.jit
def _bend_kernel(
    z,
    bias,
    before,
    after,
    width,
    size,
    BEFORE: tl.constexpr,
    AFTER: tl.constexpr,
    STEP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    i, _, column, there = _place(width, size, BLOCK)
    value = tl.load(z + i, mask=there, other=0.0) + tl.load(bias + column, mask=there, other=0.0)
    if AFTER:
        distance = tl.abs(value)
        moved = STEP * (distance + log1p(exp(-2.0 * distance)))
        if BEFORE:
            moved += tl.load(before + i, mask=there, other=0.0)
        tl.store(after + i, moved.to(z.dtype.element_ty), mask=there)
    tl.store(z + i, tanh(value), mask=there)


@triton.jit
def _carry_kernel(
    t, v, v_row, carried, below, width, size, BELOW: tl.constexpr, STEP: tl.constexpr, BLOCK: tl.constexpr
):
    i, row, column, there = _place(width, size, BLOCK)
    own = tl.load(v + row * v_row + column, mask=there, other=0.0)
    tl.store(carried + i, (STEP * tl.load(t + i, mask=there, other=0.0) * own).to(v.dtype.element_ty), mask=there)
    if BELOW:
        tl.store(below + i, own, mask=there)


@triton.jit
def _trace_kernel(
    t, v, v_row, q, q_row, laplacian, rows, width, STEP: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    total = tl.zeros([ROWS, COLUMNS], t.dtype.element_ty)
    for first in range(0, width, COLUMNS):
        column = (first + tl.arange(0, COLUMNS))[None, :]
        there = (row < rows)[:, None] & (column < width)
        slope = tl.load(t + row[:, None] * width + column, mask=there, other=0.0)
        covector = tl.load(v + row[:, None] * v_row + column, mask=there, other=0.0)
        total += _curvature(slope) * covector * tl.load(q + row[:, None] * q_row + column, mask=there, other=0.0)
    found = tl.load(laplacian + row, mask=row < rows, other=0.0) + STEP * tl.sum(total, axis=1)
    tl.store(laplacian + row, found.to(t.dtype.element_ty), mask=row < rows)


@triton.jit
def _seed_kernel(t, directions, out, count, width, size, BLOCK: tl.constexpr):
    i, _, column, there = _place(width, size, BLOCK)
    slope = tl.load(t + i, mask=there, other=0.0)
    for p in range(count):
        along = tl.load(directions + p * width + column, mask=there, other=0.0)
        tl.store(out + tl.cast(p, tl.int64) * size + i, slope * along, mask=there)


@triton.jit
def _advance_kernel(
    along, q, t, before, after, factor, count, width, size, AFTER: tl.constexpr, FACTOR: tl.constexpr,
    STEP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i, _, _, there = _place(width, size, BLOCK)
    total = tl.load(q + i, mask=there, other=0.0)
    if AFTER:
        slope = STEP * tl.load(t + i, mask=there, other=0.0)
    if FACTOR:
        scale = tl.load(factor + i, mask=there, other=0.0)
    for p in range(count):
        place = tl.cast(p, tl.int64) * size + i
        own = tl.load(along + place, mask=there, other=0.0)
        total += own * own
        if AFTER:
            moved = tl.load(before + place, mask=there, other=0.0) + slope * own
            tl.store(after + place, moved.to(t.dtype.element_ty), mask=there)
        if FACTOR:
            tl.store(along + place, scale * own, mask=there)
    tl.store(q + i, total, mask=there)


@triton.jit
def _factor_kernel(t, v, v_row, by_laplacian, out, width, size, STEP: tl.constexpr, BLOCK: tl.constexpr):
    i, row, column, there = _place(width, size, BLOCK)
    scale = 2.0 * STEP * tl.load(by_laplacian + row, mask=there, other=0.0)
    covector = tl.load(v + row * v_row + column, mask=there, other=0.0)
    found = scale * _curvature(tl.load(t + i, mask=there, other=0.0)) * covector
    tl.store(out + i, found.to(t.dtype.element_ty), mask=there)


@triton.jit
def _retreat_kernel(along, grad, grad_t, factor, t, count, width, size, STEP: tl.constexpr, BLOCK: tl.constexpr):
    i, _, _, there = _place(width, size, BLOCK)
    total = tl.load(grad_t + i, mask=there, other=0.0)
    scale = tl.load(factor + i, mask=there, other=0.0)
    slope = tl.load(t + i, mask=there, other=0.0)
    for p in range(count):
        place = tl.cast(p, tl.int64) * size + i
        own = tl.load(along + place, mask=there, other=0.0)
        stepped = (STEP * tl.load(grad + place, mask=there, other=0.0)).to(t.dtype.element_ty)
        total += stepped * own
        tl.store(along + place, scale * own + slope * stepped, mask=there)
    tl.store(grad_t + i, total, mask=there)


@triton.jit
def _unseed_kernel(grad, grad_t, t, directions, count, width, size, BLOCK: tl.constexpr):
    i, _, column, there = _place(width, size, BLOCK)
    total = tl.load(grad_t + i, mask=there, other=0.0)
    slope = tl.load(t + i, mask=there, other=0.0)
    for p in range(count):
        place = tl.cast(p, tl.int64) * size + i
        own = tl.load(grad + place, mask=there, other=0.0)
        total += own * tl.load(directions + p * width + column, mask=there, other=0.0)
        tl.store(grad + place, slope * own, mask=there)
    tl.store(grad_t + i, total, mask=there)


@triton.jit
def _lift_kernel(
    grad_v, grad_t, t, v, v_row, q, q_row, by_carried, by_laplacian, width, size, LAPLACIAN: tl.constexpr,
    STEP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i, row, column, there = _place(width, size, BLOCK)
    slope = tl.load(t + i, mask=there, other=0.0)
    carried = tl.load(by_carried + i, mask=there, other=0.0)
    covector = tl.load(v + row * v_row + column, mask=there, other=0.0)
    by_v = slope * carried
    by_t = carried
    if LAPLACIAN:
        bent = tl.load(by_laplacian + row, mask=there, other=0.0) * tl.load(
            q + row * q_row + column, mask=there, other=0.0
        )
        by_v += _curvature(slope) * bent
        by_t -= 2.0 * slope * bent
    by_v = tl.load(grad_v + i, mask=there, other=0.0) + STEP * by_v
    by_t = tl.load(grad_t + i, mask=there, other=0.0) + STEP * covector * by_t
    tl.store(grad_v + i, by_v.to(t.dtype.element_ty), mask=there)
    tl.store(grad_t + i, by_t.to(t.dtype.element_ty), mask=there)


@triton.jit
def _land_kernel(grad_t, t, grad_u, width, size, GRAD_U: tl.constexpr, STEP: tl.constexpr, BLOCK: tl.constexpr):
    i, _, _, there = _place(width, size, BLOCK)
    slope = tl.load(t + i, mask=there, other=0.0)
    found = _curvature(slope) * tl.load(grad_t + i, mask=there, other=0.0)
    if GRAD_U:
        found += STEP * slope * tl.load(grad_u + i, mask=there, other=0.0)
    tl.store(grad_t + i, found.to(t.dtype.element_ty), mask=there)


def _launch(kernel: Any, like: Tensor, *arguments: Any, **constants: Any) -> None:
    """``kernel`` over the elements of the matrix ``like``, whose width and size end the arguments."""
    with torch.cuda.device_of(like):
        kernel[(triton.cdiv(like.numel(), _BLOCK),)](
            *arguments, like.shape[-1], like.numel(), **constants, BLOCK=_BLOCK
        )


def bend(z: Tensor, bias: Tensor, before: Tensor | None, step: float, wanted: bool) -> Tensor | None:
    """The input of the next layer where it is ``wanted``; z becomes the slopes."""
    after = torch.empty_like(z) if wanted else None
    given = before is not None
    _launch(
        _bend_kernel, z, z, bias, before if given else z, after if wanted else z, STEP=step, BEFORE=given, AFTER=wanted
    )
    return after


def carry(t: Tensor, v: Tensor, step: float, wanted: bool) -> tuple[Tensor, Tensor | None]:
    """step t v, and a copy of v where it is ``wanted``."""
    carried, below = torch.empty_like(t), torch.empty_like(t) if wanted else None
    _launch(_carry_kernel, t, t, v, v.stride(0), carried, below if wanted else t, STEP=step, BELOW=wanted)
    return carried, below


def trace(t: Tensor, v: Tensor, q: Tensor, laplacian: Tensor, step: float) -> None:
    rows, width = t.shape
    columns = min(triton.next_power_of_2(width), 128)
    block = max(_BLOCK // columns, 1)
    with torch.cuda.device_of(t):
        _trace_kernel[(triton.cdiv(rows, block),)](
            t, v, v.stride(0), q, q.stride(0), laplacian, rows, width, STEP=step, ROWS=block, COLUMNS=columns
        )


def seed(t: Tensor, directions: Tensor) -> Tensor:
    out = t.new_empty(len(directions), *t.shape)
    _launch(_seed_kernel, t, t, directions, out, len(directions))
    return out


def advance(
    along: Tensor, q: Tensor, t: Tensor, before: Tensor, step: float, wanted: bool, factor: Tensor | None
) -> Tensor | None:
    """What the next layer reads where it is ``wanted``; ``along`` becomes factor · along."""
    after = torch.empty_like(before) if wanted else None
    given = factor is not None
    _launch(
        _advance_kernel, t, along, q, t, before, after if wanted else t, factor if given else t, len(along),
        STEP=step, AFTER=wanted, FACTOR=given,
    )  # fmt: skip
    return after


def factor(t: Tensor, v: Tensor, by_laplacian: Tensor, step: float) -> Tensor:
    out = torch.empty_like(t)
    _launch(_factor_kernel, t, t, v, v.stride(0), by_laplacian, out, STEP=step)
    return out


def retreat(along: Tensor, grad: Tensor, grad_t: Tensor, factor: Tensor, t: Tensor, step: float) -> None:
    _launch(_retreat_kernel, t, along, grad, grad_t, factor, t, len(along), STEP=step)


def unseed(grad: Tensor, grad_t: Tensor, t: Tensor, directions: Tensor) -> None:
    _launch(_unseed_kernel, t, grad, grad_t, t, directions, len(directions))


def lift(
    grad_v: Tensor, grad_t: Tensor, t: Tensor, v: Tensor, q: Tensor, by_carried: Tensor, by_laplacian: Tensor | None,
    step: float,
) -> None:  # fmt: skip
    given = by_laplacian is not None
    _launch(
        _lift_kernel, t, grad_v, grad_t, t, v, v.stride(0), q, q.stride(0), by_carried, by_laplacian if given else t,
        STEP=step, LAPLACIAN=given,
    )  # fmt: skip


def land(grad_t: Tensor, t: Tensor, grad_u: Tensor | None, step: float) -> Tensor:
    """The gradient by z, in the place of grad_t."""
    given = grad_u is not None
    _launch(_land_kernel, t, grad_t, t, grad_u if given else t, STEP=step, GRAD_U=given)
    return grad_t
