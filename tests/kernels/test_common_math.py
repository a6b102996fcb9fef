"""The vectorised exp, log, tanh, log1p, erf, sin and cos of ``csrc/common/simd_math.h`` at every SIMD level.

float32 against NumPy in float64 over a stride through all bit patterns, float64 against mpmath. The bounds are the
largest errors of an exhaustive run over all float32 (the slow test below, ``-m slow``) and of 2·10⁵ float64 samples,
rounded up; simd_math.h has the table.
"""

import functools

import mpmath
import numpy as np
import pytest
import torch

from tests.support.self_test import LEVELS, SUFFIX, call, library, math, ulps

FLOAT_BOUNDS = {"exp": 0.90, "log": 0.86, "tanh": 2.5, "erf": 1.55, "sin": 1.61, "cos": 1.61}
DOUBLE_BOUNDS = {"exp": 0.90, "log": 0.90, "tanh": 2.5, "erf": 1.35, "sin": 0.90, "cos": 0.90}
C_NAME = {"exp": "exp", "log": "log", "tanh": "tanh", "erf": "erf", "sin": "sincos", "cos": "sincos"}


def float64_erf(x):
    return torch.special.erf(torch.from_numpy(x.astype(np.float64))).numpy()


TRUTH = {"exp": np.exp, "log": np.log, "tanh": np.tanh, "erf": float64_erf, "sin": np.sin, "cos": np.cos}
LARGEST = float(np.finfo(np.float32).max)

pytestmark = pytest.mark.parametrize("level", LEVELS)


def evaluate(level, name, x):
    return math(level, C_NAME[name], x)[1 if name == "cos" else 0]


def check_floats(level, name, x, bound):
    """Finite results within the bound, infinities and NaN where float64 has them. Returns the largest error."""
    with np.errstate(all="ignore"):
        truth = TRUTH[name](x.astype(np.float64))
    result = evaluate(level, name, x)
    np.testing.assert_array_equal(np.isnan(result), np.isnan(truth))
    # Half an ulp above the largest float the true result rounds to infinity; up to the bound either is right.
    overflows = np.abs(truth) > LARGEST * (1 + 2.0**-24)
    np.testing.assert_array_equal(result[overflows], np.sign(truth[overflows]).astype(np.float32) * np.float32(np.inf))
    finite = np.abs(truth) <= LARGEST
    errors = ulps(result[finite], truth[finite])
    worst = int(np.argmax(errors)) if errors.size else None
    assert worst is None or errors[worst] <= bound, f"{errors[worst]} ulp at {x[finite][worst]!r}"
    return 0.0 if worst is None else float(errors[worst])


@functools.lru_cache(maxsize=1)
def float_patterns():
    """A 4,200,000th part of all floats, every sign and exponent among them (the stride is prime)."""
    with np.errstate(invalid="ignore"):
        return np.arange(0, 2**32, 1021, dtype=np.uint64).astype(np.uint32).view(np.float32)


@pytest.mark.parametrize("name", FLOAT_BOUNDS)
def test_float_accuracy(level, name):
    check_floats(level, name, float_patterns(), FLOAT_BOUNDS[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", FLOAT_BOUNDS)
def test_float_accuracy_exhaustive(level, name, request):
    if "slow" not in request.config.option.markexpr:
        pytest.skip("minutes: every float32, chosen by -m slow")
    worst = 0.0
    for start in range(0, 2**32, 2**22):
        patterns = np.arange(start, start + 2**22, dtype=np.uint64).astype(np.uint32)
        worst = max(worst, check_floats(level, name, patterns.view(np.float32), FLOAT_BOUNDS[name]))
    print(f"{name} {level}: {worst:.3f} ulp")


def double_samples(name):
    """Sizes of every magnitude in the function's range, and the neighbourhood of its hard points."""
    generator = np.random.default_rng(0)
    n = 6000
    if name == "exp":
        parts = [generator.uniform(-660, 709.7, n), generator.uniform(-1, 1, n), generator.normal(size=n) * 1e-9]
        parts += [np.log(2) / 2 * np.arange(-1900, 2047)]
    elif name == "log":
        parts = [np.exp(generator.uniform(-744, 709, n)), generator.uniform(0.5, 2, n)]
        parts += [
            1 + generator.normal(size=n) * 1e-6,
            np.sqrt([0.5, 2]).repeat(500) * generator.uniform(0.999, 1.001, 1000),
        ]
        parts = [np.abs(part) for part in parts]
    elif name == "erf":
        parts = [
            generator.uniform(-6.5, 6.5, n),
            generator.uniform(-1.5, 1.5, n),
            np.exp(generator.uniform(-700, 1, n)),
        ]
        parts += [1 + generator.normal(size=n) * 1e-9]
    elif name == "tanh":
        parts = [generator.uniform(-20, 20, n), generator.uniform(-1, 1, n), np.exp(generator.uniform(-700, 1, n))]
        parts += [np.log(2) / 4 * np.arange(-120, 120), generator.normal(size=n) * 1e-9]
    else:
        parts = [generator.uniform(-10, 10, n), np.exp(generator.uniform(-40, np.log(1e8), n))]
        parts += [np.pi / 2 * np.arange(-1000, 1000), np.pi / 2 * generator.integers(0, 60_000_000, n)]
        parts += [np.pi / 4 * (2 * generator.integers(0, 1000, n) + 1)]
    return np.concatenate(parts)


@functools.lru_cache(maxsize=4)
def double_truth(name):
    """Samples with the true result as a sum of two float64."""
    x = double_samples(name)
    function = getattr(mpmath, name)
    with mpmath.workdps(50):
        exact = [function(mpmath.mpf(float(value))) for value in x]
        high = np.array([float(value) for value in exact])
        low = np.array([float(value - mpmath.mpf(float(value))) for value in exact])
    return x, high, low


@pytest.mark.parametrize("name", DOUBLE_BOUNDS)
def test_double_accuracy(level, name):
    x, high, low = double_truth(name)
    errors = ulps(evaluate(level, name, x), high, low)
    worst = int(np.argmax(errors))
    assert errors[worst] <= DOUBLE_BOUNDS[name], f"{errors[worst]} ulp at {x[worst]!r}"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_log1p_between_zero_and_one(level, dtype):
    generator = np.random.default_rng(0)
    x = np.concatenate([generator.uniform(0, 1, 6000), np.exp(generator.uniform(-700, 0, 6000)), [0, 1, 0.41421356]])
    x = x.astype(dtype)
    result = math(level, "log1p", x)[0]
    with mpmath.workdps(40):
        exact = [mpmath.log1p(mpmath.mpf(float(value))) for value in x]
        high = np.array([float(value) for value in exact])
        low = np.array([float(value - mpmath.mpf(float(value))) for value in exact])
    errors = ulps(result, high, low)
    assert errors.max() <= 1.25, f"{errors.max()} ulp at {x[errors.argmax()]!r}"
    assert np.isnan(math(level, "log1p", np.array([np.nan], dtype))[0][0])


def test_double_exp_of_subnormal_results(level):
    x = np.random.default_rng(1).uniform(-746, -708.4, 1000)
    result = evaluate(level, "exp", x)
    with mpmath.workdps(50):
        errors = [abs(mpmath.mpf(float(y)) - mpmath.exp(mpmath.mpf(float(v)))) for v, y in zip(x, result, strict=True)]
        assert max(errors) <= 0.85 * mpmath.mpf(2) ** -1074


def special_values(dtype):
    information = np.finfo(dtype)
    positive = [0, information.smallest_subnormal, 3 * information.smallest_subnormal, information.tiny]
    positive += [np.nextafter(information.tiny, dtype(0)), 0.5, 1, np.nextafter(dtype(1), dtype(0)), 2, 88.7, 1e4]
    positive += [np.log(information.max), np.inf, np.nan, information.max if dtype is np.float32 else 1e8]
    positive = np.array(positive, dtype)
    return np.concatenate([positive, -positive])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", FLOAT_BOUNDS)
def test_special_values(level, name, dtype):
    x = special_values(dtype)
    with np.errstate(all="ignore"):
        truth = TRUTH[name](x.astype(np.longdouble))
        expected = truth.astype(dtype)
    # Alone, in the vector's tail and in its body the result is the same.
    result = evaluate(level, name, x)
    np.testing.assert_array_equal(result, np.array([evaluate(level, name, x[i : i + 1])[0] for i in range(x.size)]))
    np.testing.assert_array_equal(evaluate(level, name, np.tile(x, 8)), np.tile(result, 8))
    np.testing.assert_array_equal(np.isnan(result), np.isnan(expected))
    np.testing.assert_array_equal(np.isinf(result), np.isinf(expected))
    numbers = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(result)[numbers], np.signbit(expected)[numbers])
    finite = np.isfinite(expected)
    np.testing.assert_array_less(ulps(result[finite], truth[finite].astype(np.float64)), max(2.0, FLOAT_BOUNDS[name]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exact_points(level, dtype):
    one, zero, powers = np.ones(1, dtype), np.zeros(1, dtype), np.ldexp(dtype(1), np.arange(-120, 120))
    assert math(level, "exp", zero)[0][0] == 1
    assert math(level, "log", one)[0][0] == 0
    assert [value[0] for value in math(level, "sincos", zero)] == [0, 1]
    assert (np.abs(math(level, "log", powers.astype(dtype))[0] - np.arange(-120, 120) * np.log(2)) < 1e-5).all()


def test_double_sincos_is_nan_beyond_its_range(level):
    x = np.array([1e8, np.nextafter(1e8, np.inf), -1.1e8, 1e300, np.inf])
    for result in math(level, "sincos", x):
        np.testing.assert_array_equal(np.isnan(result), [False, True, True, True, True])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_no_element_is_missed(level, dtype):
    """Every length through two vectors and a tail; nothing behind the end is written."""
    x = np.linspace(0.1, 0.9, 40).astype(dtype)
    for n in range(x.size):
        for name, results in (("exp", 1), ("log", 1), ("tanh", 1), ("log1p", 1), ("erf", 1), ("sincos", 2)):
            outputs = [np.full(x.size, 7, dtype) for _ in range(results)]
            whole = math(level, name, x)
            call(getattr(library(level), f"cgm_self_test_{name}_{SUFFIX[x.dtype]}"), x, *outputs, n)
            for output, expected in zip(outputs, whole, strict=True):
                assert (output[n:] == 7).all()
                np.testing.assert_array_equal(output[:n], expected[:n])
