"""The CPU rows of sliced_ot alone, through ctypes, at every SIMD level, against float64 NumPy and SciPy.

A row's points are ordered by (value, index), so that derivatives at ties are determined and NumPy's stable sort is
the reference for them too.
"""

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import wasserstein_distance

ROOT = Path(__file__).resolve().parents[2]
LEVELS = ("baseline", "avx2", "avx512")
DTYPES = (np.float32, np.float64)
POINTERS = ("cost", "x_coefficients", "y_coefficients", "x_weight_coefficients", "y_weight_coefficients")


class Problem(ctypes.Structure):
    _fields_ = [
        *[(name, ctypes.c_int64) for name in ("rows", "n", "m")],
        *[(name, ctypes.c_void_p) for name in ("x", "y")],
        *[(name, ctypes.c_int64) for name in ("x_stride", "y_stride")],
        ("p", ctypes.c_double),
        *[(name, ctypes.c_void_p) for name in ("x_weights", "y_weights")],
        ("rows_per_group", ctypes.c_int64),
        *[(name, ctypes.c_void_p) for name in POINTERS],
    ]


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    compiler = os.environ.get("CXX") or shutil.which("c++")
    if not compiler:
        pytest.skip("no C++ compiler: neither $CXX nor c++ is there")
    output = tmp_path_factory.mktemp("rows") / "rows.so"
    sources = ["csrc/sliced_ot/cpu.cpp", "csrc/common/levels.cpp", "tests/support/rows_capi.cpp"]
    flags = ["-std=c++17", "-O2", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-I", "csrc"]
    subprocess.run(
        [*compiler.split(), *flags, "-fPIC", "-shared", "-pthread", *sources, "-o", str(output)], cwd=ROOT, check=True
    )
    return ctypes.CDLL(str(output))


@pytest.fixture(params=range(len(LEVELS)), ids=LEVELS)
def rows(request, library):
    """Runs a problem at the level of the fixture."""
    if library.rows_set_level(request.param):
        pytest.skip(f"this CPU does not support {LEVELS[request.param]}")

    def run(x, y, p=2.0, a=None, b=None, wanted=("x_coefficients", "y_coefficients"), threads=1, alias=False):
        (count, n), m = x.shape, y.shape[1]
        out = {"cost": np.full(count, 7.0)}
        sizes = {"x_coefficients": n, "x_weight_coefficients": n, "y_coefficients": m, "y_weight_coefficients": m}
        for name in wanted:
            out[name] = np.full((count, sizes[name]), 7.0, x.dtype)
        if alias:
            out |= {"x_coefficients": x, "y_coefficients": y}
        fields = {name: array.ctypes.data for name, array in out.items()}
        if a is not None:
            a, b = np.ascontiguousarray(a, np.float64), np.ascontiguousarray(b, np.float64)
            fields |= {"x_weights": a.ctypes.data, "y_weights": b.ctypes.data, "rows_per_group": count // len(a)}
        problem = Problem(
            rows=count, n=n, m=m, x=x.ctypes.data, y=y.ctypes.data, p=p, **{"rows_per_group": 1, **fields}
        )
        problem.x_stride, problem.y_stride = x.strides[0] // x.itemsize, y.strides[0] // y.itemsize
        function = library.rows_float if x.dtype == np.float32 else library.rows_double
        assert function(ctypes.byref(problem), threads) == 0
        return out

    return run


def coupling(n, m, a, b):
    """The points (of the sorted rows) that share mass, and how much: i, j, mass."""
    if a is None:
        ends_x, ends_y, unit = np.arange(1, n + 1) * m, np.arange(1, m + 1) * n, 1 / (n * m)
    else:
        ends_x, ends_y, unit = np.cumsum(a), np.cumsum(b), 1.0
        ends_x[-1] = ends_y[-1] = 1.0
    ends = np.sort(np.concatenate([ends_x, ends_y]))
    mass = np.diff(ends, prepend=0)
    ends, mass = ends[mass > 0], mass[mass > 0]
    i = np.minimum(np.searchsorted(ends_x, ends), n - 1)
    return i, np.minimum(np.searchsorted(ends_y, ends), m - 1), mass * unit


def reference_row(x, y, p, a=None, b=None):
    x, y = x.astype(np.float64), y.astype(np.float64)
    order_x, order_y = np.argsort(x, kind="stable"), np.argsort(y, kind="stable")
    sorted_weights = (None, None) if a is None else (a[order_x], b[order_y])
    i, j, mass = coupling(len(x), len(y), *sorted_weights)
    i, j = order_x[i], order_y[j]
    d = x[i] - y[j]
    slope = mass * p * np.abs(d) ** (p - 1) * np.sign(d)
    by_x, by_y = np.zeros(len(x)), np.zeros(len(y))
    np.add.at(by_x, i, slope)
    np.add.at(by_y, j, -slope)
    return (mass * np.abs(d) ** p).sum(), by_x, by_y


def assert_matches(out, x, y, p, a=None, b=None, rows_per_group=1):
    eps = np.finfo(x.dtype).eps
    for row in range(len(x)):
        group = row // rows_per_group
        weights = (None, None) if a is None else (a[group], b[group])
        cost, by_x, by_y = reference_row(x[row], y[row], p, *weights)
        assert out["cost"][row] == pytest.approx(cost, rel=1e-11, abs=1e-300)
        for name, expected in (("x_coefficients", by_x), ("y_coefficients", by_y)):
            if name in out:
                # The difference of two points is rounded once, relative to itself; the slope of |d|^p with it.
                scale = np.abs(expected) + np.abs(expected).max() * 1e-3
                assert np.all(np.abs(out[name][row] - expected) <= 8 * p * eps * scale + 1e-15), name


def normal_rows(seed, rows, n, dtype):
    return np.random.default_rng(seed).normal(size=(rows, n)).astype(dtype)


def random_weights(seed, groups, n, zeros=0.0):
    generator = np.random.default_rng(seed)
    weights = generator.exponential(size=(groups, n)) * (generator.random((groups, n)) >= zeros)
    weights[:, generator.integers(n)] += 0.5
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize("p", [1.0, 2.0, 1.5])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_of_equal_size(rows, dtype, p):
    for n in (1, 2, 3, 7, 15, 16, 17, 31, 33, 64, 100, 257, 1000, 1025, 3000, 9001):
        for count in (1, 3, 16, 21) if n < 2000 else (2,):
            x, y = normal_rows(n, count, n, dtype), normal_rows(n + 1, count, n, dtype) * 2 + 1
            assert_matches(rows(x, y, p), x, y, p)
            assert_matches(rows(x, y, p, wanted=("x_coefficients",)), x, y, p)
            assert_matches(rows(x, y, p, wanted=()), x, y, p)


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_of_unequal_size(rows, dtype, p):
    for n, m in ((1, 5), (5, 1), (2, 3), (16, 24), (100, 99), (1000, 300), (7, 2000), (40000, 33000)):
        for count in (1, 18) if n < 2000 else (1,):
            x, y = normal_rows(n, count, n, dtype), normal_rows(m + 1, count, m, dtype) - 1
            assert_matches(rows(x, y, p), x, y, p)
            assert_matches(rows(x, y, p, wanted=()), x, y, p)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_with_weights(rows, dtype):
    for n, m, zeros in (
        (1, 1, 0),
        (1, 4, 0),
        (6, 6, 0),
        (50, 70, 0.3),
        (70, 50, 0.9),
        (1500, 1500, 0.1),
        (20000, 18000, 0),
    ):
        x, y = normal_rows(n, 6, n, dtype), normal_rows(m + 5, 6, m, dtype) + 0.5
        a, b = random_weights(1, 3, n, zeros), random_weights(2, 3, m, zeros)
        out = rows(x, y, 2.0, a, b)
        assert np.all(out["x_coefficients"][np.repeat(a, 2, 0) == 0] == 0)
        for row in range(6):
            cost, by_x, by_y = reference_row(x[row], y[row], 2.0, a[row // 2], b[row // 2])
            assert out["cost"][row] == pytest.approx(cost, rel=1e-9)
            np.testing.assert_allclose(out["x_coefficients"][row], by_x, rtol=1e-5, atol=1e-6 / n)
            np.testing.assert_allclose(out["y_coefficients"][row], by_y, rtol=1e-5, atol=1e-6 / m)
            scipy = wasserstein_distance(x[row], y[row], a[row // 2], b[row // 2])
            assert rows(x, y, 1.0, a, b)["cost"][row] == pytest.approx(scipy, rel=1e-9)


@pytest.mark.parametrize("p", [1.0, 2.0, 2.5])
def test_rows_weight_coefficients_are_a_joint_subgradient(rows, p):
    """C(a', b') >= C(a, b) + <f, a' - a> + <g, b' - b> for all weights, at ties of the boundaries too."""
    generator = np.random.default_rng(0)
    for n, m in ((1, 1), (2, 2), (5, 5), (6, 3), (7, 4)):
        for a, b in (
            (np.full((1, n), 1 / n), np.full((1, m), 1 / m)),
            (random_weights(n, 1, n, 0.4), random_weights(m, 1, m, 0.4)),
        ):
            x, y = generator.normal(size=(1, n)), generator.normal(size=(1, m))
            out = rows(x, y, p, a, b, wanted=("x_weight_coefficients", "y_weight_coefficients"))
            f, g = out["x_weight_coefficients"], out["y_weight_coefficients"]
            for _ in range(40):
                other_a, other_b = generator.dirichlet(np.full(n, 0.5), 1), generator.dirichlet(np.full(m, 0.5), 1)
                step = generator.choice([1.0, 1e-3])
                other_a, other_b = a + step * (other_a - a), b + step * (other_b - b)
                bound = out["cost"][0] + (f * (other_a - a)).sum() + (g * (other_b - b)).sum()
                assert rows(x, y, p, other_a, other_b, wanted=())["cost"][0] >= bound - 1e-12


def test_rows_weight_coefficients_differentiate_the_cost(rows):
    x, y = normal_rows(1, 1, 40, np.float64), normal_rows(2, 1, 33, np.float64)
    a, b = random_weights(3, 1, 40), random_weights(4, 1, 33)
    out = rows(x, y, 2.0, a, b, wanted=("x_weight_coefficients", "y_weight_coefficients"))
    for i in range(39):
        step = np.zeros((1, 40))
        step[0, i], step[0, i + 1] = 1e-7, -1e-7
        slope = (rows(x, y, 2.0, a + step, b)["cost"][0] - rows(x, y, 2.0, a - step, b)["cost"][0]) / 2e-7
        f = out["x_weight_coefficients"][0]
        assert slope == pytest.approx(f[i] - f[i + 1], rel=1e-5, abs=1e-5)


def awkward_rows(n, dtype):
    generator = np.random.default_rng(n)
    normal = generator.normal(size=n)
    outlier, clusters = normal.copy(), np.repeat(generator.normal(size=8) * 1e6, n // 8 + 1)[:n] + normal * 1e-3
    outlier[n // 2] = 1e30
    yield from (normal, outlier, clusters, np.sort(normal), np.sort(normal)[::-1], np.zeros(n), np.full(n, 3.0))
    yield generator.integers(0, 2, n) * 1.0
    yield generator.integers(-2, 3, n) * 0.0 * np.sign(normal)  # zeros of both signs
    yield np.round(normal * 3)
    yield np.exp(30 * normal)
    yield 1e-38 * np.exp(normal)
    yield normal * 1e-320
    yield normal * np.finfo(dtype).max / 10
    yield 1 + generator.integers(0, 5, n) * float(np.finfo(dtype).eps)


@pytest.mark.parametrize("n", [12, 300, 2000, 20000])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_of_awkward_distributions(rows, dtype, n):
    with np.errstate(over="ignore", under="ignore"):
        x = np.stack([row.astype(dtype) for row in awkward_rows(n, dtype)])
    x = np.clip(x, -np.finfo(dtype).max, np.finfo(dtype).max)
    y = x[:, ::-1].copy()
    for wanted in ((), ("x_coefficients", "y_coefficients")):
        assert np.all(rows(x, y, 1.0, wanted=wanted)["cost"] == 0)
    y = np.roll(x, 1, 0)
    out = rows(x, y, 1.0)
    for row in range(len(x)):
        cost, by_x, by_y = reference_row(x[row], y[row], 1.0)
        if cost < np.finfo(np.float64).max / n:  # else the sum overflows, as PyTorch's does
            assert out["cost"][row] == pytest.approx(cost, rel=1e-9)
        np.testing.assert_allclose(out["x_coefficients"][row], by_x, rtol=1e-6)
        np.testing.assert_allclose(out["y_coefficients"][row], by_y, rtol=1e-6)


@pytest.mark.parametrize("n", [1, 5, 40, 1200, 40000])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_with_nan_or_infinity_are_nan_and_touch_no_other(rows, dtype, n):
    x, y = normal_rows(1, 20, n, dtype), normal_rows(2, 20, n, dtype)
    if n > 10000:
        x, y = x[:6], y[:6]
    clean = rows(x, y)
    for row, value in ((0, np.nan), (2, np.inf), (3, -np.inf), (5, -np.nan)):
        (x if row % 2 else y)[row, (row * 77) % n] = value
    for threads in (1, 3):
        out = rows(x, y, threads=threads)
        for name, values in out.items():
            spoilt = [0, 2, 3, 5]
            assert np.all(np.isnan(values[spoilt])), name
            np.testing.assert_array_equal(np.delete(values, spoilt, 0), np.delete(clean[name], spoilt, 0))
    weights = random_weights(1, 1, n)
    wanted = ("x_coefficients", "x_weight_coefficients", "y_weight_coefficients")
    assert all(np.all(np.isnan(v[0])) for v in rows(x, y, 2.0, weights, weights, wanted=wanted).values())


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_do_not_depend_on_threads(rows, dtype):
    for count, n, m in ((1, 150000, 150000), (2, 100000, 70000), (40, 1000, 1000), (19, 20000, 20000), (3, 10, 12)):
        x, y = normal_rows(1, count, n, dtype).round(3), normal_rows(2, count, m, dtype).round(3)
        expected = rows(x, y)
        for threads in (2, 3, 8):
            out = rows(x, y, threads=threads)
            for name, values in expected.items():
                np.testing.assert_array_equal(values, out[name], err_msg=name)
    assert_matches(out, x, y, 2.0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_strided_and_aliased(rows, dtype):
    for n in (9, 700, 5000, 70000):
        wide_x, wide_y = (
            normal_rows(1, 20 if n < 1000 else 3, n + 5, dtype),
            normal_rows(2, 20 if n < 1000 else 3, n + 9, dtype),
        )
        x, y = wide_x[:, 2 : n + 2], wide_y[:, 3 : n + 3]
        expected = rows(x, y)
        assert_matches(expected, x, y, 2.0)
        own_x, own_y = x.copy(), y.copy()
        out = rows(own_x, own_y, alias=True, threads=2)
        np.testing.assert_array_equal(out["cost"], expected["cost"])
        np.testing.assert_array_equal(own_x, expected["x_coefficients"])
        np.testing.assert_array_equal(own_y, expected["y_coefficients"])


def test_rows_without_rows(rows):
    assert rows(np.zeros((0, 3)), np.zeros((0, 2)))["cost"].shape == (0,)
