"""normflows' masked couplings in a row in one call: the same numbers, gradients and NaN, and what is left alone."""

import functools

import pytest
import torch

normflows = pytest.importorskip("normflows", reason="normflows is not installed (pip install normflows)")

from normflows import distributions, flows, nets  # noqa: E402

import cgm_kernels  # noqa: E402
from tests.support.flow_libraries import NORMALIZING_FLOW_CALLS as CALLS  # noqa: E402
from tests.support.flow_libraries import (  # noqa: E402
    assert_ours,
    assert_same,
    counts,
    outcome,
    points,
    randomized,
)

same = functools.partial(assert_same, "normflows")
draw = functools.partial(points, features=7)
ALTERNATING, HALVES = [0, 1, 0, 1, 0, 1, 0], [1, 1, 1, 1, 0, 0, 0]
MASKS = {"alternating": ALTERNATING, "halves": HALVES, "irregular": [1, 0, 0, 1, 1, 0, 1], "one": [0, 0, 0, 0, 1, 0, 0]}


def network(features=7, hidden=(9, 8), **options):
    return nets.MLP([features, *hidden, features], **options)


def flow(*layers):
    features = len(layers[0].b[0])
    return randomized(normflows.NormalizingFlow(distributions.DiagGaussian(features), list(layers)))


def masked(mask, make=network):
    return flows.MaskedAffineFlow(torch.as_tensor(mask).float(), make(), make())


def realnvp(mask=ALTERNATING, order=(0, 1, 1, 0, 1), make=network):
    torch.manual_seed(0)
    mask = torch.tensor(mask)
    return flow(*(masked(1 - mask if other else mask, make) for other in order))


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("rows", [0, 1, 300])
def test_a_row_is_one_call(rows, name):
    x = draw(rows)
    rounding = 1e-6 if name.endswith(("log_det", "kld")) else 1e-9  # there normflows adds in float32
    call = CALLS[name] if rows or name != "forward_kld" else CALLS["log_prob"]  # the mean of nothing is NaN
    found = same(realnvp(), lambda m: call(m, x), x, rtol=rounding)
    assert_ours(found, **{f"NormalizingFlow_{name if call is CALLS[name] else 'log_prob'}": 1})


@pytest.mark.parametrize("hidden", [(), (9,), (9, 8, 10)])
@pytest.mark.parametrize("mask", MASKS)
def test_masks_and_depths(mask, hidden):
    model, x = realnvp(MASKS[mask], make=functools.partial(network, hidden=hidden)), draw(40).detach().mul(0.3)
    x.requires_grad_()
    assert_ours(same(model, lambda m: m.log_prob(x), x), NormalizingFlow_log_prob=1)
    assert_ours(same(model, lambda m: m.forward(x), x), NormalizingFlow_forward=1)


def test_networks_of_two_sizes_and_none():
    torch.manual_seed(0)
    mask, x = torch.tensor(ALTERNATING).float(), draw(20)
    wide, deep = functools.partial(network, hidden=(20,)), functools.partial(network, hidden=(5, 6, 7))
    model = flow(
        flows.MaskedAffineFlow(mask, network(), wide()),
        flows.MaskedAffineFlow(1 - mask, None, deep()),
        flows.MaskedAffineFlow(mask, wide(), None),
    )
    assert_ours(same(model, lambda m: m.log_prob(x), x), NormalizingFlow_log_prob=1)
    assert_ours(same(model, lambda m: m.forward(x), x), NormalizingFlow_forward=1)


def test_rows_end_where_another_layer_or_mask_stands():
    torch.manual_seed(0)
    mask, x = torch.tensor(ALTERNATING), draw(7)
    other = masked(MASKS["irregular"])
    layers = [masked(mask), masked(1 - mask), flows.Permute(7), masked(mask), other, masked(mask), masked(mask)]
    found = same(flow(*layers), lambda m: m.log_prob(x), x)
    assert_ours(found, NormalizingFlow_log_prob=1, MaskedAffineFlow_inverse=2)
    blocks = [flows.AffineCouplingBlock(nets.MLP([3, 8, 6])) for _ in range(2)]
    both = flow(*(masked([1, 0] * 3, functools.partial(network, 6)) for _ in range(2)), *blocks)
    x = points(7, 6)
    assert_ours(same(both, lambda m: m.log_prob(x), x), NormalizingFlow_log_prob=1)


@pytest.mark.parametrize("mask", ["alternating", "halves"])
def test_constant_layers_go_with_the_row(mask):
    torch.manual_seed(0)
    mask, x = torch.tensor(MASKS[mask]), draw(20)
    layers = [masked(mask), flows.ActNorm(7), flows.AffineConstFlow(7, shift=False), masked(1 - mask), flows.ActNorm(7)]
    model = flow(*layers)
    model.forward(x.detach())  # actnorm initialises itself
    assert_ours(same(model, lambda m: m.log_prob(x), x), NormalizingFlow_log_prob=1)
    assert_ours(same(model, lambda m: list(m.sample(20))), NormalizingFlow_sample=1)
    scalar = flow(masked(mask), flows.AffineConstFlow(1), masked(1 - mask), flows.ActNorm(7))
    scalar.forward(x.detach())
    found = same(scalar, lambda m: m.log_prob(x), x)  # ends the row
    assert_ours(found, MaskedAffineFlow_inverse=2, AffineConstFlow_inverse=1, ActNorm_inverse=1)


@pytest.mark.parametrize("name", ["log_prob", "sample"])
def test_actnorm_initialises_itself(name):
    torch.manual_seed(0)
    mask, x = torch.tensor(ALTERNATING), draw(20)
    theirs, ours = (flow(masked(mask), flows.ActNorm(7), masked(1 - mask), flows.ActNorm(7)) for _ in range(2))
    ours.load_state_dict(theirs.state_dict())
    with cgm_kernels.accelerate(ours):
        for _ in range(2):
            torch.testing.assert_close(
                outcome(ours, lambda m: CALLS[name](m, x), x), outcome(theirs, lambda m: CALLS[name](m, x), x)
            )
        assert counts()[f"normflows.NormalizingFlow.{name}"].ours == 1
    torch.testing.assert_close(dict(ours.state_dict()), dict(theirs.state_dict()))


@pytest.mark.parametrize(
    "make",
    [
        functools.partial(network, leaky=0.1),
        functools.partial(network, output_fn="tanh"),
        functools.partial(network, dropout=0.0),
        lambda: torch.nn.Sequential(torch.nn.Linear(7, 7), torch.nn.Tanh()),
    ],
    ids=["leaky", "output", "dropout", "other"],
)
def test_other_networks_stay_with_their_layers(make):
    x = draw(5)
    assert_ours(same(realnvp(make=make), lambda m: m.log_prob(x), x), MaskedAffineFlow_inverse=5)


@pytest.mark.parametrize("mask", [[1] * 7, [0] * 7])
def test_masks_of_one_kind_stay_with_their_layers(mask):
    x = draw(5)
    assert_ours(same(realnvp(mask, order=(0, 0)), lambda m: m.log_prob(x), x), MaskedAffineFlow_inverse=2)


def test_large_networks_need_rows():
    wide = functools.partial(network, 64, (160,))
    model = realnvp([0, 1] * 32, order=(0, 1), make=wide)
    with cgm_kernels.accelerate(model):
        model.log_prob(points(2, 64))
        assert_ours(counts(), NormalizingFlow_log_prob=1, MaskedAffineFlow_inverse=2)
    x = points(300, 64)
    assert_ours(same(model, lambda m: m.log_prob(x), x), NormalizingFlow_log_prob=1)


def test_a_mask_that_changes_is_noticed():
    model, x = realnvp(), draw(6)
    with cgm_kernels.accelerate(model), torch.inference_mode():
        model.log_prob(x)
    with torch.no_grad():
        for layer in model.flows:
            layer.b.copy_(layer.b[:, [6, 0, 2, 1, 3, 4, 5]])
    same(model, lambda m: m.log_prob(x), x)


def test_hooks_and_replaced_methods_are_seen():
    x, seen = draw(5), []
    hooked = realnvp()
    hooked.flows[2].s.net[0].register_forward_hook(lambda *_: seen.append(1))
    same(hooked, lambda m: m.forward(x), x)
    assert len(seen) == 4  # plain, patched, accelerated, plain again
    model = realnvp()
    model.flows[0].inverse = lambda z: (z + 1, torch.zeros(len(z)))
    same(model, lambda m: m.log_prob(x), x)


@pytest.mark.parametrize("name", ["log_prob", "forward_and_log_det"])
@pytest.mark.parametrize("which", ["s", "t"])
@pytest.mark.parametrize("value", [float("inf"), -float("inf"), float("nan")])
def test_numbers_that_are_not_finite(value, which, name):
    model, x = realnvp(), draw(5)
    with torch.no_grad():
        getattr(model.flows[1], which).net[-1].bias[3:5] = value
    expected = outcome(model, lambda m: CALLS[name](m, x))[: 1 if name == "log_prob" else 2]
    with cgm_kernels.accelerate(model):
        found = outcome(model, lambda m: CALLS[name](m, x))[: len(expected)]
    torch.testing.assert_close(found, expected, equal_nan=True, rtol=1e-6, atol=1e-9)
    counts()


def test_a_layer_alone():
    x, model = draw(9), realnvp(order=(0,))
    assert_ours(same(model.flows[0], lambda m: m(x), x), MaskedAffineFlow_forward=1)
    assert_ours(same(model, lambda m: m.log_prob(x), x), MaskedAffineFlow_inverse=1)


def test_second_derivatives():
    model, x = realnvp(), draw(3)

    def curvature(m):
        (slope,) = torch.autograd.grad(m.log_prob(x).sum(), x, create_graph=True)
        return slope

    expected = outcome(model, curvature, x)
    with cgm_kernels.accelerate(model):
        torch.testing.assert_close(outcome(model, curvature, x), expected, rtol=1e-9, atol=1e-9)
    counts()


@pytest.mark.parametrize("backend", cgm_kernels.available_backends())
def test_every_backend(backend):
    model, x = realnvp(order=(0, 1)), draw(3)
    call = lambda m: [m.log_prob(x), m(x)]  # noqa: E731
    expected = outcome(model, call, x)
    with cgm_kernels.accelerate(model), cgm_kernels.use_backend(backend):
        torch.testing.assert_close(outcome(model, call, x), expected, rtol=1e-9, atol=1e-9)
    counts()


def test_single_precision_is_as_accurate():
    model = realnvp([0, 1] * 32, order=(0, 1) * 4, make=functools.partial(network, 64, (64, 64)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.4)
    x = points(300, 64).detach().float()
    exact = model.log_prob(x.double())
    model = model.float()
    plain = model.log_prob(x)
    with cgm_kernels.accelerate(model):
        ours = model.log_prob(x)
    error, other = ((one.double() - exact).abs().max() for one in (ours, plain))
    assert error <= 2 * other + 1e-4
    assert_ours(counts(), NormalizingFlow_log_prob=1)
