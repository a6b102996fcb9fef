"""What every continuous flow promises: log-determinants, inverses, gradients, its form on disk, its errors."""

import math

import pytest
import torch

import cgm_models
from cgm_models.cnf import FFJORD, ContinuousTransform, PerceptronField, Regularizers, Solver
from tests.support.cnf import FFJORDS, make, moved
from tests.support.flows import context_of, log_abs_det, points

ALL = pytest.mark.parametrize("name", FFJORDS)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@ALL
def test_log_det_is_that_of_the_jacobian_of_the_whole_solve(name):
    """The trace integrated by quadrature is not the slogdet of the discrete map, but close to it as the steps are."""
    flow = make(name)
    x, context = points(flow), context_of(flow)
    z, log_det = flow.inverse(x, context)
    assert flow.n_evaluations > 0
    exact = log_abs_det(lambda v: flow.inverse(v, context)[0], x)
    torch.testing.assert_close(log_det, exact, rtol=0, atol=2e-6)
    _, log_det = flow(z.detach(), context)
    exact = log_abs_det(lambda v: flow(v, context)[0], z.detach())
    torch.testing.assert_close(log_det, exact, rtol=0, atol=2e-6)


@ALL
def test_the_two_directions_undo_each_other(name):
    flow = make(name)
    x, context = points(flow), context_of(flow)
    z, log_det = flow.inverse(x, context)
    again, back = flow(z, context)
    torch.testing.assert_close(again, x, rtol=0, atol=2e-6)
    torch.testing.assert_close(back, -log_det, rtol=0, atol=2e-6)
    assert (z - x).abs().max() > 1e-2


@ALL
def test_every_parameter_receives_a_gradient(name):
    flow = make(name).train()
    x, context = points(flow), context_of(flow)
    flow.loss(x, context).backward()
    assert not [n for n, p in flow.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    flow.zero_grad(set_to_none=True)
    samples, log_prob = flow.sample_and_log_prob(4, context)
    (samples.square().sum() + log_prob.sum()).backward()
    assert not [n for n, p in flow.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


@ALL
def test_save_and_load_give_the_same_numbers(name, tmp_path):
    flow = make(name, dtype=torch.float32)
    flow.save(tmp_path)
    again = cgm_models.load(tmp_path)
    assert again.config == flow.config
    x, context = points(flow), context_of(flow)
    assert torch.equal(again.log_prob(x, context), flow.log_prob(x, context))
    draws = [m.sample(4, context, torch.Generator().manual_seed(5)) for m in (flow, again)]
    assert torch.equal(*draws)


@pytest.mark.parametrize("name", ["film", "context-film", "dopri5", "levels"])
def test_samples_have_the_density_that_log_prob_gives(name):
    flow = make(name)
    context = context_of(flow)
    x, log_prob = flow.sample_and_log_prob(4, context, torch.Generator().manual_seed(6))
    torch.testing.assert_close(flow.log_prob(x, context), log_prob, rtol=0, atol=5e-6)
    again = flow.sample(4, context, torch.Generator().manual_seed(6))
    torch.testing.assert_close(again, x, rtol=0, atol=1e-6)  # of dopri5, which has fewer errors to watch here


def test_flows_begin_at_the_identity_and_context_counts_row_by_row():
    for name in ("film", "context-film", "blocks"):
        flow = FFJORDS[name]().double().eval()
        x, context = points(flow), context_of(flow)
        torch.testing.assert_close(flow.inverse(x, context)[0], x, rtol=0, atol=1e-12)
    for name in ("context", "context-film"):
        flow = make(name)
        x, context = points(flow), context_of(flow)
        together = flow.log_prob(x, context)
        alone = torch.cat([flow.log_prob(x[i : i + 1], context[i]) for i in range(4)])
        torch.testing.assert_close(together, alone, rtol=0, atol=1e-9)
        assert (together - flow.log_prob(x, context.roll(1, 0))).abs().min() > 1e-6
        assert flow.sample(3, torch.tensor(1)).shape == (3, *flow.event_shape)


def test_empty_batches_pass():
    for name in ("film", "context-film", "dopri5"):
        flow = make(name)
        context = context_of(flow, 0)
        assert flow.log_prob(points(flow, 0), context).shape == (0,)
        assert flow.sample(0, context).shape == (0, *flow.event_shape)


def test_one_row_of_dopri5_moves_no_other():
    """The norm is the worst row's: a row keeps its tolerance beside rows that need few steps, or many."""
    flow = FFJORD(dim=2, solver="dopri5", rtol=1e-6, atol=1e-6, hidden_features=(8, 8)).double().eval()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.4 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)).double())
    x = points(flow, 1)
    alone = flow.log_prob(x)
    easy = torch.cat((x, 1e-3 * points(flow, 2000)))
    torch.testing.assert_close(flow.log_prob(easy)[:1], alone, rtol=0, atol=1e-4)


def test_float32_is_close_to_float64():
    for name in ("film", "concat", "blocks", "levels"):
        flow = make(name)
        x, context = points(flow), context_of(flow)
        exact = flow.log_prob(x, context)
        single = flow.float().log_prob(x.float(), None if context is None else context.float())
        torch.testing.assert_close(single.double(), exact, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "options", [{}, {"solver": "dopri5", "rtol": 1e-3}, {"gradient": "adjoint"}, {"conditioning": "film"}]
)
def test_half_precision_sums_in_float32(dtype, options):
    """The fused solve and the steps; log_prob is off by what the half-precision field is off."""
    flow = moved(FFJORD(dim=2, context_dim=2, hidden_features=(8,), n_steps=4, **options))
    x = points(flow).to(dtype)
    context = context_of(flow).to(dtype)
    exact = flow.eval().log_prob(x.float(), context.float())
    half = flow.to(dtype)
    log_prob = half.log_prob(x, context)
    assert log_prob.dtype == torch.float32
    torch.testing.assert_close(log_prob, exact, rtol=0, atol=60 * torch.finfo(dtype).eps)
    half.train().loss(x, context).backward()
    assert all(torch.isfinite(p.grad).all() for p in half.parameters())


def test_the_first_layer_begins_as_large_as_asked_for():
    fields = []
    for frequency in (1.0, 5.0):
        torch.manual_seed(0)
        fields.append(PerceptronField(2, (4, 4), time="concat", frequency=frequency))
    small, large = (field.layers[0] for field in fields)
    assert torch.equal(large.weight, small.weight * torch.tensor([5.0, 5.0, 1.0])) and large.weight.requires_grad
    assert torch.equal(large.bias, 5.0 * small.bias)
    assert torch.equal(fields[0].layers[1].weight, fields[1].layers[1].weight)


def test_training_estimates_the_trace_and_evaluation_takes_it():
    flow = make("film")
    n = 400
    x = points(flow, 1).expand(n, -1).contiguous()
    torch.manual_seed(0)
    with torch.no_grad():
        exact = float(flow.loss(x))
        assert float(flow.loss(x)) == exact == pytest.approx(-float(flow.log_prob(x).mean()))
        spread = float(flow.transform.layers[0].solve(x, exact=False).divergence.std())
        flow.train()
        assert 0 < abs(float(flow.loss(x)) - exact) < 5 * spread / math.sqrt(n)
        flow.exact = True
        assert float(flow.loss(x)) == pytest.approx(exact, abs=1e-12)


def test_beyond_the_dimension_of_the_exact_trace_probes_are_drawn():
    flow = FFJORD(dim=3, exact_up_to=2, noise="gaussian", n_probes=2, hidden_features=(8,)).double().eval()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)).double())
    x = points(flow)
    torch.manual_seed(0)
    first, second = flow.log_prob(x), flow.log_prob(x)
    torch.manual_seed(0)
    assert torch.equal(first, flow.log_prob(x)) and not torch.equal(first, second)
    draws = [flow.sample_and_log_prob(4, None, torch.Generator().manual_seed(1)) for _ in range(2)]
    assert torch.equal(draws[0][1], draws[1][1])


def test_a_trajectory_passes_the_points_of_the_whole_solve():
    flow = make("context")
    transform = next(m for m in flow.modules() if isinstance(m, ContinuousTransform))
    x, context = points(flow), context_of(flow)
    path = transform.trajectory(x, 5, context, inverse=True)
    assert path.shape == (5, *x.shape) and transform.n_evaluations == 4 * 4 * 3
    torch.testing.assert_close(path[-1], flow.inverse(x, context)[0], rtol=0, atol=1e-9)
    back = transform.trajectory(path[-1], 5, context)
    torch.testing.assert_close(back.flip(0), path, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: FFJORD(), "event_shape or dim"),
        (lambda: FFJORD(dim=2, solver="heun"), "solver must be one of 'euler', .* 'dopri5': got 'heun'"),
        (lambda: FFJORD(dim=2, n_steps=0), "n_steps must be a whole number, at least 1: got 0"),
        (lambda: FFJORD(dim=2, rtol=0.0), "rtol must be a positive finite number"),
        (lambda: FFJORD(dim=2, gradient="tape"), "gradient must be one of"),
        (
            lambda: FFJORD(dim=2, gradient="checkpoint", solver="dopri5"),
            "gradient='checkpoint' needs a solver of fixed",
        ),
        (lambda: FFJORD(dim=2, activation="sigmoid"), "activation must be one of 'tanh'"),
        (lambda: FFJORD(dim=2, time="late"), "time must be one of"),
        (lambda: FFJORD(dim=2, conditioning="both"), "conditioning must be one of"),
        (lambda: FFJORD(dim=2, noise="uniform"), "noise must be one of 'rademacher', 'gaussian'"),
        (lambda: FFJORD(dim=2, n_probes=0), "n_probes must be"),
        (lambda: FFJORD(dim=2, kinetic=-1.0), "kinetic must be a finite number, not negative: got -1.0"),
        (lambda: FFJORD(dim=2, n_blocks=0), "n_blocks must be"),
        (lambda: FFJORD(dim=2, hidden_features=(0,)), "hidden_features"),
        (lambda: FFJORD(dim=2, base="gamma"), "base must be one of"),
        (lambda: Regularizers(frobenius=math.inf), "frobenius must be a finite number"),
        (lambda: Solver(n_steps=True), "n_steps"),
        (lambda: PerceptronField(2, n_frequencies=-1), "n_frequencies"),
        (lambda: FFJORD(dim=2, frequency=0.0), "frequency must be a positive finite number: got 0.0"),
    ],
)
def test_wrong_options_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_wrong_inputs_are_named():
    flow = make("context")
    x = points(flow)
    with pytest.raises(ValueError, match=r"x must have shape \(n, 3\): got \(4, 2\)"):
        flow.log_prob(x[:, :2], context_of(flow))
    with pytest.raises(ValueError, match="conditional"):
        flow.log_prob(x)
    with pytest.raises(ValueError, match=r"FFJORD\.log_prob: x must be finite, and 1 of 4 rows are not"):
        flow.log_prob(torch.where(torch.arange(4)[:, None] == 1, math.nan, x), context_of(flow))
    with torch.no_grad():
        next(flow.parameters()).fill_(math.nan)
    with pytest.raises(FloatingPointError, match=r"parameter transform\.layers\.0\.field.* holds values"):
        flow.log_prob(x, context_of(flow))
