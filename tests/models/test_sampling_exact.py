"""What is known exactly of each sampler: laws of its chains, and of its mistakes."""

import math

import pytest
import torch
from scipy.linalg import solve_discrete_lyapunov

from cgm_kernels import normal
from cgm_kernels.langevin import noise_state
from cgm_kernels.langevin.energies import GaussianEnergy, GaussianMixtureEnergy
from cgm_models.sampling import (
    HMC,
    MALA,
    ULA,
    AnnealedLangevin,
    State,
    Target,
    TemperedLangevin,
    UnderdampedLangevin,
    geometric_ladder,
)
from cgm_models.sampling.mala import mala_log_ratio


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=1):
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def quadratic(s):
    return lambda x: 0.5 * x.flatten(1).square().sum(1) / s**2


def assert_variance(x, exact, sigmas=4.5):
    """The mean square of independent draws of mean 0, within its own standard error for a normal law."""
    estimate = float(x.square().mean())
    assert abs(estimate - exact) < sigmas * exact * math.sqrt(2.0 / x.numel()), (estimate, exact)


def assert_mean(values, exact, sigmas=4.5):
    """The mean over the first dimension, of independent rows, within its standard error."""
    error = values.std(0) / math.sqrt(len(values))
    assert ((values.mean(0) - exact).abs() < sigmas * error + 1e-12).all(), (values.mean(0), exact, error)


@pytest.mark.parametrize("closed_form", [False, True])
def test_ula_on_a_gaussian_has_the_variance_of_its_own(closed_form):
    s, h = 1.5, 0.9
    energy = GaussianEnergy(torch.zeros(1).double(), std=s) if closed_form else quadratic(s)
    samples = ULA(h).run(s * randn(20_000, 1), energy, 30, generator=seeded(), keep_trajectory=False)
    assert_variance(samples.positions, s**2 / (1.0 - h / (2.0 * s**2)))


def test_one_step_of_ula_is_the_formula():
    x, gradient = randn(5, 3), randn(5, 3, seed=2)
    noise = noise_state(seeded(7))
    z = normal((5, 3), state=noise.clone(), dtype=torch.float64)
    state = State("ULA", x.clone(), x.sum(1), gradient, noise)
    ULA(0.3, temperature=2.0).step(state, Target(quadratic(1.0)))
    torch.testing.assert_close(state.position, x - 0.3 * gradient + math.sqrt(2 * 0.3 * 2.0) * z)
    torch.testing.assert_close(state.gradient, state.position)


@pytest.mark.parametrize("h", [0.6, 2.0, 5.0])
def test_mala_on_a_gaussian_accepts_as_often_as_it_must(h):
    s = 1.3
    exact = 1.0 - 2.0 / math.pi * math.atan((h / (2.0 * s**2)) ** 1.5)
    start = s * randn(10_000, 1)
    samples = MALA(h).run(start, quadratic(s), 10, generator=seeded())
    assert_mean(samples.acceptance.mean(0), exact)
    assert_mean((samples.positions.diff(dim=0) != 0).double().mean(0)[:, 0], exact)
    assert_variance(samples.positions[-1], s**2)


@pytest.mark.parametrize("h", [0.6, 2.0, 5.0])
def test_the_acceptance_of_mala_by_quadrature(h):
    """∫∫ min(1, e^ratio) π(x) q(y|x) dx dy on a grid, of the ratio that the sampler uses."""
    s = 1.3
    line = torch.linspace(-8.0, 8.0, 1201, dtype=torch.float64)
    u, z = (grid.flatten() for grid in torch.meshgrid(line, line, indexing="ij"))
    x = s * u
    y = x - h * x / s**2 + math.sqrt(2 * h) * z
    energy = [0.5 * (v / s) ** 2 for v in (x, y)]
    ratio = mala_log_ratio(x, y, *energy, x / s**2, y / s**2, h, 1.0)
    weight = torch.exp(-0.5 * (u.square() + z.square())) / (2 * math.pi) * (16.0 / 1200) ** 2
    accepted = float((weight * ratio.clamp(max=0).exp()).sum())
    assert accepted == pytest.approx(1.0 - 2.0 / math.pi * math.atan((h / (2.0 * s**2)) ** 1.5), abs=2e-5)


def affine_map(sampler, energy):
    """(A, B) of (x, p) ← A (x, p) + B z, read off steps whose noise is known."""
    columns = []
    noise = noise_state(seeded(3))
    z = normal((1, 1), state=noise.clone(), dtype=torch.float64).item()
    for x, p in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0)):
        position, momentum = torch.tensor([[x]]).double(), torch.tensor([[p]]).double()
        target = Target(energy)
        state = State(type(sampler).__name__, position, *target.evaluate(position), noise.clone(), momentum=momentum)
        sampler.step(state, target)
        columns.append(torch.cat((state.position, state.momentum))[:, 0])
    return torch.stack((columns[1] - columns[0], columns[2] - columns[0]), dim=1), columns[0][:, None] / z


@pytest.mark.parametrize("h", [0.1, 1.0, 2.5])
@pytest.mark.parametrize("friction", [0.3, 5.0])
def test_baoab_is_exact_in_the_positions_of_an_oscillator(h, friction):
    s, temperature = 1.4, 1.7
    sampler = UnderdampedLangevin(h, friction, temperature=temperature)
    A, B = (matrix.numpy() for matrix in affine_map(sampler, quadratic(s)))
    covariance = solve_discrete_lyapunov(A, B @ B.T)
    assert covariance[0, 0] == pytest.approx(temperature * s**2, rel=1e-10)
    assert covariance[1, 1] == pytest.approx(temperature * (1.0 - h**2 / (4.0 * s**2)), rel=1e-10)
    assert covariance[0, 1] == pytest.approx(0.0, abs=1e-10)


def test_baoab_samples_a_gaussian():
    samples = UnderdampedLangevin(1.0, 1.0).run(3.0 * randn(10_000, 2), quadratic(0.8), 40, generator=seeded())
    assert_variance(samples.positions[-1], 0.8**2)
    assert_variance(samples.state.momentum, 1.0 - 1.0 / (4.0 * 0.8**2))


CORRELATED = torch.tensor([[2.0, 1.2], [1.2, 1.0]], dtype=torch.float64)


@pytest.mark.parametrize(
    "sampler", [HMC(0.4, 6), HMC(0.3, 8, jitter=0.3), MALA(0.4)], ids=["hmc", "hmc-jitter", "mala"]
)
def test_moments_of_a_correlated_gaussian(sampler):
    mean = torch.tensor([1.0, -2.0], dtype=torch.float64)
    law = torch.distributions.MultivariateNormal(mean, CORRELATED)
    n_steps = 15 if isinstance(sampler, HMC) else 60
    samples = sampler.run(randn(6000, 2), law, n_steps, warmup=30, keep_trajectory=False, generator=seeded())
    x = samples.positions[0]
    assert_mean(x, mean)
    products = (x - mean)[:, :, None] * (x - mean)[:, None, :]
    assert_mean(products.flatten(1), CORRELATED.flatten())
    assert 0.4 < float(samples.acceptance.mean()) < 0.999


@pytest.mark.parametrize("temperature", [0.5, 2.0])
@pytest.mark.parametrize("make", [MALA, HMC, UnderdampedLangevin], ids=["mala", "hmc", "baoab"])
def test_a_temperature_scales_the_variance(make, temperature):
    samples = make(0.5, temperature=temperature).run(
        math.sqrt(temperature) * randn(8000), lambda x: 0.5 * x.square(), 10, generator=seeded()
    )
    assert_variance(samples.positions[-1], temperature)


def mixture(distance, std=1.0, weight=0.3):
    means = torch.tensor([[-distance], [distance]], dtype=torch.float64)
    return GaussianMixtureEnergy(torch.tensor([weight, 1 - weight], dtype=torch.float64), means, stds=std)


@pytest.mark.parametrize("sampler", [HMC(0.5, 5), MALA(0.8)], ids=["hmc", "mala"])
def test_moments_of_a_mixture(sampler):
    n_steps = 40 if isinstance(sampler, HMC) else 120
    samples = sampler.run(randn(5000, 1), mixture(1.5), n_steps, keep_trajectory=False, generator=seeded())
    x = samples.positions[0, :, 0]
    assert_mean(x, 0.4 * 1.5)
    assert_mean(x.square(), 1.0 + 1.5**2)
    assert_mean(
        (x > 0).double(), 0.3 * 0.5 * math.erfc(1.5 / math.sqrt(2)) + 0.7 * 0.5 * math.erfc(-1.5 / math.sqrt(2))
    )


@pytest.mark.parametrize("adjusted", [True, False])
def test_tempering_crosses_barriers_and_weighs_the_modes_right(adjusted):
    """All chains start in one mode; alone they stay there."""
    energy, start = mixture(6.0), torch.full((400, 1), -6.0, dtype=torch.float64)
    alone = MALA(0.5).run(start, energy, 300, generator=seeded())
    assert (alone.positions < 0).all()
    sampler = TemperedLangevin(0.3, geometric_ladder(30.0, 6), adjusted=adjusted)
    samples = sampler.run(start, energy, 400, warmup=100, thin=40, generator=seeded())
    assert_mean((samples.positions[-1, :, 0] > 0).double(), 0.7)
    right = samples.positions[-1][samples.positions[-1] > 0]
    bias = 1.0 if adjusted else 1.0 / (1.0 - 0.3 / 2.0)
    assert float((right - 6.0).square().mean()) == pytest.approx(bias, abs=4.5 * math.sqrt(2.0 / len(right)) * bias)
    assert (samples.statistics["swap_acceptance"] > 0.2).all()


def test_every_replica_has_its_temperature():
    ladder = (1.0, 2.0, 5.0)
    samples = TemperedLangevin(0.7, ladder, swap_every=2).run(randn(6000), lambda x: 0.5 * x.square(), 40)
    for replica, temperature in zip(samples.state.position.view(3, -1), ladder, strict=True):
        assert_variance(replica, temperature)
    assert samples.positions.shape == (40, 6000)
    assert torch.equal(samples.positions[-1], samples.state.position[:6000])


@pytest.mark.parametrize("closed_form", [False, True])
def test_annealing_by_temperature_has_the_variance_of_its_schedule(closed_form):
    s, h, temperatures, each = 1.2, 0.5, (8.0, 3.0, 1.0), 3
    energy = GaussianEnergy(torch.zeros(2).double(), std=s) if closed_form else quadratic(s)
    sampler = AnnealedLangevin(h, temperatures=temperatures, steps_per_level=each)
    samples = sampler.run(5.0 * randn(10_000, 2), energy, len(sampler) + 2, generator=seeded())
    variance = 25.0
    for step in range(len(sampler) + 2):
        temperature = temperatures[min(step // each, 2)]
        variance = (1 - h / s**2) ** 2 * variance + 2 * h * temperature
        assert_variance(samples.positions[step], variance)


def test_annealing_by_noise_level_tells_the_energy_the_level():
    s, h, levels, each = 0.5, 0.1, (3.0, 1.0, 0.3), 4
    seen = []

    def energy(x, sigma):
        seen.append(sigma)
        return 0.5 * x.square() / (s**2 + sigma**2)

    sampler = AnnealedLangevin(h * levels[-1] ** 2, noise_levels=levels, steps_per_level=each)
    samples = sampler.run(3.0 * randn(20_000), energy, len(sampler), generator=seeded())
    assert seen == [3.0] * 4 + [1.0] * 4 + [0.3] * 5
    torch.testing.assert_close(
        samples.step_size, torch.tensor([9.0] * 4 + [1.0] * 4 + [0.09] * 4, dtype=torch.float64) * h
    )
    variance = 9.0
    for step, x in enumerate(samples.positions):
        sigma = levels[step // each]
        variance = (1 - h * sigma**2 / (s**2 + sigma**2)) ** 2 * variance + 2 * h * sigma**2
        assert_variance(x, variance)
