"""Maximum-entropy models against laws that are known exactly, Langevin's finite step among them."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import fsolve

from cgm_models.ebm import MaximumEntropyModel
from tests.support.maximum_entropy import field_of_spectrum, gaussian_model, seeded
from tests.support.ula import (
    GridChain,
    circular_spectrum_of_ar1,
    gaussian_square_time,
    gaussian_variance,
    multiplier_errors,
)


def steps_averaged(model):
    """Steps of all chains that the averaged multipliers rest on."""
    return (1.0 - model.average_from) * model.n_iterations * model.steps_per_iteration * model.n_chains


# --- the Gaussian with given autocovariances


def test_gaussian_with_given_autocovariances():
    """θ of an autoregressive process, for which 1/(2θ(ω)) is the spectrum; the chain's step shifts it as computed."""
    n, step = 16, 0.15
    omega, spectrum, exact = circular_spectrum_of_ar1(n, 0.4)
    waves = np.cos(np.outer(np.arange(3), omega))  # F_τ = Σ_k cos(ω_k τ) |x̂_k|²/n
    wanted = waves @ spectrum
    model = gaussian_model(n).fit(field_of_spectrum(spectrum), generator=seeded(1))
    np.testing.assert_allclose(model.target[0], wanted, rtol=1e-12)

    limit = np.array([*exact, 0.0])
    np.testing.assert_allclose(1.0 / (2.0 * limit @ waves), spectrum, rtol=1e-12)
    stepped = fsolve(lambda theta: waves @ gaussian_variance(2.0 * theta @ waves, step) - wanted, limit, xtol=1e-12)
    precision = 2.0 * stepped @ waves
    variance = gaussian_variance(precision, step)
    covariance = 2.0 * (waves * variance**2) @ waves.T
    long_run = 2.0 * (waves * variance**2 * gaussian_square_time(precision, step)) @ waves.T
    error = multiplier_errors(covariance, long_run, steps_averaged(model))
    np.testing.assert_array_less(np.abs(model.multipliers[0].numpy() - stepped), 5 * error)
    assert np.abs(stepped - limit).max() > 10 * error.max()  # the test can tell the two laws apart

    draws = model.sample(3000, generator=seeded(2))
    found = model.statistics(draws).numpy()
    spread = np.sqrt(np.diag(covariance) / len(draws))
    # The law of the fitted multipliers, in whose statistics their own error shows, then that of the example.
    of_fit = waves @ gaussian_variance(2.0 * model.multipliers[0].numpy() @ waves, step)
    np.testing.assert_array_less(np.abs(found.mean(0) - of_fit), 5 * spread)
    np.testing.assert_array_less(np.abs(of_fit - wanted), 5 * np.sqrt(np.diag(long_run) / steps_averaged(model)))


def test_whitened_chains_have_the_law_of_their_finite_step():
    """Whitened, the reference already is the Gaussian wanted: with ε = ½ its multipliers are nearly nothing."""
    n, step = 16, 0.15
    omega, spectrum, _ = circular_spectrum_of_ar1(n, 0.6)
    model = gaussian_model(n, whiten=True, regularization=0.5)
    model.fit(field_of_spectrum(spectrum), generator=seeded(3))
    amplitude = model.coordinates.amplitude[0].numpy()
    squared = np.concatenate([amplitude, amplitude[-2:0:-1]]) ** 2
    waves = np.cos(np.outer(np.arange(3), omega))
    wanted = waves @ spectrum

    def in_data(theta):
        return squared * gaussian_variance(1.0 + 2.0 * squared * (theta @ waves), step)

    stepped = fsolve(lambda theta: waves @ in_data(theta) - wanted, np.zeros(3), xtol=1e-12)
    variance, precision = in_data(stepped), 1.0 + 2.0 * squared * (stepped @ waves)
    covariance = 2.0 * (waves * variance**2) @ waves.T
    long_run = 2.0 * (waves * variance**2 * gaussian_square_time(precision, step)) @ waves.T
    error = multiplier_errors(covariance, long_run, steps_averaged(model))
    np.testing.assert_array_less(np.abs(model.multipliers[0].numpy() - stepped), 5 * error)


# --- laws on a line and on a circle, by the exact stationary law of the chain


def test_histogram_of_independent_pixels():
    n, step, epsilon = 12, 0.05, 0.3
    values = torch.linspace(-2.0, 1.5, n, dtype=torch.float64)
    model = MaximumEntropyModel(
        (n,), features=[{"name": "histogram", "n_bins": 3, "low": -1.5, "high": 1.5}], standardize=False,
        whiten=False, regularization=epsilon, step_size=step, n_chains=32, n_iterations=600, steps_per_iteration=3,
        learning_rate=0.2,
    ).fit(values, generator=seeded(4))  # fmt: skip
    grid, centres, width = np.linspace(-6, 6, 401), np.array([-1.5, 0.0, 1.5]), 1.5
    bumps = np.exp(-0.5 * ((grid[:, None] - centres) / width) ** 2)
    slopes = -bumps * (grid[:, None] - centres) / width**2

    def chain(theta):
        return GridChain(grid, step * (slopes @ theta + 2 * epsilon * grid), math.sqrt(2 * step))

    wanted = model.target[0].numpy() / n
    stepped = fsolve(lambda theta: chain(theta).mean(bumps) - wanted, np.zeros(3), xtol=1e-10)
    law = chain(stepped)
    # n pixels are n independent chains.
    error = multiplier_errors(law.covariance(bumps), law.long_run_covariance(bumps), n * steps_averaged(model))
    np.testing.assert_array_less(np.abs(model.multipliers[0].numpy() - stepped), 5 * error)
    assert np.abs(stepped).max() > 20 * error.max()


def test_distance_of_two_points_on_the_circle():
    step = 1e-3
    generator = np.random.default_rng(0)
    apart = generator.uniform(0.02, 0.35, 200)
    first = generator.uniform(size=200)
    pairs = torch.from_numpy(np.stack([first, (first + apart) % 1.0], 1)[..., None])
    options = {"n_bins": 2, "max_distance": 0.4, "width": 0.5}
    model = MaximumEntropyModel(
        (2, 1), features=[{"name": "pair_counts", **options}], step_size=step, n_chains=256, n_iterations=500,
        steps_per_iteration=6, learning_rate=0.2,
    ).fit(pairs, generator=seeded(5))  # fmt: skip
    grid, centres, width = np.arange(400) / 400 - 0.5, np.array([0.1, 0.3]), 0.1
    distance = np.abs(grid)
    bumps = np.exp(-0.5 * ((distance[:, None] - centres) / width) ** 2)
    slopes = -bumps * (distance[:, None] - centres) / width**2 * np.sign(grid)[:, None]

    def chain(theta):  # of the difference of the two, which moves twice as fast
        return GridChain(grid, 2 * step * (slopes @ theta), math.sqrt(4 * step), period=1.0)

    wanted = model.target[0].numpy()
    np.testing.assert_allclose(wanted, np.exp(-0.5 * ((apart[:, None] - centres) / width) ** 2).mean(0), rtol=1e-8)
    stepped = fsolve(lambda theta: chain(theta).mean(bumps) - wanted, np.zeros(2), xtol=1e-10)
    law = chain(stepped)
    error = multiplier_errors(law.covariance(bumps), law.long_run_covariance(bumps), steps_averaged(model))
    np.testing.assert_array_less(np.abs(model.multipliers[0].numpy() - stepped), 5 * error)
    assert np.abs(stepped).max() > 10 * error.max()


def hard_core(n, distance, seed=0):
    """Points of the torus thrown one after the other, those closer than ``distance`` to one that lies thrown again."""
    generator, kept = np.random.default_rng(seed), np.empty((0, 2))
    while len(kept) < n:
        offset = kept - (point := generator.uniform(size=(1, 2)))
        if (np.linalg.norm(offset - offset.round(), axis=1) >= distance).all():
            kept = np.concatenate([kept, point])
    return torch.from_numpy(kept)


def test_bound_keeps_multipliers_of_what_never_happens():
    """A hard core: no pair at short distances, so that its multiplier would grow without end."""
    points = hard_core(25, 0.12)
    features = [{"name": "pair_counts", "n_bins": 5, "max_distance": 0.3}]
    model = MaximumEntropyModel(  # the example has as good as none in the first bin
        (25, 2),
        features=features,
        bound=4.0,
        n_iterations=150,
        n_chains=4,
        steps_per_iteration=8,
        sample_steps=50,
    ).fit(points, generator=seeded(6))
    assert float(model.theta[0, 0]) == 4.0
    assert bool((model.theta.abs() <= 4.0).all())
    random = model.statistics(torch.rand(200, 25, 2, generator=seeded(7), dtype=torch.float64))[:, 0].mean()
    found = model.statistics(model.sample(8, generator=seeded(8)))
    assert float(found[:, 0].mean()) < 0.2 * float(random)
    x = model.sample(3, generator=seeded(9))
    assert bool(((x >= 0) & (x < 1)).all())


# --- classes


def test_classes_have_laws_of_their_own():
    fields = [field_of_spectrum(circular_spectrum_of_ar1(16, a)[1]) for a in (0.4, -0.4)]
    model = MaximumEntropyModel(
        (16,), context_dim=3, features=[{"name": "autocovariance", "max_lag": 1}], regularization=0.0,
        standardize=False, whiten=False, step_size=0.15, n_iterations=200, n_chains=32, steps_per_iteration=3,
        learning_rate=0.2,
        sample_steps=40,
    ).fit(torch.stack(fields), torch.tensor([0, 2]), generator=seeded(10))  # fmt: skip
    first, missing, last = model.multipliers.numpy()
    assert first[1] < -0.3 < 0.3 < last[1]
    assert not missing.any()
    labels = torch.tensor([0, 2] * 300)
    x = model.sample(len(labels), labels, seeded(11))
    lag = (x * x.roll(1, 1)).sum(1)
    assert float(lag[labels == 0].mean()) > 3 > -3 > float(lag[labels == 2].mean())
    assert max(model.mismatch(x, labels).values()) < 0.15
    assert model.sample(7, generator=seeded(1)).shape == (7, 16)
    with pytest.raises(ValueError, match="classes \\[1\\], which had no data"):
        model.sample(1, torch.tensor(1))
    with pytest.raises(ValueError, match="context must say which"):
        model.energy(x)


def test_energy_is_that_of_the_gaussian():
    model = gaussian_model(n_iterations=3)
    _, spectrum, _ = circular_spectrum_of_ar1(16, 0.4)
    model.fit(field_of_spectrum(spectrum), generator=seeded(1))
    theta = model.multipliers[0]
    x = torch.randn(5, 16, generator=seeded(2), dtype=torch.float64)
    exact = sum(theta[lag] * (x * x.roll(lag, 1)).sum(1) for lag in range(3))
    torch.testing.assert_close(model.energy(x), exact)
