"""What the launches of the kernels of perceptrons have in common."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .triton_plan import TRACE, Plan, Problem, n_parameters, table
from .triton_trace import trace_matrix


def network(problem: Problem, parameters: Tensor, film: Tensor | None) -> Any:
    """As the kernels take it; the parameters contiguous."""
    from .triton_kernels import Network

    matrix = trace_matrix(parameters, film, problem.widths) if problem.mode == TRACE else parameters
    row = 2 * sum(problem.widths[1:])
    n_matrix = matrix.numel() if problem.mode == TRACE else 0
    return Network(
        parameters, matrix, table(problem.widths, problem.residual, parameters.device), problem.hidden, problem.d,
        problem.columns, row, n_parameters(problem.widths), n_matrix, n_matrix if problem.hidden == 1 else 0,
        row if problem.film == 1 else 0, problem.widths[1],
    )  # fmt: skip


def flags(chosen: Plan, wide: torch.dtype, by_row: bool, shared: bool | None = None) -> Any:
    """What the kernels are compiled for."""
    from triton import language as tl

    from .triton_tiles import Flags

    dtype = tl.float64 if wide == torch.float64 else tl.float32
    shared = not by_row if shared is None else shared
    return Flags(
        **{
            name: tl.constexpr(value)
            for name, value in {**chosen.constants, "SHARED": shared, "ADDED": by_row, "DTYPE": dtype}.items()
        }
    )


def contiguous(tensor: Tensor | None, otherwise: Tensor) -> Tensor:
    return otherwise if tensor is None else tensor.contiguous()


def sum_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def of_tiles(x: Tensor, tiles: int, *shape: int) -> Tensor:
    """Where each tile of tangents stores its part, for ``whole``; of one tile the result itself, and no view."""
    return x.new_empty(shape if tiles == 1 else (tiles, *shape), dtype=sum_dtype(x))


def whole(parts: Tensor, tiles: int) -> Tensor:
    return parts if tiles == 1 else parts.sum(0)
