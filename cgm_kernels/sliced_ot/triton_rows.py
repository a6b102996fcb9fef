"""Chunks of one-dimensional problems on the Triton kernels, in a workspace of bounded size.

Row r is item r // L on direction r % L. A row of up to ``REGISTER_LIMIT`` points is projected and sorted inside a
kernel; beyond it (and where a float64 order is needed, which does not fit in one integer with its index) by a batched
matrix product and ``torch.sort``. Equal sizes with uniform weights then pair by rank; all else goes through the
overlaps of the cumulative weights.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

REGISTER_LIMIT = 4096  # a power of two
WORKSPACE_BYTES = 32 * 2**20

_PAIR_BLOCK = 1024
_TRANSPORT_BLOCKS = 32, 64


@dataclass
class Side:
    """One of the two clouds: its points, and whether coefficients are wanted."""

    points: Tensor  # (items, n, d)
    weights: Tensor | None  # (items, n), raw
    keep: bool

    @property
    def size(self) -> int:
        return self.points.shape[1]


@dataclass
class SortedRows:
    values: Tensor  # (rows, n), ascending
    order: Tensor | None  # (rows, n), the point of each rank
    cumulative: Tensor | None  # (rows, n) float64, normalised; None for uniform weights
    poison: Tensor  # (rows,), 0, or NaN where the row has no answer


@dataclass
class Problem:
    x: Side
    y: Side
    projections: Tensor | None  # (d, L); None: the points are the rows, d = L = 1
    p: float

    @property
    def n_directions(self) -> int:
        return 1 if self.projections is None else self.projections.shape[1]

    @property
    def rows(self) -> int:
        return self.x.points.shape[0] * self.n_directions

    @property
    def paired(self) -> bool:
        """Rank k of x meets rank k of y alone."""
        return self.x.size == self.y.size and self.x.weights is None and self.y.weights is None

    @property
    def fused(self) -> bool:
        return self.paired and _in_registers(self.x) and _in_registers(self.y)

    def chunks(self, row_bytes: int = 0) -> Iterator[slice]:
        """Slices of the rows, each some whole items or a part of one, whose workspace fits WORKSPACE_BYTES.

        ``row_bytes`` is what the caller stores for a row besides. A chunk is one row at least.
        """
        if not self.fused:
            row_bytes += _row_bytes(self.x) + _row_bytes(self.y)
        fitting = min(max(1, WORKSPACE_BYTES // max(1, row_bytes)), 2**24)
        if fitting >= self.n_directions:
            fitting -= fitting % self.n_directions
            for first in range(0, self.rows, fitting):
                yield slice(first, min(first + fitting, self.rows))
        else:
            for item in range(0, self.rows, self.n_directions):
                for first in range(item, item + self.n_directions, fitting):
                    yield slice(first, min(first + fitting, item + self.n_directions))


def solve(
    problem: Problem, chunk: slice, costs: Tensor, x_coefficients: Tensor | None, y_coefficients: Tensor | None
) -> tuple[SortedRows, SortedRows] | None:
    """Write the cost of each row of the chunk, (rows,), and its derivatives by the points, (rows, n); all contiguous.

    Returns the sorted rows, unless they never existed outside a kernel.
    """
    if problem.fused:
        _solve_fused(problem, chunk, costs, x_coefficients, y_coefficients)
        return None
    x, y = (_sort(problem, side, chunk) for side in (problem.x, problem.y))
    if problem.paired:
        _solve_paired(problem, x, y, costs, x_coefficients, y_coefficients)
    else:
        _solve_transport(problem.p, x, y, costs, x_coefficients)
        if y_coefficients is not None:
            _solve_transport(problem.p, y, x, None, y_coefficients)
    return x, y


def _in_registers(side: Side) -> bool:
    order = side.keep or side.weights is not None
    return side.size <= REGISTER_LIMIT and not (order and side.points.dtype is torch.float64)


def _row_bytes(side: Side) -> int:
    """Of the sorted values, the order and the cumulative weights, and of torch.sort's own workspace."""
    scalar = side.points.element_size()
    own = scalar + 8 + (0 if side.weights is None else 8)
    return side.size * (own if _in_registers(side) else own + 2 * scalar + 24)


def _power_of_two(size: int) -> int:
    return 1 << (size - 1).bit_length()


def _row_blocks(size: int, d: int) -> dict[str, int]:
    """The whole row in one program with 8 points a thread, the axes in tiles of about 64 numbers a thread."""
    block = max(16, _power_of_two(size))
    warps = min(max(1, block // 256), 16)
    block_d = min(_power_of_two(d), min(max(8, 2048 * warps // block), 64))
    return {"STAGES": block.bit_length() - 1, "BLOCK": block, "BLOCK_D": block_d, "num_warps": warps}


def _power_arguments(p: float) -> tuple[int, int]:
    """The bits of p (a float argument of a Triton kernel is a float32), and which formula serves it."""
    return struct.unpack("<q", struct.pack("<d", p))[0], int(p) if p in (1.0, 2.0) else 0


def _direction_arguments(problem: Problem) -> tuple[Any, ...]:
    if problem.projections is None:
        return problem.x.points, 0, 0
    return problem.projections, *problem.projections.stride()


def _solve_fused(
    problem: Problem, chunk: slice, costs: Tensor, x_coefficients: Tensor | None, y_coefficients: Tensor | None
) -> None:
    from . import triton_kernels as kernels

    x, y = problem.x.points, problem.y.points
    p_bits, power = _power_arguments(problem.p)
    kernels.paired_clouds_kernel[(chunk.stop - chunk.start,)](
        x, *x.stride(), y, *y.stride(), *_direction_arguments(problem),
        costs if x_coefficients is None else x_coefficients, costs if y_coefficients is None else y_coefficients,
        costs, chunk.start, problem.n_directions, x.shape[1], x.shape[2], p_bits,
        POWER=power, PROJECT=problem.projections is not None,
        KEEP_X=x_coefficients is not None, KEEP_Y=y_coefficients is not None, **_row_blocks(*x.shape[1:]),
    )  # fmt: skip


def _sort(problem: Problem, side: Side, chunk: slice) -> SortedRows:
    return _sort_in_registers(problem, side, chunk) if _in_registers(side) else _sort_by_torch(problem, side, chunk)


def _sort_in_registers(problem: Problem, side: Side, chunk: slice) -> SortedRows:
    from . import triton_kernels as kernels

    points, weights, rows = side.points, side.weights, chunk.stop - chunk.start
    shape = rows, side.size
    with_order = side.keep or weights is not None
    values, poison = points.new_empty(shape), points.new_empty(rows)
    order = points.new_empty(shape, dtype=torch.int32) if with_order else None
    cumulative = None if weights is None else points.new_empty(shape, dtype=torch.float64)
    kernels.sort_rows_kernel[(rows,)](
        points, *points.stride(), *_direction_arguments(problem),
        *((points, 0, 0) if weights is None else (weights, *weights.stride())),
        values, values if order is None else order, values if cumulative is None else cumulative, poison,
        chunk.start, problem.n_directions, *points.shape[1:],
        PROJECT=problem.projections is not None, WITH_ORDER=with_order, WEIGHTED=weights is not None,
        **_row_blocks(*points.shape[1:]),
    )  # fmt: skip
    return SortedRows(values, order, cumulative, poison)


def _sort_by_torch(problem: Problem, side: Side, chunk: slice) -> SortedRows:
    n_directions, rows = problem.n_directions, chunk.stop - chunk.start
    items = slice(chunk.start // n_directions, (chunk.stop - 1) // n_directions + 1)
    points = side.points[items]
    if problem.projections is None:
        projected = points.transpose(1, 2)
    else:
        first = chunk.start % n_directions
        directions = problem.projections[:, first : first + rows // len(points)]
        projected = torch.bmm(directions.T.expand(len(points), -1, -1), points.transpose(1, 2))
    values, order = projected.sort(dim=-1, stable=True)
    poison = torch.where(projected.isfinite().all(-1), 0.0, torch.nan).to(values.dtype)
    cumulative = None
    if side.weights is not None:
        mass = side.weights[items].unsqueeze(1).expand(values.shape).gather(-1, order).double()
        peak = mass.amax(-1, keepdim=True)
        running = (mass / peak).cumsum(-1)  # at most n: the sum of the raw weights may overflow
        cumulative = (running / running[..., -1:]).flatten(0, 1)
        valid = (peak[..., 0] > 0) & peak[..., 0].isfinite() & (mass.amin(-1) >= 0)
        poison = torch.where(valid, poison, torch.nan)
    return SortedRows(values.flatten(0, 1), order.flatten(0, 1), cumulative, poison.flatten())


def _solve_paired(
    problem: Problem,
    x: SortedRows,
    y: SortedRows,
    costs: Tensor,
    x_coefficients: Tensor | None,
    y_coefficients: Tensor | None,
) -> None:
    from . import triton_kernels as kernels

    rows, n = x.values.shape
    blocks = -(-n // _PAIR_BLOCK)
    partial = costs.new_empty(rows, blocks)
    p_bits, power = _power_arguments(problem.p)
    kernels.paired_rows_kernel[(rows * blocks,)](
        x.values, y.values, x.values if x.order is None else x.order, y.values if y.order is None else y.order,
        x.poison, y.poison, partial if x_coefficients is None else x_coefficients,
        partial if y_coefficients is None else y_coefficients, partial, n, blocks, p_bits,
        POWER=power, KEEP_X=x_coefficients is not None, KEEP_Y=y_coefficients is not None, BLOCK=_PAIR_BLOCK,
    )  # fmt: skip
    torch.sum(partial, -1, out=costs)


def _solve_transport(
    p: float, own: SortedRows, other: SortedRows, costs: Tensor | None, coefficients: Tensor | None
) -> None:
    """The cost of each row, and its derivative by the points of ``own``; either may be unwanted."""
    from . import triton_kernels as kernels

    (rows, n), m = own.values.shape, other.values.shape[1]
    block, block_m = _TRANSPORT_BLOCKS
    blocks = -(-n // block)
    partial = None if costs is None else costs.new_empty(rows, blocks)
    p_bits, power = _power_arguments(p)
    pointers = (own.order, own.cumulative, other.cumulative, own.poison, other.poison, coefficients, partial)
    kernels.transport_rows_kernel[(rows * blocks,)](
        own.values, other.values, *(own.values if pointer is None else pointer for pointer in pointers),
        n, m, blocks, p_bits, POWER=power, X_WEIGHTED=own.cumulative is not None,
        Y_WEIGHTED=other.cumulative is not None, KEEP=coefficients is not None, COST=costs is not None,
        STEPS=_power_of_two(m).bit_length(), BLOCK=block, BLOCK_M=block_m,
    )  # fmt: skip
    if partial is not None:
        torch.sum(partial, -1, out=costs)
