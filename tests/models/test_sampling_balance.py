"""Detailed balance, point by point: π(x) k(x → y) = π(y) k(y → x) for the moves that the samplers make."""

import math

import pytest
import torch
from torch.distributions import Independent, Normal

from cgm_kernels import langevin_step, normal
from cgm_kernels.langevin import noise_state
from cgm_models.sampling import HMC, MALA, State, Target, TemperedLangevin, mala, tempered
from cgm_models.sampling.hmc import leapfrog
from cgm_models.sampling.mala import mala_log_ratio

H, T = 0.35, 1.6


def energy(x):
    """Skewed, with different scales and a coupling; nothing in it is symmetric."""
    return 0.25 * x[:, 0] ** 4 + torch.exp(0.7 * x[:, 1]) - x[:, 1] + 0.8 * (x[:, 2] - torch.sin(x[:, 0])) ** 2


def randn(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def proposal_log_density(y, x, gradient, h, temperature):
    return Independent(Normal(x - h * gradient, (2 * h * temperature) ** 0.5), 1).log_prob(y)


def log_flow(log_ratio, x, y, step_size=H, temperature=T):
    """log π(x) q(x → y) a(x → y), a from the sampler's own ratio, all densities from torch.distributions."""
    (e_x, g_x), (e_y, g_y) = (Target(energy).evaluate(v) for v in (x, y))
    ratio = log_ratio(x, y, e_x, e_y, g_x, g_y, step_size, temperature)
    return -e_x / temperature + proposal_log_density(y, x, g_x, step_size, temperature) + ratio.clamp(max=0.0)


def swapped(x, y, e_x, e_y, g_x, g_y, h, temperature):
    """The classic bug: q(y | x)/q(x | y) where q(x | y)/q(y | x) belongs."""
    right = mala_log_ratio(x, y, e_x, e_y, g_x, g_y, h, temperature)
    energies = (e_x - e_y) / temperature
    return 2.0 * energies - right


def without_proposal(x, y, e_x, e_y, *rest):
    """The other one: no proposal terms at all."""
    return (e_x - e_y) / rest[-1]


def gap(log_ratio):
    x, y = randn(200, 3, seed=1), randn(200, 3, seed=2)
    return (log_flow(log_ratio, x, y) - log_flow(log_ratio, y, x)).abs()


def test_mala_is_in_detailed_balance():
    assert gap(mala_log_ratio).max() < 1e-11


@pytest.mark.parametrize("wrong", [swapped, without_proposal])
def test_the_check_sees_wrong_proposal_terms(wrong):
    assert (gap(wrong) > 0.05).double().mean() > 0.8


def test_the_log_ratio_is_that_of_the_densities_also_for_chains_of_different_steps():
    x, y = randn(50, 3, seed=3), randn(50, 3, seed=4)
    h, temperature = randn(50, seed=5).exp(), randn(50, seed=6).exp()
    (e_x, g_x), (e_y, g_y) = (Target(energy).evaluate(v) for v in (x, y))
    there = proposal_log_density(y, x, g_x, h[:, None], temperature[:, None])
    back = proposal_log_density(x, y, g_y, h[:, None], temperature[:, None])
    exact = (e_x - e_y) / temperature + back - there
    torch.testing.assert_close(mala_log_ratio(x, y, e_x, e_y, g_x, g_y, h, temperature), exact, rtol=1e-9, atol=1e-9)


def state_of(name, x, seed=0):
    return State(name, x.clone(), *Target(energy).evaluate(x), noise_state(torch.Generator().manual_seed(seed)))


def test_a_step_of_mala_accepts_by_that_ratio():
    x = randn(300, 3, seed=7)
    state, target = state_of("MALA", x), Target(energy)
    y = langevin_step(x, state.gradient, H, temperature=T, state=state.noise.clone())
    (e_x, g_x), (e_y, g_y) = (target.evaluate(v) for v in (x, y))
    MALA(H, temperature=T).step(state, target)
    ratio = mala_log_ratio(x, y, e_x, e_y, g_x, g_y, H, T)
    torch.testing.assert_close(state.statistics["acceptance"], ratio.clamp(max=0).exp())
    stayed = (state.position == x).all(1)
    torch.testing.assert_close(state.position, torch.where(stayed[:, None], x, y))
    torch.testing.assert_close(state.energy, energy(state.position))
    torch.testing.assert_close(state.gradient, target.evaluate(state.position)[1])
    assert 0 < int(stayed.sum()) < 300


def test_swapped_terms_change_what_mala_samples(monkeypatch):
    """The statistical side of the same bug: moments of a skewed law are off by far more than their error."""
    x = torch.distributions.Gumbel(0.0, 1.0)
    start = -torch.log(-torch.log(torch.rand(20_000, generator=torch.Generator().manual_seed(3), dtype=torch.float64)))
    deviations = []
    for ratio in (mala_log_ratio, swapped):
        monkeypatch.setattr(mala, "mala_log_ratio", ratio)
        end = MALA(1.0).run(start, x, 40, generator=torch.Generator().manual_seed(4)).positions[-1]
        deviations.append(abs(float(end.mean()) - 0.5772156649) / float(start.std()) * math.sqrt(len(start)))
    assert deviations[0] < 4.5 and deviations[1] > 20.0


@pytest.mark.parametrize("n_steps", [1, 7])
def test_the_leapfrog_is_its_own_inverse_and_keeps_volumes(n_steps):
    target, x, p = Target(energy), randn(40, 3, seed=8), randn(40, 3, seed=9)

    def flow(x, p):
        y, q, _, _ = leapfrog(target, x, p, target.evaluate(x)[1], 0.2, n_steps)
        return y, q

    y, q = flow(x, p)
    back, momentum = flow(y, -q)
    torch.testing.assert_close(back, x, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(momentum, -p, rtol=1e-10, atol=1e-10)
    columns, delta = [], 1e-5
    for i in range(6):
        shift = torch.zeros(6, dtype=torch.float64)
        shift[i] = delta
        plus, minus = (torch.cat(flow(x + s * shift[:3], p + s * shift[3:]), dim=1) for s in (1, -1))
        columns.append((plus - minus) / (2 * delta))
    volume = torch.linalg.det(torch.stack(columns, dim=2))
    torch.testing.assert_close(volume, torch.ones(40).double(), rtol=1e-6, atol=0)


def test_hmc_is_in_detailed_balance():
    """π(x, p) a = π(y, −q) a′ for (y, q) the end of the trajectory, volumes being kept; a from the step itself."""
    x = randn(200, 3, seed=10)
    sampler, target, state = HMC(0.45, 4, temperature=T), Target(energy), state_of("HMC", x)
    p = math.sqrt(T) * normal(x.shape, state=state.noise.clone(), dtype=torch.float64)
    y, q, _, _ = leapfrog(target, x, p, state.gradient, 0.45, 4)
    sampler.step(state, target)
    there = state.statistics["acceptance"]

    def log_joint(x, p):
        return -(energy(x) + 0.5 * p.square().sum(1)) / T

    back = (log_joint(x, p) - log_joint(y, q)).clamp(max=0.0).exp()
    forward, reverse = (log_joint(x, p) + there.log(), log_joint(y, q) + back.log())
    torch.testing.assert_close(forward, reverse, rtol=1e-10, atol=1e-10)
    wrong = log_joint(x, p) + back.log() - log_joint(y, q) - there.log()
    assert wrong.abs().max() > 0.1
    assert (there < 1).any() and (back < 1).any()


def test_exchanges_are_in_detailed_balance():
    """The ratio of a swap is that of the joint laws, and each pair moves as a whole."""
    ladder = (0.7, 1.5, 4.0)
    sampler, x = TemperedLangevin(0.1, ladder), randn(3 * 50, 3, seed=11)
    state = state_of("TemperedLangevin", x)
    sampler.prepare(state)
    ratio = sampler._log_ratios(state)
    levels = x.view(3, 50, 3)
    for i in (0, 1):
        before = -energy(levels[i]) / ladder[i] - energy(levels[i + 1]) / ladder[i + 1]
        after = -energy(levels[i + 1]) / ladder[i] - energy(levels[i]) / ladder[i + 1]
        torch.testing.assert_close(ratio[i], after - before)
    for first in (0, 1):
        state = state_of("TemperedLangevin", x)
        tempered.exchange(state, ratio, first)
        moved = (state.position.view(3, 50, 3) != levels).all(2)
        assert torch.equal(moved[first], moved[first + 1]) and 0 < int(moved[first].sum()) < 50
        assert not moved[2 - 2 * first].any()
        swap = torch.where(moved[first][:, None], levels[first + 1], levels[first])
        assert torch.equal(state.position.view(3, 50, 3)[first], swap)
        torch.testing.assert_close(state.energy, energy(state.position))
        torch.testing.assert_close(state.gradient, Target(energy).evaluate(state.position)[1])
