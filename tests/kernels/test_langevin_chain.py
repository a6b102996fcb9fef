"""Langevin chains: whole chains against their definition in float64, and what is exactly known of them."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cgm_kernels
from cgm_kernels import langevin_step
from cgm_kernels.langevin import GaussianEnergy, MLPEnergy
from cgm_kernels.philox import normal_reference
from tests.support.chains import (
    CPU_NATIVE,
    ENERGIES,
    FUSED,
    RUNNING,
    STEP,
    Draw,
    by_definition,
    made,
    mixture,
    network,
    run,
    state_of,
)
from tests.support.levels import simd_level
from tests.support.tolerances import assert_as_accurate


@pytest.mark.parametrize("backend, device", RUNNING)
@pytest.mark.parametrize("name", ENERGIES)
def test_chain_is_the_loop_of_its_definition(name, backend, device):
    energy, x = made(name, device=device)
    state = state_of(device)
    expected = by_definition(x, energy, 4, STEP, state)
    actual = run(backend, x, energy, 4, STEP, state=state)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)
    assert state.tolist() == [-5, 11]
    assert actual.dtype is x.dtype and actual.is_contiguous()


@pytest.mark.parametrize("backend, device", FUSED)
@pytest.mark.parametrize("name", ENERGIES)
def test_chain_accuracy_in_float32(name, backend, device):
    energy, x = made(name, torch.float32, device)
    exact, eager = (by_definition(x.to(dtype), energy, 3, STEP, state_of()) for dtype in (torch.float64, torch.float32))
    assert_as_accurate(run(backend, x, energy, 3, STEP, state=state_of(device)), exact, eager)


@pytest.mark.parametrize("backend, device", RUNNING)
def test_chain_steps_are_langevin_steps(backend, device):
    """One state, the same noise, whatever the options: a chain is the loop of calls."""
    energy, x = made("mixture-diagonal-7", device=device)
    draw = Draw(device=device, seed=3)
    options = {"temperature": draw.positive(37), "clamp": (-2.5, 2.0), "max_grad_norm": 3.0}
    h = 0.1 * draw.positive(37)
    assert (energy.gradient(x).norm(dim=1) > 3.0).any() and (energy.gradient(x).norm(dim=1) < 3.0).any()
    together, alone = state_of(device), state_of(device)
    actual = run(backend, x, energy, 5, h, state=together, **options)
    with cgm_kernels.use_backend(backend):
        for _ in range(5):
            x = langevin_step(x, energy.gradient(x), h, state=alone, **options)
    torch.testing.assert_close(actual, x, rtol=1e-9, atol=1e-9)
    assert together.equal(alone)
    assert actual.min() == -2.5 and actual.max() == 2.0


@pytest.mark.parametrize("backend, device", FUSED)
@pytest.mark.parametrize("name", ["mixture-full-2", "network-deep", "gaussian-full-40"])
def test_chain_options_of_every_kind_of_energy(name, backend, device):
    energy, x = made(name, device=device, chains=50)
    draw = Draw(device=device, seed=3)
    number, one, many = 0.05, torch.tensor(0.05, dtype=torch.float64, device=device), 0.1 * draw.positive(50)
    for h, options in (
        (number, {"temperature": many}),
        (one, {"temperature": one, "clamp": (-math.inf, 0.5)}),
        (many, {"temperature": 0.0, "max_grad_norm": 0.5}),
        (many, {"temperature": many, "clamp": (-1.0, 1.0), "max_grad_norm": 1.0}),
    ):
        results = [run(b, x, energy, 3, h, state=state_of(device), **options) for b in (backend, "reference")]
        torch.testing.assert_close(*results, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("backend, device", RUNNING)
@pytest.mark.parametrize("dims", [1, 2, 3, 5, 700])
def test_chain_noise_is_the_noise_of_the_state(dims, backend, device):
    """On a constant energy the chain is x + √(2h) Σ_k z_k, element by element of the whole array."""
    zero = torch.zeros(1, dims, dtype=torch.float64, device=device)
    x = Draw(device=device).normal(53, dims)
    noise = sum(normal_reference(x.shape, 99, 2**32 - 2 + k) for k in range(4)).to(device)
    flat = run(backend, x, MLPEnergy([zero], [None]), 4, 0.5, state=state_of(device, 99, 2**32 - 2))
    torch.testing.assert_close(flat, x + noise, rtol=1e-12, atol=1e-12)
    wide = GaussianEnergy(zero[0], std=1e12)
    drifting = run(backend, x, wide, 4, 0.5, state=state_of(device, 99, 2**32 - 2))
    torch.testing.assert_close(drifting, x + noise, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend, device", RUNNING)
@pytest.mark.parametrize("energy", ["gaussian", "network"])
def test_chain_variance_is_that_of_unadjusted_langevin(energy, backend, device):
    """With x' = a x + √(2h) z, a = 1 − h/s², the variance after k steps from 0 is (1 − a^(2k)) s² / (1 − h/(2 s²)).

    This h is the γ of x' = x − γ∇f + √(2γ) z. The network is ½x² within rounding: a quadratic made of softplus.
    """
    s, h = 0.8, 0.3
    n_steps, n = (40, 200_000) if backend == "native" else (6, 5_000)
    x = torch.zeros(n, 1, device=device)
    f = GaussianEnergy(torch.zeros(1, device=device), std=s)
    if energy == "network":  # f = c (softplus(w x) + softplus(−w x)): f'' is c w² / 2 as long as w x is small
        w = (2 / 10_000.0) ** 0.5 / s
        weight = torch.tensor([[w], [-w]], device=device)
        f = MLPEnergy([weight, torch.full((1, 2), 10_000.0, device=device)], [None, None], activation="softplus")
    end = run(backend, x, f, n_steps, h, state=state_of(device))
    decay = 1 - h / s**2
    expected = (1 - decay ** (2 * n_steps)) * s**2 / (1 - h / (2 * s**2))
    bound = 5 * expected * (2 / n) ** 0.5
    assert abs(end.double().var().item() - expected) <= bound
    assert abs(end.double().mean().item()) <= 5 * (expected / n) ** 0.5


@CPU_NATIVE
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["mixture-one-2", "product-5", "mixture-one-50", "network-deep", "network-silu"])
def test_chain_is_the_same_for_any_threads_and_tiles(name, dtype):
    energy, x = made(name, dtype, chains=333)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3, 5):
            torch.set_num_threads(count)
            results.append(run("native", x, energy, 6, STEP, state=state_of()))
        results += [run("native", x[:chains], energy, 6, STEP, state=state_of()) for chains in (1, 4, 33, 100)]
    finally:
        torch.set_num_threads(threads)
    for result in results:
        assert result.equal(results[0][: len(result)])


@pytest.mark.parametrize("backend, device", FUSED)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "name", ["mixture-one-2", "mixture-precision-6", "product-2", "network-tanh", "gaussian-full-3"]
)
def test_chain_bad_numbers_stay_in_their_chain(name, bad, backend, device):
    energy, x = made(name, torch.float32, device)
    clean = run(backend, x, energy, 3, STEP, state=state_of(device))
    x[11, -1] = bad
    result = run(backend, x, energy, 3, STEP, state=state_of(device))
    others = torch.arange(len(x), device=device) != 11
    assert result[others].equal(clean[others])
    assert not result[11].isfinite().all()


@pytest.mark.parametrize("backend, device", RUNNING)
@pytest.mark.parametrize("name", ["mixture-one-2", "network-silu"])
def test_chain_shapes(name, backend, device):
    energy, x = made(name, device=device)
    expected = run(backend, x, energy, 3, STEP, state=state_of(device))
    strided = torch.stack([x, x], -1).mT.contiguous()[:, 1]
    for points in (x.T.contiguous().T, strided, x.reshape(37, 1, 2)):
        actual = run(backend, points, energy, 3, STEP, state=state_of(device))
        assert actual.reshape(37, 2).equal(expected) and actual.shape == points.shape
    state = state_of(device)
    assert run(backend, x[:0], energy, 3, STEP, state=state).shape == (0, 2)
    assert state.tolist() == [-5, 10]
    unmoved = run(backend, x, energy, 0, STEP, state=state)
    assert unmoved.equal(x) and unmoved.data_ptr() != x.data_ptr() and state.tolist() == [-5, 10]
    one = run(backend, x[:1], energy, 1, STEP, state=state_of(device))
    torch.testing.assert_close(one, by_definition(x[:1], energy, 1, STEP, state_of(device)))


@CPU_NATIVE
@settings(max_examples=25, deadline=None)
@given(
    dims=st.integers(1, 9),
    chains=st.integers(1, 70),
    n_components=st.integers(1, 4),
    n_steps=st.integers(0, 4),
    spread=st.sampled_from(["one", "isotropic", "diagonal", "full"]),
    hidden=st.lists(st.integers(1, 40), max_size=3),
    key=st.integers(-(2**63), 2**63 - 1),
)
def test_chain_of_any_size(dims, chains, n_components, n_steps, spread, hidden, key):
    draw = Draw()
    x = draw.normal(chains, dims)
    for energy in (mixture(draw, dims, n_components, spread), network(draw, dims, tuple(hidden), "softplus")):
        actual = run("native", x, energy, n_steps, STEP, state=state_of(key=key))
        torch.testing.assert_close(
            actual, by_definition(x, energy, n_steps, STEP, state_of(key=key)), rtol=1e-8, atol=1e-8
        )


@pytest.mark.parametrize("level", ["baseline", "avx2", "avx512"])
@CPU_NATIVE
def test_chain_at_every_level(level):
    with simd_level(level):
        for name in ENERGIES:
            test_chain_is_the_loop_of_its_definition(name, "native", "cpu")
            test_chain_accuracy_in_float32(name, "native", "cpu")
