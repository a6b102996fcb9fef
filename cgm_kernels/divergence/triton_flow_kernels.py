"""The Triton kernels of a perceptron's flow: all steps in one. Imported only when one is launched: it needs triton.

As in triton_kernels.py a program takes a block of rows and a tile of their tangents, here through all steps. x, the
values k_s of the stages and in the backward their derivatives ȳ_s lie in a second scratch, in the dtype of sums. The
backward computes the stages of each step again from x at its beginning, keeps their stacks, and sweeps back with

    v̄_s = h (b_s x̄ + Σ_{r>s} a_rs ȳ_r) + 2 h b_s κ̄ k_s,   ȳ_s = Jᵀ v̄_s + …,   x̄ ← x̄ + Σ_s ȳ_s,

κ̄ the derivative by ∫ |v|² dt, and the dots those of the divergence and of |J e|².
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .triton_network import hidden_layers, output_layer
from .triton_sweep import Gradients, hidden_back, input_back, output_back
from .triton_tiles import copy, load_inputs, rows_of, scratch_stack, tile_of
from .triton_weights import weight_gradients


class Method(NamedTuple):
    """float64 step sizes, and for each stage its row of coefficients; the last row holds the weights."""

    steps: Any
    n_steps: Any
    tableau: Any
    stages: Any


@triton.jit
def _combined(base, factor, numbers, coefficients, stride, begin, end, h, d, column, F):
    """factor · base + h Σ_j c_j numbers_j of some coordinates; ``numbers`` (stages, BLOCK, d)."""
    r = tl.arange(0, F.BLOCK)
    at, known = tile_of(base, r, r >= 0, d, column)
    total = factor * tl.load(at, mask=known, other=0.0)
    for j in range(begin, end):
        c = (h * tl.load(coefficients + j * stride)).to(F.DTYPE)
        at, known = tile_of(numbers + j * F.BLOCK * d, r, r >= 0, d, column)
        total += c * tl.load(at, mask=known, other=0.0)
    return total


@triton.jit
def _stage(x, k, s, h, d, method, inputs, F):
    """x at stage s, into the stack."""
    for first in range(0, d, F.D):
        column = first + tl.arange(0, F.D)
        y = _combined(x, 1.0, k, method.tableau + s * method.stages, 1, 0, s, h, d, column, F)
        at, known = tile_of(inputs.numbers, inputs.rows, inputs.there, d, column)
        tl.store(at, y, mask=known)
    tl.debug_barrier()


@triton.jit
def _square(numbers, d, F):
    """The sum over coordinates of the squares, (BLOCK,)."""
    total = tl.zeros([F.BLOCK], F.DTYPE)
    r = tl.arange(0, F.BLOCK)
    for first in range(0, d, F.D):
        at, known = tile_of(numbers, r, r >= 0, d, first + tl.arange(0, F.D))
        value = tl.load(at, mask=known, other=0.0)
        total += tl.sum(value * value, axis=1)
    return total


@triton.jit(do_not_specialize=["batch", "tangents", "tiles", "jobs"])
def flow_kernel(
    x, probes, network, film, time_bias, added, method, x1, integrals, states, scratch, points,
    batch, tangents, tiles, jobs, F, KEEP: tl.constexpr, REGULARIZE: tl.constexpr,
):  # fmt: skip
    """x after all steps, x at the beginning of each, and for each tile (tiles, 3, B) its part of the integrals."""
    d, stages = network.d, method.stages
    program = tl.program_id(0).to(tl.int64)
    inputs = scratch_stack(scratch + program * network.columns * (1 + F.T) * F.BLOCK, network.columns, F)
    point = points + program * (1 + stages) * F.BLOCK * d
    k = point + F.BLOCK * d
    r = tl.arange(0, F.BLOCK)
    batch = batch.to(tl.int64)
    for job in range(tl.program_id(0), jobs, tl.num_programs(0)):
        tile = job % tiles
        rows = rows_of((job // tiles).to(tl.int64), tile, batch, tangents, F)
        owner = rows.there & (rows.tile == 0)
        load_inputs(x, rows.row, probes, batch, d, inputs, rows, F)
        copy(x, rows.row, rows.there, point, r, r >= 0, d, F)
        along = tl.zeros([F.BLOCK], F.DTYPE)
        kinetic = tl.zeros([F.BLOCK], F.DTYPE)
        norm = tl.zeros([F.BLOCK], F.DTYPE)
        tl.debug_barrier()
        for n in range(method.n_steps):
            h = tl.load(method.steps + n)
            if KEEP:
                copy(point, r, r >= 0, states + n * batch * d, rows.row, owner, d, F)
            for s in range(stages):
                place = n * stages + s
                _stage(point, k, s, h, d, method, inputs, F)
                own_film = film + place * network.film_row
                hidden_layers(
                    network, own_film, network.film_row, time_bias + place * network.n_bias, added, inputs, inputs,
                    rows, F, False, False, False, False,
                )  # fmt: skip
                own = k + s * F.BLOCK * d
                by_along, by_norm = output_layer(
                    network, own_film, network.film_row, own, r, r >= 0, inputs, rows, F
                )  # fmt: skip
                tl.debug_barrier()
                weight = (h * tl.load(method.tableau + stages * stages + s)).to(F.DTYPE)
                along += weight * by_along
                if REGULARIZE:
                    kinetic += weight * _square(own, d, F)
                    norm += weight * by_norm
            for first in range(0, d, F.D):
                column = first + tl.arange(0, F.D)
                after = _combined(point, 1.0, k, method.tableau + stages * stages, 1, 0, stages, h, d, column, F)
                at, known = tile_of(point, r, r >= 0, d, column)
                tl.store(at, after, mask=known)
            tl.debug_barrier()
        copy(point, r, r >= 0, x1, rows.row, owner, d, F)
        at = integrals + tile * 3 * batch + rows.row
        tl.store(at, along, mask=rows.there)
        tl.store(at + batch, tl.where(rows.tile == 0, kinetic, 0.0), mask=rows.there)
        tl.store(at + 2 * batch, norm, mask=rows.there)
        tl.debug_barrier()


@triton.jit
def _forward_again(
    x, network, film, time_bias, added, method, n, h, k, inputs, sums, stack, rows, F,
):  # fmt: skip
    """The stages of a step once more, each into stacks of its own."""
    d, r = network.d, tl.arange(0, F.BLOCK)
    for s in range(method.stages):
        place = n * method.stages + s
        own = scratch_stack(inputs + s * stack, network.columns, F)
        _stage(x, k, s, h, d, method, own, F)
        own_film = film + place * network.film_row
        hidden_layers(
            network, own_film, network.film_row, time_bias + place * network.n_bias, added, own,
            scratch_stack(sums + s * stack, network.columns, F), rows, F, False, False, True, True,
        )  # fmt: skip
        output_layer(network, own_film, network.film_row, k + s * F.BLOCK * d, r, r >= 0, own, rows, F)
        tl.debug_barrier()


@triton.jit
def _stage_gradient(x_bar, y_bar, k, s, h, weight, by_kinetic, grad, d, method, F):
    """v̄_s into ``grad``."""
    r = tl.arange(0, F.BLOCK)
    for first in range(0, d, F.D):
        column = first + tl.arange(0, F.D)
        total = _combined(
            x_bar, weight, y_bar, method.tableau + s, method.stages, s + 1, method.stages, h, d, column, F
        )  # fmt: skip
        if F.FROBENIUS:
            at, known = tile_of(k + s * F.BLOCK * d, r, r >= 0, d, column)
            total += (2.0 * weight * by_kinetic)[:, None] * tl.load(at, mask=known, other=0.0)
        at, known = tile_of(grad, r, r >= 0, d, column)
        tl.store(at, total, mask=known)
    tl.debug_barrier()


@triton.jit
def _add_stages(x_bar, y_bar, stages, d, F):
    """x̄ + Σ_s ȳ_s"""
    r = tl.arange(0, F.BLOCK)
    for first in range(0, d, F.D):
        column = first + tl.arange(0, F.D)
        at, known = tile_of(x_bar, r, r >= 0, d, column)
        total = tl.load(at, mask=known, other=0.0)
        for s in range(stages):
            part, _ = tile_of(y_bar + s * F.BLOCK * d, r, r >= 0, d, column)
            total += tl.load(part, mask=known, other=0.0)
        tl.store(at, total, mask=known)
    tl.debug_barrier()


@triton.jit(do_not_specialize=["batch", "tangents", "tiles", "jobs", "share"])
def flow_backward_kernel(
    states, probes, network, film, time_bias, added, method, grad_x1, grad_integrals,
    grad_x, grad_shared, grad_added, scratch, points, batch, tangents, tiles, jobs, share, F,
):  # fmt: skip
    """As divergence_backward_kernel. ``grad_integrals`` (3, B), those of sums over tangents; ``states`` (N, B, d)."""
    d, stages = network.d, method.stages
    program = tl.program_id(0).to(tl.int64)
    stack = network.columns * (1 + F.T) * F.BLOCK
    inputs = scratch + program * stack * (2 * stages + 2)
    sums = inputs + stages * stack
    bars = scratch_stack(sums + stages * stack, network.columns, F)
    hidden_bars = scratch_stack(sums + (stages + 1) * stack, network.columns, F)
    part = F.BLOCK * d
    x_bar = points + program * part * (3 + 2 * stages)
    point, grad, k, y_bar = x_bar + part, x_bar + 2 * part, x_bar + 3 * part, x_bar + (3 + stages) * part
    shared = grad_shared + program * share
    matrix = shared + network.n_parameters
    biases = matrix + network.n_matrix
    films = biases + method.n_steps * stages * network.n_bias
    r = tl.arange(0, F.BLOCK)
    batch = batch.to(tl.int64)
    for job in range(tl.program_id(0), jobs, tl.num_programs(0)):
        tile = job % tiles
        rows = rows_of((job // tiles).to(tl.int64), tile, batch, tangents, F)
        owner = rows.there & (rows.tile == 0)
        for s in range(stages):
            own = scratch_stack(inputs + s * stack, network.columns, F)
            load_inputs(states, rows.row, probes, batch, d, own, rows, F)
        copy(grad_x1, rows.row, owner, x_bar, r, r >= 0, d, F)
        by_along = tl.load(grad_integrals + rows.row, mask=rows.there, other=0.0)
        by_kinetic = tl.load(grad_integrals + batch + rows.row, mask=owner, other=0.0)
        by_norm = tl.load(grad_integrals + 2 * batch + rows.row, mask=rows.there, other=0.0)
        for turn in range(method.n_steps):
            n = method.n_steps - 1 - turn
            h = tl.load(method.steps + n)
            copy(states + n * batch * d, rows.row, rows.there, point, r, r >= 0, d, F)
            tl.debug_barrier()
            _forward_again(point, network, film, time_bias, added, method, n, h, k, inputs, sums, stack, rows, F)
            for back in range(stages):
                s = stages - 1 - back
                place = n * stages + s
                weight = (h * tl.load(method.tableau + stages * stages + s)).to(F.DTYPE)
                _stage_gradient(x_bar, y_bar, k, s, h, weight, by_kinetic, grad, d, method, F)
                own, own_film = scratch_stack(inputs + s * stack, network.columns, F), film + place * network.film_row
                gradients = Gradients(
                    shared, matrix, biases + place * network.n_bias, films + place * network.film_row,
                    grad_added + tile * batch * network.n_bias,
                )  # fmt: skip
                output_back(
                    network, own_film, network.film_row, grad, r, r >= 0, weight * by_along, weight * by_norm,
                    own, bars, gradients, rows, F,
                )  # fmt: skip
                hidden_back(
                    network, own_film, network.film_row, weight * by_along,
                    scratch_stack(sums + s * stack, network.columns, F), bars, hidden_bars, gradients, rows, F,
                )  # fmt: skip
                input_back(network, y_bar + s * part, r, r >= 0, bars, F)
                weight_gradients(network, weight * by_along, own, bars, gradients, rows, F)
            _add_stages(x_bar, y_bar, stages, d, F)
        copy(x_bar, r, r >= 0, grad_x + tile * batch * d, rows.row, rows.there, d, F)
        tl.debug_barrier()
