"""The Triton kernel of the masked autoregressive inverse. Imported only when one is launched: it needs triton.

A program takes BLOCK rows through all steps. Its units lie in a scratch of (units, rows) that this program alone writes
and reads; a barrier stands between the two, since the threads that read a value are not those that wrote it.
``table`` holds TABLE numbers for each layer, as triton_masked.py lays them out.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .masked_reference import ACTIVATIONS
from .scales import INDEX
from .triton_kernels import _scaled
from .triton_math import exp, log1p, tanh

TABLE = tl.constexpr(8)
_INDEX = {name: index for index, name in enumerate(ACTIVATIONS)}
RELU = tl.constexpr(_INDEX["relu"])
TANH = tl.constexpr(_INDEX["tanh"])
SIGMOID = tl.constexpr(_INDEX["sigmoid"])
SILU = tl.constexpr(_INDEX["silu"])
GELU = tl.constexpr(_INDEX["gelu"])
ELU = tl.constexpr(_INDEX["elu"])
GATE = tl.constexpr(INDEX["gate"])


@triton.jit
def _activate(z, ACTIVATION: tl.constexpr):
    if ACTIVATION == RELU:
        value = tl.where(z < 0, 0.0, z)  # NaN stays
    elif ACTIVATION == TANH:
        value = tanh(z)
    elif ACTIVATION == GELU:
        value = 0.5 * z * (1.0 + tl.erf(z * 0.7071067811865476))
    elif ACTIVATION == ELU:
        value = tl.where(z > 0, z, exp(z) - 1.0)
    else:
        small = exp(tl.where(z < 0, z, -z))
        logistic = tl.where(z < 0, small, 1.0) / (1.0 + small)
        if ACTIVATION == SIGMOID:
            value = logistic
        elif ACTIVATION == SILU:
            value = z * logistic
        else:
            value = tl.where(z > 20, z, tl.where(z < 0, 0.0, z) + log1p(small))
    return value


@triton.jit
def _sum(weights, bias, inputs, columns, rows, row, there, BLOCK: tl.constexpr, COLUMNS: tl.constexpr):
    """bias + Σ_c weights[c] · inputs[c, row] of one unit."""
    total = tl.zeros([BLOCK], bias.dtype) + bias
    for first in range(0, columns, COLUMNS):
        c = first + tl.arange(0, COLUMNS)
        weight = tl.load(weights + c, mask=c < columns, other=0.0)
        places = inputs + c.to(tl.int64)[:, None] * rows + row[None, :]
        value = tl.load(places, mask=(c < columns)[:, None] & there[None, :], other=0.0)
        total += tl.sum(weight[:, None] * value, axis=0)
    return total


@triton.jit
def _unit(
    parameters, row_bias, bias_columns, scratch, table, unit, columns, rows, row, there,
    ROW_BIAS: tl.constexpr, BLOCK: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    width = tl.load(table)
    weights = parameters + tl.load(table + 1) + unit * width
    inputs = scratch + tl.load(table + 3) * rows
    bias = tl.load(parameters + tl.load(table + 2) + unit)
    total = _sum(weights, bias, inputs, columns, rows, row, there, BLOCK, COLUMNS)
    if ROW_BIAS:
        start = tl.load(table + 6)
        if start >= 0:
            total += tl.load(row_bias + row * bias_columns + start + unit, mask=there, other=0.0)
    return total


@triton.jit(do_not_specialize=["rows", "steps", "layers", "y_row", "y_step", "bias_columns"])
def masked_inverse_kernel(
    y, y_row, y_step, parameters, row_bias, bias_columns, numbers, table, scratch, x, log_det,
    rows, dimensions, steps, layers,
    ACTIVATION: tl.constexpr, RESIDUAL: tl.constexpr, ROW_BIAS: tl.constexpr,
    KIND: tl.constexpr, BOUND: tl.constexpr, OFFSET: tl.constexpr, EPS: tl.constexpr, STANDARDIZE: tl.constexpr,
    BLOCK: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """x of y and the log-determinant of BLOCK rows."""
    dtype: tl.constexpr = x.dtype.element_ty
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = row < rows
    rows = rows.to(tl.int64)
    dimension_ends = numbers + dimensions
    unit_ends = dimension_ends + steps
    skips = unit_ends + steps * (layers - 1)
    total = tl.zeros([BLOCK], dtype)
    lost = tl.zeros([BLOCK], dtype)
    first_rank = 0
    for step in range(steps):
        columns = first_rank
        for layer in range(layers - 1):
            own = table + layer * TABLE
            ends = unit_ends + step * (layers - 1) + layer
            first_unit = tl.load(ends - (layers - 1), mask=step > 0, other=0)
            last_unit = tl.load(ends)
            for unit in range(first_unit, last_unit):
                z = _unit(
                    parameters, row_bias, bias_columns, scratch, own, unit, columns, rows, row, there,
                    ROW_BIAS, BLOCK, COLUMNS,
                )  # fmt: skip
                value = z
                if RESIDUAL:
                    # Every second hidden layer is added to the one two before, and its own sums are kept for the next.
                    if layer % 2 == 0:
                        if layer > 0:
                            skip = tl.load(skips + tl.load(own + 7) + unit)
                            before = scratch + (tl.load(own + 5 - 2 * TABLE) + skip) * rows + row
                            z += tl.load(before, mask=there, other=0.0)
                        tl.store(scratch + (tl.load(own + 5) + unit) * rows + row, z, mask=there)
                    value = tl.where(layer == layers - 2, z, _activate(z, ACTIVATION))
                else:
                    value = _activate(z, ACTIVATION)
                tl.store(scratch + (tl.load(own + 4) + unit) * rows + row, value, mask=there)
            tl.debug_barrier()
            columns = last_unit
        last_rank = tl.load(dimension_ends + step)
        own = table + (layers - 1) * TABLE
        for rank in range(first_rank, last_rank):
            s = _unit(
                parameters, row_bias, bias_columns, scratch, own, 2 * rank, columns, rows, row, there,
                ROW_BIAS, BLOCK, COLUMNS,
            )  # fmt: skip
            t = _unit(
                parameters, row_bias, bias_columns, scratch, own, 2 * rank + 1, columns, rows, row, there,
                ROW_BIAS, BLOCK, COLUMNS,
            )  # fmt: skip
            log_sigma, sigma, _, rest = _scaled(s, KIND, BOUND, OFFSET, EPS)
            t = rest * t if KIND == GATE else t
            dimension = tl.load(numbers + rank).to(tl.int64)
            value = tl.load(y + row * y_row + dimension * y_step, mask=there, other=0.0)
            value = sigma * value + t if STANDARDIZE else (value - t) / sigma
            tl.store(x + row * dimensions + dimension, value, mask=there)
            tl.store(scratch + rank * rows + row, value, mask=there)
            # Summed with the rounding errors added back (Kahan).
            part = (log_sigma if STANDARDIZE else -log_sigma) - lost
            after = total + part
            lost = (after - total) - part
            total = after
        tl.debug_barrier()
        first_rank = last_rank
    tl.store(log_det + row, total, mask=there)
