"""What every flow promises: exact log-determinants and inverses, gradients, its form on disk, its errors."""

import pytest
import torch

import cgm_models
from cgm_models.flows import RealNVP
from tests.support.flows import FLOWS, context_of, log_abs_det, make, points

ALL = pytest.mark.parametrize("name", FLOWS)


@ALL
def test_log_det_is_that_of_the_autograd_jacobian(name):
    flow = make(name)
    x, context = points(flow), context_of(flow)
    z, log_det = flow.inverse(x, context)
    exact = log_abs_det(lambda v: flow.inverse(v, context)[0], x)
    torch.testing.assert_close(log_det, exact, rtol=0, atol=1e-8)
    _, log_det = flow(z, context)
    exact = log_abs_det(lambda v: flow(v, context)[0], z.detach())
    torch.testing.assert_close(log_det, exact, rtol=0, atol=1e-8)


@ALL
def test_the_two_directions_undo_each_other(name):
    flow = make(name)
    x, context = points(flow), context_of(flow)
    z, log_det = flow.inverse(x, context)
    again, back = flow(z, context)
    torch.testing.assert_close(again, x, rtol=0, atol=1e-9)
    torch.testing.assert_close(back, -log_det, rtol=0, atol=1e-9)
    noise = torch.randn(z.shape, dtype=z.dtype, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(flow.inverse(flow(noise, context)[0], context)[0], noise, rtol=0, atol=1e-9)


@ALL
def test_log_prob_is_that_of_the_base_and_the_jacobian(name):
    flow = make(name)
    x, context = points(flow), context_of(flow)
    z, _ = flow.inverse(x, context)
    base = torch.distributions.Normal(torch.zeros_like(z), 1.0).log_prob(z).flatten(1).sum(1)
    exact = base + log_abs_det(lambda v: flow.inverse(v, context)[0], x)
    torch.testing.assert_close(flow.log_prob(x, context), exact, rtol=1e-9, atol=1e-8)


@ALL
def test_every_parameter_receives_a_gradient_both_ways(name):
    flow = make(name)
    x, context = points(flow), context_of(flow)
    flow.log_prob(x, context).sum().backward()
    assert not [n for n, p in flow.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    flow.zero_grad(set_to_none=True)
    samples, log_prob = flow.sample_and_log_prob(4, context)
    (samples.square().sum() + log_prob.sum()).backward()
    assert not [n for n, p in flow.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


@ALL
def test_gradients_are_those_of_finite_differences(name):
    flow = make(name)
    x, context = points(flow), context_of(flow)
    parameters = list(flow.parameters())
    gradients = torch.autograd.grad(flow.log_prob(x, context).sum(), parameters)
    generator = torch.Generator().manual_seed(4)
    direction = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
    slope = sum(float((g * d).sum()) for g, d in zip(gradients, direction, strict=True))
    step, values = 1e-7, []  # small, since a step across a kink of relu counts
    with torch.no_grad():
        for sign in (1, -2):
            for p, d in zip(parameters, direction, strict=True):
                p.add_(sign * step * d)
            values.append(float(flow.log_prob(x, context).sum()))
    assert slope == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-5, abs=1e-4)


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


@ALL
def test_samples_have_the_density_that_log_prob_gives(name):
    flow = make(name)
    context = context_of(flow)
    x, log_prob = flow.sample_and_log_prob(4, context, torch.Generator().manual_seed(6))
    torch.testing.assert_close(flow.log_prob(x, context), log_prob, rtol=0, atol=1e-8)
    again = flow.sample(4, context, torch.Generator().manual_seed(6))
    torch.testing.assert_close(again, x, rtol=0, atol=1e-9)  # convolutions without gradient take another path


@pytest.mark.parametrize("name", [n for n in FLOWS if n.startswith(("realnvp-context", "nice", "spline", "planar"))])
def test_flows_begin_at_the_identity(name):
    flow = FLOWS[name]().double()
    if flow.n_levels is None:
        x, context = points(flow), context_of(flow)
        torch.testing.assert_close(flow.inverse(x, context)[0], x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", [n for n in FLOWS if FLOWS[n]().context_dim])
def test_context_changes_the_density_row_by_row(name):
    flow = make(name)
    x, context = points(flow), context_of(flow)
    together = flow.log_prob(x, context)
    alone = torch.cat([flow.log_prob(x[i : i + 1], context[i]) for i in range(4)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-9)
    assert (together - flow.log_prob(x, context.roll(1, 0))).abs().min() > 1e-6


def test_a_context_may_be_one_row_for_all_or_class_labels():
    flow = make("realnvp-context")
    x = points(flow)
    labels = torch.tensor([2, 0, 1, 1])
    one_hot = torch.nn.functional.one_hot(labels, 3).double()
    assert torch.equal(flow.log_prob(x, labels), flow.log_prob(x, one_hot))
    assert torch.equal(flow.log_prob(x, torch.tensor(2)), flow.log_prob(x, one_hot[:1].expand(4, 3)))
    assert torch.equal(flow.log_prob(x, one_hot[0]), flow.log_prob(x, one_hot[:1].expand(4, 3)))
    assert flow.sample(3, one_hot[1]).shape == (3, 4)


def test_empty_batches_pass():
    for name in ("realnvp", "glow-lu", "planar", "spline", "radial", "nice"):
        flow = make(name)
        assert flow.log_prob(points(flow, 0)).shape == (0,)
        assert flow.sample(0).shape == (0, *flow.event_shape)


def test_float32_is_close_to_float64():
    for name in FLOWS:
        flow = make(name)
        x, context = points(flow), context_of(flow)
        exact = flow.log_prob(x, context)
        single = flow.float().log_prob(x.float(), None if context is None else context.float())
        torch.testing.assert_close(single.double(), exact, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", ["realnvp", "realnvp-image", "glow-lu", "glow-plain", "nice", "spline", "planar"])
def test_under_autocast_only_the_conditioners_lose_precision(name):
    flow = make(name, dtype=torch.float32)
    x, context = points(flow), context_of(flow)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        z, _ = flow.inverse(x, context)
        again, _ = flow(z, context)
        log_prob = flow.log_prob(x, context)
    assert z.dtype == again.dtype == log_prob.dtype == torch.float32
    torch.testing.assert_close(again, x, rtol=0, atol=1e-4)
    torch.testing.assert_close(log_prob, flow.log_prob(x, context), rtol=0.05, atol=0.05)


@pytest.mark.filterwarnings("ignore:Dynamo detected a call")
@pytest.mark.parametrize("dynamic", [False, True])
def test_log_prob_is_traced_whole(dynamic):
    """Also where the number of points alone has been seen to change."""
    flow = make("realnvp-context")
    x, context = points(flow), context_of(flow)
    torch._dynamo.reset()
    if dynamic:
        torch._dynamo.maybe_mark_dynamic(x, 0)
    traced = torch.compile(flow.log_prob, fullgraph=True, backend="eager")
    torch.testing.assert_close(traced(x, context), flow.log_prob(x, context))


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_gradients_by_torch_func():
    flow = make("realnvp")
    x = points(flow)
    by_func = torch.func.grad(lambda v: flow.log_prob(v).sum())(x)
    by_autograd = torch.autograd.grad(flow.log_prob(x.requires_grad_()).sum(), x)[0]
    torch.testing.assert_close(by_func, by_autograd)
    rows = torch.func.vmap(torch.func.grad(lambda v: flow.log_prob(v[None])[0]))(x.detach())
    torch.testing.assert_close(rows, by_autograd)


def test_temperature_scales_the_latent_points():
    flow = make("glow-lu")
    draws = [flow.sample(3, None, torch.Generator().manual_seed(7), temperature=t) for t in (1.0, 0.5)]
    z, half = (flow.inverse(x)[0] for x in draws)
    torch.testing.assert_close(half, 0.5 * z)
    assert torch.equal(*(flow.sample(2, temperature=0.0)))


def test_interpolation_begins_and_ends_at_its_points_and_keeps_the_pace():
    flow = make("glow-levels")
    x, y, context = points(flow, 2), points(flow, 2, seed=9), context_of(flow, 2)
    for spherical in (True, False):
        path = flow.interpolate(x, y, 5, context, spherical=spherical)
        assert path.shape == (5, 2, 1, 8, 8)
        torch.testing.assert_close(path[0], x, rtol=0, atol=1e-9)
        torch.testing.assert_close(path[-1], y, rtol=0, atol=1e-9)
    latent = torch.stack([flow.inverse(frame, context)[0].flatten(1) for frame in flow.interpolate(x, y, 5, context)])
    norms = latent.norm(dim=2)
    steps = (norms[1:] - norms[:-1]).std(0)
    torch.testing.assert_close(steps, torch.zeros_like(steps), rtol=0, atol=1e-9)
    cosine = torch.nn.functional.cosine_similarity(latent[1:], latent[:-1], dim=2)
    torch.testing.assert_close(cosine, cosine[:1].expand_as(cosine), rtol=0, atol=1e-9)


def test_a_constructor_takes_dim_or_event_shape_and_the_configuration_keeps_it():
    assert RealNVP(dim=3).event_shape == RealNVP((3,)).event_shape == (3,)
    assert RealNVP(**RealNVP(dim=3).config).event_shape == (3,)
    assert RealNVP(**RealNVP(event_shape=(3,)).config).config == RealNVP(event_shape=(3,)).config
