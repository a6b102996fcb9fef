"""The diffusion and its probability flow have the marginals that are known in closed form."""

import math

import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from cgm_models.cnf.probability_flow import (
    DiffusedMixture,
    compare_marginals,
    probability_flow,
    simulate_ode,
    simulate_sde,
)


def mixture(rate=1.0, diffusion=2.0):
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    means = torch.tensor([[2.0, 0.0], [-1.5, 1.0], [0.0, -2.5]], dtype=torch.float64)
    roots = torch.tensor([[[0.3, 0.0], [0.2, 0.5]], [[0.6, 0.0], [0.0, 0.2]], [[0.4, 0.0], [-0.3, 0.3]]]).double()
    return DiffusedMixture(weights, means, roots @ roots.mT, rate, diffusion)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("rate", [1.0, 0.0, -0.4])
def test_the_law_obeys_the_fokker_planck_equation(rate):
    """∂_t p = θ div(x p) + (c/2) Δp, all derivatives by automatic differentiation; the score is that of the density."""
    law = mixture(rate, 0.7)
    for x in 2.0 * torch.randn(4, 2, generator=seeded(0), dtype=torch.float64):

        def density(point, t=0.3, law=law):
            return law.log_prob(t, point[None])[0].exp()

        gradient = torch.autograd.functional.jacobian(density, x)
        laplacian = torch.autograd.functional.hessian(density, x).trace()
        change = float(density(x, 0.3 + 1e-4) - density(x, 0.3 - 1e-4)) / 2e-4
        p = density(x)
        assert change == pytest.approx(float(rate * (2.0 * p + x @ gradient) + 0.35 * laplacian), rel=1e-6)
        torch.testing.assert_close(law.score(0.3, x[None])[0], gradient / p)


def test_the_law_at_the_start_is_the_mixture():
    law, x = mixture(), torch.randn(20, 2, generator=seeded(0), dtype=torch.float64)
    other = MixtureSameFamily(Categorical(law.weights), MultivariateNormal(law.means, law.covariances))
    torch.testing.assert_close(law.log_prob(0.0, x), other.log_prob(x))
    mean, covariance = law.moments(0.0)
    torch.testing.assert_close(mean, other.mean)
    torch.testing.assert_close(covariance.diagonal(), other.variance)


def test_both_processes_have_the_exact_marginals():
    rows = compare_marginals(mixture(), 20_000, (0.0, 0.15, 0.6), sde_steps=60, ode_steps=12, generator=seeded(0))
    assert {row.time for row in rows} == {0.15, 0.6}
    assert len(rows) == 2 * 11
    for row in rows:
        assert abs(row.sde_score) < 4.5, row
        assert abs(row.ode_score) < 4.5, row
        assert row.sde_error < 0.05 and row.ode_error < 0.05


def test_the_comparison_sees_a_wrong_drift():
    """Half of the score, and the marginals are wrong by many standard errors: the check has power."""
    law = mixture()
    wrong = DiffusedMixture(law.weights, law.means, law.covariances, law.rate, law.diffusion)
    wrong.score = lambda t, x: 0.5 * law.score(t, x)
    rows = compare_marginals(wrong, 20_000, (0.0, 0.6), sde_steps=30, ode_steps=12, generator=seeded(0))
    assert max(abs(row.ode_score) for row in rows) > 20.0
    assert max(abs(row.sde_score) for row in rows) < 4.5


def test_the_probability_flow_of_a_gaussian_is_a_scaling():
    """N(0, s²) under −x dt + √2 dB: the points move along x_t = x_0 √(v_t / v_0), v_t = 1 + (s² − 1) e^{−2t}."""
    one = torch.ones(1, dtype=torch.float64)
    law = DiffusedMixture(one, torch.zeros(1, 1, dtype=torch.float64), 9.0 * torch.ones(1, 1, 1, dtype=torch.float64))
    x = torch.linspace(-3.0, 3.0, 7, dtype=torch.float64)[:, None]
    path = simulate_ode(probability_flow(law.drift, law.diffusion, law.score), x, (0.0, 0.5, 1.0))
    for points, t in zip(path, (0.0, 0.5, 1.0), strict=True):
        torch.testing.assert_close(points, x * math.sqrt((1.0 + 8.0 * math.exp(-2.0 * t)) / 9.0), rtol=1e-6, atol=1e-6)


def test_a_generator_fixes_the_diffusion_and_its_noise_has_the_right_size():
    x = torch.zeros(20_000, 1, dtype=torch.float64)
    paths = [
        simulate_sde(lambda t, x: 0.0 * x, 3.0, x, (0.0, 0.5), steps_between=2, generator=seeded(s)) for s in (1, 1, 2)
    ]
    assert torch.equal(paths[0], paths[1]) and not torch.equal(paths[0], paths[2])
    # Brownian motion: variance c t, whose estimate has the relative standard error √(2/n).
    assert float(paths[0][1].var()) == pytest.approx(1.5, rel=4.5 * math.sqrt(2.0 / 20_000))


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match="times must be increasing"):
        simulate_ode(lambda t, x: x, torch.zeros(1, 1), (0.0, 0.0))
    with pytest.raises(ValueError, match="weights, means and covariances must be"):
        DiffusedMixture(torch.ones(2), torch.zeros(3, 2), torch.zeros(3, 2, 2))
    for weights in ([1.0, -0.5], [0.0, 0.0], [1.0, math.nan], [1.0, math.inf]):
        with pytest.raises(ValueError, match="weights must be finite, not negative, and not all zero: got"):
            DiffusedMixture(torch.tensor(weights), torch.zeros(2, 2), torch.eye(2).expand(2, 2, 2))
    with pytest.raises(ValueError, match="diffusion must be a positive"):
        mixture(diffusion=0.0)
