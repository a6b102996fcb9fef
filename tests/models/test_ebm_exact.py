"""Energy-based models held to what is known in closed form of Gaussians."""

import math

import pytest
import torch

from cgm_models.ebm import EnergyModel
from cgm_models.ebm.objectives import OBJECTIVES
from cgm_models.training import Trainer

PLAIN = {"network": "quadratic", "reference_scale": None, "standardize": False}


def quadratic(precision, mean=None, **options):
    """The quadratic model of N(mean, precision⁻¹), in float64."""
    precision = torch.as_tensor(precision, dtype=torch.float64)
    model = EnergyModel(dim=len(precision), **{**PLAIN, **options}).double()
    with torch.no_grad():
        model.network.root.copy_(torch.linalg.cholesky(precision))
        if mean is not None:
            model.network.mean.copy_(torch.as_tensor(mean))
    return model


def exact_sample(n, mean, covariance, seed=0):
    """Points whose mean and covariance are exactly these, float32."""
    mean, covariance = (torch.as_tensor(v, dtype=torch.float64) for v in (mean, covariance))
    z = torch.randn(n, len(mean), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    z = z - z.mean(0)
    z = z @ torch.linalg.inv(torch.linalg.cholesky(z.T @ z / n)).T
    return (mean + z @ torch.linalg.cholesky(covariance).T).float()


@pytest.mark.parametrize("n_steps", [1, 4])
def test_the_expected_gradient_of_contrastive_divergence(n_steps):
    """From data N(m, v) the chain has after k steps mean μ + ρ(m − μ) and variance ρ²v + (1 − ρ²) v_ULA.

    Here ρ = (1 − γ/s²)ᵏ and v_ULA = s² / (1 − γ/2s²). With f = ½ L²(x − μ)², s² = 1/L², the gradient of the loss
    follows from the moments of data and chain.
    """
    gamma, variance, data_mean, data_variance = 0.15, 0.7, 0.4, 1.6
    torch.manual_seed(n_steps)
    model = quadratic([[1 / variance]], objective="cd", n_steps=n_steps, step_size=gamma)
    root = variance**-0.5
    rho = (1 - gamma / variance) ** n_steps
    stationary = variance / (1 - gamma / (2 * variance))
    chain_mean, chain_variance = rho * data_mean, rho**2 * data_variance + (1 - rho**2) * stationary
    expected = torch.tensor(
        [
            root * (data_variance + data_mean**2 - chain_variance - chain_mean**2),
            -(root**2) * (data_mean - chain_mean),
        ]
    )
    found = []
    for _ in range(40):
        x = data_mean + data_variance**0.5 * torch.randn(5000, 1, dtype=torch.float64)
        gradients = torch.autograd.grad(model.loss(x), (model.network.root, model.network.mean))
        found.append(torch.stack([g.flatten()[0] for g in gradients]))
    found = torch.stack(found)
    error = found.std(0) / len(found) ** 0.5
    assert (found.mean(0) - expected).abs().le(5 * error).all()
    assert (error < 0.1 * expected.abs()).all()


def fit(model, x, steps, lr=0.05, **options):
    settings = {"schedule": "cosine", "ema_decay": 0.98, "tensorboard": False, "progress": False, "log_every": 1000}
    Trainer(max_steps=steps, batch_size=len(x), lr=lr, **settings, **options).fit(model, x)
    return model


@pytest.mark.parametrize(("objective", "n_steps"), [("cd", 1), ("cd", 3), ("pcd", 1)])
def test_chains_of_ula_fit_their_own_fixed_point(objective, n_steps):
    """s² = (v + √(v² − 2vγ)) / 2, whatever k: there ULA's stationary variance is that of the data."""
    v, gamma = 1.0, 0.4
    x = exact_sample(2000, [0.0], [[v]])
    model = EnergyModel(dim=1, objective=objective, n_steps=n_steps, step_size=gamma, buffer_size=2000, **PLAIN)
    fit(model, x, 400)
    assert 1 / float(model.network.precision.detach()) == pytest.approx(
        (v + math.sqrt(v * v - 2 * v * gamma)) / 2, abs=0.03
    )


def test_chains_of_mala_fit_the_gaussian_itself():
    mean, covariance = [1.0, -2.0], [[1.0, 0.6], [0.6, 0.8]]
    x = exact_sample(2000, mean, covariance)
    options = {"objective": "pcd", "n_steps": 2, "step_size": 0.3, "sampler": "mala", "buffer_size": 2000}
    model = fit(EnergyModel(dim=2, restart_probability=0.0, **options, **PLAIN), x, 500)
    assert torch.allclose(torch.linalg.inv(model.network.precision), torch.tensor(covariance), atol=0.05)
    assert torch.allclose(model.network.mean, torch.tensor(mean), atol=0.05)


def test_sliced_score_matching_is_exact_for_diagonal_precisions():
    """½ tr PSP + ½ |P(m − μ)|² − tr P, in which signs make vᵀPv = tr P."""
    torch.manual_seed(0)
    x, precision, mu = torch.randn(50, 3, dtype=torch.float64), torch.tensor([0.5, 1.0, 3.0]), torch.ones(3)
    model = quadratic(precision.diag(), mu, objective="ssm", n_slices=2)
    centred = (x - mu) * precision
    expected = 0.5 * centred.square().sum(1).mean() - precision.sum()
    assert float(model.loss(x).detach()) == pytest.approx(float(expected), rel=1e-12)


def test_denoising_score_matching_has_the_expected_loss():
    """½ [d − 2σ² tr P + σ² tr P(S + σ²I)P] for f = ½ xᵀPx and data of second moment S."""
    torch.manual_seed(0)
    precision, sigma = torch.tensor([[2.0, 0.5], [0.5, 1.0]]).double(), 0.6
    model = quadratic(precision, objective="dsm", score_noise=sigma)
    x = exact_sample(4000, [0.0, 0.0], [[1.0, 0.3], [0.3, 0.5]]).double()
    moment = x.T @ x / len(x) + sigma**2 * torch.eye(2)
    expected = 0.5 * (2 - 2 * sigma**2 * precision.trace() + sigma**2 * (precision @ moment @ precision).trace())
    found = torch.stack([model.loss(x).detach() for _ in range(50)])
    assert abs(float(found.mean() - expected)) < 5 * float(found.std()) / 50**0.5


@pytest.mark.parametrize("objective", ["ssm", "dsm"])
def test_score_matching_fits_the_law_of_its_data(objective):
    covariance = torch.tensor([[1.0, 0.6], [0.6, 0.8]])
    x = exact_sample(2000, [0.5, -0.5], covariance)
    model = fit(EnergyModel(dim=2, objective=objective, score_noise=0.5, n_slices=4, **PLAIN), x, 400)
    expected = covariance + (0.25 * torch.eye(2) if objective == "dsm" else 0.0)
    assert torch.allclose(torch.linalg.inv(model.network.precision), expected, atol=0.06)
    assert torch.allclose(model.network.mean, torch.tensor([0.5, -0.5]), atol=0.06)


def test_noise_contrastive_estimation_of_the_noise_itself():
    """Where p = q every logit is −log ν, and the loss softplus(log ν) + ν softplus(−log ν)."""
    for ratio in (1, 3):
        model = quadratic(torch.eye(2), objective="nce", noise_ratio=ratio)
        model.network.offset.data.fill_(math.log(2 * math.pi))
        loss = model.loss(torch.randn(100, 2, dtype=torch.float64))
        expected = math.log1p(ratio) + ratio * math.log1p(1 / ratio)
        assert float(loss.detach()) == pytest.approx(expected, rel=1e-12)


def test_noise_contrastive_estimation_learns_the_constant():
    covariance = torch.tensor([[0.8, 0.3], [0.3, 0.5]])
    x = exact_sample(4000, [0.2, -0.1], covariance)
    model = fit(EnergyModel(dim=2, objective="nce", noise_ratio=2, **PLAIN), x, 400)
    assert torch.allclose(torch.linalg.inv(model.network.precision), covariance, atol=0.06)
    log_z = 0.5 * float(torch.logdet(2 * math.pi * covariance))
    assert float(model.network.offset.detach()) == pytest.approx(log_z, abs=0.05)


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_every_parameter_has_a_gradient(objective):
    torch.manual_seed(0)
    model = EnergyModel(dim=3, context_dim=2, objective=objective, n_steps=2, hidden_features=(8,))
    model.loss(torch.randn(10, 3), torch.randn(10, 2)).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())
    if objective not in ("ssm", "dsm"):
        assert all(bool(p.grad.abs().sum() > 0) for p in model.network.parameters() if p.ndim > 1)
