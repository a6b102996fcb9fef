"""The emulated combinations of csrc/divergence/runge_kutta_cuda.cu against float64 NumPy.

`python -m tests.support.cuda_emulation.divergence_runge_kutta LIBRARY [SEED...]` runs all cases until one fails.
"""

import ctypes
import itertools
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import Machine
from .coupling_memory import EPSILON, WIDE, Buffer, narrow, widen
from .divergence_structures import STORAGE, Combination

STEP, RTOL, ATOL = -0.3, 1e-2, 1e-3


@dataclass(frozen=True)
class Case:
    elements: int
    count: int = 2
    dtype: str = "float32"
    on_device: bool = False  # the step size
    base: bool = True
    norm: bool = False
    offset: int = 0  # elements by which every buffer misses an address of 16 bytes
    nan: str = ""  # y0 or y1, where NaN stands
    stacked: bool = False  # the terms but the last are columns of one matrix

    def __str__(self) -> str:
        return "-".join(str(value) for value in vars(self).values() if value != "")


def run(machine: Machine, case: Case, seed: int) -> list[np.ndarray]:
    generator = np.random.default_rng(3)
    buffers = [Buffer(case.elements, case.dtype, case.offset) for _ in range(case.count + 2)]
    for buffer in buffers:
        buffer.inside[:] = narrow(generator.normal(size=case.elements), case.dtype)
    if case.nan:
        buffers[("y0", "y1").index(case.nan)].inside[-1:] = narrow(np.full(1, np.nan), case.dtype)
    y0, y1, *terms = (widen(buffer.inside, case.dtype) for buffer in buffers)
    coefficients = generator.normal(size=case.count)
    problem = Combination(STORAGE.index(case.dtype), case.elements, case.count)
    columns = case.count - 1 if case.stacked else 0
    matrix = Buffer(case.elements * columns, case.dtype, case.offset)
    for place, buffer in enumerate(buffers[2:]):
        stacked = place < columns
        if stacked:
            matrix.inside[place::columns] = buffer.inside
        problem.terms[place] = matrix.address(place) if stacked else buffer.address()
        problem.strides[place], problem.coefficients[place] = columns if stacked else 1, coefficients[place]
    step = np.full(1, STEP, WIDE[case.dtype])
    problem.step = np.nan if case.on_device else STEP
    problem.device_step = step.ctypes.data if case.on_device else None
    out = Buffer(1 if case.norm else case.elements, case.dtype, case.offset)
    addresses = [buffers[0].address(), buffers[1].address()]
    machine.seed(seed)
    with np.errstate(invalid="ignore"):
        total = STEP * np.tensordot(coefficients, terms, 1)
        if case.norm:
            numbers = (ctypes.c_double(RTOL), ctypes.c_double(ATOL), ctypes.c_void_p(out.address()))
            machine.call("error_norm", ctypes.byref(problem), *map(ctypes.c_void_p, addresses), *numbers)
            ratio = total / (ATOL + RTOL * np.maximum(abs(y0), abs(y1)))
            exact = np.sqrt(np.full(1, (ratio**2).sum()) / case.elements)
        else:
            base = addresses[0] if case.base else None
            machine.call("combine", ctypes.byref(problem), ctypes.c_void_p(base), ctypes.c_void_p(out.address()))
            exact = total + (y0 if case.base else 0)
    found = widen(out.inside, case.dtype)
    scale = 1 + case.count + np.nan_to_num(abs(exact))
    bound = EPSILON[case.dtype] * np.nan_to_num(abs(exact)) + 16 * EPSILON[np.dtype(WIDE[case.dtype]).name] * scale
    if case.dtype == "float16":
        bound = bound + 2.0**-24
    same = np.array_equal(np.isnan(found), np.isnan(exact))
    if not same or not (np.nan_to_num(abs(found - exact)) <= bound).all():
        raise AssertionError(f"{case}: {found[:4]} where {exact[:4]} was expected")
    out.check(str(case), np.arange(out.size))
    return [found]


def cases() -> list[Case]:
    """Packets and tails, one block and many, one stage and all sixteen."""
    found = [Case(n, 1 + n % 4, dtype, n % 2 == 1) for n in (1, 2, 5, 64, 1023, 1024, 3001) for dtype in EPSILON]
    found += [Case(n, 3, dtype, offset=1, base=False) for n in (9, 1030) for dtype in EPSILON]
    found += [Case(700, 16), Case(0), *(Case(1030, 4, dtype, stacked=True) for dtype in EPSILON)]
    found += [Case(1030, 8, norm=True, stacked=True), Case(9, 3, norm=True, stacked=True, offset=1)]
    for n, dtype in itertools.product((1, 3, 70, 1025, 5000), EPSILON):
        found.append(Case(n, 2 + n % 3, dtype, n % 2 == 0, norm=True, offset=n % 3 % 2))
    found += [Case(262_145, 1, norm=True), Case(0, norm=True)]
    return [*found, *(Case(30, norm=True, nan=name) for name in ("y0", "y1"))]


def everything() -> list[tuple]:
    """(run, case) for all cases."""
    return [(run, case) for case in cases()]


def main(arguments: list[str]) -> int:
    machine = Machine(Path(arguments[0]))
    for seed in [int(argument) for argument in arguments[1:]] or [0]:
        for case in cases():
            print(f"{case}, seed {seed}", flush=True)
            run(machine, case, seed)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
