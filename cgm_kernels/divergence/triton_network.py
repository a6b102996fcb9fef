"""The layers of a perceptron, values and tangents together, inside the Triton kernels. Imported only by these.

A program takes BLOCK rows and T tangents of each through all layers. What a layer reads lies in a scratch that this
program alone writes and reads, so that widths are loops and not tiles; a barrier stands between the two, since the
threads that read a number are not those that wrote it. The scratch of a program is small enough for the second-level
cache, and its part of a layer for the first.

There are four kinds of tangents. HUTCHINSON: the probes. EXACT: tangent j is the unit vector j. TRACE: the closed form
of two and three layers, whose one tangent begins as ones, D_1 = a'(u_1), goes through the matrix A = W_2 ∘ (W_1 W_3)ᵀ
(three layers) and is summed with the weights diag(W_1 W_2) (two layers) or 1. NONE: values alone.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..triton_activations import bent
from .reference import LEAKY_SLOPE
from .triton_tiles import (
    EXACT,
    HUTCHINSON,
    NONE,
    TRACE,
    gathered_rows,
    layer_of,
    layer_product,
    modulated,
    product,
    spread,
    tile_of,
)

LEAK = tl.constexpr(LEAKY_SLOPE)


@triton.jit
def _value_sums(network, k, layer, bias, added, inputs, unit, rows, F):
    """z = W h + b of some units."""
    z = layer_product(
        inputs.numbers + inputs.size * layer.source, inputs.rows, inputs.there, layer.inputs,
        network.parameters + layer.weights, 1, layer.inputs, unit, layer.units, k == 0, F.BLOCK, F,
    )  # fmt: skip
    inside = unit < layer.units
    z += tl.load(network.parameters + layer.bias + unit, mask=unit < layer.biased, other=0.0)[None, :]
    if F.SHARED:
        z += tl.load(bias + unit, mask=inside & (unit >= layer.biased), other=0.0)[None, :]
    if F.ADDED:
        place, known = tile_of(added, rows.row, rows.there, layer.units, unit)
        z += tl.load(place, mask=known & (unit >= layer.biased)[None, :], other=0.0)
    return z


@triton.jit
def _tangent_sums(network, k, layer, inputs, unit, rows, F):
    """ż = W ḣ of some units; those of the first layer are columns of W_1 or ones where the tangents are no probes."""
    source = inputs.tangents + inputs.tangent_size * layer.source
    weights = network.matrix if F.MODE == TRACE else network.parameters + layer.weights
    if F.MODE == HUTCHINSON:
        z = layer_product(
            source, inputs.tangent_rows, inputs.tangent_there, layer.inputs, weights, 1, layer.inputs, unit,
            layer.units, k == 0, F.T * F.BLOCK, F,
        )  # fmt: skip
    elif k > 0:
        z = product(
            source, inputs.tangent_rows, inputs.tangent_there, layer.inputs, weights, 1, layer.inputs, unit,
            layer.units, F.T * F.BLOCK, F.COLUMNS, F.TERMS, F.DTYPE,
        )  # fmt: skip
    else:
        z = tl.zeros([F.T * F.BLOCK, F.COLUMNS], F.DTYPE)
        if F.MODE == TRACE:
            z += 1.0
        else:
            place = weights + unit[None, :] * layer.inputs + rows.tangent[:, None]
            known = rows.tangent_there[:, None] & (unit < layer.units)[None, :]
            z += tl.load(place, mask=known, other=0.0)
    return z


@triton.jit
def hidden_layers(
    network, film, film_row, bias, added, inputs, sums, rows, F,
    READ: tl.constexpr, READ_TANGENTS: tl.constexpr, STORE: tl.constexpr, STORE_TANGENTS: tl.constexpr,
):  # fmt: skip
    """Fill the stack ``inputs``, which holds x and the probes, with h and ḣ of the hidden layers.

    z and ż are read from the stack ``sums``, or computed and where wanted stored there.
    """
    for k in range(network.hidden):
        layer = layer_of(network, k)
        for first in range(0, layer.units, F.COLUMNS):
            unit = first + tl.arange(0, F.COLUMNS)
            at, known = tile_of(sums.numbers + sums.size * layer.place, sums.rows, sums.there, layer.units, unit)
            if READ:
                z = tl.load(at, mask=known, other=0.0).to(F.DTYPE)
            else:
                z = _value_sums(network, k, layer, bias, added, inputs, unit, rows, F)
            if STORE:
                tl.store(at, z, mask=known)
            scale, u = modulated(film, film_row, layer, z, unit, rows, F)
            value, slope, _ = bent(u, LEAK, F.ACTIVATION)
            before = inputs.numbers + inputs.size * layer.source
            after = inputs.numbers + inputs.size * (layer.source + layer.inputs)
            if F.RESIDUAL:
                at, known = tile_of(before, inputs.rows, inputs.there, layer.units, unit)
                value += tl.load(at, mask=known & (unit < layer.residual)[None, :], other=0.0)
            at, known = tile_of(after, inputs.rows, inputs.there, layer.units, unit)
            tl.store(at, value, mask=known)
            if F.MODE != NONE:
                at, known = tile_of(
                    sums.tangents + sums.tangent_size * layer.place, sums.tangent_rows, sums.tangent_there,
                    layer.units, unit,
                )  # fmt: skip
                if READ_TANGENTS:
                    z = tl.load(at, mask=known, other=0.0).to(F.DTYPE)
                else:
                    z = _tangent_sums(network, k, layer, inputs, unit, rows, F)
                if STORE_TANGENTS:
                    tl.store(at, z, mask=known)
                if F.FILM != 0:
                    slope = slope * scale
                value = spread(slope, F) * z
                before = inputs.tangents + inputs.tangent_size * layer.source
                after = inputs.tangents + inputs.tangent_size * (layer.source + layer.inputs)
                if F.RESIDUAL:
                    at, known = tile_of(before, inputs.tangent_rows, inputs.tangent_there, layer.units, unit)
                    value += tl.load(at, mask=known & (unit < layer.residual)[None, :], other=0.0)
                at, known = tile_of(after, inputs.tangent_rows, inputs.tangent_there, layer.units, unit)
                tl.store(at, value, mask=known)
        tl.debug_barrier()


@triton.jit
def probe_tile(inputs, column, d, rows, F):
    """Some coordinates of the tangents at the input, (T·BLOCK, n)."""
    if F.MODE == HUTCHINSON:
        at, known = tile_of(inputs.tangents, inputs.tangent_rows, inputs.tangent_there, d, column)
        e = tl.load(at, mask=known, other=0.0).to(F.DTYPE)
    else:
        e = ((rows.tangent[:, None] == column[None, :]) & rows.tangent_there[:, None]).to(F.DTYPE)
    return e


@triton.jit
def trace_weights(network, film, film_row, layer, unit, rows, F):
    """What ḣ_(K−1) is multiplied with where no product is needed, (1 or T·BLOCK, n): rows of W_K or the trace's."""
    inside = unit < layer.inputs
    if F.MODE == TRACE:
        weights = tl.load(network.matrix + unit, mask=unit < network.n_vector, other=1.0).to(F.DTYPE)[None, :]
    else:
        place = network.parameters + layer.weights + rows.tangent[:, None] * layer.inputs + unit[None, :]
        weights = tl.load(place, mask=rows.tangent_there[:, None] & inside[None, :], other=0.0).to(F.DTYPE)
        if F.FILM != 0:
            place = film + layer.film + rows.tangent
            if F.FILM == 2:
                place += (rows.first + tl.arange(0, F.T * F.BLOCK) % F.BLOCK) * film_row
            weights *= tl.load(place, mask=rows.tangent_there, other=0.0).to(F.DTYPE)[:, None]
    return weights


@triton.jit
def output_layer(network, film, film_row, value, value_rows, value_there, inputs, rows, F):
    """Store the value; of the program's tangents Σ_p e_pᵀ J e_p and Σ_p |J e_p|², (BLOCK,)."""
    layer = layer_of(network, network.hidden)
    weights = network.parameters + layer.weights
    before = inputs.tangents + inputs.tangent_size * layer.source
    along = tl.zeros([F.T * F.BLOCK], F.DTYPE)
    norms = tl.zeros([F.T * F.BLOCK], F.DTYPE)
    for first in range(0, layer.units, F.D):
        column = first + tl.arange(0, F.D)
        z = product(
            inputs.numbers + inputs.size * layer.source, inputs.rows, inputs.there, layer.inputs, weights, 1,
            layer.inputs, column, layer.units, F.BLOCK, F.D, F.TERMS, F.DTYPE,
        )  # fmt: skip
        z += tl.load(network.parameters + layer.bias + column, mask=column < layer.units, other=0.0)[None, :]
        scale, u = modulated(film, film_row, layer, z, column, rows, F)
        at, known = tile_of(value, value_rows, value_there, layer.units, column)
        tl.store(at, u, mask=known)
        if F.MODE == HUTCHINSON or (F.MODE == EXACT and F.FROBENIUS):
            v = product(
                before, inputs.tangent_rows, inputs.tangent_there, layer.inputs, weights, 1,
                layer.inputs, column, layer.units, F.T * F.BLOCK, F.D, F.TERMS, F.DTYPE,
            )  # fmt: skip
            if F.FILM != 0:
                v *= spread(scale, F)
            along += tl.sum(probe_tile(inputs, column, layer.units, rows, F) * v, axis=1)
            norms += tl.sum(v * v, axis=1)
    if F.MODE == TRACE or (F.MODE == EXACT and not F.FROBENIUS):
        for first in range(0, layer.inputs, F.COLUMNS):
            unit = first + tl.arange(0, F.COLUMNS)
            at, known = tile_of(before, inputs.tangent_rows, inputs.tangent_there, layer.inputs, unit)
            tangent = tl.load(at, mask=known, other=0.0).to(F.DTYPE)
            along += tl.sum(trace_weights(network, film, film_row, layer, unit, rows, F) * tangent, axis=1)
    return gathered_rows(along, F), gathered_rows(norms, F)
