"""The chains of energy-based models and the buffer that keeps them."""

import pytest
import torch

from cgm_kernels import langevin_step
from cgm_kernels.langevin import noise_state
from cgm_models.ebm.chains import ChainOptions, run_chains
from cgm_models.ebm.replay import ReplayBuffer


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_a_chain_is_langevin_steps_with_one_state():
    precision = torch.tensor([2.0, 0.5])
    x = torch.randn(7, 2, generator=generator())
    options = ChainOptions(5, 0.1, "ula", 0.7, (-1.0, 1.5), 2.0)
    found = run_chains(lambda u: 0.5 * (precision * u * u).sum(1), x, options, generator(3))
    expected, state = x, noise_state(generator(3))
    for _ in range(5):
        expected = langevin_step(
            expected, precision * expected, 0.1, temperature=0.7, clamp=(-1.0, 1.5), max_grad_norm=2.0, state=state
        )
    assert torch.allclose(found, expected, atol=1e-6) and not torch.equal(found, x)
    assert found.min() >= -1.0 and found.max() <= 1.5


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_chains_of_mala_have_the_law(temperature):
    """Fourth and second moments of N(0, T s²), from a start that is off; a step this long biases ULA by a third."""
    n, s2 = 20_000, 0.5
    start = torch.zeros(n, 1)
    options = ChainOptions(40, 0.4, "mala", temperature)
    x = run_chains(lambda u: u.square().sum(1) / (2 * s2), start, options, generator())
    variance = temperature * s2
    assert abs(float(x.square().mean()) - variance) < 5 * variance * (2 / n) ** 0.5
    assert abs(float((x**4).mean()) - 3 * variance**2) < 5 * variance**2 * (96 / n) ** 0.5
    assert abs(float(x.mean())) < 5 * (variance / n) ** 0.5


def test_the_buffer_keeps_chains_and_their_contexts():
    torch.manual_seed(0)
    buffer, context = ReplayBuffer(10, (2,), 1), torch.arange(6.0)[:, None]
    starts = buffer.draw(6, 0.0, context)
    assert starts.slots.unique().numel() == 6 and torch.equal(starts.context, context)  # slots never used begin anew
    buffer.store(starts, 100.0 + context * torch.ones(2))
    again = buffer.draw(10, 0.0, torch.full((10, 1), 77.0))
    old = (again.slots[:, None] == starts.slots).any(1)
    assert torch.equal(again.points[old], 100.0 + again.context[old] * torch.ones(2))
    assert (again.context[~old] == 77.0).all() and (again.points[~old].abs() < 10).all()
    assert buffer.draw(50, 0.0, torch.zeros(50, 1)).points.shape == (10, 2)
    assert (buffer.draw(10, 1.0, torch.zeros(10, 1)).points.abs() < 10).all()


def test_a_chain_restarts_as_often_as_told():
    torch.manual_seed(0)
    buffer = ReplayBuffer(20_000, (1,), 0)
    starts = buffer.draw(20_000, 0.0)
    buffer.store(starts, torch.full((20_000, 1), 50.0))
    fresh = (buffer.draw(20_000, 0.05).points < 25).float().mean()
    assert abs(float(fresh) - 0.05) < 5 * (0.05 * 0.95 / 20_000) ** 0.5


def test_chains_that_are_not_finite_do_not_return():
    torch.manual_seed(0)
    buffer = ReplayBuffer(4, (2,), 0)
    starts = buffer.draw(4, 0.0)
    buffer.store(starts, torch.tensor([[1.0, 1.0], [torch.nan, 0.0], [torch.inf, 0.0], [2.0, 2.0]]))
    assert buffer.points.isfinite().all() and (buffer.age > 0).sum() == 2


def test_samples_begin_at_chains_of_their_context():
    torch.manual_seed(0)
    buffer = ReplayBuffer(8, (1,), 3)
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    starts = buffer.draw(8, 0.0, torch.eye(3)[labels])
    buffer.store(starts, 100.0 * (1 + labels[:, None]).float())
    found = buffer.sample(5, torch.eye(3)[torch.tensor([1, 0, 2, 1, 0])], generator())
    assert found[:, 0][[0, 1, 3, 4]].tolist() == [200.0, 100.0, 200.0, 100.0] and abs(float(found[2])) < 10
    assert (buffer.sample(5, torch.eye(3)[:1].expand(5, 3), generator(), from_noise=True).abs() < 10).all()
