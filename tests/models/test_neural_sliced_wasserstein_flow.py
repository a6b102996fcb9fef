"""The neural flow against closed forms and the particle flow."""

import pytest
import torch

from cgm_models.metrics import sliced_wasserstein
from cgm_models.training import Trainer
from cgm_models.transport import NeuralSlicedWassersteinFlow, particle_flow
from tests.support.neural_flow import MEAN, QUIET, ROOT, gaussian, seeded, small


def trained(x, context=None, *, steps=300, **changes):
    options = {"hidden_features": (32, 32), "n_flow_steps": 60, "n_particles": 1024, "n_clouds": 6}
    options |= {"n_points": 256, "law_after": 200}
    torch.manual_seed(0)
    model = NeuralSlicedWassersteinFlow(tuple(x.shape[1:]), **{**options, **changes})
    trainer = Trainer(max_steps=steps, batch_size=256, lr=1e-2, schedule="one-cycle", **QUIET)
    trainer.fit(model, x, context)
    return model


@pytest.fixture(scope="module")
def of_gaussian():
    return trained(gaussian(8000, 1), step_size=0.5, n_projections=32)


def test_the_optimal_map_between_gaussians(of_gaussian):
    # Covariances that commute stay so along the flow: its end is the optimal map, mean + root · z.
    base = of_gaussian.sample_base(4000, seeded(2))
    z = (base - of_gaussian.location) / of_gaussian.scale
    error = (of_gaussian.transport(base) - (MEAN + z @ ROOT)).square().mean().sqrt()
    assert error < 0.08  # the points themselves vary by 1.2


def test_any_time_of_the_flow_is_where_the_particles_are(of_gaussian):
    model, target = of_gaussian, gaussian(4000, 3)
    base = model.sample_base(4000, seeded(4))
    h = model.pool.options.step_size
    for steps in (3, 7, 20, 43):
        there = (target - model.location) / model.scale
        options = {"n_steps": steps, "step_size": h, "n_projections": 64, "generator": seeded(5)}
        particles = particle_flow((base - model.location) / model.scale, there, **options)
        ours = model.transport(base, time=steps * h)
        error = (ours - (particles * model.scale + model.location)).square().mean().sqrt()
        assert error < 0.2, steps
        assert sliced_wasserstein(ours, particles * model.scale + model.location) < 0.12, steps


def test_time_zero_is_the_base_and_the_last_one_the_default(of_gaussian):
    base = of_gaussian.sample_base(500, seeded(6))
    path = of_gaussian.trajectory(base, [0.0, of_gaussian.end_time])
    assert torch.allclose(path[0], base, atol=1e-5)
    assert torch.equal(path[1], of_gaussian.transport(base))


def test_the_second_stage_brings_the_law_closer():
    # The map to two places jumps, and each cloud jumps elsewhere: the regression alone fills the gap between them.
    x = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])[torch.arange(2000) % 2] + 0.3 * torch.randn(
        2000, 2, generator=seeded(1)
    )
    options = {"n_projections": 4, "n_particles": 512, "n_clouds": 3, "n_points": 512}
    blurred, sharp = (trained(x, law_after=calls, **options) for calls in (None, 100))
    assert int(sharp.n_losses) == 300
    far, near = (sliced_wasserstein(model.sample(4000, generator=seeded(2)), x) for model in (blurred, sharp))
    assert near < 0.85 * far


def test_several_steps_for_one_sample():
    model = small(n_steps=3, law_after=0)
    model.loss(gaussian(100))
    torch.nn.init.normal_(model.network.mlp.layers[-1].weight)
    z = model.sample_base(20, seeded(1))
    moved = (z - model.location) / model.scale
    for k in range(3):
        features = torch.tensor([[0.0, k / 3]])
        moved = moved + model.network(moved, features) / 3
    torch.testing.assert_close(model.transport(z), moved * model.scale + model.location)


def test_the_held_out_loss_is_the_squared_distance(of_gaussian):
    x, shift = gaussian(2000, 7), torch.tensor([30.0, 40.0])
    with torch.no_grad():
        assert of_gaussian.loss(x) < 0.03
        assert float(of_gaussian.loss(x + shift)) == pytest.approx(50.0**2 / 2, rel=0.25)


def test_conditional_on_a_number():
    c = torch.randn(8000, 1, generator=seeded(8))
    x = torch.cat((2.0 * c, -c), 1) + 0.3 * torch.randn(8000, 2, generator=seeded(9))
    model = trained(x, c, context_dim=1, steps=400, step_size=2.0, n_particles=2048)
    for value in (-1.0, 0.5):
        samples = model.sample(2000, torch.tensor([value]), seeded(10))
        assert torch.allclose(samples.mean(0), torch.tensor([2.0 * value, -value]), atol=0.12)
        assert torch.allclose(samples.std(0), torch.tensor([0.3, 0.3]), atol=0.1)


def test_conditional_on_labels():
    labels = torch.arange(6000) % 3
    places = torch.tensor([[0.0, 2.0], [2.0, 0.0], [-2.0, -1.0]])
    x = places[labels] + 0.2 * torch.randn(6000, 2, generator=seeded(11))
    model = trained(x, labels, context_dim=3, step_size=1.0)
    samples = model.sample(900, torch.arange(900) % 3, seeded(12))
    for label, place in enumerate(places):
        mine = samples[label::3]
        assert torch.allclose(mine.mean(0), place, atol=0.1) and torch.allclose(
            mine.std(0), torch.tensor(0.2), atol=0.1
        )
    one_hot = torch.eye(3)[torch.arange(900) % 3]
    assert torch.equal(model.sample(900, one_hot, seeded(12)), samples)
    assert torch.equal(model.sample(4, torch.tensor(1), seeded(1)), model.sample(4, torch.eye(3)[1], seeded(1)))
