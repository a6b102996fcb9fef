"""Events as rows of matrices on the Triton kernels: strides, tiles, and the split of long rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from .layout import Layout
from .scales import INDEX

# Reasoned, and not yet measured on a GPU:
TILE_BYTES = 4096  # of each operand; 8 numbers of float32 a thread
PROGRAMS = 1024  # that keep every GPU busy: with fewer, long rows are split
_SPLIT_TILES = 8  # that a program of a split row has at least, to be worth a second pass

_VECTOR = 16  # what the compiler is told of divisibility at most

_Options = tuple[int, float, float, float]  # scale kind, bound, offset, eps


@dataclass
class Rows:
    """A tensor as a matrix: element (i, j) is ``row``·i + ``step``·j behind the first."""

    tensor: Tensor
    row: int
    step: int

    @staticmethod
    def of(tensor: Tensor, batch_dims: int) -> Rows:
        """Of the batch dimensions as rows and the others as columns; copied where one stride each does not do."""
        shape, strides = tensor.shape, tensor.stride()
        row, step = (_walk(shape[part], strides[part]) for part in (slice(batch_dims), slice(batch_dims, None)))
        if row is None or step is None:
            return Rows(tensor.contiguous(), math.prod(shape[batch_dims:]), 1)
        return Rows(tensor, row, step)


@dataclass
class Shape:
    """``count`` of the ``length`` columns are transformed, ``begin``, ``begin + every``, …; the others pass."""

    rows: int
    length: int
    begin: int
    every: int
    count: int

    @staticmethod
    def whole(rows: int, columns: int) -> Shape:
        return Shape(rows, columns, 0, 1, columns)

    @staticmethod
    def event(x: Tensor, layout: Layout) -> Shape:
        inner = math.prod(x.shape[2:])
        return Shape(x.shape[0], x.shape[1] * inner, layout.start * inner, max(layout.step, 1), layout.size * inner)

    @property
    def passing(self) -> bool:
        return self.count < self.length

    @property
    def reach(self) -> int:
        """From ``begin`` on, the columns among which the transformed ones are."""
        return self.count * self.every

    def vectors(self, matrices: Iterable[Rows | None]) -> dict[str, int]:
        """What divides the row strides, and the places of the transformed columns: the longest accesses that are sure.

        Where transformed columns alternate with others, only what passes can move in such accesses.
        """
        vector = vector_length(self.length, *(matrix.row for matrix in matrices if matrix is not None))
        if self.every > 1:
            return {"VECTOR": vector, "PLACES": 1}
        vector = math.gcd(vector, self.begin, self.reach)
        return {"VECTOR": vector, "PLACES": vector}


def vector_length(length: int, *others: int) -> int:
    """What divides all of them; 1 for a length near 2^31, which only a 64-bit argument holds when multiplied."""
    return math.gcd(_VECTOR, length, *others) if length < 2**30 else 1


def forward(
    shape: Shape,
    inputs: Sequence[Rows],
    y: Tensor,
    before: Tensor | None,
    log_det: Tensor,
    options: _Options,
    inverse: bool,
) -> None:
    """Write the contiguous y and log_det, to which ``before`` is added. ``inputs``: x, log_scale, shift."""
    if shape.rows == 0:
        return
    from . import triton_kernels as kernels

    tile = _tile(shape, y)
    row_blocks = -(-shape.rows // tile["ROWS"])
    splits = max(1, min(shape.length // (_SPLIT_TILES * tile["COLUMNS"]), PROGRAMS // row_blocks))
    vectors = shape.vectors(inputs)
    total = log_det if splits == 1 else log_det.new_empty(shape.rows, splits)
    added = before if splits == 1 else None
    with torch.cuda.device_of(y):
        kernels.affine_rows_kernel[(row_blocks * splits,)](
            *_arguments(inputs, vectors), y,
            y if added is None else added, 0 if added is None else added.stride(0), total,
            *_sizes(shape, vectors), splits, **_constants(shape, options, inverse), BEFORE=added is not None,
            **vectors, **tile,
        )  # fmt: skip
    if splits > 1:
        torch.sum(total, -1, out=log_det.view(-1))
        if before is not None:
            log_det += before


def backward(
    shape: Shape,
    inputs: Sequence[Rows | None],
    grad_log_det: Tensor | None,
    outputs: Sequence[Rows | None],
    options: _Options,
    inverse: bool,
) -> None:
    """Write the gradients by x (contiguous), log_scale and shift, where they are wanted.

    ``inputs``: grad_y, what the forward kept, log_scale, and the shift, which the gate alone reads.
    """
    if shape.rows == 0 or shape.length == 0:
        return
    from . import triton_kernels as kernels

    shift = inputs[3] if options[0] == INDEX["gate"] else None
    kept = cast(Rows, inputs[1])
    tile, vectors = _tile(shape, kept.tensor), shape.vectors((*inputs[:3], shift, *outputs[1:]))
    blocks = -(-shape.length // tile["COLUMNS"])
    nothing = Rows(kept.tensor, 0, 1)
    grad_y, *others = (matrix or nothing for matrix in (*inputs[:3], shift))
    grad_x, *halves = (matrix or nothing for matrix in outputs)
    with torch.cuda.device_of(kept.tensor):
        kernels.affine_rows_backward_kernel[(-(-shape.rows // tile["ROWS"]) * blocks,)](
            *_arguments([grad_y], vectors), *_strided(grad_log_det, kept.tensor), *_arguments(others, vectors),
            grad_x.tensor, *_arguments(halves, vectors), *_sizes(shape, vectors), blocks,
            **_constants(shape, options, inverse),
            GRAD_Y=inputs[0] is not None, GRAD_LOG_DET=grad_log_det is not None, WANT_X=outputs[0] is not None,
            WANT_S=outputs[1] is not None, WANT_T=outputs[2] is not None,
            **vectors, **tile,
        )  # fmt: skip


def _walk(sizes: Sequence[int], strides: Sequence[int]) -> int | None:
    """The one stride of a walk over all of these dimensions in order; None where it takes more than one."""
    found, extent = None, 1
    for size, stride in zip(reversed(sizes), reversed(strides), strict=True):
        if size == 1:
            continue
        if found is None:
            found = stride
        elif stride != found * extent:
            return None
        extent *= size
    return 1 if found is None else found


def _tile(shape: Shape, tensor: Tensor) -> dict[str, int]:
    """A whole short row and its neighbours, or a part of a long one."""
    elements = TILE_BYTES // tensor.element_size()
    columns = min(1 << max(0, shape.length - 1).bit_length(), elements)
    return {"ROWS": elements // columns, "COLUMNS": columns}


def _arguments(matrices: Iterable[Rows], vectors: dict[str, int]) -> list[Any]:
    return [part for matrix in matrices for part in (matrix.tensor, matrix.row // vectors["VECTOR"], matrix.step)]


def _strided(vector: Tensor | None, otherwise: Tensor) -> tuple[Tensor, int]:
    """As one dimension with one stride."""
    if vector is None:
        return otherwise, 0
    vector = vector.reshape(-1)
    return vector, vector.stride(0)


def _sizes(shape: Shape, vectors: dict[str, int]) -> tuple[int, ...]:
    vector, places = vectors.values()
    return shape.rows, shape.length // vector, shape.begin // places, shape.every, shape.reach // places


def _constants(shape: Shape, options: _Options, inverse: bool) -> dict[str, Any]:
    names = ("KIND", "BOUND", "OFFSET", "EPS")
    return {**dict(zip(names, options, strict=True)), "INVERSE": inverse, "PASSING": shape.passing}
