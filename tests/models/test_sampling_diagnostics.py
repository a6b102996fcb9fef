"""Samples as ArviZ sees them."""

import sys

import numpy as np
import pytest
import torch

from cgm_models.sampling import HMC, MALA, ULA, Samples

pytestmark = pytest.mark.filterwarnings("ignore:.*ArviZ is undergoing:FutureWarning")
az = pytest.importorskip("arviz")


def drawn(positions):
    """Samples that hold ``positions`` (draws, chains, *event)."""
    samples = ULA(0.1).run(torch.zeros(positions.shape[1:]), lambda x: x.reshape(len(x), -1).square().sum(1), 1)
    energies = positions.reshape(*positions.shape[:2], -1).sum(2)
    return Samples(positions, energies, torch.ones(len(positions)), {}, samples.state)


def test_the_numbers_are_those_of_arviz_on_chains_by_draws():
    noise = torch.randn(300, 4, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    walk = noise.clone()
    for t in range(1, 300):
        walk[t] = 0.8 * walk[t - 1] + noise[t]
    walk[:, 0, 0, 0] += 3.0
    samples = drawn(walk)
    rhat, ess = samples.rhat(), samples.ess("tail")
    assert rhat.shape == ess.shape == (2, 3)
    for i in range(2):
        for j in range(3):
            by_chain = np.ascontiguousarray(walk[:, :, i, j].numpy().T)
            assert float(rhat[i, j]) == pytest.approx(float(az.rhat(by_chain)))
            assert float(ess[i, j]) == pytest.approx(float(az.ess(by_chain, method="tail")))
    assert rhat[0, 0] > 1.1
    # An autoregression of coefficient ρ is worth (1 − ρ)/(1 + ρ) of its draws.
    assert float(samples.ess("mean")[1, 1]) == pytest.approx(1200 * 0.2 / 1.8, rel=0.5)


def test_the_groups_of_the_inference_data():
    samples = HMC(0.5).run(torch.randn(3, 2), lambda x: 0.5 * x.square().sum(1), 20, warmup=5)
    found = samples.to_arviz("theta")
    assert found.posterior["theta"].dims[:2] == ("chain", "draw") and found.posterior["theta"].shape == (3, 20, 2)
    np.testing.assert_array_equal(found.posterior["theta"].values[1, 7], samples.positions[7, 1].numpy())
    np.testing.assert_array_equal(found.sample_stats["lp"].values, -samples.energies.numpy().T)
    np.testing.assert_array_equal(found.sample_stats["acceptance_rate"].values, samples.acceptance.numpy().T)
    assert found.sample_stats["diverging"].dtype == bool
    assert set(drawn(torch.randn(5, 2, 1)).to_arviz().sample_stats) == {"lp"}


@pytest.mark.filterwarnings("error")
def test_many_chains_of_few_draws_are_no_mistake():
    samples = drawn(torch.randn(4, 50, 1, generator=torch.Generator().manual_seed(3)))
    assert dict(samples.to_arviz().posterior.sizes) == {"chain": 50, "draw": 4, "x_dim_0": 1}
    assert samples.rhat().shape == samples.ess().shape == (1,)


@pytest.mark.parametrize("name", ["chain", "draw"])
def test_the_variable_is_not_called_like_a_dimension(name):
    with pytest.raises(ValueError, match=f"name must not be that of a dimension, chain or draw: got '{name}'"):
        drawn(torch.randn(4, 2, 1)).to_arviz(name)


def test_a_chain_that_mixes_has_an_rhat_near_one():
    start = 3.0 * torch.randn(8, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    samples = MALA(0.5).run(
        start, lambda x: 0.5 * x.square().sum(1), 400, warmup=100, generator=torch.Generator().manual_seed(2)
    )
    assert float(samples.rhat()) < 1.03
    assert 200 < float(samples.ess()) < 3200


def test_scalars_too_few_draws_and_a_missing_library(monkeypatch):
    assert drawn(torch.randn(10, 3)).rhat().shape == ()
    with pytest.raises(ValueError, match="rhat needs at least 2 chains and 4 draws: got 10 draws of 1 chains"):
        drawn(torch.randn(10, 1, 2)).rhat()
    with pytest.raises(ValueError, match="ess needs at least 4 draws"):
        drawn(torch.randn(3, 2, 2)).ess()
    monkeypatch.setitem(sys.modules, "arviz", None)
    with pytest.raises(ModuleNotFoundError, match=r"ArviZ: pip install 'arviz<1'"):
        drawn(torch.randn(10, 3)).rhat()
