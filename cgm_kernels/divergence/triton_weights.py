"""The gradients of the weights of a perceptron, inside the Triton kernels. Imported only by these.

Σ_rows z̄ hᵀ + Σ_tangents ż̄ ḣᵀ of each layer, added to the numbers of the program. Both stacks are its scratch.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_sweep import add
from .triton_tiles import EXACT, HUTCHINSON, TRACE, layer_of, multiplied, spread_rows, tile_of


@triton.jit
def _outer(
    left, left_width, unit, right, right_width, column, total,
    ROWS: tl.constexpr, TERMS: tl.constexpr,
):  # fmt: skip
    """total + Σ_r left[r, unit] · right[r, column]."""
    for first in range(0, ROWS, TERMS):
        row = first + tl.arange(0, TERMS)
        at, known = tile_of(left, row, row >= 0, left_width, unit)
        a = tl.load(at, mask=known, other=0.0)
        at, known = tile_of(right, row, row >= 0, right_width, column)
        b = tl.load(at, mask=known, other=0.0)
        total = multiplied(tl.trans(a), b, total)
    return total


@triton.jit
def _layer_weights(
    layer, inputs, bars, into, F,
    VALUES: tl.constexpr, TANGENTS: tl.constexpr, UNITS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    TERMS: tl.constexpr = F.TERMS if F.TERMS < F.BLOCK else F.BLOCK
    for first in range(0, layer.units, UNITS):
        unit = first + tl.arange(0, UNITS)
        for begin in range(0, layer.inputs, COLUMNS):
            column = begin + tl.arange(0, COLUMNS)
            total = tl.zeros([UNITS, COLUMNS], F.DTYPE)
            if VALUES:
                total = _outer(
                    bars.numbers + bars.size * layer.place, layer.units, unit,
                    inputs.numbers + inputs.size * layer.source, layer.inputs, column, total, F.BLOCK, TERMS,
                )  # fmt: skip
            if TANGENTS:
                total = _outer(
                    bars.tangents + bars.tangent_size * layer.place, layer.units, unit,
                    inputs.tangents + inputs.tangent_size * layer.source, layer.inputs, column, total,
                    F.T * F.BLOCK, TERMS,
                )  # fmt: skip
            at, known = tile_of(into, unit, unit < layer.units, layer.inputs, column)
            add(at, total, known)


@triton.jit
def _first_columns(layer, bars, into, rows, F):
    """Of tangents that begin as columns of W_1: to column j the sum over the rows of ż̄_1 of tangent j."""
    column = tl.sum(tl.reshape(rows.tangent, [F.T, F.BLOCK]), axis=1) // F.BLOCK
    for first in range(0, layer.units, F.COLUMNS):
        unit = first + tl.arange(0, F.COLUMNS)
        place = bars.tangents + bars.tangent_size * layer.place
        at, known = tile_of(place, bars.tangent_rows, bars.tangent_there, layer.units, unit)
        by_tangent = tl.reshape(tl.load(at, mask=known, other=0.0).to(F.DTYPE), [F.T, F.BLOCK, F.COLUMNS])
        known = (column < layer.inputs)[:, None] & (unit < layer.units)[None, :]
        add(into + unit[None, :] * layer.inputs + column[:, None], tl.sum(by_tangent, axis=1), known)


@triton.jit
def _trace_vector(layer, along, inputs, into, F):
    """Of two layers: Σ_rows of the derivative by the trace times D_1."""
    for first in range(0, layer.inputs, F.COLUMNS):
        unit = first + tl.arange(0, F.COLUMNS)
        place = inputs.tangents + inputs.tangent_size * layer.source
        at, known = tile_of(place, inputs.tangent_rows, inputs.tangent_there, layer.inputs, unit)
        tangent = tl.load(at, mask=known, other=0.0).to(F.DTYPE)
        add(into + unit, tl.sum(along[:, None] * tangent, axis=0), unit < layer.inputs)


@triton.jit
def weight_gradients(network, by_divergence, inputs, bars, gradients, rows, F):
    """Add those of the program's rows and tangents."""
    PROBES: tl.constexpr = F.MODE == HUTCHINSON
    TANGENTS: tl.constexpr = F.MODE == HUTCHINSON or F.MODE == EXACT
    first, last = layer_of(network, 0), layer_of(network, network.hidden)
    _layer_weights(first, inputs, bars, gradients.parameters, F, True, PROBES, F.COLUMNS, F.D)
    if F.MODE == EXACT:
        # The threads that add these numbers are not those that added the ones before.
        tl.debug_barrier()
        _first_columns(first, bars, gradients.parameters, rows, F)
    for k in range(1, network.hidden):
        layer = layer_of(network, k)
        into = gradients.parameters + layer.weights
        _layer_weights(layer, inputs, bars, into, F, True, TANGENTS, F.COLUMNS, F.COLUMNS)
    _layer_weights(last, inputs, bars, gradients.parameters + last.weights, F, True, TANGENTS, F.D, F.COLUMNS)
    if F.MODE == TRACE:
        if network.hidden == 1:
            _trace_vector(last, spread_rows(by_divergence, F), inputs, gradients.matrix, F)
        else:
            _layer_weights(
                layer_of(network, 1), inputs, bars, gradients.matrix, F, False, True, F.COLUMNS, F.COLUMNS
            )  # fmt: skip
    tl.debug_barrier()
