"""The unchanged csrc/langevin/chain_cuda.cu on the emulated CUDA machine against float64 NumPy."""

import subprocess
import sys

import numpy as np
import pytest

from tests.support import cuda_emulation
from tests.support.cuda_emulation import langevin_chain

CASES = langevin_chain.cases()


@pytest.fixture(scope="module")
def machine():
    if cuda_emulation.compiler() is None:
        pytest.skip("no C++ compiler: neither $CXX nor c++ is there")
    return cuda_emulation.Machine(cuda_emulation.build("langevin", part="chain"))


@pytest.mark.parametrize("case", CASES, ids=map(str, CASES))
def test_langevin_chain_matches_reference(machine, case):
    first, second = (langevin_chain.run(machine, case, seed) for seed in range(2))
    assert np.array_equal(first, second)


def test_langevin_chain_under_sanitizers():
    environment = cuda_emulation.sanitizer_environment()
    if environment is None:
        pytest.skip("the compiler has no AddressSanitizer runtime to preload")
    library = cuda_emulation.build("langevin", part="chain", sanitize=True)
    command = [sys.executable, "-m", "tests.support.cuda_emulation.langevin_chain", str(library), "7"]
    result = subprocess.run(command, cwd=cuda_emulation.ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-300:] + result.stderr[-3000:]
    assert len(result.stdout.splitlines()) == len(CASES)
