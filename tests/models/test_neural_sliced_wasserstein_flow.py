"""The neural flow against closed forms and the particle flow, and what training, saving and resuming promise."""

import pytest
import scipy.stats
import torch

import cgm_models
from cgm_models.metrics import sliced_wasserstein
from cgm_models.training import Trainer
from cgm_models.transport import NeuralSlicedWassersteinFlow, particle_flow
from cgm_models.transport.neural_base import even_points

QUIET = {"tensorboard": False, "progress": False, "accelerator": "cpu"}
MEAN = torch.tensor([2.0, -1.0])
ROOT = torch.tensor([[1.5, 0.6], [0.6, 0.5]])  # symmetric and positive: the optimal map from N(0, I)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def gaussian(n, seed=0):
    return MEAN + torch.randn(n, 2, generator=seeded(seed)) @ ROOT


def small(event_shape=(2,), **changes):
    options = {
        "hidden_features": (16,),
        "n_flow_steps": 12,
        "n_particles": 64,
        "n_clouds": 3,
        "n_knots": 4,
        "steps_per_loss": 1,
        "n_points": 50,
    }
    torch.manual_seed(0)
    return NeuralSlicedWassersteinFlow(event_shape, **{**options, **changes})


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


# --- what is learned


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


# --- the pool


def test_classes_never_mix_in_the_pool():
    labels = torch.arange(600) % 3
    x = torch.tensor([0.0, 1.0, 5.0])[labels][:, None] + torch.zeros(600, 2)
    model = small(context_dim=3, n_flow_steps=30)
    model.loss(x, labels)
    pool = model.pool
    rows = pool.draw(200, 1.0)
    there = rows.position * model.scale + model.location
    assert torch.allclose(
        there, torch.tensor([0.0, 1.0, 5.0])[rows.context.argmax(1)][:, None].expand(-1, 2), atol=0.05
    )


def test_the_pool_is_bounded_and_forgets_the_oldest_cloud():
    model = small(steps_per_loss=5)
    for seed in range(30):
        model.loss(gaussian(40, seed))
    arrived, step, seen = model.pool.counts.tolist()
    assert (arrived, step) == (1 + 150 // 12, 150 % 12) and seen == 30 * 40 + 40
    kept = sum(b.numel() * b.element_size() for n, b in model.pool.named_buffers() if n != "counts")
    assert kept == model.pool.n_bytes()
    running = arrived % 3
    drawn = model.pool.draw(500, 0.5).start
    assert not (drawn[:, None] == model.pool.knots[0, running]).all(-1).any()
    assert len(drawn.unique(dim=0)) > 80  # of the 128 particles that arrived


def test_the_memory_holds_the_last_points():
    model = small()
    x = gaussian(150)
    model.initialize(x)
    standardised = (x - model.location) / model.scale
    assert torch.allclose(model.pool.memory.sort(0).values, standardised[-64:].sort(0).values, atol=1e-6)
    few = small()
    few.initialize(x[:10])
    assert len(few.pool.goal.unique(dim=0)) == 10


def test_directions_in_the_plane_are_spread_evenly():
    pool = small(n_projections=32).pool
    torch.manual_seed(0)
    drawn = [pool.directions(0).double() for _ in range(200)]
    for columns in drawn:
        assert torch.allclose(columns.norm(dim=0), torch.ones(32).double(), atol=1e-6)
        # The second moments are exact, the mean length of a projection nearly: its kinks are all there is to miss.
        assert torch.allclose(columns @ columns.T, 16 * torch.eye(2).double(), atol=1e-4)
        assert float(columns[0].abs().mean()) == pytest.approx(2 / torch.pi, abs=2e-3)
    angle = torch.stack([torch.atan2(columns[1, 0], columns[0, 0]) for columns in drawn])
    assert scipy.stats.kstest(angle.numpy() * 32 / torch.pi, "uniform").pvalue > 1e-4


def test_times_between_the_knots():
    pool = small(n_flow_steps=100, n_knots=4).pool
    assert pool.knot_steps == [6, 25, 56, 100]
    steps = [0, 3, 6, 25, 78, 100]
    assert [pool.w_of(k) for k in steps] == pytest.approx([0, 0.125, 0.25, 0.5, 0.875, 1.0])


def test_images_use_patches_and_constant_data_are_harmless():
    model = small((1, 4, 4), n_projections=16)
    assert model.pool.options.patch_sizes == (2, 1)
    assert model.loss(torch.rand(20, 1, 4, 4)).isfinite()
    assert model.loss(torch.ones(20, 1, 4, 4)).isfinite()
    assert model.sample(3).shape == (3, 1, 4, 4)
    constant = small()
    assert constant.loss(torch.ones(20, 2)).isfinite()


# --- even points


def test_even_points_are_normal_each_and_even_together():
    first = torch.cat([even_points(1, 3, seeded(seed)) for seed in range(1000)])
    for column in first.T:
        assert scipy.stats.kstest(column.numpy(), "norm").pvalue > 1e-4
    points = even_points(4096, 3, seeded(7))
    assert points.dtype == torch.float64
    assert points.mean(0).abs().max() < 2e-3  # 1/64 for independent ones
    assert (points.T @ points / 4096 - torch.eye(3)).abs().max() < 1e-2
    assert torch.equal(points, even_points(4096, 3, seeded(7)))
    assert not torch.equal(points, even_points(4096, 3, seeded(8)))


def test_independent_samples_where_they_are_asked_for():
    model = small(even_samples=False)
    model.initialize(gaussian(100))
    expected = torch.randn(300, 2, generator=seeded(4)) * model.scale + model.location
    torch.testing.assert_close(model.sample_base(300, seeded(4)), expected)


# --- samples, files, training


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


# --- errors


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"context_dim": -1}, "context_dim must be a whole number, at least 0: got -1"),
        ({"n_clouds": 1}, "n_clouds must be a whole number, at least 2: got 1"),
        ({"n_flow_steps": 0}, "n_flow_steps must be a whole number, at least 1: got 0"),
        ({"n_particles": 2.5}, "n_particles must be a whole number"),
        ({"n_projections": 0}, "n_projections must be a whole number"),
        ({"n_steps": 0}, "n_steps must be a whole number"),
        ({"step_size": -1.0}, "step_size must be positive and a finite number: got -1.0"),
        ({"context_scale": 0.0}, "context_scale must be positive and a finite number: got 0.0"),
        ({"n_points": 0}, "n_points must be a whole number, at least 1: got 0"),
        ({"law_after": -1}, "law_after must be a whole number, at least 0: got -1"),
        ({"regression_weight": -0.1}, "regression_weight must be a number, not negative: got -0.1"),
        ({"even_samples": 1}, "even_samples must be True or False: got 1"),
        ({"end_fraction": 1.5}, r"end_fraction must lie in \[0, 1\]: got 1.5"),
        ({"patch_sizes": [2]}, "patch_sizes need images"),
        ({"event_shape": (1, 4, 4), "patch_sizes": [0]}, "patch_sizes must be whole numbers"),
        ({"hidden_features": (0,)}, "hidden_features must hold positive whole numbers"),
        ({"activation": "sin"}, "activation must be one of"),
    ],
)
def test_wrong_options_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        small(**changes)


def test_wrong_input_is_named():
    model, labelled = small(), small(context_dim=3)
    with pytest.raises(ValueError, match=r"x must have shape \(n, 2\): got \(5, 3\)"):
        model.loss(torch.zeros(5, 3))
    with pytest.raises(TypeError, match=r"x must be a floating-point Tensor: got torch\.int64"):
        model.loss(torch.zeros(5, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="this flow has no context"):
        model.loss(torch.zeros(5, 2), torch.zeros(5))
    with pytest.raises(ValueError, match="n must be a whole number, not negative: got -1"):
        model.sample(-1)
    with pytest.raises(ValueError, match=r"time must lie in \[0, 6\], the times of the flow: got 7"):
        model.sample(2, time=7)
    with pytest.raises(ValueError, match=r"points must have shape \(n, 2\)"):
        model.transport(torch.zeros(2, 1))
    with pytest.raises(ValueError, match="this flow is conditional: context must be a Tensor of 3: got None"):
        labelled.sample(2)
    with pytest.raises(ValueError, match=r"context must have shape \(3,\) or \(5, 3\): got \(5, 2\)"):
        labelled.sample(5, torch.zeros(5, 2))
    with pytest.raises(ValueError, match="context must hold class labels from 0 to 2"):
        labelled.sample(2, torch.tensor([0, 3]))
