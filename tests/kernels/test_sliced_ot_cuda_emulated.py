"""The unchanged csrc/sliced_ot/cuda.cu on the emulated CUDA machine against float64 NumPy and SciPy."""

import ctypes
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from tests.support import cuda_emulation
from tests.support.cuda_emulation import sliced_ot
from tests.support.cuda_emulation.sliced_ot_cases import LARGE_DEVICE, NO_BLOCKS, SMALL_DEVICE

CASES = sliced_ot.cases()


@pytest.fixture(scope="module")
def libraries():
    """The plain library, and the one under AddressSanitizer and UBSan (None where there is no runtime)."""
    if cuda_emulation.compiler() is None:
        pytest.skip("no C++ compiler: neither $CXX nor c++ is there")
    with ThreadPoolExecutor(2) as pool:
        plain = pool.submit(cuda_emulation.build, "sliced_ot")
        sanitized = None
        if cuda_emulation.sanitizer_environment() is not None:
            sanitized = pool.submit(cuda_emulation.build, "sliced_ot", sanitize=True)
        return plain.result(), sanitized.result() if sanitized else None


@pytest.fixture(scope="module")
def machine(libraries):
    return cuda_emulation.Machine(libraries[0])


@pytest.mark.parametrize("case", CASES, ids=map(str, CASES))
def test_sliced_ot_matches_reference(machine, case):
    for seed in range(2):
        sliced_ot.run(machine, case, seed)


def test_sliced_ot_under_sanitizers(libraries):
    if libraries[1] is None:
        pytest.skip("the compiler has no AddressSanitizer runtime to preload")
    command = [sys.executable, "-m", "tests.support.cuda_emulation.sliced_ot", str(libraries[1]), "7"]
    environment = cuda_emulation.sanitizer_environment()
    result = subprocess.run(command, cwd=cuda_emulation.ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-300:] + result.stderr[-3000:]
    assert len(result.stdout.splitlines()) == len(CASES)


def test_sliced_ot_schedules_give_equal_bits(machine):
    """Costs and coefficients do not depend on the order in which warps and blocks run."""
    for n, m, device in ((700, 900, LARGE_DEVICE), (3000, 5000, NO_BLOCKS)):
        generator = np.random.default_rng(0)
        x, y = generator.normal(size=(2, n)).astype(np.float32), generator.normal(size=(2, m)).astype(np.float32)
        results = []
        for seed in range(3):
            cost, by_x, by_y = np.zeros(2), np.zeros_like(x), np.zeros_like(y)
            problem = sliced_ot.Rows(2, n, m, x.ctypes.data, y.ctypes.data, n, m, 1.5, None, None, 1, cost.ctypes.data)
            problem.x_coefficients, problem.y_coefficients = by_x.ctypes.data, by_y.ctypes.data
            machine.seed(seed)
            machine.shared_memory_limit(device)
            machine.call("rows_float", ctypes.byref(problem))
            results.append(cost.tobytes() + by_x.tobytes() + by_y.tobytes())
        assert results[0] == results[1] == results[2]


def test_sliced_ot_equals_scipy_at_p_one(machine):
    generator = np.random.default_rng(1)
    for n, m, device in ((300, 300, LARGE_DEVICE), (200, 350, NO_BLOCKS)):
        x, y, cost = generator.normal(size=(1, n)), generator.normal(size=(1, m)), np.zeros(1)
        problem = sliced_ot.Rows(1, n, m, x.ctypes.data, y.ctypes.data, n, m, 1.0, None, None, 1, cost.ctypes.data)
        machine.shared_memory_limit(device)
        machine.call("rows_double", ctypes.byref(problem))
        assert cost[0] == pytest.approx(wasserstein_distance(x[0], y[0]), rel=1e-11)


def test_sliced_ot_block_capacity_follows_the_device(machine):
    def capacities(limit):
        machine.shared_memory_limit(limit)
        kinds = [(size, order, weighted) for size in (4, 8) for order, weighted in ((0, 0), (1, 0), (1, 1))]
        return [machine.library.block_capacity(ctypes.c_int64(kind[0]), *kind[1:]) for kind in kinds]

    assert capacities(NO_BLOCKS) == [0] * 6
    large, small = capacities(LARGE_DEVICE), capacities(SMALL_DEVICE)
    assert large[:2] == [16384, 16384]
    assert min(small) >= 2048
    assert all(a >= b for a, b in zip(large, small, strict=True))


def test_sliced_ot_refuses_rows_beyond_a_block(machine):
    cost = np.zeros(1)
    problem = sliced_ot.Rows(rows=1, n=20000, m=20000, p=2.0, rows_per_group=1, cost=cost.ctypes.data)
    clouds = sliced_ot.Clouds(batch=1, directions=1, d=2)
    machine.shared_memory_limit(LARGE_DEVICE)
    with pytest.raises(RuntimeError, match="do not fit a block"):
        machine.call("sliced_float", ctypes.byref(clouds), ctypes.byref(problem))
