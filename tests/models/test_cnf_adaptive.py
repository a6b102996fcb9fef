"""dopri5: its coefficients, its steps, and what it cannot solve."""

import math

import pytest
import torch
import torchdiffeq

from cgm_models.cnf import PerceptronField, Solver, VectorField, solve
from cgm_models.cnf.adaptive import _ERROR, DOPRI5, hardest_row
from tests.support.cnf import LinearField, Reads, moved


def rows(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def perceptron():
    return moved(PerceptronField(3, hidden_features=(8, 8), time="concat").double(), 0.3)


class Recorded(VectorField):
    """dx/dt = rate(t) x, and the times it was asked for."""

    def __init__(self, rate):
        super().__init__()
        self.rate, self.times = rate, []

    def forward(self, t, x, context=None):
        self.times.append(float(t))
        return self.rate(t) * x


def elementary(weights, order):
    """Each Σ of products of a and c that is a condition of the order, beside what it must be (Hairer, Tables II.2)."""
    b, c = (torch.tensor(values, dtype=torch.float64) for values in (weights, DOPRI5.nodes))
    a = torch.zeros(len(b), len(b), dtype=torch.float64)
    for row, values in enumerate(DOPRI5.matrix):
        a[row, : len(values)] = torch.tensor(values, dtype=torch.float64)
    conditions = {
        1: [(b.sum(), 1.0)],
        2: [(b @ c, 1 / 2)],
        3: [(b @ c**2, 1 / 3), (b @ a @ c, 1 / 6)],
        4: [(b @ c**3, 1 / 4), ((b * c) @ a @ c, 1 / 8), (b @ a @ c**2, 1 / 12), (b @ a @ a @ c, 1 / 24)],
        5: [
            (b @ c**4, 1 / 5), ((b * c**2) @ a @ c, 1 / 10), ((b * c) @ a @ c**2, 1 / 15),
            ((b * c) @ a @ a @ c, 1 / 30), (b @ (a @ c) ** 2, 1 / 20), (b @ a @ c**3, 1 / 20),
            (b @ a @ (c * (a @ c)), 1 / 40), (b @ a @ a @ c**2, 1 / 60), (b @ a @ a @ a @ c, 1 / 120),
        ],
    }  # fmt: skip
    return [pair for p in range(1, order + 1) for pair in conditions[p]]


def test_the_coefficients_meet_the_conditions_of_their_orders():
    assert [sum(row) for row in DOPRI5.matrix] == pytest.approx(DOPRI5.nodes, abs=1e-15)
    fourth = [weight - error for weight, error in zip(DOPRI5.weights, _ERROR, strict=True)]
    for weights, order in ((DOPRI5.weights, 5), (fourth, 4)):
        for found, wanted in elementary(weights, order):
            assert float(found) == pytest.approx(wanted, abs=1e-14)
    assert abs(float(elementary(fourth, 5)[-1][0]) - 1 / 120) > 1e-5  # so that the two differ by an error of h⁵
    assert DOPRI5.matrix[-1] == DOPRI5.weights[:-1]


@pytest.mark.parametrize("backwards", [False, True])
def test_the_solution_is_torchdiffeqs_to_the_tolerance(backwards):
    field, x = perceptron(), rows(5, 3)
    start, end = (0.9, 0.2) if backwards else (0.2, 0.9)

    def rates(t, state):
        return field.divergence(t, state[0], exact=True)[:2]

    times = torch.tensor([start, end], dtype=torch.float64)
    with torch.no_grad():
        points, trace = torchdiffeq.odeint(rates, (x, x.new_zeros(5)), times, rtol=1e-11, atol=1e-11)
        for tolerance in (1e-4, 1e-7, 1e-10):
            found = solve(field, x, None, Solver("dopri5", rtol=tolerance, atol=tolerance), start, end, exact=True)
            torch.testing.assert_close(found.x, points[-1], rtol=0, atol=10 * tolerance)
            torch.testing.assert_close(found.divergence, trace[-1], rtol=0, atol=10 * tolerance)


@pytest.mark.parametrize("span", [(0.0, 1.0), (1.0, -0.5), (-2.0, -1.9)])
def test_no_time_beyond_the_end_is_asked_for(span):
    field = Recorded(lambda t: math.cos(40.0 * t) * 30.0)
    found = solve(field, torch.ones(2, 1).double(), None, Solver("dopri5", rtol=1e-8, atol=1e-8), *span)
    assert min(span) == min(field.times) and max(field.times) == max(span)
    assert found.n_evaluations == len(field.times)
    exact = math.exp(0.75 * (math.sin(40.0 * span[1]) - math.sin(40.0 * span[0])))
    torch.testing.assert_close(found.x, torch.full((2, 1), exact).double(), rtol=1e-6, atol=0)


def test_a_step_that_was_too_long_is_made_again():
    """A field that turns on within the way: its steps grow tenfold before, and must be refused there."""
    field = Recorded(lambda t: 1.0 if t < 0.7 else 200.0 * math.cos(900.0 * (t - 0.7)))
    found = solve(field, torch.ones(1, 1).double(), None, Solver("dopri5", rtol=1e-7, atol=1e-7))
    back = [following < t for t, following in zip(field.times, field.times[1:], strict=False)]
    assert sum(back) > 1  # the first is the trial of the first step
    exact = math.exp(0.7 + 200.0 / 900.0 * math.sin(270.0))
    torch.testing.assert_close(found.x, torch.full((1, 1), exact).double(), rtol=1e-4, atol=0)


def test_a_step_reads_one_number_back_from_the_device():
    with Reads() as reads:
        found = solve(perceptron(), rows(4, 3), None, Solver("dopri5"), exact=True)
    n_steps, rest = divmod(found.n_evaluations - 2, 6)
    assert not rest and len(reads.seen) == n_steps + 4  # whether the points are finite, and three for the first step


def test_half_precision_is_solved_in_single():
    x, field = rows(4, 3).bfloat16(), perceptron().bfloat16()
    found = solve(field, x, None, Solver("dopri5", rtol=1e-3, atol=1e-3))
    wide = solve(field.double(), x.double(), None, Solver("dopri5"))
    assert found.x.dtype is torch.bfloat16
    torch.testing.assert_close(found.x.double(), wide.x, rtol=2e-2, atol=2e-2)


def test_nothing_is_solved_without_points():
    found = solve(perceptron(), rows(0, 3), None, Solver("dopri5"), exact=True)
    assert found.x.shape == (0, 3) and found.divergence.shape == (0,) and found.n_evaluations == 0


def test_points_at_rest_stay():
    found = solve(LinearField(torch.eye(2).double(), torch.zeros(2).double()), rows(3, 2) * 0, None, Solver("dopri5"))
    assert not found.x.any()


def test_the_norm_of_a_step_is_the_worst_row():
    x, integral = torch.tensor([[3.0, 4.0], [0.0, 1.0]]), torch.tensor([0.5, -2.0])
    assert float(hardest_row((x, integral), 2)) == pytest.approx(math.sqrt(12.5))
    assert float(hardest_row((0.1 * x, integral, torch.full((7, 3), 9.0)), 2)) == 9.0


def test_dopri5_says_what_it_cannot_solve():
    x = rows(4, 3)
    x[2, 1] = math.nan
    with pytest.raises(ValueError, match="dopri5 needs finite points: 1 of 4 rows are not"):
        solve(perceptron(), x, None, Solver("dopri5"))

    class Power(VectorField):  # of 2, the solution x / (1 − x t) ends at t = 1 / x
        def __init__(self, exponent):
            super().__init__()
            self.exponent = exponent

        def forward(self, t, x, context=None):
            return x**self.exponent

    with pytest.raises(
        FloatingPointError, match=r"dopri5 found no step small enough for rtol=1e-05.* at t=0\.5\d*: the"
    ):
        solve(Power(2), torch.full((2, 1), 2.0), None, Solver("dopri5"))
    for points in (torch.full((2, 1), 1e30), torch.full((2, 1), -1.0)):  # an infinite slope, and one that is no number
        with pytest.raises(FloatingPointError, match=r"dopri5 found no step small enough .* at t=0: the"):
            solve(Power(2.5), points, None, Solver("dopri5"))


@pytest.mark.parametrize("span", [(1.0, 0.1), (-1.0, 0.1)])
def test_no_rounding_of_a_step_goes_beyond_the_end(span):
    """Where t + (end − t) is beyond the end, and the field's root of what is left would be no number."""
    start, end = span
    assert (start + (end - start) - end) * (end - start) > 0.0
    field = Recorded(lambda t: math.sqrt(abs(end - start) - abs(t - start)))
    found = solve(field, torch.ones(1, 1).double(), None, Solver("dopri5", rtol=1.0, atol=1.0), *span)
    assert min(span) <= min(field.times) and max(field.times) <= max(span)
    assert found.x.isfinite().all()


def test_a_field_that_is_infinite_where_the_first_step_is_tried():
    """Euler's trial step goes beyond the wall at 1.005, which the solution only comes near to."""

    class Wall(VectorField):
        def forward(self, t, x, context=None):
            return torch.where(x > 1.005, math.inf, 250.0 * (1.004 - x))

    found = solve(Wall(), torch.ones(2, 1).double(), None, Solver("dopri5"))
    torch.testing.assert_close(found.x, torch.full((2, 1), 1.004).double(), rtol=0, atol=1e-5)


def test_tolerances_below_the_rounding_are_not_sought():
    """Of float32, where each of them would be met by steps so short that nothing is added."""
    field, x = perceptron().float(), rows(5, 3).float()
    found = solve(field, x, None, Solver("dopri5", rtol=1e-14, atol=1e-14), exact=True)
    exact = solve(field.double(), x.double(), None, Solver("dopri5", rtol=1e-12, atol=1e-12), exact=True)
    assert found.n_evaluations < 2 * exact.n_evaluations
    torch.testing.assert_close(found.x.double(), exact.x, rtol=0, atol=2e-6)
    torch.testing.assert_close(found.divergence.double(), exact.divergence, rtol=0, atol=2e-6)
