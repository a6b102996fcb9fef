"""The Triton kernels of the affine couplings. Imported only when one is launched: it needs triton.

The mathematics is that of csrc/coupling/formula.h. A row is an event, column j its element j; of a whole-event
coupling the columns ``begin``, ``begin + every``, … before ``begin + reach`` are transformed and the others pass. Row
strides and ``length`` come divided by VECTOR, ``begin`` and ``reach`` by PLACES, which so divide them for the compiler
as well: loads of 16 bytes need the proof.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .scales import INDEX
from .triton_math import exp, log, log1p, tanh

EXP = tl.constexpr(INDEX["exp"])
TANH = tl.constexpr(INDEX["tanh"])
SOFTCLIP = tl.constexpr(INDEX["softclip"])
SOFTPLUS = tl.constexpr(INDEX["softplus"])
GATE = tl.constexpr(INDEX["gate"])


@triton.jit
def _scaled(s, KIND: tl.constexpr, BOUND: tl.constexpr, OFFSET: tl.constexpr, EPS: tl.constexpr):
    """log σ, σ, d log σ / ds, and of the gate 1 − σ; what a caller does not use costs nothing."""
    if KIND == EXP:
        log_sigma = s
        sigma = exp(s)
        slope = s * 0.0 + 1.0
        rest = slope
    elif KIND == TANH:
        bent = tanh(s * (1.0 / BOUND))
        log_sigma = BOUND * bent
        sigma = exp(log_sigma)
        slope = (1.0 - bent) * (1.0 + bent)
        rest = slope
    elif KIND == SOFTCLIP:
        factor = 1.0 / (1.0 + tl.abs(s * (1.0 / BOUND)))
        log_sigma = s * factor
        sigma = exp(log_sigma)
        slope = factor * factor
        rest = slope
    else:
        u = s if KIND == GATE else s + OFFSET
        small = exp(tl.where(u < 0, u, -u))
        large_part = 1.0 / (1.0 + small)
        small_part = small * large_part
        value = tl.where(u < 0, small_part, large_part)
        rest = tl.where(u < 0, large_part, small_part)
        if KIND == SOFTPLUS:
            sigma = tl.where(u < 0, 0.0, u) + log1p(small) + EPS
            log_sigma = log(sigma)
            slope = value / sigma
        elif KIND == GATE or EPS == 0.0:
            sigma = value
            log_sigma = tl.where(u < 0, u, 0.0) - log1p(small)
            slope = rest
        else:
            sigma = value + EPS
            log_sigma = log(sigma)
            slope = value * rest / sigma
    return log_sigma, sigma, slope, rest


@triton.jit
def _columns(j, begin, every, reach, length, PASSING: tl.constexpr):
    """Which of the columns j are there, which of them are transformed, and the number of each among those."""
    there = j < length
    if PASSING:
        k = (j - begin) // every
        inside = there & (j >= begin) & (j < begin + reach) & ((j - begin) % every == 0)
    else:
        k = j
        inside = there
    return there, inside, k


@triton.jit
def _wide(number, FACTOR: tl.constexpr):
    """A product that may exceed 32 bits."""
    return number.to(tl.int64) * FACTOR


@triton.jit
def _at(base, i, row, column, step):
    """Pointers to the elements (i, column) of a matrix; i and the strides of rows have 64 bits."""
    return base + i[:, None] * row + (column.to(tl.int64) * step)[None, :]


@triton.jit(do_not_specialize=["x_row", "s_row", "t_row", "before_step", "rows", "length", "begin", "reach", "splits"])
def affine_rows_kernel(
    x, x_row, x_step, log_scale, s_row, s_step, shift, t_row, t_step, y, before, before_step, log_det,
    rows, length, begin, every, reach, splits,
    KIND: tl.constexpr, BOUND: tl.constexpr, OFFSET: tl.constexpr, EPS: tl.constexpr, INVERSE: tl.constexpr,
    PASSING: tl.constexpr, BEFORE: tl.constexpr, VECTOR: tl.constexpr, PLACES: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """y and log_det of ROWS rows; or, of the split of a long row, the sum for the (rows, splits) of ``log_det``."""
    dtype: tl.constexpr = log_det.dtype.element_ty
    length, begin, reach = length * VECTOR, begin * PLACES, reach * PLACES
    x_row, s_row, t_row = _wide(x_row, VECTOR), _wide(s_row, VECTOR), _wide(t_row, VECTOR)
    i = _wide(tl.program_id(0) // splits, ROWS) + tl.arange(0, ROWS)
    split = tl.program_id(0) % splits
    here = (i < rows)[:, None]
    # Each lane adds up its own columns; the lanes are added by a tree: as exact as a pairwise sum.
    total = tl.zeros([ROWS, COLUMNS], dtype)
    for first in range(split * COLUMNS, length, splits * COLUMNS):
        j = first + tl.arange(0, COLUMNS)
        there, inside, k = _columns(j, begin, every, reach, length, PASSING)
        inside = here & inside[None, :]
        there = here & there[None, :]
        value = tl.load(_at(x, i, x_row, j, x_step), mask=there, other=0.0)
        s = tl.load(_at(log_scale, i, s_row, k, s_step), mask=inside, other=0.0).to(dtype)
        t = tl.load(_at(shift, i, t_row, k, t_step), mask=inside, other=0.0).to(dtype)
        log_sigma, sigma, _, rest = _scaled(s, KIND, BOUND, OFFSET, EPS)
        t = rest * t if KIND == GATE else t
        moved = value.to(dtype)
        moved = (moved - t) / sigma if INVERSE else sigma * moved + t
        moved = moved.to(y.dtype.element_ty)
        tl.store(_at(y, i, length, j, 1), tl.where(inside, moved, value), mask=there)
        total += tl.where(inside, log_sigma, 0.0)
    result = tl.sum(total, axis=1)
    result = -result if INVERSE else result
    if BEFORE:
        result += tl.load(before + i * before_step, mask=i < rows, other=0.0)
    tl.store(log_det + i * splits + split, result, mask=i < rows)


@triton.jit(
    do_not_specialize=[
        "g_row", "d_step", "kept_row", "s_row", "t_row", "gs_row", "gt_row",
        "rows", "length", "begin", "reach", "blocks",
    ]
)  # fmt: skip
def affine_rows_backward_kernel(
    grad_y, g_row, g_step, grad_log_det, d_step, kept, kept_row, kept_step, log_scale, s_row, s_step,
    shift, t_row, t_step, grad_x, grad_log_scale, gs_row, gs_step, grad_shift, gt_row, gt_step,
    rows, length, begin, every, reach, blocks,
    KIND: tl.constexpr, BOUND: tl.constexpr, OFFSET: tl.constexpr, EPS: tl.constexpr, INVERSE: tl.constexpr,
    PASSING: tl.constexpr, GRAD_Y: tl.constexpr, GRAD_LOG_DET: tl.constexpr, WANT_X: tl.constexpr,
    WANT_S: tl.constexpr, WANT_T: tl.constexpr, VECTOR: tl.constexpr, PLACES: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """One tile of the gradients; σ is computed again. ``kept`` is x, the output where INVERSE."""
    DTYPE: tl.constexpr = tl.float64 if kept.dtype.element_ty == tl.float64 else tl.float32
    length, begin, reach = length * VECTOR, begin * PLACES, reach * PLACES
    g_row, kept_row = _wide(g_row, VECTOR), _wide(kept_row, VECTOR)
    s_row, t_row = _wide(s_row, VECTOR), _wide(t_row, VECTOR)
    gs_row, gt_row = _wide(gs_row, VECTOR), _wide(gt_row, VECTOR)
    i = _wide(tl.program_id(0) // blocks, ROWS) + tl.arange(0, ROWS)
    j = (tl.program_id(0) % blocks) * COLUMNS + tl.arange(0, COLUMNS)
    there, inside, k = _columns(j, begin, every, reach, length, PASSING)
    here = (i < rows)[:, None]
    there, inside = here & there[None, :], here & inside[None, :]
    s = tl.load(_at(log_scale, i, s_row, k, s_step), mask=inside, other=0.0).to(DTYPE)
    x = tl.load(_at(kept, i, kept_row, j, kept_step), mask=inside, other=0.0).to(DTYPE)
    if GRAD_Y:
        g = tl.load(_at(grad_y, i, g_row, j, g_step), mask=there, other=0.0)
    else:
        g = tl.zeros([ROWS, COLUMNS], kept.dtype.element_ty)
    wide = g.to(DTYPE)
    by_log_det = tl.zeros([ROWS, 1], DTYPE)
    if GRAD_LOG_DET:
        by_log_det = tl.load(grad_log_det + i * d_step, mask=i < rows, other=0.0)[:, None]
    _, sigma, slope, rest = _scaled(s, KIND, BOUND, OFFSET, EPS)
    if KIND == GATE:
        x -= tl.load(_at(shift, i, t_row, k, t_step), mask=inside, other=0.0).to(DTYPE)
    if INVERSE:
        by_x = wide / sigma
        by_s = -(wide * x + by_log_det) * slope
        by_t = -by_x * rest if KIND == GATE else -by_x
    else:
        by_x = wide * sigma
        by_s = (by_x * x + by_log_det) * slope
        by_t = wide * rest if KIND == GATE else wide
    if WANT_X:
        by_x = by_x.to(grad_x.dtype.element_ty)
        tl.store(_at(grad_x, i, length, j, 1), tl.where(inside, by_x, g), mask=there)
    if WANT_S:
        by_s = by_s.to(grad_log_scale.dtype.element_ty)
        tl.store(_at(grad_log_scale, i, gs_row, k, gs_step), by_s, mask=inside)
    if WANT_T:
        by_t = by_t.to(grad_shift.dtype.element_ty)
        tl.store(_at(grad_shift, i, gt_row, k, gt_step), by_t, mask=inside)


@triton.jit(do_not_specialize=["rows", "columns", "channels", "blocks"])
def channel_kernel(
    x, multiplier, added, y, rows, columns, channels, inner, blocks,
    INVERSE: tl.constexpr, BY_ROW: tl.constexpr, VECTOR: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """y = m·x + a, or (x − a)·m where INVERSE, of one tile; a row lies in one channel, or (not BY_ROW) holds all."""
    columns = columns * VECTOR
    i = _wide(tl.program_id(0) // blocks, ROWS) + tl.arange(0, ROWS)
    j = (tl.program_id(0) % blocks) * COLUMNS + tl.arange(0, COLUMNS)
    if BY_ROW:
        channel = i.to(tl.int32) % channels
        m = tl.load(multiplier + channel)[:, None]
        a = tl.load(added + channel)[:, None]
    else:
        m = tl.load(multiplier + j // inner, mask=j < columns, other=0.0)[None, :]
        a = tl.load(added + j // inner, mask=j < columns, other=0.0)[None, :]
    inside = (i < rows)[:, None] & (j < columns)[None, :]
    value = tl.load(_at(x, i, columns, j, 1), mask=inside, other=0.0).to(m.dtype)
    value = (value - a) * m if INVERSE else m * value + a
    tl.store(_at(y, i, columns, j, 1), value.to(y.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["outer", "columns", "row", "channels", "row_tiles", "column_tiles", "splits"])
def channel_backward_kernel(
    grad_y, x, multiplier, added, grad_x, products, sums, outer, columns, row, channels, inner,
    row_tiles, column_tiles, splits,
    INVERSE: tl.constexpr, BY_ROW: tl.constexpr, VECTOR: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """grad_x, and partial sums of grad_y·x (or grad_y·(x − a)) and grad_y for the host to add up, one row a split.

    BY_ROW a program walks over tiles of one channel, an (outer, inner) matrix; else over rows of a block of columns.
    """
    columns, row = columns * VECTOR, _wide(row, VECTOR)
    dtype: tl.constexpr = products.dtype.element_ty
    place = tl.program_id(0) // splits  # the channel, or the block of columns
    split = tl.program_id(0) % splits
    product = tl.zeros([ROWS, COLUMNS], dtype)
    total = tl.zeros([ROWS, COLUMNS], dtype)
    tile_rows = tl.full([], ROWS, tl.int64)
    shift = place.to(tl.int64) * columns if BY_ROW else 0 * place.to(tl.int64)
    for tile in range(split, row_tiles * column_tiles if BY_ROW else row_tiles, splits):
        i = (tile // column_tiles if BY_ROW else tile) * tile_rows + tl.arange(0, ROWS)
        j = (tile % column_tiles if BY_ROW else place) * COLUMNS + tl.arange(0, COLUMNS)
        inside = (i < outer)[:, None] & (j < columns)[None, :]
        channel = place + 0 * j if BY_ROW else j // inner
        m = tl.load(multiplier + channel, mask=j < columns, other=0.0)[None, :]
        g = tl.load(_at(grad_y + shift, i, row, j, 1), mask=inside, other=0.0).to(dtype)
        value = tl.load(_at(x + shift, i, row, j, 1), mask=inside, other=0.0).to(dtype)
        if INVERSE:
            value -= tl.load(added + channel, mask=j < columns, other=0.0)[None, :]
        tl.store(_at(grad_x + shift, i, row, j, 1), (g * m).to(grad_x.dtype.element_ty), mask=inside)
        # A masked element of value 0 may meet an infinite a: its product must not count.
        product += tl.where(inside, g * value, 0.0)
        total += g
    if BY_ROW:
        at = split.to(tl.int64) * channels + place
        tl.store(products + at, tl.sum(tl.sum(product, axis=1), axis=0))
        tl.store(sums + at, tl.sum(tl.sum(total, axis=1), axis=0))
    else:
        j = place * COLUMNS + tl.arange(0, COLUMNS)
        at = split.to(tl.int64) * columns + j
        tl.store(products + at, tl.sum(product, axis=0), mask=j < columns)
        tl.store(sums + at, tl.sum(total, axis=0), mask=j < columns)
