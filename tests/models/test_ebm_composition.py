"""The algebra of energies, on laws that are known."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal

from cgm_kernels.langevin.energies import GaussianEnergy
from cgm_models.ebm import Energy, EnergyModel, log_partition, mixture

X = torch.randn(20, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
MEANS = torch.tensor([[1.0, 0.0], [-0.5, 2.0]], dtype=torch.float64)
COVARIANCES = torch.tensor([[[1.0, 0.3], [0.3, 0.5]], [[0.4, -0.1], [-0.1, 2.0]]], dtype=torch.float64)


def gaussian(k):
    law = MultivariateNormal(MEANS[k], COVARIANCES[k])
    return Energy(lambda x: -law.log_prob(x))


def test_precisions_add_in_a_product():
    precisions = torch.linalg.inv(COVARIANCES)
    covariance = torch.linalg.inv(precisions.sum(0))
    mean = covariance @ (precisions @ MEANS[..., None]).sum(0)[:, 0]
    law = MultivariateNormal(mean, covariance)
    product = gaussian(0) + gaussian(1)
    shift = product(X) + law.log_prob(X)
    assert torch.allclose(shift, shift[:1].expand(20), atol=1e-12)
    assert torch.allclose(product.gradient(X), (X - mean) @ precisions.sum(0), atol=1e-12)
    # ∫ N(x; a, A) N(x; b, B) dx = N(a; b, A + B)
    log_z = MultivariateNormal(MEANS[1], COVARIANCES.sum(0)).log_prob(MEANS[0])
    assert torch.allclose(-shift[0], log_z, atol=1e-12)
    options = {"n_chains": 300, "n_temperatures": 80, "generator": torch.Generator().manual_seed(1)}
    found = log_partition(product, (2,), dtype=torch.float64, **options)
    assert abs(found.value - float(log_z)) < 5 * found.error and found.error < 0.1


def test_a_mixture_has_the_density_of_a_mixture():
    laws = [MultivariateNormal(MEANS[k], COVARIANCES[k]) for k in range(2)]
    both = torch.stack([law.log_prob(X) for law in laws])
    assert torch.allclose((gaussian(0) | gaussian(1))(X), -both.logsumexp(0), atol=1e-12)
    weighted = both + torch.tensor([[0.75], [0.25]]).double().log()
    shifted = [gaussian(0) - 1.0, gaussian(1) + 2.0]
    found = mixture(shifted, weights=[3, 1], log_z=[1.0, -2.0])
    assert torch.allclose(found(X), -weighted.logsumexp(0), atol=1e-12)


def test_powers_and_negations():
    """N(0, s²)^c is N(0, s²/c) up to its constant; over N(0, t²) it has the precision 1/s² − 1/t²."""
    narrow, wide = (
        Energy(lambda x: -Normal(0, 0.5).log_prob(x[:, 0])),
        Energy(lambda x: -Normal(0, 2).log_prob(x[:, 0])),
    )
    x = X[:, :1]
    assert torch.allclose((3.0 * narrow).gradient(x), x * 12.0)
    assert torch.allclose((narrow * 3).gradient(x), x * 12.0)
    assert torch.allclose((narrow - wide).gradient(x), x * (4.0 - 0.25))
    assert torch.allclose((-wide)(x), -wide(x))
    assert torch.allclose((1.0 - wide)(x), 1.0 - wide(x))


def test_operators_keep_the_laws_of_numbers():
    a, b, c = gaussian(0), gaussian(1), Energy(lambda x: x.square().sum(1))
    pairs = [
        (a + b, b + a),
        ((a + b) + c, a + (b + c)),
        (2 * (a + b), 2 * a + 2 * b),
        (a - b, a + -1 * b),
        ((a | b) + c, (a + c) | (b + c)),
        (a | b, b | a),
        (a + 1.5, 1.5 + a),
        (a + 0.0, a),
        (mixture([a, b]), (a | b) + math.log(2)),
    ]
    for left, right in pairs:
        assert torch.allclose(left(X), right(X), atol=1e-12)


def test_models_and_closed_forms_combine():
    model = EnergyModel(dim=2, hidden_features=(4,))
    confined = GaussianEnergy(torch.zeros(2), std=1.0)
    x = X.float()
    for together in (model + confined, confined + model, Energy(model) + confined):
        assert torch.allclose(together(x), model.energy(x) + confined(x))
    assert torch.allclose((model | confined)(x), -torch.stack((-model.energy(x), -confined(x))).logsumexp(0))
    conditional = EnergyModel(dim=2, context_dim=3, hidden_features=(4,))
    given = conditional.given(torch.tensor(1)) + conditional.given(torch.tensor(2))
    assert torch.allclose(given(x), sum(conditional.energy(x, torch.tensor(k)) for k in (1, 2)))


def test_errors():
    a, b = gaussian(0), gaussian(1)
    with pytest.raises(TypeError, match="the product of the densities is a \\+ b"):
        a * b
    with pytest.raises(TypeError):
        a + "b"
    with pytest.raises(TypeError, match="an energy is a function of points: got int"):
        Energy(3)
    with pytest.raises(ValueError, match="must be as many as the energies, 2: got 1, 2"):
        mixture([a, b], weights=[1.0])
    with pytest.raises(ValueError, match="weights must be positive"):
        mixture([a, b], weights=[1.0, 0.0])


def test_an_infinite_constant_is_an_energy_too():
    assert ((gaussian(0) + math.inf)(X) == math.inf).all()
