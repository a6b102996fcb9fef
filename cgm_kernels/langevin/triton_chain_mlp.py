"""The Triton kernel of chains on a network's energy. Imported only when one is launched: it needs triton.

The numbers of a program's chains lie in a scratch that it alone writes and reads, each layer's as (chains, units); a
barrier stands between the two, since the threads that read a value are not those that wrote it.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..triton_activations import bent
from .triton_chain_steps import float_of, moved, projection, step_of
from .triton_noise import normal_elements

TABLE = tl.constexpr(7)  # numbers of a layer in the table of triton_chain.py


@triton.jit
def _product(
    source, matrix, row_stride, column_stride, terms, column, columns, chain, there,
    BLOCK: tl.constexpr, COLUMNS: tl.constexpr, TERMS: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Σ_c source[chain, c] · matrix[c, column], (BLOCK, COLUMNS)."""
    total = tl.zeros([BLOCK, COLUMNS], DTYPE)
    for first in range(0, terms, TERMS):
        term = first + tl.arange(0, TERMS)
        inside = term < terms
        values = tl.load(
            source + chain[:, None] * terms + term[None, :], mask=there[:, None] & inside[None, :], other=0.0
        )
        place = matrix + term[:, None] * row_stride + column[None, :] * column_stride
        weights = tl.load(place, mask=inside[:, None] & (column < columns)[None, :], other=0.0)
        total = tl.dot(values, weights, total, input_precision="ieee", out_dtype=DTYPE)
    return total


@triton.jit
def _layer_forward(
    scratch, parameters, own, last_weights, leak, is_last, chains, chain, there,
    ACTIVATION: tl.constexpr, BLOCK: tl.constexpr, COLUMNS: tl.constexpr, TERMS: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """The values and slopes of a hidden layer; of the last the slopes of the energy."""
    inputs, units = tl.load(own), tl.load(own + 1)
    weights, biases = parameters + tl.load(own + 2), parameters + tl.load(own + 3)
    source = scratch + tl.load(own + 4) * chains
    values, slopes = scratch + tl.load(own + 5) * chains, scratch + tl.load(own + 6) * chains
    for first in range(0, units, COLUMNS):
        unit = first + tl.arange(0, COLUMNS)
        inside = unit < units
        z = _product(source, weights, 1, inputs, inputs, unit, units, chain, there, BLOCK, COLUMNS, TERMS, DTYPE)
        z += tl.load(biases + unit, mask=inside, other=0.0)[None, :]
        value, slope, _ = bent(z, leak, ACTIVATION)
        known = there[:, None] & inside[None, :]
        place = chain[:, None] * units + unit[None, :]
        if is_last:
            slope *= tl.load(last_weights + unit, mask=inside, other=0.0)[None, :]
        else:
            tl.store(values + place, value, mask=known)
        tl.store(slopes + place, slope, mask=known)


@triton.jit
def _layer_back(
    scratch, parameters, own, gradient, layer, chains, chain, there,
    BLOCK: tl.constexpr, COLUMNS: tl.constexpr, TERMS: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """What reaches the slopes of the layer before, or the input."""
    inputs, units = tl.load(own), tl.load(own + 1)
    slopes = scratch + tl.load(own + 6) * chains
    into = gradient
    if layer > 0:
        into = scratch + tl.load(own - 1) * chains
    for first in range(0, inputs, COLUMNS):
        column = first + tl.arange(0, COLUMNS)
        known = there[:, None] & (column < inputs)[None, :]
        weights = parameters + tl.load(own + 2)
        found = _product(slopes, weights, inputs, 1, units, column, inputs, chain, there, BLOCK, COLUMNS, TERMS, DTYPE)
        place = into + chain[:, None] * inputs + column[None, :]
        if layer > 0:
            found *= tl.load(place, mask=known, other=0.0)
        tl.store(place, found, mask=known)


@triton.jit
def _store_factors(gradient, factors, d, chain, there, norm_bits, COLUMNS: tl.constexpr, DTYPE: tl.constexpr):
    """The factors of the projection of each chain."""
    largest = tl.zeros(chain.shape, DTYPE)
    for first in range(0, d, COLUMNS):
        column = first + tl.arange(0, COLUMNS)
        known = there[:, None] & (column < d)[None, :]
        values = tl.load(gradient + chain[:, None] * d + column[None, :], mask=known, other=0.0)
        largest = tl.maximum(largest, tl.max(tl.abs(values), axis=1))
    largest = tl.where(largest == 0.0, 1.0, largest)
    total = tl.zeros(chain.shape, DTYPE)
    for first in range(0, d, COLUMNS):
        column = first + tl.arange(0, COLUMNS)
        known = there[:, None] & (column < d)[None, :]
        ratio = tl.load(gradient + chain[:, None] * d + column[None, :], mask=known, other=0.0) / largest[:, None]
        total += tl.sum(ratio * ratio, axis=1)
    tl.store(factors + chain, projection(largest, tl.sqrt(total), norm_bits), mask=there)


@triton.jit(do_not_specialize=["steps", "chains", "hidden", "step_stride", "temperature_stride", "step_bits",
                               "temperature_bits", "norm_bits", "low_bits", "high_bits", "slope_bits"])  # fmt: skip
def mlp_chain_kernel(
    scratch, parameters, table, last_weights, factors, state, steps, step_sizes, step_stride, step_bits,
    temperatures, temperature_stride, temperature_bits, norm_bits, low_bits, high_bits, slope_bits, chains, d, hidden,
    ACTIVATION: tl.constexpr, GIVEN_STEPS: tl.constexpr, GIVEN_TEMPERATURES: tl.constexpr, PROJECT: tl.constexpr,
    CLAMP: tl.constexpr, BLOCK: tl.constexpr, COLUMNS: tl.constexpr, TERMS: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """Chains on a network's energy. scratch begins with x and the gradient by x, each (chains, d)."""
    dtype: tl.constexpr = scratch.dtype.element_ty
    chains = chains.to(tl.int64)
    first = tl.program_id(0).to(tl.int64) * BLOCK
    chain = first + tl.arange(0, BLOCK)
    there = chain < chains
    gradient = scratch + chains * d
    leak = float_of(slope_bits).to(dtype)
    key, start = tl.load(state), tl.load(state + 1)
    for step in range(steps):
        for layer in range(hidden):
            _layer_forward(
                scratch, parameters, table + layer * TABLE, last_weights, leak, layer == hidden - 1, chains, chain,
                there, ACTIVATION, BLOCK, COLUMNS, TERMS, dtype,
            )  # fmt: skip
            tl.debug_barrier()
        for turn in range(hidden):
            layer = hidden - 1 - turn
            _layer_back(
                scratch, parameters, table + layer * TABLE, gradient, layer, chains, chain, there,
                BLOCK, COLUMNS, TERMS, dtype,
            )  # fmt: skip
            tl.debug_barrier()
        if PROJECT:
            _store_factors(gradient, factors, d, chain, there, norm_bits, COLUMNS, dtype)
            tl.debug_barrier()
        for begin in range(0, BLOCK * d, 4 * GROUPS):
            element = begin + tl.arange(0, 4 * GROUPS)
            own = first + element // d
            known = (element < BLOCK * d) & (own < chains)
            noise = normal_elements(key, start + step, (first * d + begin) // 4, GROUPS, dtype)
            h, deviation = step_of(
                step_sizes, step_stride, step_bits, temperatures, temperature_stride, temperature_bits, own, known,
                GIVEN_STEPS, GIVEN_TEMPERATURES, dtype,
            )  # fmt: skip
            place = first * d + element
            x = tl.load(scratch + place, mask=known, other=0.0)
            slope = tl.load(gradient + place, mask=known, other=0.0)
            if PROJECT:
                slope *= tl.load(factors + own, mask=known, other=0.0)
            after = moved(x, slope, noise, h, deviation, low_bits, high_bits, CLAMP)
            tl.store(scratch + place, after, mask=known)
        tl.debug_barrier()
