"""What samples of the neural flow, its training, saving and resuming promise."""

import pytest
import torch

import cgm_models
from cgm_models.training import Trainer
from tests.support.neural_flow import QUIET, gaussian, seeded, small


def test_samples_are_those_of_the_generator():
    model = small()
    model.initialize(gaussian(100))
    assert model.sample(0).shape == (0, 2)
    assert torch.equal(model.sample(5000, generator=seeded(3)), model.sample(5000, generator=seeded(3)))
    torch.testing.assert_close(
        model.sample(5000, generator=seeded(3))[4000:],
        model.transport(model.sample_base(5000, seeded(3))[4000:]),
        rtol=1e-4,
        atol=1e-5,
    )
    double = small().double()
    double.initialize(gaussian(100).double())
    assert double.sample(3).dtype == torch.float64 and double.loss(gaussian(100).double()).dtype == torch.float64


def test_every_parameter_gets_a_gradient():
    model = small(context_dim=2, law_after=1)
    model.loss(gaussian(50), torch.arange(50) % 2)
    torch.nn.init.normal_(model.network.mlp.layers[-1].weight)  # it begins at zero
    model.loss(gaussian(50), torch.arange(50) % 2).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_saved_without_the_pool(tmp_path):
    model = small(context_dim=2)
    model.loss(gaussian(200), torch.arange(200) % 2)
    before = model.pool.knots.clone()
    model.save(tmp_path)
    assert torch.equal(model.pool.knots, before) and model.pool.started
    loaded = cgm_models.load(tmp_path)
    assert not loaded.pool.started and loaded.memory_bytes() == model.memory_bytes()
    assert (tmp_path / "weights.safetensors").stat().st_size < model.memory_bytes() + 8000
    context = torch.arange(30) % 2
    assert torch.equal(loaded.sample(30, context, seeded(1)), model.sample(30, context, seeded(1)))
    loaded.train().loss(gaussian(200), context=torch.arange(200) % 2)  # and it can be trained further


def test_further_training_keeps_the_mean_and_scale_that_the_network_learned_with(tmp_path):
    model, other = small(), 50.0 + 9.0 * gaussian(64, 2)
    Trainer(max_steps=3, batch_size=64, **QUIET).fit(model, gaussian(200))
    location, scale = model.location.clone(), model.scale.clone()
    model.save(tmp_path)

    loaded = cgm_models.load(tmp_path).train()
    loaded.loss(other)
    by_trainer = cgm_models.load(tmp_path)
    for each in (model, by_trainer):  # not saved, too
        Trainer(max_steps=2, batch_size=64, **QUIET).fit(each, other)
    for each in (model, loaded, by_trainer):
        assert torch.equal(each.location, location) and torch.equal(each.scale, scale)
        memory = each.pool.memory * scale + location
        torch.testing.assert_close(memory.sort(0).values, other.sort(0).values, rtol=1e-4, atol=1e-4)


def test_mean_and_scale_are_those_of_the_last_points_before_training():
    model = small()
    model.initialize(10.0 * gaussian(100, 1))
    x = gaussian(100)
    model.initialize(x)
    torch.testing.assert_close(model.location, x.mean(0))
    torch.testing.assert_close(model.scale, (x - x.mean(0)).square().mean().sqrt())


def test_the_state_dictionary_holds_the_pool():
    model, other = small(), small()
    for seed in range(3):
        model.loss(gaussian(40, seed))
    other.load_state_dict(model.state_dict())
    for each in (model, other):
        torch.manual_seed(5)
        each.value = each.loss(gaussian(40, 9))
    assert torch.equal(model.value, other.value) and torch.equal(model.pool.particles, other.pool.particles)
    with pytest.raises(RuntimeError, match=r"size mismatch for pool\.knots"):
        small(n_particles=65).load_state_dict(model.state_dict())


def test_a_resumed_training_ends_where_an_undisturbed_one_does(tmp_path):
    x, labels = gaussian(300), torch.arange(300) % 2
    options = {"batch_size": 32, "log_every": 5, "ema_decay": 0.9, "checkpoint_every": 7, **QUIET}
    whole, parts, again = (small(context_dim=2, law_after=10) for _ in range(3))
    Trainer(max_steps=24, **options).fit(whole, x, labels, x[:50], labels[:50], run=tmp_path / "whole")
    Trainer(max_steps=13, **options).fit(parts, x, labels, x[:50], labels[:50], run=tmp_path / "parts")
    Trainer(max_steps=24, **options).fit(again, x, labels, x[:50], labels[:50], run=tmp_path / "parts", resume=True)
    state, resumed = whole.state_dict(), again.state_dict()
    assert state.keys() == resumed.keys() and int(state["pool.counts"][0]) > 1
    assert all(torch.equal(state[name], resumed[name]) for name in state)


def test_half_precision_is_for_the_network_alone():
    model = small()
    Trainer(max_steps=3, batch_size=32, precision="bf16-mixed", **QUIET).fit(model, gaussian(100))
    assert model.pool.knots.dtype == torch.float32 and model.sample(10).isfinite().all()
