"""Flows trained on what is exactly known, and the divergences that train them."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from cgm_models import data
from cgm_models.flows import MADE, NeuralSplineFlow, PlanarFlow, RadialFlow, RealNVP, compare_kl, forward_kl, reverse_kl
from tests.support.flows import make


def descend(parameters, loss, steps, rate):
    optimizer = torch.optim.Adam(parameters, rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        optimizer.step()
        schedule.step()


def test_the_conditional_of_a_joint_gaussian_is_recovered():
    """(x, c) jointly normal: KL(p(x | c) ‖ q(x | c)), averaged over c, in closed-form densities on fresh points."""
    torch.manual_seed(0)
    root = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.6, 0.8, 0.0, 0.0], [0.5, -0.7, 0.6, 0.0], [-0.4, 0.3, 0.8, 0.5]])
    joint = MultivariateNormal(torch.tensor([0.0, 0.0, 1.0, -1.0]), scale_tril=root)
    covariance, mean = joint.covariance_matrix, joint.mean
    gain = covariance[2:, :2] @ torch.linalg.inv(covariance[:2, :2])
    rest = covariance[2:, 2:] - gain @ covariance[:2, 2:]

    def exact(x, context):
        center = mean[2:] + (context - mean[:2]) @ gain.T
        return MultivariateNormal(center, rest).log_prob(x)

    flow = RealNVP(dim=2, context_dim=2, n_layers=4, hidden_features=(32,), activation="silu")
    train = joint.sample((8192,))

    def loss():
        rows = train[torch.randint(len(train), (1024,))]
        return flow.loss(rows[:, 2:], rows[:, :2])

    descend(flow.parameters(), loss, 500, 1e-2)
    test = joint.sample((20_000,))
    x, context = test[:, 2:], test[:, :2]
    gap = (exact(x, context) - flow.log_prob(x, context)).detach()
    assert -3 * float(gap.std()) / len(gap) ** 0.5 < float(gap.mean()) < 0.01
    samples = flow.sample(20_000, context[0], torch.Generator().manual_seed(1))
    center = mean[2:] + (context[0] - mean[:2]) @ gain.T
    torch.testing.assert_close(samples.mean(0), center, rtol=0, atol=0.1)
    torch.testing.assert_close(samples.T.cov(), rest, rtol=0, atol=0.15)


def test_reverse_kl_finds_a_gaussian_and_its_normaliser():
    """KL(q ‖ p) ≥ 0 with equality at p, so that the least reverse_kl is −log ∫ p̃."""
    torch.manual_seed(0)
    target = MultivariateNormal(torch.tensor([1.0, -2.0]), torch.tensor([[1.0, 0.6], [0.6, 0.8]]))
    log_normaliser = 3.0

    def log_density(x):
        return target.log_prob(x) + log_normaliser

    flow = RealNVP(dim=2, n_layers=4, hidden_features=(16,), base="learnable_normal")
    descend(flow.parameters(), lambda: flow.reverse_kl(log_density, 256), 400, 1e-2)
    value = float(flow.reverse_kl(log_density, 20_000).detach())
    assert value == pytest.approx(-log_normaliser, abs=0.02)


@pytest.mark.parametrize("flow_type", [PlanarFlow, RadialFlow, NeuralSplineFlow])
def test_both_directions_learn(flow_type):
    torch.manual_seed(0)
    options = {"n_layers": 2, "hidden_features": (16,)} if flow_type is NeuralSplineFlow else {"n_layers": 6}
    x = data.density("moons").sample(2048, torch.Generator().manual_seed(0))
    flow = flow_type(dim=2, **options)
    before = float(flow.loss(x).detach())
    descend(flow.parameters(), lambda: flow.loss(x[:512]), 80, 2e-2)
    assert float(flow.loss(x).detach()) < before - 0.1
    target = MultivariateNormal(torch.tensor([1.0, 0.0]), 0.5 * torch.eye(2))
    flow = flow_type(dim=2, **options)
    before = float(flow.reverse_kl(target.log_prob, 512).detach())
    descend(flow.parameters(), lambda: flow.reverse_kl(target.log_prob, 256), 80, 2e-2)
    assert float(flow.reverse_kl(target.log_prob, 2048).detach()) < 0.7 * before


@pytest.mark.parametrize("name", ["realnvp-actnorm", "planar", "radial", "spline", "glow-lu", "nice"])
def test_kl_is_the_same_in_the_data_space_and_in_the_latent_space(name):
    flow = make(name)
    generator = torch.Generator().manual_seed(0)
    size = math.prod(flow.event_shape)
    root = torch.eye(size).double() + 0.2 * torch.randn(size, size, generator=generator).double().tril()
    target = MultivariateNormal(torch.zeros(size).double(), scale_tril=root)

    def log_density(x):
        return target.log_prob(x.flatten(1))

    x = (torch.randn(64, size, generator=generator).double() @ root.T).view(64, *flow.event_shape)
    z = torch.randn(64, *flow.event_shape, generator=generator).double()
    with torch.no_grad():
        for divergence, points in ((forward_kl, x), (reverse_kl, z)):
            spaces = [divergence(flow, points, log_density, space=space) for space in ("data", "latent")]
            torch.testing.assert_close(*spaces, rtol=1e-9, atol=1e-8)


def test_kl_of_gaussians_in_both_directions_is_that_of_the_closed_form():
    """q = N(0, I), the flow at its start; p = N(m, s² I)."""
    flow = RealNVP(dim=2).double()
    mean, std = torch.tensor([0.3, -0.2]).double(), 1.4

    class Shifted:
        def log_prob(self, x):
            return torch.distributions.Normal(mean, std).log_prob(x).sum(1)

        def sample(self, n, generator=None):
            return mean + std * torch.randn(n, 2, generator=generator).double()

    estimates = compare_kl(flow, Shifted(), 50_000, generator=torch.Generator().manual_seed(0))
    squared = float(mean.square().sum())
    exact = {
        "KL(p || q)": 0.5 * (2 * std**2 + squared - 2 - 4 * math.log(std)),
        "KL(q || p)": 0.5 * ((2 + squared) / std**2 - 2 + 4 * math.log(std)),
    }
    assert len(estimates) == 4
    for name, estimate in estimates.items():
        assert abs(estimate.value - exact[name.partition(",")[0]]) < 4 * estimate.standard_error, name


@pytest.mark.parametrize("family", [RealNVP, MADE])
def test_reverse_kl_names_what_is_wrong(family):
    flow = family(dim=2)
    with pytest.raises(ValueError, match=r"log_density must map \(8, 2\) to \(8,\): got \(8, 2\)"):
        flow.reverse_kl(lambda x: x, 8)
    with pytest.raises(FloatingPointError, match="log_density is not finite"):
        flow.reverse_kl(lambda x: x[:, 0] * math.nan, 8)
    mixture = family(dim=2, base="gaussian_mixture")
    with pytest.raises(ValueError, match="do not carry the gradient"):
        mixture.reverse_kl(lambda x: -x.square().sum(1), 8)
    fixed = family(dim=2, base="gaussian_mixture", base_options={"learnable": False})
    assert fixed.reverse_kl(lambda x: -x.square().sum(1), 8).isfinite()


def test_a_trained_density_has_mass_one():
    torch.manual_seed(0)
    flow = RealNVP(dim=2, n_layers=6, hidden_features=(32, 32))
    x = data.density("moons").sample(4096, torch.Generator().manual_seed(0))
    descend(flow.parameters(), lambda: flow.loss(x[torch.randint(4096, (512,))]), 150, 5e-3)
    line = torch.linspace(-4.0, 5.0, 1201)
    grid = torch.cartesian_prod(line, line)
    with torch.no_grad():
        mass = flow.log_prob(grid).double().exp().sum() * (9.0 / 1200) ** 2
    assert float(mass) == pytest.approx(1.0, abs=1e-2)
