"""Stochastic gradient Langevin dynamics on a conjugate model, of which everything is known."""

import math

import torch

from cgm_models.sampling import SGLD, MinibatchEnergy, polynomial_decay


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=1):
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def assert_mean(values, exact, sigmas=4.5):
    """The mean over the first dimension, of independent rows, within its standard error."""
    error = values.std(0) / math.sqrt(len(values))
    assert ((values.mean(0) - exact).abs() < sigmas * error + 1e-12).all(), (values.mean(0), exact, error)


def conjugate(n_data=50, tau=2.0, sigma=1.0):
    """A normal mean with a normal prior: its minibatch energy, the data, and the posterior's mean and precision."""
    y = 1.5 + sigma * randn(n_data, seed=5)
    precision = 1.0 / tau**2 + n_data / sigma**2
    mean = float(y.sum()) / sigma**2 / precision

    def energy(batch_size, **source):
        return MinibatchEnergy(
            lambda x: 0.5 * (x / tau) ** 2,
            lambda x, rows: 0.5 * ((x[:, None] - rows) / sigma).square().sum(1),
            y,
            batch_size,
            **source,
        )

    return energy, y, mean, precision


def test_minibatch_energies_are_right_on_average():
    make, y, _, _ = conjugate()
    energy, x = make(10, generator=seeded(4)), torch.tensor([0.3, 2.0], dtype=torch.float64)
    exact = 0.5 * (x / 2.0) ** 2 + 0.5 * (x[:, None] - y).square().sum(1)
    assert_mean(torch.stack([energy(x) for _ in range(2000)]), exact)
    again = make(10, generator=seeded(4))
    first = [again(x) for _ in range(3)]
    assert not torch.equal(first[0], first[1])
    assert torch.equal(make(10, noise=again.noise)(x), again(x))


def test_minibatches_continue_with_their_energy():
    make, *_ = conjugate()
    sampler, x = SGLD(0.001), torch.zeros(3).double()
    whole = sampler.run(x, make(5, generator=seeded(1)), 6, generator=seeded())
    energy = make(5, generator=seeded(1))
    first = sampler.run(x, energy, 2, generator=seeded())
    second = sampler.run(first.state, make(5, noise=energy.noise), 4)
    assert torch.equal(torch.cat((first.positions, second.positions)), whole.positions)


def test_sgld_has_the_posterior_mean_and_the_variance_of_its_noise():
    """With h fixed the error e = x − mean obeys e ← a e − h(N/n)ξ + √(2h)z, a = 1 − hλ, so that its law is known.

    All chains share the noise ξ of their minibatches: z alone spreads them about their mean, ξ moves the mean. Sums of
    such a sequence and of its squares have the correlation times (1 + a)/(1 − a) and (1 + a²)/(1 − a²).
    """
    make, y, mean, precision = conjugate()
    h, batch_size, n_steps, chains = 0.2 / precision, 10, 1500, 64
    start = mean + randn(chains) / math.sqrt(precision)
    energy = make(batch_size, generator=seeded(8))
    samples = SGLD(h).run(start, energy, n_steps, warmup=50, generator=seeded())
    a = 1.0 - h * precision
    apart = 2 * h / (1 - a**2)
    together = h**2 * len(y) ** 2 / batch_size * float(y.var(correction=0)) / (1 - a**2) + apart / chains
    moving, effective = samples.positions.mean(1), n_steps * (1 - a**2) / (1 + a**2)
    assert abs(float(moving.mean()) - mean) < 4.5 * math.sqrt(together / n_steps * (1 + a) / (1 - a))
    relative = float((moving - mean).square().mean()) / together
    assert abs(relative - 1.0) < 4.5 * math.sqrt(2.0 / effective) < 0.5
    relative = float(samples.positions.var(1).mean()) / apart
    assert abs(relative - 1.0) < 4.5 * math.sqrt(2.0 / effective / (chains - 1)) < 0.1


def test_sgld_with_shrinking_steps_and_weighted_draws():
    make, _, mean, precision = conjugate()
    schedule = polynomial_decay(0.5 / precision, offset=20.0, power=0.6)
    energy = make(25, generator=seeded(9))
    samples = SGLD(schedule).run(torch.zeros(64).double(), energy, 1000, generator=seeded())
    assert samples.step_size[0] == schedule(0) and samples.step_size[-1] == schedule(999)
    weights = samples.step_size / samples.step_size.sum()
    average = float((weights @ samples.positions).mean())
    assert abs(average - mean) < 5.0 * math.sqrt(2.0 / (precision**2 * float(samples.step_size.sum())))
