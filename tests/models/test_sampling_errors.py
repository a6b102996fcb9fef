"""Samplers among values that are not finite, and with bad arguments."""

import math

import pytest
import torch

from cgm_kernels.langevin.energies import GaussianEnergy
from cgm_models.sampling import (
    HMC,
    MALA,
    SGLD,
    ULA,
    AnnealedLangevin,
    EnergyGradient,
    MinibatchEnergy,
    TemperedLangevin,
    UnderdampedLangevin,
    geometric_ladder,
    polynomial_decay,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def start():
    return torch.randn(6, 2, generator=seeded(1), dtype=torch.float64)


def energy(x):
    return 0.25 * x.pow(4).sum(1) - torch.sin(x).sum(1)


def walled(value):
    """A normal law within |x| < 1.5, whose energy outside is ``value``."""
    return lambda x: torch.where(x.abs() < 1.5, 0.5 * x.square(), value + 0.0 * x)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("sampler", [MALA(1.0), HMC(0.7, 3), TemperedLangevin(0.5, (1.0, 3.0))])
def test_what_is_not_finite_is_never_accepted(sampler, value):
    samples = sampler.run(torch.zeros(500).double(), walled(value), 20, generator=seeded())
    assert (samples.positions.abs() < 1.5).all() and samples.energies.isfinite().all()
    assert (samples.positions.abs() > 1.2).any()
    assert samples.acceptance.isfinite().all() and (samples.acceptance == 0).any()


@pytest.mark.parametrize("sampler", [ULA(3.0), UnderdampedLangevin(3.0), SGLD(3.0)])
def test_samplers_that_reject_nothing_stop_where_the_chains_leave_the_numbers(sampler):
    with pytest.raises(FloatingPointError, match=rf"{type(sampler).__name__}: chains \[.*step_size"):
        sampler.run(torch.ones(4).double(), lambda x: x.square().square(), 500, generator=seeded())


def test_the_chains_that_left_the_numbers_are_told_by_number_whatever_the_replicas():
    sampler = TemperedLangevin(2.0, (1.0, 2.0, 4.0), adjusted=False)
    with pytest.raises(FloatingPointError, match=r"chains \[0, 1\] are not finite"):
        sampler.run(torch.ones(2, dtype=torch.float64), lambda x: x.square().square(), 100, generator=seeded())


def test_trajectories_that_diverge_are_marked():
    samples = HMC(1.8, 20, target_acceptance=None).run(10 * start(), lambda x: x.pow(4).sum(1), 3, generator=seeded())
    assert samples.statistics["diverging"].any()
    calm = HMC(0.1, 3).run(start(), energy, 3, generator=seeded())
    assert not calm.statistics["diverging"].any()


def test_a_gradient_alone_serves_the_samplers_that_reject_nothing():
    gradient = EnergyGradient(lambda x: x)
    for sampler in (ULA(0.1), UnderdampedLangevin(0.1), SGLD(0.1), AnnealedLangevin(0.1, temperatures=[1.0])):
        samples = sampler.run(start(), gradient, 4, generator=seeded())
        other = sampler.run(start(), lambda x: 0.5 * x.square().sum(1), 4, generator=seeded())
        torch.testing.assert_close(samples.positions, other.positions)
        assert samples.energies.isnan().all()
    for sampler in (MALA(0.1), HMC(0.1), TemperedLangevin(0.1, (1.0, 2.0))):
        with pytest.raises(ValueError, match="energy must give E"):
            sampler.run(start(), gradient, 1)
    with pytest.raises(ValueError, match="energy must give a gradient of the shape"):
        ULA(0.1).run(start(), EnergyGradient(lambda x: x[:1]), 1)


GOOD = start()
BAD_RUNS = [
    (dict(initial=[[0.0]]), TypeError, "initial must be a tensor or the state"),
    (dict(initial=GOOD.half()), TypeError, "initial must be float32 or float64: got torch.float16"),
    (dict(initial=torch.tensor(0.0)), ValueError, r"initial must be \(chains, \*event\)"),
    (dict(initial=GOOD[:0]), ValueError, "at least one chain"),
    (dict(initial=torch.full((3, 2), math.nan)), ValueError, r"initial must be finite: chains \[0, 1, 2\]"),
    (dict(energy=lambda x: x.sum()), ValueError, r"energy must return one number a chain, \(6,\).*shape \(\)"),
    (dict(energy=lambda x: x.sum(1, keepdim=True)), ValueError, r"energy must return one number.*\(6, 1\)"),
    (dict(energy=lambda x: 1.0), TypeError, "energy must return a tensor: got float"),
    (dict(energy=lambda x: torch.zeros(6)), ValueError, "energy must depend on x"),
    (dict(energy=lambda x: x.detach().sum(1)), ValueError, "energy must depend on x"),
    (dict(energy=lambda x: x.sum(1).long()), ValueError, "energy must return one number a chain.*int64"),
    (dict(energy=3), TypeError, "energy must be a callable"),
    (dict(energy=lambda x: x.sum(1) + math.inf), ValueError, r"energy must be finite at initial: chains \[0, 1"),
    (dict(energy=lambda x: (x * 0).sqrt().sum(1)), ValueError, "the gradient of energy must be finite"),
    (dict(n_steps=-1), ValueError, "n_steps must be at least 0"),
    (dict(n_steps=2.0), TypeError, "n_steps must be an int"),
    (dict(warmup=-1), ValueError, "warmup must be at least 0"),
    (dict(thin=0), ValueError, "thin must be at least 1"),
    (dict(context=[1.0]), TypeError, "context must be a Tensor"),
    (dict(generator=3), TypeError, "generator must be a torch.Generator"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD_RUNS)
def test_bad_arguments_of_a_run_are_named(change, error, message):
    arguments = {"initial": GOOD, "energy": energy, "n_steps": 2, **change}
    with pytest.raises(error, match=message):
        MALA(0.1).run(**arguments)


def test_a_state_belongs_to_its_sampler():
    samples = MALA(0.1).run(start(), energy, 1)
    with pytest.raises(ValueError, match="initial must be a state of HMC: got one of MALA"):
        HMC(0.1).run(samples.state, energy, 1)
    with pytest.raises(ValueError, match="generator must be None"):
        MALA(0.1).run(samples.state, energy, 1, generator=seeded())
    tempered = TemperedLangevin(0.1, (1.0, 2.0)).run(start(), energy, 1)
    with pytest.raises(ValueError, match="initial must have 5 replicas"):
        TemperedLangevin(0.1, (1.0, 2.0, 3.0, 4.0, 5.0)).run(tempered.state, energy, 1)


BAD_SAMPLERS = [
    (lambda: ULA(0.0), ValueError, "step_size must be positive"),
    (lambda: ULA("a"), TypeError, "step_size must be a number"),
    (lambda: ULA(math.inf), ValueError, "step_size must be finite"),
    (lambda: ULA(0.1, temperature=-1.0), ValueError, "temperature must not be negative"),
    (lambda: ULA(0.1, clamp=(1.0, 0.0)), ValueError, "clamp must have low <= high"),
    (lambda: ULA(0.1, max_grad_norm=0.0), ValueError, "max_grad_norm must be positive"),
    (lambda: MALA(0.1, temperature=0.0), ValueError, "temperature must be positive"),
    (lambda: MALA(0.1, target_acceptance=1.0), ValueError, "target_acceptance must lie between 0 and 1"),
    (lambda: HMC(0.1, 0), ValueError, "n_leapfrog must be at least 1"),
    (lambda: HMC(0.1, jitter=1.0), ValueError, "jitter must be less than 1"),
    (lambda: UnderdampedLangevin(0.1, 0.0), ValueError, "friction must be positive"),
    (lambda: AnnealedLangevin(0.1), ValueError, "noise_levels or temperatures"),
    (lambda: AnnealedLangevin(0.1, noise_levels=()), ValueError, "noise_levels must hold at least one"),
    (lambda: AnnealedLangevin(0.1, temperatures=[1.0, -1.0]), ValueError, r"temperatures\[1\] must be positive"),
    (lambda: AnnealedLangevin(0.1, noise_levels=[1.0], steps_per_level=0), ValueError, "steps_per_level"),
    (lambda: SGLD(lambda step: -1.0), ValueError, r"step_size\(0\) must be positive"),
    (lambda: TemperedLangevin(0.1, 3.0), TypeError, "temperatures must be a sequence"),
    (lambda: TemperedLangevin(0.1, (1.0,)), ValueError, "temperatures must be at least two"),
    (lambda: TemperedLangevin(0.1, (2.0, 1.0)), ValueError, "temperatures must be at least two, and rise"),
    (lambda: TemperedLangevin(0.1, (1.0, 2.0), swap_every=0), ValueError, "swap_every"),
    (lambda: geometric_ladder(0.5, 3), ValueError, "highest must be above lowest"),
    (lambda: EnergyGradient(3), TypeError, "function must be callable"),
    (lambda: polynomial_decay(0.1, power=-1.0), ValueError, "power must not be negative"),
    (lambda: MinibatchEnergy(energy, energy, (GOOD, GOOD[:2]), 2), ValueError, "data must be tensors of the same"),
    (lambda: MinibatchEnergy(energy, energy, GOOD, 0), ValueError, "batch_size must be at least 1"),
]


@pytest.mark.parametrize(("make", "error", "message"), BAD_SAMPLERS)
def test_bad_options_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_closed_form_has_no_noise_levels():
    sampler = AnnealedLangevin(0.1, noise_levels=[1.0])
    with pytest.raises(TypeError, match="energy must take sigma"):
        sampler.run(start(), GaussianEnergy(torch.zeros(2).double(), std=1.0), 1)


def test_ladders_are_geometric():
    assert geometric_ladder(8.0, 4) == pytest.approx((1.0, 2.0, 4.0, 8.0))
