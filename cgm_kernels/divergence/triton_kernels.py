"""The Triton kernels of a perceptron's divergence. Imported only when one is launched: it needs triton.

A job is a block of rows and a tile of their tangents; a program does one after the other. Tiles of tangents beside each
other give partial sums, which PyTorch adds: each computes the values again.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .triton_network import hidden_layers, output_layer
from .triton_sweep import Gradients, hidden_back, input_back, output_back
from .triton_tiles import HUTCHINSON, Stack, load_inputs, rows_of, scratch_stack
from .triton_weights import weight_gradients


class Network(NamedTuple):
    """The parameters, the closed form's matrix or vector, the table of layers, and how many of them are hidden."""

    parameters: Any
    matrix: Any
    table: Any
    hidden: Any
    d: Any
    columns: Any  # of the stacks of h, x among them
    film_row: Any
    n_parameters: Any
    n_matrix: Any
    n_vector: Any  # of them, those that are a vector: two layers
    n_film: Any
    n_bias: Any


@triton.jit
def kept_stack(kept, batch, tangents, rows, F):
    """The stack of all rows, (1 + P, B, H_k) for each layer."""
    size = batch
    own = rows.tangent
    if F.MODE == HUTCHINSON:
        size = (1 + tangents) * batch
        s = rows.first + tl.arange(0, F.T * F.BLOCK) % F.BLOCK
        own = (1 + rows.tangent) * batch + s
    return Stack(kept, size, rows.row, rows.there, kept, size, own, rows.tangent_there)


@triton.jit(do_not_specialize=["batch", "tangents", "tiles", "jobs"])
def divergence_kernel(
    x, probes, network, film, added, value, divergence, frobenius, kept, scratch, batch, tangents, tiles, jobs, F,
    KEEP: tl.constexpr,
):  # fmt: skip
    """The value (B, d), and for each tile (tiles, B) the sums over its tangents."""
    own = scratch + tl.program_id(0).to(tl.int64) * network.columns * (1 + F.T) * F.BLOCK
    inputs = scratch_stack(own, network.columns, F)
    batch = batch.to(tl.int64)
    for job in range(tl.program_id(0), jobs, tl.num_programs(0)):
        tile = job % tiles
        rows = rows_of((job // tiles).to(tl.int64), tile, batch, tangents, F)
        load_inputs(x, rows.row, probes, batch, network.d, inputs, rows, F)
        sums = kept_stack(kept, batch, tangents, rows, F)
        hidden_layers(
            network, film, network.film_row, added, added, inputs, sums, rows, F,
            False, False, KEEP, KEEP and F.MODE == HUTCHINSON,
        )  # fmt: skip
        along, norm = output_layer(
            network, film, network.film_row, value, rows.row, rows.there & (rows.tile == 0), inputs, rows, F
        )  # fmt: skip
        tl.store(divergence + tile * batch + rows.row, along, mask=rows.there)
        if F.FROBENIUS:
            tl.store(frobenius + tile * batch + rows.row, norm, mask=rows.there)
        tl.debug_barrier()


@triton.jit(do_not_specialize=["batch", "tangents", "tiles", "jobs"])
def divergence_backward_kernel(
    x, probes, network, film, added, kept, grad_value, grad_divergence, grad_frobenius,
    grad_x, grad_shared, grad_film, grad_added, scratch, batch, tangents, tiles, jobs, share, F,
):  # fmt: skip
    """Gradients of each row for each tile, and those of what rows share for each program, as ``share`` numbers.

    ``grad_divergence`` and ``grad_frobenius`` (B,) are those by the sums over tangents.
    """
    program = tl.program_id(0).to(tl.int64)
    stack = network.columns * (1 + F.T) * F.BLOCK
    own = scratch + program * stack * (4 if F.RESIDUAL else 3)
    inputs = scratch_stack(own, network.columns, F)
    bars = scratch_stack(own + stack, network.columns, F)
    found = scratch_stack(own + 2 * stack, network.columns, F)
    hidden_bars = scratch_stack(own + (3 if F.RESIDUAL else 2) * stack, network.columns, F)
    shared = grad_shared + program * share
    matrix = shared + network.n_parameters
    bias = matrix + network.n_matrix
    batch = batch.to(tl.int64)
    for job in range(tl.program_id(0), jobs, tl.num_programs(0)):
        tile = job % tiles
        rows = rows_of((job // tiles).to(tl.int64), tile, batch, tangents, F)
        load_inputs(x, rows.row, probes, batch, network.d, inputs, rows, F)
        sums = kept_stack(kept, batch, tangents, rows, F)
        if F.MODE != HUTCHINSON:
            sums = Stack(
                sums.numbers, sums.size, sums.rows, sums.there,
                found.tangents, found.tangent_size, found.tangent_rows, found.tangent_there,
            )  # fmt: skip
        hidden_layers(
            network, film, network.film_row, added, added, inputs, sums, rows, F,
            True, F.MODE == HUTCHINSON, False, F.MODE != HUTCHINSON,
        )  # fmt: skip
        film_at = bias + network.n_bias
        if F.FILM == 2:
            film_at = grad_film + tile * batch * network.film_row
        gradients = Gradients(shared, matrix, bias, film_at, grad_added + tile * batch * network.n_bias)
        by_divergence = tl.load(grad_divergence + rows.row, mask=rows.there, other=0.0).to(F.DTYPE)
        by_norm = by_divergence
        if F.FROBENIUS:
            by_norm = tl.load(grad_frobenius + rows.row, mask=rows.there, other=0.0).to(F.DTYPE)
        owner = rows.there & (rows.tile == 0)
        output_back(
            network, film, network.film_row, grad_value, rows.row, owner, by_divergence, by_norm, inputs, bars,
            gradients, rows, F,
        )  # fmt: skip
        hidden_back(network, film, network.film_row, by_divergence, sums, bars, hidden_bars, gradients, rows, F)
        input_back(network, grad_x + tile * batch * network.d, rows.row, rows.there, bars, F)
        weight_gradients(network, by_divergence, inputs, bars, gradients, rows, F)
