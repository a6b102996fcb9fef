"""Of which data an activation norm takes its statistics, and when."""

import copy

import torch

from cgm_models.flows.actnorm import ActNorm
from tests.support.flows import normal


def test_actnorm_takes_mean_and_variance_of_the_first_training_batch():
    norm = ActNorm(3).double()
    x = 5.0 + 2.0 * normal(50, 3, 2, 2)
    assert torch.equal(norm.eval().inverse(x)[0], x), "it must wait for training"
    z, _ = norm.train().inverse(x)
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(3).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(z.var((0, 2, 3), unbiased=False), torch.ones(3).double(), rtol=0, atol=1e-9)
    state = copy.deepcopy(norm.state_dict())
    norm.inverse(x + 100.0)
    assert all(torch.equal(state[name], value) for name, value in norm.state_dict().items())


def test_actnorm_stays_initialised_after_loading():
    norm = ActNorm(2).double()
    norm.inverse(3.0 + normal(20, 2))
    again = ActNorm(2).double()
    again.load_state_dict(norm.state_dict())
    again.train().inverse(50.0 + normal(20, 2))
    assert torch.equal(again.shift, norm.shift)
    fresh = ActNorm(2).double()
    again.load_state_dict(fresh.state_dict())
    again.inverse(50.0 + normal(20, 2))
    assert (again.shift > 40.0).all(), "an uninitialised state must be initialised again"


def test_actnorm_takes_the_statistics_of_all_processes(monkeypatch):
    mine, theirs = 1.0 + normal(30, 2), -2.0 + 3.0 * normal(30, 2, seed=1)

    def all_reduce(statistics):
        mean = theirs.mean(0)
        statistics += torch.stack((mean, theirs.var(0, unbiased=False), mean.square()))

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    norm = ActNorm(2).double()
    norm.inverse(mine)
    together = torch.cat((mine, theirs))
    torch.testing.assert_close(norm.shift.detach(), together.mean(0))
    torch.testing.assert_close(norm.log_scale.detach().exp(), together.std(0, unbiased=False))


def test_actnorm_with_a_constant_channel_stays_finite():
    norm = ActNorm(2)
    z, log_det = norm.inverse(torch.ones(8, 2))
    assert z.isfinite().all() and log_det.isfinite().all()
