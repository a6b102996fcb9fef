"""Counts: whole numbers of any type are taken, here and in configurations, and what is none is refused by name."""

import numpy as np
import pytest
import torch

import cgm_models
from cgm_models import cnf, metrics, sampling
from cgm_models.data import density, load
from cgm_models.ebm import EnergyModel
from cgm_models.flows import RealNVP
from cgm_models.options import check_whole
from cgm_models.training import Trainer

ANY_TYPE = [np.int64, np.uint8, torch.tensor]


def seeded():
    return torch.Generator().manual_seed(0)


def normal(x):
    return -0.5 * x.square().sum(1)


def paths(flow):
    return next(module.trajectory for module in flow.modules() if hasattr(module, "trajectory"))


x = torch.randn(12, 2, generator=seeded())
flow, images = RealNVP(dim=2, n_layers=2), RealNVP(event_shape=(1, 2, 2), n_levels=4, n_layers=2)
continuous, energies = cnf.FFJORD(dim=2, hidden_features=(4,)), EnergyModel(dim=2, hidden_features=(4,))
spring = cnf.HamiltonianFlow(dim=2, width=4)
BOX = ((-1.0, 1.0), (-1.0, 1.0))

CALLS = {
    "reverse_kl": lambda n: flow.reverse_kl(normal, n, generator=seeded()),
    "sample": lambda n: flow.sample(n, generator=seeded()),
    "sample_and_log_prob": lambda n: flow.sample_and_log_prob(n, generator=seeded())[1],
    "interpolate": lambda n: flow.interpolate(x, x + 1, n),
    "bits_per_dim": lambda n: images.bits_per_dim(torch.zeros(3, 1, 2, 2), n_draws=n, generator=seeded()),
    "trajectory": lambda n: paths(continuous)(x, n),
    "trajectory of a Hamiltonian flow": lambda n: paths(spring)(x, n),
    "mass_in_the_plane": lambda n: cnf.mass_in_the_plane(continuous, BOX, n=n),
    "simulate_sde": lambda n: cnf.probability_flow.simulate_sde(
        lambda t, x: -x, 1.0, x, [0.0, 0.1], steps_between=n, generator=seeded()
    ),
    "simulate_ode": lambda n: cnf.probability_flow.simulate_ode(lambda t, x: -x, x, [0.0, 0.1], steps_between=n),
    "sample of energies": lambda n: energies.sample(2, n_steps=n, start="noise", generator=seeded()),
    "log_partition": lambda n: energies.log_partition(n_chains=n, n_temperatures=8, generator=seeded()).value,
    "precision_recall": lambda n: metrics.precision_recall(x, x + 1, k=n).precision,
    "density_coverage": lambda n: metrics.density_coverage(x, x + 1, k=n).density,
    "energy_test": lambda n: metrics.energy_test(x, x + 1, n_permutations=n, generator=seeded()).p_value,
    "run of a sampler": lambda n: sampling.ULA(0.1).run(x, normal, n, generator=seeded()).positions,
    "warmup of a sampler": lambda n: sampling.ULA(0.1).run(x, normal, 1, warmup=n, generator=seeded()).positions,
    "geometric_ladder": lambda n: sampling.geometric_ladder(8.0, n),
    "density": lambda n: density("8gaussians").sample(n, seeded()),
    "load": lambda n: load("moons", n=n).x,
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("kind", ANY_TYPE, ids=lambda kind: kind.__name__)
def test_counts_of_any_type(kind, name):
    call = CALLS[name]
    torch.testing.assert_close(call(kind(4)), call(4), rtol=0, atol=0)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("bad", [True, np.True_, 2.0, "4", torch.tensor(True), torch.tensor([4])], ids=repr)
def test_what_is_no_count_is_refused(bad, name):
    with pytest.raises((TypeError, ValueError), match=r"must be (a whole number|an int)"):
        CALLS[name](bad)


def test_a_checked_count_is_an_int_that_does_not_wrap():
    n = check_whole("n", np.uint8(3), 0)
    assert type(n) is int and n - 5 == -2


def test_configurations_hold_ints(tmp_path):
    model = RealNVP(event_shape=(np.int64(3),), n_layers=np.uint8(2), hidden_features=(np.int32(4), torch.tensor(5)))
    assert model.config["hidden_features"] == [4, 5] and model.config["event_shape"] == [3]
    assert all(type(size) is int for size in (*model.event_shape, model.config["n_layers"]))
    model.save(tmp_path)
    assert cgm_models.load(tmp_path).config == model.config
    for wrong in ({"n_layers": True}, {"hidden_features": (True,)}, {"hidden_features": (2.0,)}):
        with pytest.raises(ValueError, match=r"must (be a|hold positive) whole number"):
            RealNVP(dim=3, **wrong)


def test_options_are_kept_as_ints():
    assert type(Trainer(max_steps=np.int64(3)).max_steps) is type(cnf.Solver(n_steps=np.int64(3)).n_steps) is int
