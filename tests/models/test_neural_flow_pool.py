"""The particles that the neural flow learns from, and the base points of its samples."""

import pytest
import scipy.stats
import torch

from cgm_models.transport.neural_base import even_points
from tests.support.neural_flow import gaussian, seeded, small


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
