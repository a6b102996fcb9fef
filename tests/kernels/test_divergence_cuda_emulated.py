"""The unchanged CUDA kernels of the divergence on the emulated machine: against NumPy, and under torch's products."""

import functools
import subprocess
import sys

import numpy as np
import pytest
import torch

from cgm_kernels.activations import ACTIVATIONS
from tests.support import cuda_emulation
from tests.support.cuda_emulation import divergence, divergence_potential, divergence_runge_kutta
from tests.support.divergence_operators import (
    Call,
    by_reference,
    differentiated,
    divergence_calls,
    flow_calls,
    potential,
)
from tests.support.potentials import CASES as POTENTIALS
from tests.support.potentials import Case as Potential
from tests.support.potentials import cast
from tests.support.tolerances import assert_as_accurate

PARTS = {"": divergence, "potential": divergence_potential, "runge_kutta": divergence_runge_kutta}
KERNELS = [(part, *run_and_case) for part, module in PARTS.items() for run_and_case in module.everything()]
CALLS = [*divergence_calls(), *flow_calls()]


@pytest.fixture(scope="module")
def machines():
    """Gives the machine of a part of the operation."""
    if cuda_emulation.compiler() is None:
        pytest.skip("no C++ compiler: neither $CXX nor c++ is there")
    return functools.cache(lambda part: cuda_emulation.Machine(cuda_emulation.build("divergence", part=part)))


@pytest.fixture(scope="module")
def operators():
    if cuda_emulation.compiler() is None:
        pytest.skip("no C++ compiler: neither $CXX nor c++ is there")
    torch.ops.load_library(cuda_emulation.build_with_torch("divergence", tuple(PARTS)))
    return torch.ops.cgm_emulated_divergence


@pytest.mark.parametrize("part, run, case", KERNELS, ids=[f"{run.__name__}-{case}" for _, run, case in KERNELS])
def test_kernels_match_reference(machines, part, run, case):
    seeds = range(1 if getattr(case, "elements", 0) > 100_000 else 2)
    first, *others = (run(machines(part), case, seed) for seed in seeds)
    for second in others:
        assert all(np.array_equal(one, other, equal_nan=True) for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("part", PARTS)
def test_kernels_under_sanitizers(part):
    environment = cuda_emulation.sanitizer_environment()
    if environment is None:
        pytest.skip("the compiler has no AddressSanitizer runtime to preload")
    library = cuda_emulation.build("divergence", part=part, sanitize=True)
    command = [sys.executable, "-m", PARTS[part].__name__, str(library), "7"]
    result = subprocess.run(command, cwd=cuda_emulation.ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-300:] + result.stderr[-3000:]
    assert len(result.stdout.splitlines()) == len(PARTS[part].everything())


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


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_nan_stays_in_its_row(operators, name):
    calls = [Call((2, 5, 5, 5, 2), activation=name, residual=True, norms=True, film="shared")]
    calls += [Call((3, 5, 4, 3), probes=None, activation=name), Call((3, 5, 3), method="midpoint", activation=name)]
    for call in calls:
        leaves = call.draw()
        clean = differentiated(call, operators, leaves)
        leaves["x"][2, 0] = torch.nan
        found = differentiated(call, operators, leaves)
        exact = by_reference(call, leaves, torch.float64)
        others = torch.arange(call.batch) != 2
        # The results and the gradient by x, which at a kink PyTorch says is not NaN.
        count = call.results + ("relu" not in name)
        for actual, right, own in zip(*(results[:count] for results in (found, exact, clean)), strict=True):
            assert torch.equal(actual.isnan(), right.isnan())
            rows = [one if len(one) == call.batch else one.mT for one in (actual, own)]
            torch.testing.assert_close(*(one[others] for one in rows))


def test_potential_without_tangents(operators):
    found, exact = (potential(ops, Potential(3, 4, 3).draw(), 0, tangents=False) for ops in (operators, None))
    for at, (actual, right) in enumerate(zip(found, exact, strict=True)):
        if at != 1:  # the Laplacian
            torch.testing.assert_close(actual, right)


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
    y, *stages = torch.randn(3, 5, 4, dtype=torch.float64).unbind(-1)
    coefficients, step = [0.2, 0.5, 0.3], torch.tensor(0.1, dtype=torch.float64)
    exact = y + 0.1 * sum(c * k for c, k in zip(coefficients, stages, strict=True))
    for own, number in ((step, 0.0), (None, 0.1)):
        turned = operators.runge_kutta_update(y.T, [k.T for k in stages], coefficients, own, number)
        torch.testing.assert_close(turned, exact.T)
        for columns in (stages, [stages[0].contiguous(), *stages[1:]]):
            update = operators.runge_kutta_update(y, columns, coefficients, own, number)
            torch.testing.assert_close(update, exact)
        error = operators.runge_kutta_error(y, exact, stages, coefficients, own, number, 1e-2, 1e-3)
        ratio = (exact - y) / (1e-3 + 1e-2 * torch.maximum(y.abs(), exact.abs()))
        torch.testing.assert_close(error, ratio.square().mean().sqrt())
