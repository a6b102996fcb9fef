"""The unchanged csrc/langevin/cuda.cu on the emulated CUDA machine against float64 NumPy."""

import ctypes
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from cgm_kernels import philox
from tests.support import cuda_emulation
from tests.support.cuda_emulation import langevin

EVERYTHING = langevin.everything()


@pytest.fixture(scope="module")
def libraries():
    """The plain library, and the one under AddressSanitizer and UBSan (None where there is no runtime)."""
    if cuda_emulation.compiler() is None:
        pytest.skip("no C++ compiler: neither $CXX nor c++ is there")
    with ThreadPoolExecutor(2) as pool:
        plain = pool.submit(cuda_emulation.build, "langevin")
        sanitized = None
        if cuda_emulation.sanitizer_environment() is not None:
            sanitized = pool.submit(cuda_emulation.build, "langevin", sanitize=True)
        return plain.result(), sanitized.result() if sanitized else None


@pytest.fixture(scope="module")
def machine(libraries):
    return cuda_emulation.Machine(libraries[0])


@pytest.mark.parametrize("run, case", EVERYTHING, ids=[str(case) for _, case in EVERYTHING])
def test_langevin_matches_reference(machine, run, case):
    for seed in range(2):
        run(machine, case, seed)


def test_langevin_under_sanitizers(libraries):
    if libraries[1] is None:
        pytest.skip("the compiler has no AddressSanitizer runtime to preload")
    command = [sys.executable, "-m", "tests.support.cuda_emulation.langevin", str(libraries[1]), "7"]
    environment = cuda_emulation.sanitizer_environment()
    result = subprocess.run(command, cwd=cuda_emulation.ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-300:] + result.stderr[-3000:]
    assert len(result.stdout.splitlines()) == len(EVERYTHING)


@pytest.mark.parametrize("shape, chains", [((2 * 17_000,), 2), ((7 * 33,), 7), ((3 * 600,), 3)], ids=str)
def test_langevin_schedules_give_equal_bits(machine, shape, chains):
    """Norms do not depend on the order in which warps and blocks run."""
    case = langevin.StepCase(shape, chains, max_norm=0.1)
    assert len({langevin.run_step(machine, case, seed).tobytes() for seed in range(3)}) == 1


def test_langevin_emulated_noise_is_that_of_the_library():
    """The NumPy words of these cases are those of the reference."""
    for elements, key, step in ((1000, langevin.KEY, 0), (7, 5, -1), (33, 2**63, 2**40 + 3)):
        words = philox.noise_words(elements, key, step).numpy()
        assert np.array_equal(words, langevin.words(elements, key, step)[:elements].astype(np.int64))
        exact = philox.normal_reference((elements,), key, step).numpy()
        np.testing.assert_allclose(langevin.normals(elements, key, step), exact, rtol=1e-14)


def test_langevin_normals_are_accurate_in_the_whole_range(machine):
    """Within 4 units in the last place: u near 0, 2/3 and 1, the zeros of sin and cos, and the ends of quadrants."""
    generator = np.random.default_rng(0)
    ends = np.array([0, 2**24, 2**29, 2**30, 3 * 2**29, 2**31, 0xAAAAAAAB, 3 * 2**30, 7 * 2**29, 2**32])
    near = (ends[:, None] + np.arange(-40, 40)).ravel() % 2**32
    spread = (ends[:, None] + (-1) ** np.arange(60) * 2 ** (np.arange(60) // 2)).ravel() % 2**32
    special = np.concatenate([near, spread]).astype(np.uint32)
    random = generator.integers(2**32, size=(2, 200_000), dtype=np.uint32)
    first = np.concatenate([random[0], special, generator.permutation(special)])
    second = np.concatenate([random[1], generator.permutation(special), special])
    found = np.empty((len(first), 2), np.float32)
    pointers = (array.ctypes.data_as(ctypes.c_void_p) for array in (first, second, found))
    machine.library.pairs_float32(ctypes.c_int64(len(first)), *pointers)
    exact = np.stack(langevin.box_muller(first.astype(np.uint64), second.astype(np.uint64)), 1)
    ulps = np.abs(found - exact) / np.spacing(np.abs(exact).astype(np.float32))
    assert ulps.max() <= 4.0


def test_langevin_cases_have_names():
    names = [str(case) for _, case in EVERYTHING]
    assert len(names) == len(set(names)), [name for name in names if names.count(name) > 1]
