"""The emulated epilogues of csrc/divergence/cuda.cu against float64 NumPy; shared by the tests and the sanitized run.

`python -m tests.support.cuda_emulation.divergence LIBRARY [SEED...]` runs all cases until one fails.
"""

import ctypes
import itertools
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import Machine
from .coupling_memory import EPSILON, WIDE, Buffer, narrow, widen
from .divergence_structures import STORAGE, ColumnSums, LayerBackward, LayerForward, LayerInput

Bent = tuple[np.ndarray, np.ndarray, np.ndarray]
WEIGHT, TANGENT_WEIGHT = 0.75, 0.3


def _logistic(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


def _gelu(z: np.ndarray) -> Bent:
    below, density = np.vectorize(lambda v: 0.5 * math.erfc(-v / 2**0.5))(z), np.exp(-z * z / 2) / (2 * np.pi) ** 0.5
    return z * below, below + z * density, (2 - z * z) * density


def _silu(z: np.ndarray) -> Bent:
    p = _logistic(z)
    return z * p, p + z * p * (1 - p), p * (1 - p) * (2 + z * (1 - 2 * p))


# f, f' and f'', in the order of ActivationKind.
FUNCTIONS: tuple[Callable[[np.ndarray], Bent], ...] = (
    lambda z: (np.tanh(z), 1 / np.cosh(z) ** 2, -2 * np.tanh(z) / np.cosh(z) ** 2),
    lambda z: (np.log1p(np.exp(z)), _logistic(z), _logistic(z) * _logistic(-z)),
    _silu,
    _gelu,
    lambda z: (np.maximum(z, 0), (z > 0) * 1.0, 0 * z),
    lambda z: (np.where(z > 0, z, 0.01 * z), np.where(z > 0, 1, 0.01), 0 * z),
    lambda z: (np.where(z > 0, z, np.expm1(z)), np.where(z > 0, 1, np.exp(z)), np.where(z > 0, 0, np.exp(z))),
    lambda z: (np.sin(z), np.cos(z), -np.sin(z)),
)
IDENTITY = -1


@dataclass(frozen=True)
class Case:
    """One layer: its sizes, what is there, and where its numbers lie."""

    rows: int
    cols: int
    probes: int = 1
    dtype: str = "float32"
    activation: int = 0
    tangents: str = "stack"  # "shared" by all rows, or "ones"
    film: str = ""  # "shared" or "rows"
    added: bool = False
    bias: bool = True
    residual: bool = False
    projection: str = ""  # "rows" or "shared": also their sums and gradients
    above: bool = True  # gradients by h and ḣ come from above
    offset: int = 0  # elements by which every buffer misses an address of 16 bytes
    recompute: bool = False  # the backward writes h and ḣ
    totals: bool = False  # the backward adds to totals in the place of writing the gradient by ṡ
    nan: bool = False  # the last sum is NaN

    def __str__(self) -> str:
        values = [str(value) for name, value in vars(self).items() if name not in ("rows", "cols")]
        return "-".join([f"{self.rows}x{self.cols}", *(value for value in values if value)])

    @property
    def identity(self) -> bool:
        return self.activation == IDENTITY


class Arrays:
    """The buffers of a case, by name, and what they hold in float64."""

    def __init__(self, case: Case):
        self.case, self.generator = case, np.random.default_rng(7)
        self.buffers: dict[str, Buffer] = {}
        self.values: dict[str, np.ndarray] = {}

    def given(self, name: str, *shape: int, wide: bool = False) -> int:
        """Random numbers, of the accumulator's type or as they are stored; their address."""
        buffer = self._buffer(name, math.prod(shape), wide)
        buffer.inside[:] = narrow(self.generator.normal(size=math.prod(shape)), buffer.dtype)
        if name == "sum" and self.case.nan:
            buffer.inside[-1:] = narrow(np.full(1, np.nan), buffer.dtype)
        self.values[name] = widen(buffer.inside, buffer.dtype).reshape(shape)
        return buffer.address()

    def wanted(self, name: str, count: int, wide: bool = False) -> int:
        """Memory for a result; sums of the accumulator's type begin at 2."""
        buffer = self._buffer(name, count, wide)
        buffer.inside[:] = narrow(np.full(count, 2.0), buffer.dtype) if wide else 0
        return buffer.address()

    def _buffer(self, name: str, count: int, wide: bool) -> Buffer:
        kind = np.dtype(WIDE[self.case.dtype]).name if wide else self.case.dtype
        self.buffers[name] = Buffer(count, kind, self.case.offset)
        return self.buffers[name]

    def check(self, name: str, exact: np.ndarray, terms: float) -> np.ndarray:
        """Compares a result with what it should be; `terms`: how many numbers of its scale were added."""
        buffer = self.buffers[name]
        wide = np.dtype(WIDE[self.case.dtype]).name
        began = 2.0 if name in TOTALS else 0.0
        found, exact = widen(buffer.inside, buffer.dtype), exact.ravel() + began
        nan = np.isnan(exact)
        if not np.array_equal(np.isnan(found), nan):
            raise AssertionError(f"{name} of {self.case} is NaN at {np.flatnonzero(np.isnan(found))}")
        found, exact = found[~nan], exact[~nan]
        scale = 1 + np.abs(exact).max(initial=0)
        bound = EPSILON[buffer.dtype] * np.abs(exact) + EPSILON[wide] * scale * (32 + 4 * math.sqrt(terms))
        if self.case.dtype in ("float16", "bfloat16"):
            bound = bound + EPSILON[self.case.dtype] * (buffer.dtype != wide) * 0.1
        if not (np.abs(found - exact) <= bound).all():
            raise AssertionError(f"{name} of {self.case}: error {np.abs(found - exact).max():.3e} at scale {scale:.3e}")
        buffer.check(f"{name} of {self.case}", np.arange(buffer.size))
        return found


TOTALS = {"dot", "squares", "tangent_squares", "first_total", "projection_total", "bias_sum", "scale_sum", "shift_sum"}


def layer_input(case: Case, arrays: Arrays) -> LayerInput:
    rows, cols, probes = case.rows, case.cols, case.probes
    problem = LayerInput(STORAGE.index(case.dtype), case.activation, rows, cols, probes)
    problem.weight, problem.tangent_weight = WEIGHT, TANGENT_WEIGHT
    problem.sum = arrays.given("sum", rows, cols)
    if case.tangents != "ones":
        there = 1 if case.tangents == "shared" else rows
        problem.tangents = arrays.given("tangents", probes, there, cols)
        problem.tangent_probe, problem.tangent_row = there * cols, cols if there > 1 else 0
    problem.bias = arrays.given("bias", cols) if case.bias else None
    problem.added = arrays.given("added", rows, cols) if case.added else None
    if case.film:
        film_rows = rows if case.film == "rows" else 1
        problem.scale = arrays.given("film", film_rows, 2 * cols)
        problem.shift = problem.scale + cols * arrays.buffers["film"].whole.itemsize
        problem.film_row = 2 * cols if film_rows > 1 else 0
    problem.residual = arrays.given("residual", 1 + probes, rows, cols) if case.residual else None
    if case.projection:
        there = 1 if case.projection == "shared" else rows
        problem.projection = arrays.given("projection", probes, there, cols)
        problem.projection_probe, problem.projection_row = there * cols, cols if there > 1 else 0
    return problem


class Exact:
    """A layer in float64."""

    def __init__(self, case: Case, values: dict[str, np.ndarray]):
        rows, cols, probes = case.rows, case.cols, case.probes
        self.z = values["sum"] + values.get("bias", 0) + values.get("added", 0)
        film = values.get("film", np.concatenate([np.ones((1, cols)), np.zeros((1, cols))], 1))
        self.gamma, self.s = film[:, :cols], np.broadcast_to(values.get("tangents", np.ones(1)), (probes, rows, cols))
        self.u = self.gamma * self.z + film[:, cols:]
        shape = np.ones_like(self.u)
        self.f, self.slope, self.bend = (
            (self.u, shape, 0 * shape) if case.identity else FUNCTIONS[case.activation](self.u)
        )
        below = values.get("residual", np.zeros((1 + probes, rows, cols)))
        self.h, self.moved = self.f + below[0], self.slope * self.gamma * self.s + below[1:]
        self.q = np.broadcast_to(values.get("projection", np.zeros(1)), (probes, rows, cols))


def run_forward(machine: Machine, case: Case, seed: int) -> list[np.ndarray]:
    arrays = Arrays(case)
    stack, rows = case.rows * case.cols, case.rows
    problem = LayerForward(layer_input(case, arrays))
    problem.hidden = arrays.wanted("hidden", stack)
    problem.hidden_tangents = arrays.wanted("hidden_tangents", case.probes * stack) if not case.recompute else None
    problem.dot = arrays.wanted("dot", rows, wide=True) if case.projection else None
    if case.identity:
        problem.squares = arrays.wanted("squares", rows, wide=True)
        problem.tangent_squares = arrays.wanted("tangent_squares", rows, wide=True)
    machine.seed(seed)
    machine.call("layer_forward", ctypes.byref(problem))
    exact = Exact(case, arrays.values)
    results = {"hidden": exact.h, "hidden_tangents": exact.moved}
    results["dot"] = TANGENT_WEIGHT * (exact.q * exact.moved).sum((0, 2))
    results["squares"] = WEIGHT * (exact.h**2).sum(1)
    results["tangent_squares"] = TANGENT_WEIGHT * (exact.moved**2).sum((0, 2))
    return [arrays.check(name, results[name], case.cols * case.probes) for name in results if name in arrays.buffers]


def run_backward(machine: Machine, case: Case, seed: int) -> list[np.ndarray]:
    arrays = Arrays(case)
    rows, cols, probes, stack = case.rows, case.cols, case.probes, case.rows * case.cols
    problem, sums = LayerBackward(layer_input(case, arrays)), ColumnSums()
    problem.grad_hidden = arrays.given("grad_hidden", rows, cols) if case.above else None
    problem.grad_tangents = arrays.given("grad_tangents", probes, rows, cols) if case.above else None
    problem.grad_dot = arrays.given("grad_dot", rows, wide=True) if case.projection else None
    if case.identity:
        problem.grad_squares = arrays.given("grad_squares", rows, wide=True)
        problem.grad_tangent_squares = arrays.given("grad_tangent_squares", rows, wide=True)
    problem.grad_sum = arrays.wanted("grad_sum", stack)
    if case.totals:
        problem.first_total = arrays.wanted("first_total", probes * stack, wide=True)
    else:
        problem.grad_tangent_sum = arrays.wanted("grad_tangent_sum", probes * stack)
    if case.projection:
        problem.projection_total = arrays.wanted("projection_total", probes * stack, wide=True)
    if case.recompute:
        problem.hidden = arrays.wanted("hidden", stack)
        problem.hidden_tangents = arrays.wanted("hidden_tangents", probes * stack)
    if case.film == "rows" and rows > 1:
        problem.grad_scale, problem.grad_film_row = arrays.wanted("grad_film", 2 * stack), 2 * cols
        problem.grad_shift = problem.grad_scale + cols * arrays.buffers["grad_film"].whole.itemsize
    sums.bias = arrays.wanted("bias_sum", cols, wide=True) if case.bias else None
    if case.film and problem.grad_scale is None and case.bias:
        sums.scale = arrays.wanted("scale_sum", cols, wide=True)
        sums.shift = arrays.wanted("shift_sum", cols, wide=True)
    times = 1 if case.totals or case.projection else 2
    machine.seed(seed)
    machine.call("layer_backward", ctypes.byref(problem), ctypes.byref(sums), times)
    results = gradients(case, Exact(case, arrays.values), arrays.values, times)
    return [
        arrays.check(name, results[name], (rows if name.endswith("_sum") else 1) * probes)
        for name in results
        if name in arrays.buffers
    ]


def gradients(case: Case, exact: Exact, given: dict[str, np.ndarray], times: int) -> dict[str, np.ndarray]:
    """By hand, from h̄ and ḣ̄; column sums of as many runs."""
    zero = np.zeros(case.rows)
    by_dot = TANGENT_WEIGHT * given.get("grad_dot", zero)[:, None]
    by_h = given.get("grad_hidden", 0) + 2 * WEIGHT * given.get("grad_squares", zero)[:, None] * exact.h
    by_moved = given.get("grad_tangents", 0) + by_dot * exact.q
    by_moved = by_moved + 2 * TANGENT_WEIGHT * given.get("grad_tangent_squares", zero)[:, None] * exact.moved
    by_u = exact.slope * by_h + exact.bend * (exact.gamma * exact.s * by_moved).sum(0)
    by_scale = by_u * exact.z + (exact.slope * by_moved * exact.s).sum(0)
    by_first = exact.gamma * exact.slope * by_moved
    return {
        **{"grad_sum": exact.gamma * by_u, "grad_tangent_sum": by_first, "first_total": by_first},
        **{"projection_total": by_dot * exact.moved, "hidden": exact.h, "hidden_tangents": exact.moved},
        **{"grad_film": np.concatenate([by_scale, by_u], 1), "bias_sum": times * (exact.gamma * by_u).sum(0)},
        **{"scale_sum": times * by_scale.sum(0), "shift_sum": times * by_u.sum(0)},
    }


def cases() -> list[Case]:
    """Packets and their tails, short and long rows, several blocks of columns and of rows, all that may be there."""
    kinds = [Case(5, 12, 2, activation=kind, film="shared", recompute=True) for kind in range(8)]
    sizes = [(1, 1), (3, 2), (300, 2), (7, 33), (40, 64), (150, 64), (9, 130), (2, 1100), (3, 2048)]
    found = [Case(*size, dtype=dtype, projection="rows") for size in sizes for dtype in EPSILON]
    options = [
        {"tangents": "shared", "projection": "shared", "totals": True},
        {"tangents": "ones", "projection": "rows", "totals": True, "above": False},
        {"film": "shared", "added": True, "probes": 3},
        {"film": "rows", "projection": "rows", "bias": False},
        {"film": "rows", "added": True, "totals": True},
        {"residual": True, "probes": 2, "projection": "rows", "totals": True},
        {"residual": True, "added": True, "film": "shared"},
        {"activation": IDENTITY, "projection": "rows", "film": "shared"},
        {"activation": IDENTITY, "projection": "shared", "tangents": "shared", "bias": False},
        {"probes": 0, "film": "shared"},
        {"probes": 0, "activation": IDENTITY, "above": False},
        {"recompute": True, "offset": 1, "film": "shared", "totals": True},
        {"offset": 1, "projection": "rows", "added": True, "film": "rows"},
        {"nan": True, "film": "shared", "projection": "rows", "probes": 2},
    ]
    dtypes = itertools.cycle(EPSILON)
    for option, size in itertools.product(options, ((70, 16), (5, 7), (90, 68))):
        found.append(Case(*size, dtype=next(dtypes), **option))  # type: ignore[arg-type]
    return [*kinds, *found]


def everything() -> list[tuple]:
    """(run, case) for all cases."""
    return list(itertools.product((run_forward, run_backward), cases()))


def main(arguments: list[str]) -> int:
    machine = Machine(Path(arguments[0]))
    for seed in [int(argument) for argument in arguments[1:]] or [0]:
        for function, case in everything():
            print(f"{function.__name__} {case}, seed {seed}", flush=True)
            function(machine, case, seed)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
