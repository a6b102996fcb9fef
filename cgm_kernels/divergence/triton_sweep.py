"""The reverse sweep through a perceptron and its tangents, inside the Triton kernels. Imported only by these.

With a bar for the derivative of the result by a number, ū̇ = a'(u) ḣ̄ and ū = a'(u) h̄ + a''(u) Σ_p u̇_p ḣ̄_p in each
layer, then z̄ = γ ū, h̄_(k−1) = W_kᵀ z̄_k and the same for the tangents. Gradients of what all rows share are summed by
each program into numbers of its own, in a fixed order: no atomics, the same bits in every run.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from ..triton_activations import bent
from .triton_network import LEAK, probe_tile, trace_weights
from .triton_tiles import (
    EXACT,
    HUTCHINSON,
    NONE,
    TRACE,
    gathered,
    layer_of,
    layer_product,
    modulated,
    product,
    spread,
    spread_rows,
    tile_of,
)


class Gradients(NamedTuple):
    """Where a program adds up gradients; those of each row apart for the tiles of tangents."""

    parameters: Any
    matrix: Any
    bias: Any
    film: Any
    added: Any


@triton.jit
def add(place, numbers, mask):
    tl.store(place, tl.load(place, mask=mask, other=0.0) + numbers, mask=mask)


@triton.jit
def _film_back(gradients, film_row, layer, unit, by_scale, by_shift, rows, F):
    if F.FILM == 2:
        place = gradients.film + layer.film + rows.row[:, None] * film_row + unit[None, :]
        known = rows.there[:, None] & (unit < layer.units)[None, :]
        tl.store(place, by_scale, mask=known)
        tl.store(place + layer.units, by_shift, mask=known)
    else:
        place, inside = gradients.film + layer.film + unit, unit < layer.units
        add(place, tl.sum(by_scale, axis=0), inside)
        add(place + layer.units, tl.sum(by_shift, axis=0), inside)


@triton.jit
def output_back(
    network, film, film_row, grad_value, value_rows, value_there, by_divergence, by_norm, inputs, bars, gradients,
    rows, F,
):  # fmt: skip
    """z̄ and ż̄ of the last layer into the stack ``bars``; ``by_divergence``, ``by_norm`` (BLOCK,) by each tangent."""
    layer = layer_of(network, network.hidden)
    weights = network.parameters + layer.weights
    along, norm = spread_rows(by_divergence, F), spread_rows(by_norm, F)
    for first in range(0, layer.units, F.D):
        column = first + tl.arange(0, F.D)
        inside = column < layer.units
        at, known = tile_of(grad_value, value_rows, value_there, layer.units, column)
        grad = tl.load(at, mask=known, other=0.0).to(F.DTYPE)
        z = grad
        if F.FILM != 0:
            z = product(
                inputs.numbers + inputs.size * layer.source, inputs.rows, inputs.there, layer.inputs, weights, 1,
                layer.inputs, column, layer.units, F.BLOCK, F.D, F.TERMS, F.DTYPE,
            )  # fmt: skip
            z += tl.load(network.parameters + layer.bias + column, mask=inside, other=0.0)[None, :]
        scale, _ = modulated(film, film_row, layer, z, column, rows, F)
        by_scale = grad * z
        if F.MODE == HUTCHINSON or F.MODE == EXACT:
            by_tangent = along[:, None] * probe_tile(inputs, column, layer.units, rows, F)
            if F.FROBENIUS or F.FILM != 0:
                v = product(
                    inputs.tangents + inputs.tangent_size * layer.source, inputs.tangent_rows, inputs.tangent_there,
                    layer.inputs, weights, 1, layer.inputs, column, layer.units,
                    F.T * F.BLOCK, F.D, F.TERMS, F.DTYPE,
                )  # fmt: skip
                if F.FROBENIUS:
                    by_tangent += 2.0 * norm[:, None] * (spread(scale, F) * v if F.FILM != 0 else v)
                by_scale += gathered(by_tangent * v, F)
            if F.FILM != 0:
                by_tangent *= spread(scale, F)
            place = bars.tangents + bars.tangent_size * layer.place
            at, known = tile_of(place, bars.tangent_rows, bars.tangent_there, layer.units, column)
            tl.store(at, by_tangent, mask=known)
        if F.FILM != 0:
            _film_back(gradients, film_row, layer, column, by_scale, grad, rows, F)
            grad *= scale
        add(gradients.parameters + layer.bias + column, tl.sum(grad, axis=0), inside)
        at, known = tile_of(bars.numbers + bars.size * layer.place, bars.rows, bars.there, layer.units, column)
        tl.store(at, grad, mask=known)
    tl.debug_barrier()


@triton.jit
def _by_outputs(network, k, layer, after, along, film, film_row, bars, unit, rows, F):
    """h̄ and ḣ̄ of some units of a hidden layer, through the products of the layer after it."""
    weights = network.parameters + after.weights
    last = k + 1 == network.hidden
    by_value = layer_product(
        bars.numbers + bars.size * after.place, bars.rows, bars.there, after.units, weights, layer.units, 1, unit,
        layer.units, last, F.BLOCK, F,
    )  # fmt: skip
    if F.MODE == NONE:
        by_tangent = by_value
    else:
        before = bars.tangents + bars.tangent_size * after.place
        if F.MODE == TRACE or (F.MODE == EXACT and not F.FROBENIUS):
            if last:
                by_tangent = along[:, None] * trace_weights(network, film, film_row, after, unit, rows, F)
            else:
                matrix = network.matrix if F.MODE == TRACE else weights
                by_tangent = product(
                    before, bars.tangent_rows, bars.tangent_there, after.units, matrix, layer.units, 1, unit,
                    layer.units, F.T * F.BLOCK, F.COLUMNS, F.TERMS, F.DTYPE,
                )  # fmt: skip
        else:
            by_tangent = layer_product(
                before, bars.tangent_rows, bars.tangent_there, after.units, weights, layer.units, 1, unit,
                layer.units, last, F.T * F.BLOCK, F,
            )  # fmt: skip
    return by_value, by_tangent


@triton.jit
def _skipped(hidden_bars, layer, after, by_value, by_tangent, unit, F):
    """With what reaches h̄ and ḣ̄ beside the layer after it, where that one is residual; kept for the layer before."""
    skips = (unit < after.residual)[None, :]
    at, known = tile_of(
        hidden_bars.numbers + hidden_bars.size * after.place, hidden_bars.rows, hidden_bars.there, layer.units, unit
    )
    by_value += tl.load(at, mask=known & skips, other=0.0)
    at, known = tile_of(
        hidden_bars.numbers + hidden_bars.size * layer.place, hidden_bars.rows, hidden_bars.there, layer.units, unit
    )
    tl.store(at, by_value, mask=known)
    if F.MODE != NONE:
        own = hidden_bars.tangents + hidden_bars.tangent_size * layer.place
        place = hidden_bars.tangents + hidden_bars.tangent_size * after.place
        at, known = tile_of(place, hidden_bars.tangent_rows, hidden_bars.tangent_there, layer.units, unit)
        by_tangent += tl.load(at, mask=known & skips, other=0.0)
        at, known = tile_of(own, hidden_bars.tangent_rows, hidden_bars.tangent_there, layer.units, unit)
        tl.store(at, by_tangent, mask=known)
    return by_value, by_tangent


@triton.jit
def hidden_back(network, film, film_row, by_divergence, sums, bars, hidden_bars, gradients, rows, F):
    """z̄ and ż̄ of the hidden layers into the stack ``bars``, from the last to the first."""
    along = spread_rows(by_divergence, F)
    for turn in range(network.hidden):
        k = network.hidden - 1 - turn
        layer, after = layer_of(network, k), layer_of(network, k + 1)
        for first in range(0, layer.units, F.COLUMNS):
            unit = first + tl.arange(0, F.COLUMNS)
            inside = unit < layer.units
            by_value, by_tangent = _by_outputs(network, k, layer, after, along, film, film_row, bars, unit, rows, F)
            if F.RESIDUAL:
                by_value, by_tangent = _skipped(hidden_bars, layer, after, by_value, by_tangent, unit, F)
            at, known = tile_of(sums.numbers + sums.size * layer.place, sums.rows, sums.there, layer.units, unit)
            z = tl.load(at, mask=known, other=0.0).to(F.DTYPE)
            scale, u = modulated(film, film_row, layer, z, unit, rows, F)
            _, slope, curvature = bent(u, LEAK, F.ACTIVATION)
            by_value *= slope
            by_scale = by_value * z
            if F.MODE != NONE:
                place = sums.tangents + sums.tangent_size * layer.place
                at, known = tile_of(place, sums.tangent_rows, sums.tangent_there, layer.units, unit)
                v = tl.load(at, mask=known, other=0.0).to(F.DTYPE)
                bending = gathered(v * by_tangent, F)
                bent_part = curvature * bending
                by_scale = by_value * z + slope * bending
                if F.FILM != 0:
                    bent_part *= scale
                    by_scale += bent_part * z
                    slope *= scale
                by_value += bent_part
                by_tangent *= spread(slope, F)
                place = bars.tangents + bars.tangent_size * layer.place
                at, known = tile_of(place, bars.tangent_rows, bars.tangent_there, layer.units, unit)
                tl.store(at, by_tangent, mask=known)
            if F.FILM != 0:
                _film_back(gradients, film_row, layer, unit, by_scale, by_value, rows, F)
                by_value *= scale
            total = tl.sum(by_value, axis=0)
            add(gradients.parameters + layer.bias + unit, total, unit < layer.biased)
            if F.SHARED:
                add(gradients.bias + unit, total, inside & (unit >= layer.biased))
            if F.ADDED:
                at, known = tile_of(gradients.added, rows.row, rows.there, layer.units, unit)
                add(at, by_value, known & (unit >= layer.biased)[None, :])
            at, known = tile_of(bars.numbers + bars.size * layer.place, bars.rows, bars.there, layer.units, unit)
            tl.store(at, by_value, mask=known)
        tl.debug_barrier()


@triton.jit
def input_back(network, grad, grad_rows, grad_there, bars, F):
    """Store the gradient by x."""
    layer = layer_of(network, 0)
    for first in range(0, layer.inputs, F.D):
        column = first + tl.arange(0, F.D)
        found = product(
            bars.numbers + bars.size * layer.place, bars.rows, bars.there, layer.units, network.parameters,
            layer.inputs, 1, column, layer.inputs, F.BLOCK, F.D, F.TERMS, F.DTYPE,
        )  # fmt: skip
        at, known = tile_of(grad, grad_rows, grad_there, layer.inputs, column)
        tl.store(at, found, mask=known)
