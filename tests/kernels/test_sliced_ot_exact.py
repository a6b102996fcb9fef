"""Sliced optimal transport against closed forms, SciPy and POT."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance

import cgm_kernels
from tests.support.backends import running

pytestmark = pytest.mark.parametrize("pair", running())


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_one_dimension_against_scipy(pair):
    backend, device = pair
    x, y = normal(30, seed=1), normal(47, seed=2)
    a, b = normal(30, seed=3).abs(), normal(47, seed=4).abs()
    with cgm_kernels.use_backend(backend):
        plain = cgm_kernels.wasserstein_1d(x.to(device), y.to(device), p=1.0)
        weighted = cgm_kernels.wasserstein_1d(
            x.to(device), y.to(device), x_weights=a.to(device), y_weights=b.to(device), p=1.0
        )
    assert plain.item() == pytest.approx(wasserstein_distance(x, y), rel=1e-12)
    assert weighted.item() == pytest.approx(wasserstein_distance(x, y, a, b), rel=1e-12)


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_sliced_distance_against_pot(pair, p, weighted):
    ot = pytest.importorskip("ot")
    backend, device = pair
    x, y = normal(40, 5, seed=1), normal(40 if not weighted else 29, 5, seed=2) + 0.5
    a, b = (normal(len(c), seed=k).abs().add(0.1) for k, c in ((3, x), (4, y)))
    a, b = a / a.sum(), b / b.sum()
    theta = cgm_kernels.random_projections(5, 20, dtype=torch.float64)
    masses = (a, b) if weighted else (None, None)
    expected = ot.sliced_wasserstein_distance(x, y, *masses, projections=theta, p=p)
    with cgm_kernels.use_backend(backend):
        actual = cgm_kernels.sliced_wasserstein_distance(
            *(t.to(device) for t in (x, y)),
            projections=theta.to(device),
            p=p,
            x_weights=None if masses[0] is None else a.to(device),
            y_weights=None if masses[1] is None else b.to(device),
        )
    assert actual.item() == pytest.approx(expected.item(), rel=1e-9)


def test_shift_and_scale(pair):
    """A shift by v costs Σ_l ⟨v, θ_l⟩²/L; a scaling by s of the line costs (s − 1)² E x²."""
    backend, device = pair
    x, v = normal(50, 3).to(device), torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64, device=device)
    theta = cgm_kernels.random_projections(3, 12, dtype=torch.float64).to(device)
    line = normal(50, seed=1).to(device)
    with cgm_kernels.use_backend(backend):
        shifted = cgm_kernels.sliced_wasserstein_cost(x, x + v, projections=theta)
        scaled = cgm_kernels.wasserstein_1d(line, 3 * line)
    torch.testing.assert_close(shifted, (v @ theta).square().mean())
    torch.testing.assert_close(scaled, 4 * line.square().mean())


def test_gradient_in_closed_form(pair):
    """(2/nL) Σ_θ (⟨θ, x_i⟩ − y_(rank of i)) θ."""
    backend, device = pair
    x, y = normal(21, 4).to(device).requires_grad_(), normal(21, 4, seed=1).to(device)
    theta = cgm_kernels.random_projections(4, 9, dtype=torch.float64).to(device)
    with cgm_kernels.use_backend(backend):
        cgm_kernels.sliced_wasserstein_cost(x, y, projections=theta).backward()
    expected = torch.zeros_like(x)
    for direction in theta.T:
        projected, targets = x.detach() @ direction, (y @ direction).sort().values
        rank = (projected[:, None] > projected[None, :]).sum(1)
        expected += 2 / (21 * 9) * (projected - targets[rank])[:, None] * direction
    torch.testing.assert_close(x.grad, expected, rtol=1e-12, atol=1e-14)


def test_gaussians(pair):
    """SW_2² = ‖m1 − m2‖²/d + E_θ(√(θᵀS1θ) − √(θᵀS2θ))², within the sampling error of the clouds."""
    backend, device = pair
    if backend == "triton" and device == "cpu":
        pytest.skip("too many points for Triton's interpreter")
    generator = torch.Generator().manual_seed(0)
    scales = torch.tensor([[1.0, 2.0, 0.5], [0.7, 0.7, 1.5]], dtype=torch.float64)
    means = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.5, -1.0]], dtype=torch.float64)
    clouds = [
        torch.randn(20000, 3, generator=generator, dtype=torch.float64) * s + m
        for s, m in zip(scales, means, strict=True)
    ]
    theta = cgm_kernels.random_projections(3, 100, generator=generator, dtype=torch.float64)
    widths = (scales.square() @ theta.square()).sqrt()
    # On these very directions; over all of them the mean of ⟨m, θ⟩² is ‖m‖²/d.
    exact = (((means[0] - means[1]) @ theta).square() + (widths[0] - widths[1]).square()).mean()
    with cgm_kernels.use_backend(backend):
        actual = cgm_kernels.sliced_wasserstein_cost(*(c.to(device) for c in clouds), projections=theta.to(device))
    assert actual.item() == pytest.approx(exact.item(), rel=0.03)


def test_random_projections_are_uniform_unit_columns(pair):
    _, device = pair
    for orthogonal in (False, True):
        theta = cgm_kernels.random_projections(
            5,
            4000,
            orthogonal=orthogonal,
            generator=torch.Generator().manual_seed(1),
            dtype=torch.float64,
            device=device,
        )
        assert theta.shape == (5, 4000)
        torch.testing.assert_close(theta.norm(dim=0), torch.ones(4000, dtype=torch.float64, device=device))
        second = theta @ theta.T / 4000
        assert (second - torch.eye(5, device=device) / 5).abs().max() < 5 * math.sqrt(2 / 35 / 4000)
        assert theta.mean(1).abs().max() < 5 / math.sqrt(5 * 4000)
    blocks = theta[:, :25].reshape(5, 5, 5).permute(1, 0, 2)
    torch.testing.assert_close(blocks.mT @ blocks, torch.eye(5, dtype=torch.float64, device=device).expand(5, 5, 5))


def test_random_projections_do_not_depend_on_dtype_or_device(pair):
    _, device = pair
    draws = [
        cgm_kernels.random_projections(4, 6, generator=torch.Generator().manual_seed(3), dtype=dtype, device=where)
        for dtype, where in ((torch.float64, "cpu"), (torch.float32, device))
    ]
    np.testing.assert_array_equal(draws[0].float().numpy(), draws[1].cpu().numpy())
