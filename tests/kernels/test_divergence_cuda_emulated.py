"""The unchanged CUDA kernels of the divergence on the emulated machine: against NumPy, and under torch's products."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from tests.support import cuda_emulation
from tests.support.cuda_emulation import divergence, divergence_runge_kutta
from tests.support.divergence_operators import by_reference, differentiated, divergence_calls, flow_calls, potential
from tests.support.potentials import CASES as POTENTIALS
from tests.support.potentials import Case as Potential
from tests.support.potentials import cast
from tests.support.tolerances import assert_as_accurate

LAYERS, COMBINATIONS = divergence.cases(), divergence_runge_kutta.cases()
UNITS = ("cuda.cu", "potential_cuda.cu", "runge_kutta_cuda.cu")
CALLS = [*divergence_calls(), *flow_calls()]


@pytest.fixture(scope="module")
def built():
    """Gives the machine of a part of the operation."""
    if cuda_emulation.compiler() is None:
        pytest.skip("no C++ compiler: neither $CXX nor c++ is there")
    return lambda part: cuda_emulation.Machine(cuda_emulation.build("divergence", part=part))


@pytest.fixture(scope="module")
def operators():
    if cuda_emulation.compiler() is None:
        pytest.skip("no C++ compiler: neither $CXX nor c++ is there")
    torch.ops.load_library(cuda_emulation.build_with_torch("divergence", UNITS))
    return torch.ops.cgm_emulated_divergence


@pytest.mark.parametrize("case", LAYERS, ids=map(str, LAYERS))
def test_layers_match_reference(built, case):
    machine = built("")
    for function in (divergence.run_forward, divergence.run_backward):
        first, second = (function(machine, case, seed) for seed in range(2))
        assert all(map(np.array_equal, first, second))


@pytest.mark.parametrize("case", COMBINATIONS, ids=map(str, COMBINATIONS))
def test_combinations_match_reference(built, case):
    first, second = (divergence_runge_kutta.run(built("runge_kutta"), case, seed) for seed in range(2))
    assert np.array_equal(first, second, equal_nan=True)


@pytest.mark.parametrize("part", ["", "runge_kutta"])
def test_kernels_under_sanitizers(part):
    environment = cuda_emulation.sanitizer_environment()
    if environment is None:
        pytest.skip("the compiler has no AddressSanitizer runtime to preload")
    library = cuda_emulation.build("divergence", part=part, sanitize=True)
    name = f"tests.support.cuda_emulation.divergence{f'_{part}' if part else ''}"
    result = subprocess.run(
        [sys.executable, "-m", name, str(library), "7"],
        cwd=cuda_emulation.ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-300:] + result.stderr[-3000:]
    assert len(result.stdout.splitlines()) == (len(COMBINATIONS) if part else 2 * len(LAYERS))


@pytest.mark.parametrize("call", CALLS, ids=map(str, CALLS))
def test_operators_match_reference(operators, call):
    leaves = call.draw()
    found = differentiated(call, operators, leaves)
    exact = by_reference(call, leaves, torch.float64)
    eager = by_reference(call, leaves, call.dtype)
    for actual, right, plain in zip(found, exact, eager, strict=True):
        # Divergences, norms and integrals of half precision are float32.
        assert_as_accurate(actual.to(plain.dtype), right, plain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    "case", [*POTENTIALS, Potential(3, 4, rows=0), Potential(4, 3, 3, rows=0, time="number")], ids=str
)
def test_potential_matches_reference(operators, case, dtype):
    drawn = case.draw(torch.float32)
    found, exact, eager = (
        potential(ops, cast(drawn, kind)) for ops, kind in ((operators, dtype), (None, torch.float64), (None, dtype))
    )
    for actual, right, plain in zip(found, exact, eager, strict=True):
        assert_as_accurate(actual, right, plain)


@pytest.mark.parametrize("only", [0, 1])
def test_potential_of_one_gradient(operators, only):
    found, exact = (potential(ops, Potential(5, 3, 3, context=1).draw(), only) for ops in (operators, None))
    torch.testing.assert_close(found, exact)


def test_gradients_that_did_not_come_are_zero(operators):
    call = divergence_calls()[0]
    leaves = call.draw()
    tensors = list(leaves.values())
    value, *_, kept = operators.mlp_divergence(*tensors, *call.numbers(), True)
    grad = torch.ones_like(value)
    with_zeros = (grad, torch.zeros(call.batch, dtype=call.dtype), None)
    alone, beside = (
        operators.mlp_divergence_backward(*grads, *tensors, kept, *call.numbers())
        for grads in ((grad, None, None), with_zeros)
    )
    for actual, expected in zip(alone, beside, strict=True):
        torch.testing.assert_close(actual, expected)


def test_step_size_on_the_device_is_that_on_the_host(operators):
    y, *stages = torch.randn(4, 3, 5, dtype=torch.float64).unbind()
    coefficients, step = [0.2, 0.5, 0.3], torch.tensor(0.1, dtype=torch.float64)
    exact = y + 0.1 * sum(c * k for c, k in zip(coefficients, stages, strict=True))
    for own, number in ((step, 0.0), (None, 0.1)):
        update = operators.runge_kutta_update(y.T, [k.T for k in stages], coefficients, own, number)
        torch.testing.assert_close(update, exact.T)
        error = operators.runge_kutta_error(y, exact, stages, coefficients, own, number, 1e-2, 1e-3)
        ratio = (exact - y) / (1e-3 + 1e-2 * torch.maximum(y.abs(), exact.abs()))
        torch.testing.assert_close(error, ratio.square().mean().sqrt())
