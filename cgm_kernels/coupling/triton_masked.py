"""The masked autoregressive inverse on Triton: the implementation of the registered operator.

Triton itself is imported by the first launch. Nothing here waits for the device, so that a CUDA graph can capture it
once the table of the network's shape is there.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import torch
from torch import Tensor


@functools.cache
def _table(
    widths: tuple[int, ...], starts: tuple[int, ...], residual: bool, device: torch.device
) -> tuple[Tensor, int]:
    """Eight numbers for each layer, and the units of the scratch.

    Its inputs, first weight and first bias; in the scratch what it reads, its values and its sums; its first column of
    the row biases or -1, its first skip.
    """
    layers = len(starts)
    sizes = [a * b for a, b in itertools.pairwise(widths)]
    rows, used, bias, skip = [], widths[0], sum(sizes), 0
    source = 0
    for layer in range(layers):
        values = sums = used
        if layer < layers - 1:
            used += widths[layer + 1]
            if residual and layer % 2 == 0:
                sums, used = used, used + widths[layer + 1]
        rows.append([widths[layer], sum(sizes[:layer]), bias, source, values, sums, starts[layer], skip])
        source, bias, skip = values, bias + widths[layer + 1], skip + widths[layer + 1]
    return torch.tensor(rows, dtype=torch.int64).to(device), used


def masked_inverse(
    y: Tensor,
    parameters: Tensor,
    row_bias: Tensor | None,
    numbers: Tensor,
    widths: Sequence[int],
    starts: Sequence[int],
    n_steps: int,
    activation: int,
    residual: bool,
    kind: int,
    bound: float,
    offset: float,
    eps: float,
    standardize: bool,
) -> tuple[Tensor, Tensor]:
    """x of y (rows, dimensions) and the log-determinant (rows)."""
    from .triton_masked_kernels import masked_inverse_kernel

    rows, dimensions = y.shape
    x, log_det = torch.empty_like(y, memory_format=torch.contiguous_format), y.new_empty(rows)
    if rows == 0:
        return x, log_det
    table, units = _table(tuple(widths), tuple(starts), residual, y.device)
    scratch = y.new_empty(units, rows)
    row_bias = None if row_bias is None else row_bias.contiguous()
    block = 64 if y.is_cuda else 1024  # the interpreter pays for each program and operation
    with torch.cuda.device_of(y):
        masked_inverse_kernel[(-(-rows // block),)](
            y, *y.stride(), parameters.contiguous(), row_bias, 0 if row_bias is None else row_bias.shape[1],
            numbers.contiguous(), table, scratch, x, log_det, rows, dimensions, n_steps, len(starts),
            ACTIVATION=activation, RESIDUAL=residual, ROW_BIAS=row_bias is not None, KIND=kind, BOUND=bound,
            OFFSET=offset, EPS=eps, STANDARDIZE=standardize, BLOCK=block, COLUMNS=32, num_warps=4,
        )  # fmt: skip
    return x, log_det
