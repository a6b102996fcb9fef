"""The unchanged csrc/coupling/cuda.cu on the emulated CUDA machine against float64 NumPy."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support import cuda_emulation
from tests.support.cuda_emulation import coupling

EVERYTHING = coupling.everything()


@pytest.fixture(scope="module")
def libraries():
    """The plain library, and the one under AddressSanitizer and UBSan (None where there is no runtime)."""
    if cuda_emulation.compiler() is None:
        pytest.skip("no C++ compiler: neither $CXX nor c++ is there")
    with ThreadPoolExecutor(2) as pool:
        plain = pool.submit(cuda_emulation.build, "coupling")
        sanitized = None
        if cuda_emulation.sanitizer_environment() is not None:
            sanitized = pool.submit(cuda_emulation.build, "coupling", sanitize=True)
        return plain.result(), sanitized.result() if sanitized else None


@pytest.fixture(scope="module")
def machine(libraries):
    return cuda_emulation.Machine(libraries[0])


@pytest.mark.parametrize("run, case", EVERYTHING, ids=[str(case) for _, case in EVERYTHING])
def test_coupling_matches_reference(machine, run, case):
    for seed in range(2):
        run(machine, case, seed)


def test_coupling_under_sanitizers(libraries):
    if libraries[1] is None:
        pytest.skip("the compiler has no AddressSanitizer runtime to preload")
    command = [sys.executable, "-m", "tests.support.cuda_emulation.coupling", str(libraries[1]), "7"]
    environment = cuda_emulation.sanitizer_environment()
    result = subprocess.run(command, cwd=cuda_emulation.ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-300:] + result.stderr[-3000:]
    assert len(result.stdout.splitlines()) == len(EVERYTHING)


def test_coupling_schedules_give_equal_bits(machine):
    """Log-determinants and the gradients of channels do not depend on the order in which warps and blocks run."""
    for cols in (300, 9000):
        case = coupling.Case(2, cols, "tanh")
        results = {coupling.run(machine, case, seed).tobytes() for seed in range(3)}
        assert len(results) == 1
    for shape in ((700, 3, 5), (30, 2, 300)):
        results = {coupling.run_channel(machine, coupling.ChannelCase(*shape), seed).tobytes() for seed in range(3)}
        assert len(results) == 1


def test_coupling_cases_have_names():
    names = [str(case) for _, case in EVERYTHING]
    assert len(names) == len(set(names)), [name for name in names if names.count(name) > 1]
