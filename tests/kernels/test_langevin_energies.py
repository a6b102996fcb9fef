"""Energies of Langevin chains: densities, gradients, points far away, and what is refused."""

import pytest
import torch

from cgm_kernels.langevin import GaussianEnergy, GaussianMixtureEnergy, MLPEnergy, ProductEnergy
from tests.support.chains import ENERGIES, RUNNING, STEP, Draw, made, run, state_of


@pytest.mark.parametrize("name", ENERGIES)
def test_energy_gradient_is_autograd_of_the_energy(name):
    energy, x = made(name)
    x.requires_grad_()
    (expected,) = torch.autograd.grad(energy(x).sum(), x)
    torch.testing.assert_close(energy.gradient(x), expected, rtol=1e-12, atol=1e-12)
    assert energy(x).shape == x.shape[:1]
    shaped = x.detach()[:, :, None, None]
    torch.testing.assert_close(energy.gradient(shaped), expected[:, :, None, None])


def test_energies_are_log_densities():
    draw = Draw()
    means, weights, covariances = draw.normal(4, 3), draw.positive(4), draw.covariance(4, 3, 3)
    x = draw.normal(20, 3)
    components = torch.distributions.MultivariateNormal(means, covariances)
    mixed = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(weights), components)
    energy = GaussianMixtureEnergy(weights, means, covariances=covariances)
    torch.testing.assert_close(energy.log_prob(x), mixed.log_prob(x))
    torch.testing.assert_close(energy(x), -mixed.log_prob(x))
    inverse = GaussianMixtureEnergy(weights, means, precisions=torch.linalg.inv(covariances))
    torch.testing.assert_close(inverse(x), energy(x))
    single = GaussianEnergy(means[0], covariance=covariances[0])
    torch.testing.assert_close(
        single.log_prob(x), torch.distributions.MultivariateNormal(means[0], covariances[0]).log_prob(x)
    )
    stds = draw.positive(3)
    torch.testing.assert_close(
        GaussianEnergy(means[0], std=stds).log_prob(x), torch.distributions.Normal(means[0], stds).log_prob(x).sum(1)
    )
    total = energy + single
    torch.testing.assert_close(total(x), energy(x) + single(x))
    torch.testing.assert_close(ProductEnergy(total, single)(x), energy(x) + 2 * single(x))


def test_energy_of_a_network_is_the_network():
    layers = [torch.nn.Linear(3, 8), torch.nn.SiLU(), torch.nn.Linear(8, 4), torch.nn.SiLU(), torch.nn.Linear(4, 1)]
    module = torch.nn.Sequential(*layers).double()
    energy = MLPEnergy(
        [layer.weight for layer in layers[::2]], [layer.bias for layer in layers[::2]], activation="silu"
    )
    x = Draw().normal(9, 3)
    torch.testing.assert_close(energy(x), module(x).squeeze(1))
    energy.gradient(x).square().sum().backward()
    assert all(layer.weight.grad is not None for layer in layers[::2]), "score matching differentiates the gradient"


@pytest.mark.parametrize("backend, device", RUNNING)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_chain_comes_back_from_far_away(dtype, backend, device):
    """Every exponential underflows, and at the second distance the quadratic forms overflow as well."""
    for name in ("mixture-one-2", "mixture-full-2", "mixture-diagonal-7", "mixture-one-50"):
        energy, x = made(name, dtype, device)
        for distance in (1e3, torch.finfo(dtype).max ** 0.5 * 4):
            far = torch.full_like(x, distance)
            end = run(backend, far, energy, 1, 0.05, temperature=0.0)
            assert end.isfinite().all() and (end.abs() < far).all()


@pytest.mark.parametrize("backend, device", RUNNING)
def test_chain_weight_zero_is_no_component(backend, device):
    draw = Draw(device=device)
    weights, means, x = draw.positive(3), draw.normal(3, 2), draw.normal(9, 2)
    weights[1] = 0
    kept = torch.tensor([0, 2], device=device)
    whole = GaussianMixtureEnergy(weights, means, stds=0.5)
    part = GaussianMixtureEnergy(weights[kept], means[kept], stds=0.5)
    results = [run(backend, x, energy, 4, STEP, state=state_of(device)) for energy in (whole, part)]
    torch.testing.assert_close(*results)


M, EYE = torch.zeros(3, 2), torch.eye(2)


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: GaussianEnergy([0.0], std=1.0), TypeError, "mean must be a tensor: got list"),
        (lambda: GaussianEnergy(M, std=1.0), ValueError, r"mean must be \(d,\) with d at least 1: got \(3, 2\)"),
        (lambda: GaussianEnergy(M[0]), ValueError, "one of covariance, precision, std must be given: got none"),
        (lambda: GaussianEnergy(M[0], std=1.0, precision=EYE), ValueError, "must be given: got precision, std"),
        (lambda: GaussianEnergy(M[0], std=torch.ones(3)), ValueError, r"std must be \(\) or \(2,\): got \(3,\)"),
        (lambda: GaussianEnergy(M[0], std=-1.0), ValueError, "std must be positive"),
        (lambda: GaussianEnergy(M[0], covariance=-EYE), ValueError, "covariance must be symmetric and"),
        (lambda: GaussianEnergy(M[0], precision=EYE + M[:2].index_fill(0, torch.tensor(0), 0.5)), ValueError,
         "precision must be symmetric"),
        (lambda: GaussianMixtureEnergy(None, M[0], stds=1.0), ValueError, r"means must be \(K, d\).*: got \(2,\)"),
        (lambda: GaussianMixtureEnergy(torch.ones(2), M, stds=1.0), ValueError, r"must be \(3,\).*: got \(2,\)"),
        (lambda: GaussianMixtureEnergy(torch.tensor([1.0, -1.0, 1.0]), M, stds=1.0), ValueError, "nonnegative"),
        (lambda: GaussianMixtureEnergy(None, M, covariances=torch.eye(3)), ValueError,
         r"covariances must be \(3, 2, 2\) or \(2, 2\): got \(3, 3\)"),
        (lambda: ProductEnergy(), ValueError, "experts must be at least one energy: got none"),
        (lambda: ProductEnergy(GaussianEnergy(M[0], std=1.0), 3.0), TypeError, r"experts\[1\] must be .*: got float"),
        (lambda: GaussianEnergy(M[0], std=1.0) + GaussianEnergy(M[:, 0], std=1.0), ValueError,
         r"experts\[1\] must have the dims of experts\[0\], 2: got 3"),
        (lambda: MLPEnergy([M], [None], activation="swish"), ValueError, "activation must be .*: got 'swish'"),
        (lambda: MLPEnergy(M, [None]), TypeError, "weights must be a list of tensors"),
        (lambda: MLPEnergy([], []), ValueError, "weights must have at least one layer: got none"),
        (lambda: MLPEnergy([M], []), ValueError, "biases must have at least one layer: got none"),
        (lambda: MLPEnergy([M], [None]), ValueError, r"weights\[0\] must give one output, the energy: got 3"),
        (lambda: MLPEnergy([M, torch.zeros(1, 4)], [None, None]), ValueError,
         r"weights\[1\] must be \(out, 3\) after weights\[0\]: got \(1, 4\)"),
        (lambda: MLPEnergy([M[:1]], [torch.zeros(2)]), ValueError, r"biases\[0\] must be \(1,\): got \(2,\)"),
    ],
)  # fmt: skip
def test_energy_errors(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_only_closed_forms_are_added():
    with pytest.raises(TypeError):
        GaussianEnergy(M[0], std=1.0) + 1.0


def test_energies_are_not_narrowed_by_autocast():
    energy, x = made("network-silu")
    x = x.float()
    expected = energy(x), energy.gradient(x)
    with torch.autocast("cpu", torch.bfloat16):
        found = energy(x), energy.gradient(x)
    for value, other in zip(found, expected, strict=True):
        assert value.dtype is torch.float32
        assert torch.equal(value, other)


def test_sum_of_energies_is_their_product():
    parts = [GaussianEnergy(torch.full((2,), float(k)), std=1.0 + k) for k in range(3)]
    x = Draw().normal(5, 2)
    torch.testing.assert_close(sum(parts)(x), sum(part(x) for part in parts))
    with pytest.raises(TypeError):
        1 + parts[0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GaussianEnergy(torch.tensor([0.0, torch.nan]), std=1.0), "mean must be finite"),
        (lambda: GaussianEnergy(torch.zeros(2), std=torch.tensor(torch.inf)), "std must be positive and finite"),
        (
            lambda: GaussianEnergy(torch.zeros(2), covariance=torch.tensor([[1e-10, 5e-11], [-5e-11, 1e-10]])),
            "covariance must be symmetric",
        ),
        (
            lambda: GaussianMixtureEnergy(torch.tensor([1.0, torch.inf]), torch.zeros(2, 1), stds=1.0),
            "weights must be nonnegative numbers",
        ),
    ],
)
def test_numbers_that_are_no_law_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
