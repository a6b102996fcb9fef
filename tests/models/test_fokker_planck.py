"""The check tool: it passes what is known in closed form, to the error of its steps, and sees what is wrong."""

import math

import pytest
import torch

from cgm_models import data
from cgm_models.cnf import FFJORD, OTFlow
from cgm_models.cnf.fokker_planck import LinearGaussian, carried_log_prob, histogram_residuals, trajectory_residuals
from cgm_models.cnf.probability_flow import simulate_ode


def linear():
    matrix = torch.tensor([[0.3, -1.2], [0.8, -0.5]], dtype=torch.float64)
    covariance = torch.tensor([[1.0, 0.4], [0.4, 0.5]], dtype=torch.float64)
    offset, mean = torch.tensor([0.5, -1.0], dtype=torch.float64), torch.tensor([-0.3, 0.2], dtype=torch.float64)
    return LinearGaussian(matrix, offset, mean, covariance)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def test_the_law_of_a_linear_field_solves_the_moment_equations():
    """dm/dt = A m + b and dS/dt = A S + S Aᵀ, by differences of the closed form."""
    flow, t, h = linear(), 0.7, 1e-5
    before, at, after = flow.law(t - h), flow.law(t), flow.law(t + h)
    torch.testing.assert_close(
        (after.mean - before.mean) / (2 * h), flow.velocity(t, at.mean[None])[0], rtol=1e-6, atol=1e-8
    )
    change = (after.covariance_matrix - before.covariance_matrix) / (2 * h)
    product = flow.matrix @ at.covariance_matrix
    torch.testing.assert_close(change, product + product.mT, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("known", [True, False])
def test_a_linear_field_carries_its_gaussian(known):
    flow = linear()
    x = flow.sample(500, seeded(0))
    divergence = flow.divergence if known else None
    rows = trajectory_residuals(flow.velocity, flow.log_prob, x, [0.0, 0.3, 1.0, 1.5], divergence=divergence)
    assert [(row.start, row.end) for row in rows] == [(0.0, 0.3), (0.3, 1.0), (1.0, 1.5)]
    for row in rows:
        # log p changes by −tr A a unit of time, for every point.
        assert row.scale == pytest.approx(0.2, rel=1e-6)
        assert row.largest < 1e-6 and abs(row.mean) < 1e-7
    backwards = trajectory_residuals(flow.velocity, flow.log_prob, flow.law(1.0).sample((50,)), [1.0, 0.0])
    assert backwards[0].largest < 1e-6


def test_a_wrong_field_or_a_wrong_divergence_is_seen():
    flow = linear()
    x = flow.sample(500, seeded(0))
    (row,) = trajectory_residuals(
        flow.velocity, flow.log_prob, x, [0.0, 0.5], divergence=lambda t, x: x.new_zeros(len(x))
    )
    assert row.mean == pytest.approx(0.2, rel=1e-6)  # what the trace would have been, the other way round
    (row,) = trajectory_residuals(lambda t, x: 1.1 * flow.velocity(t, x), flow.log_prob, x, [0.0, 0.5])
    assert row.largest > 0.05 and row.standard_error > 0.0


@pytest.mark.parametrize("by_row", [False, True])
def test_a_translation_carries_any_density(by_row):
    """The divergence of a field that does not depend on x is 0, though it has no graph to differentiate."""
    flow = linear()
    offset = torch.randn(7 if by_row else 1, 2, generator=seeded(4), dtype=torch.float64).expand(7, 2)
    x = flow.sample(7, seeded(0))
    (row,) = trajectory_residuals(lambda t, x: offset, lambda t, x: flow.log_prob(0.0, x - t * offset), x, [0.0, 1.0])
    assert row.largest < 1e-12 and row.scale < 1e-12
    carried = carried_log_prob(lambda t, x: offset, lambda z: flow.log_prob(0.0, z), x, 2.0)
    torch.testing.assert_close(carried, flow.log_prob(0.0, x - 2.0 * offset))


@pytest.mark.parametrize("learnt", [False, True])
def test_a_field_that_hides_its_graph_is_no_translation(learnt):
    flow, factor = linear(), torch.ones((), dtype=torch.float64, requires_grad=learnt)
    x = flow.sample(5, seeded(0))

    def carried(**options):
        return carried_log_prob(
            lambda t, x: factor * flow.velocity(t, x.detach()), lambda z: flow.log_prob(0.0, z), x, 1.0, **options
        )

    with pytest.raises(ValueError, match="velocity must be differentiable in x, or divergence given"):
        carried()
    torch.testing.assert_close(carried(divergence=flow.divergence), flow.log_prob(1.0, x), rtol=1e-6, atol=1e-6)


def test_the_density_is_carried_to_any_point():
    flow = linear()
    x = torch.randn(50, 2, generator=seeded(1), dtype=torch.float64)
    got = carried_log_prob(flow.velocity, lambda z: flow.log_prob(0.0, z), x, 1.2)
    torch.testing.assert_close(got, flow.log_prob(1.2, x), rtol=1e-6, atol=1e-6)


def test_a_histogram_agrees_with_the_carried_density():
    """A field that is not linear, on 40,000 points: the counts are those of the density within their errors."""

    def velocity(t, x):
        return torch.stack((torch.sin(x[:, 1] + t), torch.tanh(x[:, 0]) - 0.3 * x[:, 1]), 1)

    normal = torch.distributions.Normal(0.0, 1.0)
    points = torch.randn(40_000, 2, generator=seeded(2), dtype=torch.float64)
    (row,) = trajectory_residuals(
        velocity,
        lambda t, x: carried_log_prob(velocity, lambda z: normal.log_prob(z).sum(1), x, t),
        points[:200],
        [0.0, 0.6],
    )
    assert row.largest < 1e-5
    moved = simulate_ode(velocity, points, (0.0, 0.8), steps_between=10)[1]
    limits = ((-4.5, 4.5), (-4.5, 4.5))

    def density(x):
        return carried_log_prob(velocity, lambda z: normal.log_prob(z).sum(1), x, 0.8, n_steps=10)

    found = histogram_residuals(density, moved, limits, bins=20)
    assert found.mass == pytest.approx(1.0, abs=1e-3)
    assert found.p_value > 1e-4
    assert float(found.scores.abs().max()) < 5.0
    assert found.degrees > 80 and found.counts.sum() <= 40_000
    wrong = histogram_residuals(lambda x: normal.log_prob(x).sum(1), moved, limits, bins=20)
    assert wrong.p_value < 1e-6


@pytest.mark.parametrize("kind", [OTFlow, FFJORD])
def test_samples_of_a_flow_are_spread_as_its_density_says(kind):
    torch.manual_seed(0)
    options = {"width": 16} if kind is OTFlow else {"hidden_features": (16,)}
    flow = kind(dim=2, **options).eval()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.mul_(0.4).add_(0.2 * torch.randn_like(parameter))
    points = flow.sample(20_000, generator=seeded(3))
    low, high = points.amin(0), points.amax(0)
    limits = tuple((float(a) - 0.5, float(b) + 0.5) for a, b in zip(low, high, strict=True))
    found = histogram_residuals(flow.log_prob, points, limits, bins=16)
    assert found.mass == pytest.approx(1.0, abs=1e-2)
    assert found.p_value > 1e-4


def test_the_histogram_of_a_known_density():
    law = data.density("8gaussians")
    found = histogram_residuals(law.log_prob, law.sample(50_000, seeded(0)), law.extent, bins=24)
    assert found.mass == pytest.approx(1.0, abs=1e-4)
    assert found.p_value > 1e-4
    assert math.isclose(float(found.expected.sum()), 50_000 * found.mass, rel_tol=1e-9)


@pytest.mark.parametrize("n_cells", [3, 1])
def test_the_least_number_of_points_of_a_histogram(n_cells):
    """Of a uniform density each cell expects n / 9; where there is one cell in the box, the rest is the other."""

    def uniform(x):
        return torch.where(((x > 0.0) & (x < 3.0)).all(1), -math.log(9.0), -math.inf)

    def residuals(n):
        points = 3.0 * torch.rand(n, 2, generator=seeded(5))
        return histogram_residuals(uniform, points, ((0.0, n_cells), (0.0, n_cells)), bins=n_cells)

    assert residuals(91).degrees == (8 if n_cells == 3 else 1) and residuals(91).p_value > 1e-4
    with pytest.raises(ValueError, match=r"points must be at least 9[01], for two cells to expect 10 of them: got 80"):
        residuals(80)


def test_errors_name_the_argument():
    for times in ([0.0, 0.0], [0.0, 1.0, 1.0], [0.0, 1.0, 0.5], [0.0, math.nan], [0.0], []):
        with pytest.raises(ValueError, match="times must be increasing or decreasing, at least two"):
            trajectory_residuals(lambda t, x: -x, lambda t, x: x.sum(1), torch.zeros(3, 2), times)
    square = ((0, 1), (0, 1))
    with pytest.raises(ValueError, match=r"points must be at least 10000000000000, .* got 50"):
        histogram_residuals(lambda x: x[:, 0] - 1e4, torch.zeros(50, 2), square)
    with pytest.raises(ValueError, match=r"log_prob must not be NaN or \+inf"):
        histogram_residuals(lambda x: math.nan * x[:, 0], torch.zeros(50, 2), square)
    with pytest.raises(ValueError, match=r"points must have shape \(n, 2\)"):
        histogram_residuals(lambda x: x[:, 0], torch.zeros(3, 3), ((0, 1), (0, 1)))
    with pytest.raises(ValueError, match="limits must be"):
        histogram_residuals(lambda x: x[:, 0], torch.zeros(3, 2), ((1, 0), (0, 1)))
    with pytest.raises(ValueError, match="matrix, offset, mean and covariance"):
        LinearGaussian(torch.eye(2), torch.zeros(3), torch.zeros(2), torch.eye(2))
