"""The unchanged csrc/langevin/chain_cuda.cu on the emulated CUDA machine against float64 NumPy; graphs on a GPU."""

import subprocess
import sys

import numpy as np
import pytest
import torch

import cgm_kernels
from tests.support import cuda_emulation
from tests.support.chains import made, run, state_of
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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["mixture-full-2", "gaussian-full-40", "network-deep"])
@pytest.mark.parametrize("backend", ["native", "triton"])
def test_captured_and_eager_chains_agree(backend, name):
    if reason := cgm_kernels.backends.absence(backend, "cuda"):
        pytest.skip(reason)
    energy, start = made(name, torch.float32, "cuda")
    eager, source = start, state_of("cuda")
    for _ in range(4):
        eager = run(backend, eager, energy, 5, 0.02, state=source)

    x, state = start.clone(), state_of("cuda")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run(backend, x, energy, 5, 0.02, state=state_of("cuda"))
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        x.copy_(run(backend, x, energy, 5, 0.02, state=state))
    for _ in range(4):
        graph.replay()
    assert x.equal(eager)
    assert state.equal(source)
