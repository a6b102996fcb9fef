"""The Triton kernels of stacks of couplings: all layers in one. Imported only when one is launched: it needs triton.

A program takes a block of rows through all couplings. Their perceptrons are those of the divergence without tangents,
with their scratch and its barriers (divergence/triton_network.py). Forth, the event lies in the result, whose
transformed channels each layer writes in place; back, event and gradient lie in scratch, each layer's transformed
channels are those that the forward kept, and its perceptron is computed again.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from ..divergence.triton_kernels import Network
from ..divergence.triton_network import hidden_layers, output_layer
from ..divergence.triton_sweep import Gradients, hidden_back, input_back, output_back
from ..divergence.triton_tiles import TABLE, Rows, copy, rows_of, scratch_stack, tile_of
from ..divergence.triton_weights import weight_gradients
from .scales import INDEX
from .triton_kernels import _scaled
from .triton_stack_table import PLACE as _PLACE

GATE = tl.constexpr(INDEX["gate"])
PLACE = tl.constexpr(_PLACE)


class Layers(NamedTuple):
    """Parameters of all layers, the tables of perceptrons and of ``Place``; sizes hold for every layer."""

    parameters: Any
    perceptrons: Any
    places: Any
    count: Any
    hidden: Any
    columns: Any  # of a stack of a perceptron's numbers
    d: Any
    moved: Any  # transformed channels of the layer that has most
    passing: Any


class Place(NamedTuple):
    """Where a layer finds its channels and numbers: see triton_stack_table.places."""

    start: Any
    step: Any
    size: Any
    passing_start: Any
    passing_step: Any
    passing: Any
    log_scale: Any
    shift: Any
    pair_step: Any
    parameters: Any
    bias: Any
    added: Any
    is_added: Any
    kept: Any


class Coupling(NamedTuple):
    """What the layers are compiled for."""

    KIND: Any
    BOUND: Any
    OFFSET: Any
    EPS: Any
    INVERSE: Any


@triton.jit
def _place_of(layers, k):
    at = layers.places + k * PLACE
    return Place(
        tl.load(at), tl.load(at + 1), tl.load(at + 2), tl.load(at + 3), tl.load(at + 4), tl.load(at + 5),
        tl.load(at + 6), tl.load(at + 7), tl.load(at + 8), tl.load(at + 9), tl.load(at + 10), tl.load(at + 11),
        tl.load(at + 12), tl.load(at + 13),
    )  # fmt: skip


@triton.jit
def _network_of(layers, place, k):
    return Network(
        layers.parameters + place.parameters, layers.parameters,
        layers.perceptrons + k * (layers.hidden + 1) * TABLE, layers.hidden, layers.d, layers.columns, 0, 0, 0, 0, 0, 0,
    )  # fmt: skip


@triton.jit
def _rows_added(rows, place):
    """The rows for whose first hidden layer something is added: all or none."""
    there = rows.there & (tl.zeros_like(rows.row) < place.is_added)
    return Rows(rows.first, rows.tile, rows.row, there, rows.tangent, rows.tangent_there)


@triton.jit
def _channels(base, rows, there, width, start, step, size, column):
    """Pointers to some of ``size`` channels ``start, start + step, …`` of rows of ``width``, and which are there."""
    at = base + rows[:, None] * width + (start + column * step)[None, :]
    return at, there[:, None] & (column < size)[None, :]


@triton.jit
def _perceptron(layers, event, event_rows, event_there, added, place, k, outputs, inputs, sums, rows, F, STORE):
    """The parameters of a layer into ``outputs`` (BLOCK, 2 · size), from the channels of the event that pass."""
    network, r = _network_of(layers, place, k), tl.arange(0, F.BLOCK)
    for first in range(0, place.passing, F.D):
        column = first + tl.arange(0, F.D)
        at, known = _channels(
            event, event_rows, event_there, layers.d, place.passing_start, place.passing_step, place.passing, column
        )  # fmt: skip
        value = tl.load(at, mask=known, other=0.0)
        at, known = tile_of(inputs.numbers, inputs.rows, inputs.there, place.passing, column)
        tl.store(at, value, mask=known)
    tl.debug_barrier()
    hidden_layers(
        network, layers.parameters, 0, layers.parameters + place.bias, added, inputs, sums, _rows_added(rows, place), F,
        False, False, STORE, False,
    )  # fmt: skip
    output_layer(network, layers.parameters, 0, outputs, r, r >= 0, inputs, rows, F)
    tl.debug_barrier()


@triton.jit
def _parameters_at(outputs, place, column, F):
    """Pointers to the log-scales and the shifts of some transformed channels, and which are there."""
    r = tl.arange(0, F.BLOCK)
    s, known = _channels(outputs, r, r >= 0, 2 * place.size, place.log_scale, place.pair_step, place.size, column)
    t, _ = _channels(outputs, r, r >= 0, 2 * place.size, place.shift, place.pair_step, place.size, column)
    return s, t, known


@triton.jit(do_not_specialize=["batch", "jobs"])
def coupling_stack_kernel(
    x, before, layers, conditioning, y, log_det, kept, scratch, points, batch, jobs, F, C,
    BEFORE: tl.constexpr, KEEP: tl.constexpr,
):  # fmt: skip
    """y and log_det of all layers, and what each transformed, (B, size) of one layer after that of another."""
    program = tl.program_id(0).to(tl.int64)
    inputs = scratch_stack(scratch + program * layers.columns * F.BLOCK, layers.columns, F)
    outputs = points + program * 2 * layers.moved * F.BLOCK
    batch = batch.to(tl.int64)
    for done in range(0, jobs - tl.program_id(0), tl.num_programs(0)):
        rows = rows_of(program + done, 0, batch, 0, F)
        copy(x, rows.row, rows.there, y, rows.row, rows.there, layers.d, F)
        total = tl.zeros([F.BLOCK], F.DTYPE)
        tl.debug_barrier()
        for k in range(layers.count):
            place = _place_of(layers, k)
            added = conditioning + place.added * batch
            _perceptron(layers, y, rows.row, rows.there, added, place, k, outputs, inputs, inputs, rows, F, False)
            for first in range(0, place.size, F.D):
                column = first + tl.arange(0, F.D)
                at, _, known = _parameters_at(outputs, place, column, F)
                s = tl.load(at, mask=known, other=0.0)
                _, at, known = _parameters_at(outputs, place, column, F)
                t = tl.load(at, mask=known, other=0.0)
                at, known = _channels(
                    y, rows.row, rows.there, layers.d, place.start, place.step, place.size, column
                )  # fmt: skip
                value = tl.load(at, mask=known, other=0.0)
                if KEEP:
                    to, _ = tile_of(kept + place.kept * batch, rows.row, rows.there, place.size, column)
                    tl.store(to, value, mask=known)
                log_sigma, sigma, _, rest = _scaled(s, C.KIND, C.BOUND, C.OFFSET, C.EPS)
                t = rest * t if C.KIND == GATE else t
                value = value.to(F.DTYPE)
                value = (value - t) / sigma if C.INVERSE else sigma * value + t
                tl.store(at, value, mask=known)
                total += tl.sum(tl.where(known, log_sigma, 0.0), axis=1)
            tl.debug_barrier()
        total = -total if C.INVERSE else total
        if BEFORE:
            total += tl.load(before + rows.row, mask=rows.there, other=0.0)
        tl.store(log_det + rows.row, total, mask=rows.there)


@triton.jit
def _coupling_back(event, bar, kept, by_total, outputs, layers, place, rows, F, C):
    """The gradients by s and t in their place, by the transformed channels into ``bar``; the event as it was before."""
    r = tl.arange(0, F.BLOCK)
    for first in range(0, place.size, F.D):
        column = first + tl.arange(0, F.D)
        s_at, t_at, known = _parameters_at(outputs, place, column, F)
        s = tl.load(s_at, mask=known, other=0.0)
        t = tl.load(t_at, mask=known, other=0.0)
        own, known = _channels(event, r, r >= 0, layers.d, place.start, place.step, place.size, column)
        at, there = tile_of(kept, rows.row, rows.there, place.size, column)
        before = tl.load(at, mask=there, other=0.0)
        if C.INVERSE:
            x = tl.load(own, mask=known, other=0.0).to(F.DTYPE)
        else:
            x = before.to(F.DTYPE)
        tl.store(own, before, mask=known)
        at, _ = _channels(bar, r, r >= 0, layers.d, place.start, place.step, place.size, column)
        grad = tl.load(at, mask=known, other=0.0)
        _, sigma, slope, rest = _scaled(s, C.KIND, C.BOUND, C.OFFSET, C.EPS)
        x = x - t if C.KIND == GATE else x
        if C.INVERSE:
            by_x = grad / sigma
            by_s = -(grad * x + by_total[:, None]) * slope
            by_t = -by_x
        else:
            by_x = grad * sigma
            by_s = (by_x * x + by_total[:, None]) * slope
            by_t = grad
        by_t = by_t * rest if C.KIND == GATE else by_t
        tl.store(at, by_x, mask=known)
        tl.store(s_at, by_s, mask=known)
        tl.store(t_at, by_t, mask=known)
    tl.debug_barrier()


@triton.jit
def _add_passing(bar, by_passing, layers, place, F):
    """Add what came back through the perceptron to the gradient of the channels that passed."""
    r = tl.arange(0, F.BLOCK)
    for first in range(0, place.passing, F.D):
        column = first + tl.arange(0, F.D)
        at, known = tile_of(by_passing, r, r >= 0, place.passing, column)
        more = tl.load(at, mask=known, other=0.0)
        at, known = _channels(
            bar, r, r >= 0, layers.d, place.passing_start, place.passing_step, place.passing, column
        )  # fmt: skip
        tl.store(at, tl.load(at, mask=known, other=0.0) + more, mask=known)
    tl.debug_barrier()


@triton.jit(do_not_specialize=["batch", "jobs", "share"])
def coupling_stack_backward_kernel(
    y, kept, layers, conditioning, grad_y, grad_log_det, grad_x, grad_shared, grad_added, scratch, points,
    batch, jobs, share, F, C, GRAD_Y: tl.constexpr, GRAD_LOG_DET: tl.constexpr, WANT_WEIGHTS: tl.constexpr,
):  # fmt: skip
    """Gradients of each row, and those of the parameters for each program, as ``share`` numbers."""
    program, r = tl.program_id(0).to(tl.int64), tl.arange(0, F.BLOCK)
    stack = layers.columns * F.BLOCK
    event = scratch + program * (3 * stack + layers.d * F.BLOCK)
    numbers = event + layers.d * F.BLOCK
    inputs = scratch_stack(numbers, layers.columns, F)
    sums = scratch_stack(numbers + stack, layers.columns, F)
    bars = scratch_stack(numbers + 2 * stack, layers.columns, F)
    bar = points + program * (layers.d + 2 * layers.moved + layers.passing) * F.BLOCK
    outputs = bar + layers.d * F.BLOCK
    by_passing = outputs + 2 * layers.moved * F.BLOCK
    shared = grad_shared + program * share
    none = tl.zeros([F.BLOCK], F.DTYPE)
    batch = batch.to(tl.int64)
    for done in range(0, jobs - tl.program_id(0), tl.num_programs(0)):
        rows = rows_of(program + done, 0, batch, 0, F)
        copy(y, rows.row, rows.there, event, r, r >= 0, layers.d, F)
        copy(grad_y, rows.row, rows.there & GRAD_Y, bar, r, r >= 0, layers.d, F)
        by_total = none
        if GRAD_LOG_DET:
            by_total = tl.load(grad_log_det + rows.row, mask=rows.there, other=0.0)
        tl.debug_barrier()
        for turn in range(layers.count):
            k = layers.count - 1 - turn
            place = _place_of(layers, k)
            network, added = _network_of(layers, place, k), place.added * batch
            _perceptron(
                layers, event, r, r >= 0, conditioning + added, place, k, outputs, inputs, sums, rows, F, True
            )  # fmt: skip
            _coupling_back(event, bar, kept + place.kept * batch, by_total, outputs, layers, place, rows, F, C)
            own = shared + place.parameters
            gradients = Gradients(own, own, shared + place.bias, own, grad_added + added)
            output_back(
                network, layers.parameters, 0, outputs, r, r >= 0, none, none, inputs, bars, gradients, rows, F
            )  # fmt: skip
            hidden_back(
                network, layers.parameters, 0, none, sums, bars, bars, gradients, _rows_added(rows, place), F
            )  # fmt: skip
            input_back(network, by_passing, r, r >= 0, bars, F)
            if WANT_WEIGHTS:
                weight_gradients(network, none, inputs, bars, gradients, rows, F)
            tl.debug_barrier()
            _add_passing(bar, by_passing, layers, place, F)
        copy(bar, r, r >= 0, grad_x, rows.row, rows.there, layers.d, F)
        tl.debug_barrier()
