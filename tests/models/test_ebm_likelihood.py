"""log Z by annealed importance sampling, where it is known."""

import math

import pytest
import torch

from cgm_kernels.langevin.energies import GaussianEnergy, GaussianMixtureEnergy
from cgm_models.ebm import EnergyModel, log_partition


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_of_a_gaussian():
    root = torch.tensor([[1.0, 0.0, 0.0], [0.8, 0.5, 0.0], [-0.3, 0.9, 1.4]])
    energy = GaussianEnergy(torch.tensor([0.5, -1.0, 2.0]), covariance=root @ root.T)
    found = log_partition(lambda x: energy(x) - 1.75, (3,), n_chains=400, n_temperatures=150, generator=generator())
    assert abs(found.value - 1.75) < 5 * found.error and found.error < 0.05
    assert 100 < found.effective_sample_size <= 400 and 0.4 < found.acceptance < 0.8


def test_of_a_mixture_far_from_the_base():
    means = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 3.0]])
    energy = GaussianMixtureEnergy(torch.tensor([0.5, 0.3, 0.2]), means, stds=0.5)
    options = {"std": 2.0, "n_chains": 400, "n_temperatures": 150, "generator": generator()}
    found = log_partition(lambda x: energy(x) + 2.0, (2,), **options)
    assert abs(found.value + 2.0) < 5 * found.error and found.error < 0.1


def test_its_error_is_the_scatter_of_repetitions():
    """Over repetitions (value − log Z) / error has a mean square near 1; the tolerance is that of 30 of them."""
    energy = GaussianEnergy(torch.tensor([1.0]), std=0.5)
    options = {"n_chains": 300, "n_temperatures": 16}
    runs = [log_partition(energy, (1,), generator=generator(seed), **options) for seed in range(30)]
    ratios = torch.tensor([run.value / run.error for run in runs])
    assert 0.3 < float(ratios.square().mean()) < 2.2


def test_the_same_generator_gives_the_same_estimate():
    energy = GaussianEnergy(torch.zeros(2), std=0.5)
    first, again, other = (
        log_partition(energy, (2,), n_chains=20, n_temperatures=8, generator=generator(seed)) for seed in (1, 1, 2)
    )
    assert first == again != other


@pytest.fixture(scope="module")
def network():
    """A network of the plane that is no law known by name, with the units of data far from standard."""
    torch.manual_seed(5)
    model = EnergyModel(dim=2, hidden_features=(32, 32))
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.mul_(3.0)
    model.initialize(torch.randn(500, 2) * torch.tensor([3.0, 0.2]) + torch.tensor([10.0, -1.0]))
    return model.eval()


def test_of_a_network_beside_quadrature(network):
    u = torch.linspace(-12, 12, 801)
    grid = network.location + network.scale * torch.cartesian_prod(u, u)
    cell = float((u[1] - u[0]) ** 2 * network.scale.prod())
    with torch.no_grad():
        exact = float(torch.logsumexp(-network.energy(grid).double(), 0)) + math.log(cell)
    found = network.log_partition(n_chains=500, n_temperatures=150, generator=generator())
    assert abs(found.value - exact) < 5 * found.error and found.error < 0.05
    x = grid[::5000]
    likelihood = network.log_likelihood(x, n_chains=500, n_temperatures=150, generator=generator())
    assert torch.allclose(likelihood.log_prob, -network.energy(x) - found.value, atol=1e-3)
    assert torch.allclose(likelihood.log_z_error, torch.tensor(found.error))


def test_of_every_context_by_itself():
    """f(x | c) = ½ |L(x − A c)|² has the same log Z at every c, which depends on no label."""
    model = EnergyModel(dim=2, context_dim=3, network="quadratic", reference_scale=None, standardize=False)
    model.network.gain.data.normal_(generator=generator(3))
    model.network.root.data.copy_(torch.tensor([[2.0, 0.0], [0.7, 1.5]]))
    labels = torch.tensor([2, 0, 0, 1, 2])
    found = model.log_likelihood(torch.zeros(5, 2), labels, n_chains=300, n_temperatures=60, generator=generator())
    exact = math.log(2 * math.pi) - math.log(3.0)
    assert ((found.log_z - exact).abs() < 5 * found.log_z_error).all() and (found.log_z_error < 0.1).all()
    assert found.log_z[0] == found.log_z[4] != found.log_z[1] == found.log_z[2]
    one = model.log_partition(torch.tensor(1), n_chains=300, n_temperatures=60, generator=generator())
    assert abs(one.value - exact) < 5 * one.error


def test_log_prob_says_what_there_is_instead(network):
    with pytest.raises(NotImplementedError, match="log_likelihood estimates it by annealed importance sampling"):
        network.log_prob(torch.zeros(1, 2))


def test_the_held_out_loss_is_minus_log_p(network):
    torch.manual_seed(0)
    x = network.sample(400, start="noise", generator=generator())
    exact = -network.log_likelihood(x, n_chains=500, n_temperatures=200, generator=generator()).log_prob.mean()
    with torch.no_grad():
        assert abs(float(network.loss(x) - exact)) < 0.3


def test_errors():
    with pytest.raises(ValueError, match="n_temperatures must be a whole number, at least 8: got 2"):
        log_partition(lambda x: x.sum(1), (2,), n_temperatures=2)
    with pytest.raises(ValueError, match="std must be positive"):
        log_partition(lambda x: x.sum(1), (2,), std=0.0)
