"""How the Triton kernels cut a perceptron's divergence: kinds of tangents, tiles, programs and the table of its layers.

All widths run in the same kernels, whose tiles are loops. Widths up to 128 are what they are made for: beyond that the
large tiles of a library's products are the faster way.

What ptxas says of sm_80 and sm_90 (tests/support/triton_compile_divergence.py --all: widths 16 to 128, d 1 to 64, every
kind of tangents and dtype): shared memory at most 12 KiB of a program, 150 to 255 registers of a thread, that is two
programs of 128 threads on a multiprocessor, and at most 0.4 KiB of them in local memory, a quarter of one of float32.
Twice as many columns of a tile put 0.5 to 2.3 KiB there.

To be tuned on a GPU, reasoned and not yet measured: ``_BLOCK_ROWS`` (values and tangents of a program; more reuse each
weight more often, fewer fill the GPU at smaller batches), ``_MOST_TANGENTS`` (of a row in a program; each tile of them
computes the values again), ``_COLUMNS`` (half as many for float64) and ``_TERMS`` (of a tl.dot, whose operands lie in
registers and which takes no fewer than 16 terms), ``PROGRAMS`` (each has a scratch, and in the backward a set of all
gradients that rows share), and the warps.
Products of float32 are "ieee" (``multiplied`` in triton_tiles.py): "tf32x3", three passes on tensor cores, compiles in
the same tiles, and emulated in a stack of eight couplings it erred as little. Stacks of couplings
(coupling/triton_stack.py) take all of these, too.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

NONE, HUTCHINSON, EXACT, TRACE = range(4)  # tangents, see triton_network.py
TABLE = 9  # numbers of a layer in the table
PROGRAMS = 528  # 4 for each multiprocessor of an H200
MOST_SHARED = 2**26  # numbers of all programs' gradients
_BLOCK_ROWS = 64
_MOST_TANGENTS = 4
_COLUMNS = 32
_TERMS = 16
WARPS = 4
_INTERPRETED = 2**16  # numbers of a tile in the interpreter, which pays for each program and operation


@dataclass(frozen=True)
class Problem:
    """A perceptron with its tangents: what is asked for."""

    widths: tuple[int, ...]
    batch: int
    n_probes: int  # 0 where the trace is asked for
    exact: bool
    activation: int
    residual: bool  # whether some layer is added to the one before
    frobenius: bool
    film: int  # 0: none, 1: one row for all, 2: a row for each
    n_stages: int = 0  # of the steps of a flow, each with its own row of film

    @staticmethod
    def of(
        x: Tensor, probes: Tensor | None, film: Tensor | None, widths: Sequence[int], activation: int, residual: bool,
        frobenius: bool, n_stages: int = 0,
    ) -> Problem:  # fmt: skip
        kind = 0 if film is None else 2 if film.shape[0] > 1 and not n_stages else 1
        adds = residual and any(a == b for a, b in itertools.pairwise(widths[1:-1]))
        n_probes = 0 if probes is None else probes.shape[0]
        exact = probes is None
        return Problem(tuple(widths), x.shape[0], n_probes, exact, activation, adds, frobenius, kind, n_stages)

    @property
    def hidden(self) -> int:
        return len(self.widths) - 2

    @property
    def d(self) -> int:
        return self.widths[0]

    @property
    def mode(self) -> int:
        if not self.exact:
            return HUTCHINSON if self.n_probes else NONE
        varies = self.film == 2 or (self.film == 1 and self.n_stages > 0)
        closed = self.hidden in (1, 2) and not (self.residual or self.frobenius or varies)
        return TRACE if closed else EXACT

    @property
    def tangents(self) -> int:
        return {NONE: 0, HUTCHINSON: self.n_probes, EXACT: self.d, TRACE: 1}[self.mode]

    @property
    def count(self) -> int:
        """What sums over the tangents are divided by."""
        return max(1, self.n_probes)

    @property
    def columns(self) -> int:
        """Of the stack of the inputs of all layers."""
        return sum(self.widths[:-1])


@dataclass(frozen=True)
class Plan:
    tiles: int  # of tangents
    jobs: int
    programs: int
    constants: dict[str, Any]  # flags of triton_tiles.py

    @property
    def block(self) -> int:
        return self.constants["BLOCK"]

    @property
    def stack(self) -> int:
        """Rows of a program's stacks."""
        return (1 + self.constants["T"]) * self.block


def plan(problem: Problem, on_gpu: bool, itemsize: int, share: int = 0) -> Plan:
    """``itemsize`` is that of x, ``share`` how many numbers of gradients each program adds up."""
    d, width = problem.d, max(16, _power(max(problem.widths[1:-1])))
    t = min(_MOST_TANGENTS if on_gpu else 16, _power(problem.tangents))
    if on_gpu:
        columns, terms = min(_COLUMNS if itemsize <= 4 else _COLUMNS // 2, width), _TERMS
        block = max(16, 1 << ((_BLOCK_ROWS // (1 + t)).bit_length() - 1))
    else:
        columns = terms = min(256, width)
        block = max(16, min(_power(problem.batch), _INTERPRETED // (t * columns)))
    small = d <= 8
    constants = {
        "MODE": problem.mode, "ACTIVATION": problem.activation, "RESIDUAL": problem.residual,
        "FROBENIUS": problem.frobenius, "FILM": problem.film, "SMALL": small,
        "BLOCK": block, "T": t, "COLUMNS": columns, "TERMS": terms, "D": min(_power(d), columns),
    }  # fmt: skip
    tiles = max(1, -(-problem.tangents // t))
    jobs = -(-problem.batch // block) * tiles
    programs = min(jobs, PROGRAMS, MOST_SHARED // max(share, 1))
    return Plan(tiles, jobs, max(1, programs), constants)


@functools.cache
def table(widths: tuple[int, ...], residual: bool, device: torch.device) -> Tensor:
    """For each layer: inputs, units, the places of its weights, its bias and its film, in the stack of inputs that of
    what it reads, in the stacks of sums its own, and how many of its inputs are added to what it gives, and of
    its biases are among the parameters (all or none).
    """
    rows, weights, place, source = [], 0, 0, 0
    last = len(widths) - 2
    for k, (inputs, units) in enumerate(itertools.pairwise(widths)):
        bias = weights + inputs * units
        adds = residual and 0 < k < last and inputs == units
        rows.append(
            [inputs, units, weights, bias, 2 * place, source, place, inputs if adds else 0, units if k > 0 else 0]
        )
        weights, place, source = bias + (units if k > 0 else 0), place + units, source + inputs
    return torch.tensor(rows, dtype=torch.int64).to(device)


def n_parameters(widths: Sequence[int]) -> int:
    return sum(a * b for a, b in itertools.pairwise(widths)) + sum(widths[2:])


def _power(size: int) -> int:
    return 1 << max(size - 1, 0).bit_length()
