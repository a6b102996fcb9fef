"""What the Triton kernels of perceptrons share: flags, layers, rows, stacks, products of tiles. For them alone."""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from ..coupling.triton_math import INTERPRETED
from .triton_plan import EXACT as _EXACT
from .triton_plan import HUTCHINSON as _HUTCHINSON
from .triton_plan import NONE as _NONE
from .triton_plan import TABLE as _TABLE
from .triton_plan import TRACE as _TRACE

NONE, HUTCHINSON, EXACT, TRACE = map(tl.constexpr, (_NONE, _HUTCHINSON, _EXACT, _TRACE))
TABLE = tl.constexpr(_TABLE)


class Flags(NamedTuple):
    """What a kernel is compiled for."""

    MODE: Any  # of the tangents
    ACTIVATION: Any
    RESIDUAL: Any
    FROBENIUS: Any
    FILM: Any  # 0: none, 1: one row for all, 2: a row for each
    SHARED: Any  # whether the first layer has a bias for all rows
    ADDED: Any  # and one for each row
    SMALL: Any  # whether d is too small for the terms of a tl.dot
    BLOCK: Any
    T: Any
    COLUMNS: Any
    TERMS: Any
    D: Any  # columns of a tile of d
    DTYPE: Any  # of sums


class Layer(NamedTuple):
    """Numbers of a layer: see triton_plan.table."""

    inputs: Any
    units: Any
    weights: Any
    bias: Any
    film: Any
    source: Any  # columns in the stacks before those of its inputs
    place: Any  # and before its own
    residual: Any  # of its inputs that are added to what it gives: all or none
    biased: Any  # units whose bias is among the parameters: none of the first layer


class Rows(NamedTuple):
    """The rows of a program: (BLOCK,) rows of the batch, (T·BLOCK,) numbers of tangents, and which are there."""

    first: Any
    tile: Any  # of the tangents, for each row
    row: Any
    there: Any
    tangent: Any
    tangent_there: Any


class Stack(NamedTuple):
    """Numbers of all layers: ``size`` rows a layer, of them ``rows`` this program's, those of the tangents apart."""

    numbers: Any
    size: Any
    rows: Any
    there: Any
    tangents: Any
    tangent_size: Any
    tangent_rows: Any
    tangent_there: Any


@triton.jit
def layer_of(network, k):
    at = network.table + k * TABLE
    return Layer(
        tl.load(at), tl.load(at + 1), tl.load(at + 2), tl.load(at + 3),
        tl.load(at + 4), tl.load(at + 5), tl.load(at + 6), tl.load(at + 7), tl.load(at + 8),
    )  # fmt: skip


@triton.jit
def rows_of(block, tile, batch, tangents, F):
    """Rows r of a block: row ``block``·BLOCK + r, and tangent tile·T + r // BLOCK of row r % BLOCK."""
    r, s = tl.arange(0, F.BLOCK), tl.arange(0, F.T * F.BLOCK)
    row = block * F.BLOCK + r
    tangent = tile * F.T + s // F.BLOCK
    return Rows(
        block * F.BLOCK,
        row * 0 + tile,
        row,
        row < batch,
        tangent,
        (tangent < tangents) & (block * F.BLOCK + s % F.BLOCK < batch),
    )


@triton.jit
def scratch_stack(buffer, columns, F):
    """The stack of a program in a scratch of (1 + T)·BLOCK rows; every row is written, also for rows that are not."""
    r, s = tl.arange(0, F.BLOCK), tl.arange(0, F.T * F.BLOCK)
    return Stack(buffer, F.BLOCK, r, r >= 0, buffer + columns * F.BLOCK, F.T * F.BLOCK, s, s >= 0)


@triton.jit
def tile_of(base, rows, there, width, unit):
    """Pointers to some units of rows of ``width``, and which of them are there."""
    return base + rows[:, None] * width + unit[None, :], there[:, None] & (unit < width)[None, :]


@triton.jit
def spread(tile, F):
    """A tile (BLOCK or 1, n) for every tangent, (T·BLOCK or 1, n)."""
    if F.T > 1 and tile.shape[0] > 1:
        wide = tl.broadcast_to(tile[None, :, :], [F.T, tile.shape[0], tile.shape[1]])
        tile = tl.reshape(wide, [F.T * tile.shape[0], tile.shape[1]])
    return tile


@triton.jit
def gathered(tile, F):
    """The sum over the tangents of a tile (T·BLOCK, n): (BLOCK, n)."""
    if F.T > 1:
        tile = tl.sum(tl.reshape(tile, [F.T, F.BLOCK, tile.shape[1]]), axis=0)
    return tile


@triton.jit
def gathered_rows(numbers, F):
    """The sum over the tangents of (T·BLOCK,): (BLOCK,)."""
    if F.T > 1:
        numbers = tl.sum(tl.reshape(numbers, [F.T, F.BLOCK]), axis=0)
    return numbers


@triton.jit
def spread_rows(numbers, F):
    """A number a row, (BLOCK,), for every tangent: (T·BLOCK,)."""
    if F.T > 1:
        numbers = tl.reshape(tl.broadcast_to(numbers[None, :], [F.T, F.BLOCK]), [F.T * F.BLOCK])
    return numbers


@triton.jit
def multiplied(left, right, total):
    """total + left right. The interpreter knows no products of bfloat16."""
    if INTERPRETED:
        left, right = left.to(total.dtype), right.to(total.dtype)
    return tl.dot(left, right, total, input_precision="ieee", out_dtype=total.dtype)


@triton.jit
def product(
    source, rows, there, terms, matrix, term_stride, column_stride, column, columns,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, TERMS: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Σ_c source[row, c] · matrix[c, column], (ROWS, COLUMNS); one term after the other where TERMS is 1."""
    total = tl.zeros([ROWS, COLUMNS], DTYPE)
    if TERMS == 1:
        for term in range(terms):
            value = tl.load(source + rows * terms + term, mask=there, other=0.0).to(DTYPE)
            place = matrix + term * term_stride + column * column_stride
            weight = tl.load(place, mask=column < columns, other=0.0).to(DTYPE)
            total += value[:, None] * weight[None, :]
    else:
        for first in range(0, terms, TERMS):
            term = first + tl.arange(0, TERMS)
            place, known = tile_of(source, rows, there, terms, term)
            values = tl.load(place, mask=known, other=0.0)
            place = matrix + term[:, None] * term_stride + column[None, :] * column_stride
            weights = tl.load(place, mask=(term < terms)[:, None] & (column < columns)[None, :], other=0.0)
            total = multiplied(values, weights, total)
    return total


@triton.jit
def modulated(film, film_row, layer, z, unit, rows, F):
    """γ, (1, n) or (BLOCK, n), and u = γ ∘ z + β of some units; without FiLM z for both."""
    scale, u = z, z
    if F.FILM != 0:
        at = film + layer.film
        inside = unit < layer.units
        if F.FILM == 2:
            place = at + rows.row[:, None] * film_row + unit[None, :]
            known = rows.there[:, None] & inside[None, :]
            scale = tl.load(place, mask=known, other=0.0).to(F.DTYPE)
            shift = tl.load(place + layer.units, mask=known, other=0.0).to(F.DTYPE)
        else:
            scale = tl.load(at + unit, mask=inside, other=0.0).to(F.DTYPE)[None, :]
            shift = tl.load(at + layer.units + unit, mask=inside, other=0.0).to(F.DTYPE)[None, :]
        u = scale * z + shift
    return scale, u


@triton.jit
def layer_product(
    source, rows, there, terms, matrix, term_stride, column_stride, unit, units, is_outer, ROWS: tl.constexpr, F,
):  # fmt: skip
    """The product of a layer; ``is_outer`` says that its terms are the d coordinates."""
    if F.SMALL:
        if is_outer:
            total = product(
                source, rows, there, terms, matrix, term_stride, column_stride, unit, units,
                ROWS, F.COLUMNS, 1, F.DTYPE,
            )  # fmt: skip
        else:
            total = product(
                source, rows, there, terms, matrix, term_stride, column_stride, unit, units,
                ROWS, F.COLUMNS, F.TERMS, F.DTYPE,
            )  # fmt: skip
    else:
        total = product(
            source, rows, there, terms, matrix, term_stride, column_stride, unit, units,
            ROWS, F.COLUMNS, F.TERMS, F.DTYPE,
        )  # fmt: skip
    return total


@triton.jit
def copy(source, source_rows, source_there, into, rows, there, d, F):
    """Copy rows of d numbers, zeros for those that are not in the source."""
    for first in range(0, d, F.D):
        column = first + tl.arange(0, F.D)
        at, known = tile_of(source, source_rows, source_there, d, column)
        value = tl.load(at, mask=known, other=0.0)
        at, known = tile_of(into, rows, there, d, column)
        tl.store(at, value, mask=known)


@triton.jit
def load_inputs(source, source_rows, probes, batch, d, inputs, rows, F):
    """Copy x and the probes of a program into its stack."""
    copy(source, source_rows, rows.there, inputs.numbers, inputs.rows, inputs.there, d, F)
    if F.MODE == HUTCHINSON:
        own = rows.tangent * batch + (rows.first + tl.arange(0, F.T * F.BLOCK) % F.BLOCK)
        copy(probes, own, rows.tangent_there, inputs.tangents, inputs.tangent_rows, inputs.tangent_there, d, F)
    tl.debug_barrier()
