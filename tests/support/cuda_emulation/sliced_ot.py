"""The emulated kernels of sliced_ot against float64 NumPy; shared by the tests, the sanitized run and the mutations.

`python -m tests.support.cuda_emulation.sliced_ot LIBRARY [SEED...]` runs all cases until one fails.
"""

import ctypes
import sys
from pathlib import Path

import numpy as np

from . import Machine
from .sliced_ot_cases import BOTH, OUTPUTS, Case, cases

GUARD = 64


class Rows(ctypes.Structure):
    _fields_ = [
        *[(name, ctypes.c_int64) for name in ("rows", "n", "m")],
        *[(name, ctypes.c_void_p) for name in ("x", "y")],
        *[(name, ctypes.c_int64) for name in ("x_stride", "y_stride")],
        ("p", ctypes.c_double),
        *[(name, ctypes.c_void_p) for name in ("x_weights", "y_weights")],
        ("rows_per_group", ctypes.c_int64),
        *[(name, ctypes.c_void_p) for name in OUTPUTS],
    ]


class Clouds(ctypes.Structure):
    _fields_ = [
        *[(name, ctypes.c_int64) for name in ("batch", "directions", "d")],
        *[(name, ctypes.c_void_p) for name in ("x", "y", "directions_by_row")],
    ]


def draw_points(generator, case: Case, rows: int, n: int) -> np.ndarray:
    points = generator.normal(size=(rows, n)) * 2
    if case.points == "ties":
        points = np.round(points)
    elif case.points == "zeros":
        points = np.where(points > 0, 0.0, -0.0)
    elif case.points == "far":
        points[:, ::3] = 1e200  # of no weight, at an infinite cost
    padded = np.full((rows, n + case.padding), 1e30, case.dtype)
    padded[:, :n] = points
    if case.points == "not finite":
        # A NaN whose key is the padding's, and an infinity, each in a row of its own.
        padded.view(np.uint32 if case.dtype is np.float32 else np.uint64)[1, n // 2] = (
            0x7FFFFFFF if case.dtype is np.float32 else 0x7FFFFFFFFFFFFFFF
        )
        padded[2, n - 1] = -np.inf
    return padded


def draw_weights(generator, case: Case, n: int) -> np.ndarray:
    weights = generator.exponential(size=(case.groups, n))
    if case.points == "skewed":
        # Nearly all mass in one atom, which so spans many threads and tiles; a third of the atoms weigh nothing.
        weights = weights * (generator.random((case.groups, n)) > 0.3) * 1e-3
        weights[np.arange(case.groups), generator.integers(n, size=case.groups)] += n
    if case.points == "far":
        weights[:, ::3] = 0
    if case.points == "not finite":
        weights[0, n // 3] = np.nan
    weights = weights / weights.sum(1, keepdims=True)
    if case.points == "bad weights":
        # Not normalised, as no caller should: one negative, one too large.
        weights[0, n // 2] = -0.25
        weights[1, n // 3] = 2.5
    return weights


def guarded(shape: tuple[int, ...], dtype) -> tuple[np.ndarray, np.ndarray]:
    """An array, and the longer one around it by whose ends stray writes show."""
    size = int(np.prod(shape))
    whole = np.full(size + 2 * GUARD, 7.0, dtype)
    return whole[GUARD : GUARD + size].reshape(shape), whole


def coupling(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """i, j and mass of the sorted atoms that share mass; integer weights stay exact."""
    x_ends, y_ends = np.cumsum(a), np.cumsum(b)
    if x_ends.dtype.kind == "f":
        x_ends[-1] = y_ends[-1] = 1.0
    ends = np.sort(np.concatenate([x_ends, y_ends]))
    mass = np.diff(ends, prepend=0)
    ends, mass = ends[mass > 0], mass[mass > 0]
    i, j = np.searchsorted(x_ends, ends), np.searchsorted(y_ends, ends)
    return np.minimum(i, len(a) - 1), np.minimum(j, len(b) - 1), mass / mass.sum()


def reference_row(x, y, p, a=None, b=None):
    """Cost and the derivatives by the points; equal points keep the order of their indices."""
    order_x, order_y = np.argsort(x, kind="stable"), np.argsort(y, kind="stable")
    if a is None:
        sorted_a, sorted_b = np.full(len(x), len(y)), np.full(len(y), len(x))
    else:
        order_x, order_y = order_x[a[order_x] > 0], order_y[b[order_y] > 0]
        sorted_a, sorted_b = a[order_x], b[order_y]
    i, j, mass = coupling(sorted_a, sorted_b)
    i, j = order_x[i], order_y[j]
    gap = x[i] - y[j]
    pull = mass * p * np.abs(gap) ** (p - 1) * np.sign(gap)
    by_x, by_y = np.zeros(len(x)), np.zeros(len(y))
    np.add.at(by_x, i, pull)
    np.add.at(by_y, j, -pull)
    return (mass * np.abs(gap) ** p).sum(), by_x, by_y


def assert_dual_optimal(f, g, x, y, p, a, b, cost, tolerance):
    """f and g are optimal dual potentials up to a constant: feasible, and their value is the cost."""
    slack = np.inf
    for begin in range(0, len(x), 512):
        ground = np.abs(x[begin : begin + 512, None] - y) ** p
        slack = min(slack, (ground - f[begin : begin + 512, None] - g).min())
    value = (a * f).sum() + (b * g).sum() + slack
    np.testing.assert_allclose(value, cost, rtol=tolerance, atol=tolerance * np.abs(f).max(), err_msg="dual value")


def run(machine: Machine, case: Case, seed: int) -> None:
    """Runs the case on the machine with the schedule of `seed` and compares everything with the reference."""
    generator = np.random.default_rng(1234)
    directions = case.rows
    rows = 2 * directions if case.d else case.rows
    scalar, name = case.dtype, "float" if case.dtype is np.float32 else "double"
    problem = Rows(rows=rows, n=case.n, m=case.m, p=case.p, rows_per_group=1)
    clouds = Clouds()
    if case.d:
        # Small integers and eighths: projections are exact, and equal ones are many.
        x, y = (generator.integers(-8, 9, size=(2, size, case.d)).astype(scalar) for size in (case.n, case.m))
        theta = (generator.integers(-8, 9, size=(directions, case.d)) / 8).astype(scalar)
        if case.points == "not finite":
            x[1, case.n // 2, case.d - 1] = np.inf
        clouds = Clouds(batch=2, directions=directions, d=case.d, x=x.ctypes.data, y=y.ctypes.data)
        clouds.directions_by_row = theta.ctypes.data
        with np.errstate(invalid="ignore"):
            projected = [(np.einsum("bnd,ld->bln", z, theta)).reshape(rows, -1).astype(float) for z in (x, y)]
    else:
        x, y = (draw_points(generator, case, rows, size) for size in (case.n, case.m))
        problem.x, problem.y, problem.x_stride, problem.y_stride = x.ctypes.data, y.ctypes.data, x.shape[1], y.shape[1]
        projected = [x[:, : case.n].astype(float), y[:, : case.m].astype(float)]
    a = b = None
    if case.groups:
        a, b = draw_weights(generator, case, case.n), draw_weights(generator, case, case.m)
        problem.x_weights, problem.y_weights, problem.rows_per_group = a.ctypes.data, b.ctypes.data, rows // case.groups
    out, whole = {}, {}
    for output in ("cost", *case.wanted):
        count = 1 if output == "cost" else case.n if output[0] == "x" else case.m
        out[output], whole[output] = guarded((rows, count), np.float64 if output == "cost" else scalar)
        if case.alias and output in BOTH:
            out[output] = x if output[0] == "x" else y
        setattr(problem, output, out[output].ctypes.data)

    machine.seed(seed)
    machine.shared_memory_limit(case.device)
    machine.launches()
    if case.d:
        machine.call(f"sliced_{name}", ctypes.byref(clouds), ctypes.byref(problem))
    else:
        machine.call(f"rows_{name}", ctypes.byref(problem))
    launches = machine.launches()
    if case.launches is not None and launches != case.launches:
        raise AssertionError(f"{launches} launches where {case.launches} were expected")
    for output, array in whole.items():
        if not (np.all(array[:GUARD] == 7) and np.all(array[-GUARD:] == 7)):
            raise AssertionError(f"stray writes beside {output}")
    for row in range(rows):
        weights = (None, None) if a is None else (a[row // (rows // case.groups)], b[row // (rows // case.groups)])
        compare_row(
            case, {key: value[row] for key, value in out.items()}, projected[0][row], projected[1][row], *weights
        )


def compare_row(case: Case, out, x, y, a, b) -> None:
    good = all(np.isfinite(values).all() for values in (x, y, a, b) if values is not None)
    if not (good and (a is None or (a.min() >= 0 and a.max() <= 2))):
        for output, values in out.items():
            assert np.isnan(values).all(), f"{output} of a row that is not finite is not NaN"
        return
    cost, by_x, by_y = reference_row(x, y, case.p, a, b)
    tolerance = 1e-6 if case.dtype is np.float32 else 1e-11
    exact = 1e-11 if a is None else 1e-9
    np.testing.assert_allclose(out["cost"][0], cost, rtol=exact, atol=1e-12, err_msg="cost")
    for output, expected in (("x_coefficients", by_x), ("y_coefficients", by_y)):
        if output in out:
            floor = 1e-13 * np.abs(expected).max()
            if a is not None:  # the reference's cumulative weights are rounded to 2^-53 of one
                span = np.ptp(np.concatenate([x[a > 0], y[b > 0]]))
                floor = 1e-13 * case.p * span ** (case.p - 1)
            np.testing.assert_allclose(out[output], expected, rtol=tolerance, atol=floor + 1e-300, err_msg=output)
    if "x_weight_coefficients" in out and "y_weight_coefficients" in out:
        f, g = (out[f"{cloud}_weight_coefficients"].astype(float) for cloud in "xy")
        if a is None:
            a, b = np.full(len(x), 1 / len(x)), np.full(len(y), 1 / len(y))
        assert_dual_optimal(f, g, x, y, case.p, a, b, cost, 1e-6 if case.dtype is np.float32 else 1e-10)


def main(arguments: list[str]) -> int:
    machine = Machine(Path(arguments[0]))
    for seed in [int(argument) for argument in arguments[1:]] or [0]:
        for case in cases():
            print(f"{case}, seed {seed}", flush=True)
            run(machine, case, seed)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
