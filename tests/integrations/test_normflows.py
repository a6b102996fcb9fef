"""normflows' RealNVP, MAF and Glow with and without our kernels."""

import copy
import functools

import pytest
import torch

normflows = pytest.importorskip("normflows", reason="normflows is not installed (pip install normflows)")

from normflows import distributions, flows, nets  # noqa: E402
from torch.nn import functional as F  # noqa: E402

import cgm_kernels  # noqa: E402
from cgm_kernels import integrations  # noqa: E402
from tests.support.flow_libraries import (  # noqa: E402
    assert_ours,
    assert_passed_on,
    assert_same,
    counts,
    errors,
    outcome,
    randomized,
)

same = functools.partial(assert_same, "normflows")
MAPS = ("exp", "sigmoid", "sigmoid_inv")


def draw(*shape, seed=3, grad=False):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_(grad)


def flow(*layers, features=6):
    return randomized(normflows.NormalizingFlow(distributions.DiagGaussian(features), list(layers)))


def masked_realnvp(features=6, layers=3):
    torch.manual_seed(0)
    mask = (torch.arange(features) % 2).float()
    network = lambda: nets.MLP([features, 12, features])  # noqa: E731
    return flow(
        *(flows.MaskedAffineFlow(mask if i % 2 else 1 - mask, network(), network()) for i in range(layers)),
        features=features,
    )


def both(model, x, **rows):
    """log_prob is the layers' inverse here, samples are their forward map."""
    names = [(f"{name}_inverse", f"{name}_forward", count) for name, count in rows.items()]
    assert_ours(same(model, lambda m: m.log_prob(x), x), **{name: count for name, _, count in names})
    found = same(model, lambda m: list(m.forward_and_log_det(x.double())), x)
    assert_ours(found, **{name: count for _, name, count in names})


@pytest.mark.parametrize("rows", [5, 1100])
def test_masked_couplings_alone(rows):
    irregular = flow(flows.MaskedAffineFlow(torch.tensor([1.0, 0, 0, 1, 1, 0]), *(nets.MLP([6, 8, 6]) for _ in "ts")))
    both(irregular, draw(rows, 6, grad=True), MaskedAffineFlow=1)
    others = [torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.Tanh()) for _ in "ts"]
    both(flow(flows.MaskedAffineFlow(torch.tensor([1.0, 0, 1, 0, 1, 0]), *others)), draw(rows, 6), MaskedAffineFlow=1)
    torch.manual_seed(0)
    shifts = flow(flows.MaskedAffineFlow(torch.tensor([1.0, 0, 1, 0, 1, 0]), nets.MLP([6, 8, 6])))
    both(shifts, draw(rows, 6, grad=True), MaskedAffineFlow=1)


def test_masked_couplings_of_images():
    mask = torch.tensor([1.0, 0, 1, 0, 1, 0]).reshape(2, 3, 1).expand(2, 3, 2)
    networks = [nets.MLP([2, 8, 2]) for _ in "ts"]  # along the last dimension
    model = randomized(flows.MaskedAffineFlow(mask, *networks))
    x = draw(4, 2, 3, 2, grad=True)
    assert_ours(same(model, lambda m: m(x), x), MaskedAffineFlow_forward=1)
    assert_ours(same(model, lambda m: m.inverse(x), x), MaskedAffineFlow_inverse=1)


@pytest.mark.parametrize("mode", ["channel", "channel_inv"])
@pytest.mark.parametrize("scale_map", MAPS)
@pytest.mark.parametrize("features", [5, 6])
def test_coupling_blocks(mode, scale_map, features):
    torch.manual_seed(0)
    passed = (features + 1) // 2 if mode == "channel" else features // 2
    network = nets.MLP([passed, 9, 2 * (features - passed)])
    block = flows.AffineCouplingBlock(network, scale_map=scale_map, split_mode=mode)
    both(flow(block, features=features), draw(4, features, grad=True), AffineCouplingBlock=1)


@pytest.mark.parametrize("scale_map", MAPS)
def test_couplings_of_two_halves(scale_map):
    layer, halves = flows.AffineCoupling(nets.MLP([3, 9, 8]), scale_map=scale_map), [draw(5, 3), draw(5, 4, grad=True)]
    model = randomized(layer)
    for name in ("forward", "inverse"):
        call = lambda m: [*getattr(m, name)(halves)[0], getattr(m, name)(halves)[1]]  # noqa: E731, B023
        assert_ours(same(model, call, halves[1]), **{f"AffineCoupling_{name}": 2})


@pytest.mark.parametrize("scale_map", MAPS)
@pytest.mark.parametrize("mode", ["channel", "channel_inv"])
def test_glow(scale_map, mode):
    torch.manual_seed(0)
    blocks = [flows.GlowBlock(4, 8, scale_map=scale_map, split_mode=mode) for _ in range(2)]
    model, x = randomized(torch.nn.Sequential(*blocks)), draw(3, 4, 4, 6, grad=True)
    for block in blocks:
        block(x.detach())  # actnorm initialises itself
    forward = lambda m: [*(m[0](x)), *(m[1](x))]  # noqa: E731
    inverse = lambda m: [*(m[0].inverse(x)), *(m[1].inverse(x))]  # noqa: E731
    assert_ours(same(model, forward, x), AffineCouplingBlock_forward=2, ActNorm_forward=2)
    assert_ours(same(model, inverse, x), AffineCouplingBlock_inverse=2, ActNorm_inverse=2)


def test_checkerboards_and_their_couplings():
    torch.manual_seed(0)
    model, x = randomized(flows.GlowBlock(4, 8, split_mode="checkerboard")), draw(3, 4, 4, 6, grad=True)
    model(x.detach())
    rows = same(model, lambda m: m(x), x)
    assert rows["normflows.AffineCouplingBlock.forward"].reasons == {"a split that is not by channels": 1}
    assert rows["normflows.AffineCoupling.forward"].ours == 1


@pytest.mark.parametrize("shape", [(6,), (4, 1, 1), (4, 3, 2)])
def test_constant_layers(shape):
    x = draw(5, *(size if size > 1 else 7 for size in shape), grad=True)
    model = randomized(flows.AffineConstFlow(shape))
    assert_ours(same(model, lambda m: m(x), x), AffineConstFlow_forward=1)
    assert_ours(same(model, lambda m: m.inverse(x), x), AffineConstFlow_inverse=1)
    assert_ours(same(flows.AffineConstFlow(shape, scale=False).double(), lambda m: m(x), x), AffineConstFlow_forward=1)
    labels = F.one_hot(torch.tensor([0, 2, 1, 1, 0]), 3).double()
    model = randomized(flows.CCAffineConst(shape, 3))
    assert_ours(same(model, lambda m: m(x, labels), x), CCAffineConst_forward=1)
    assert_ours(same(model, lambda m: m.inverse(x, labels), x), CCAffineConst_inverse=1)


@pytest.mark.parametrize("first", ["forward", "inverse"])
def test_actnorm_initialises_itself(first):
    x = draw(20, 3)
    theirs, ours = flows.ActNorm(3).double(), flows.ActNorm(3).double()
    expected = [getattr(theirs, first)(x), theirs(x), theirs.inverse(x)]
    with integrations.patch("normflows"):
        found = [getattr(ours, first)(x), ours(x), ours.inverse(x)]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    rows = counts()
    assert rows[f"normflows.ActNorm.{first}"].reasons == {"the first batch": 1}
    assert rows["normflows.ActNorm.forward"].ours == rows["normflows.ActNorm.inverse"].ours == 1


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("blocks", [0, 1, 3])
def test_maf(residual, blocks):
    torch.manual_seed(0)
    options = {"use_residual_blocks": residual, "num_blocks": blocks, "random_mask": not residual}
    model = flow(*(flows.MaskedAffineAutoregressive(6, 13, **options) for _ in range(2)))
    both(model, draw(5, 6, grad=True), MaskedAffineAutoregressive=2)


@pytest.mark.parametrize("activation", [F.relu, torch.tanh, torch.nn.ELU(), F.softplus])
def test_activations(activation):
    torch.manual_seed(0)
    for residual in (True, False):
        layer = flows.MaskedAffineAutoregressive(5, 12, activation=activation, use_residual_blocks=residual)
        both(flow(layer, features=5), draw(4, 5, grad=True), MaskedAffineAutoregressive=1)


def test_masks_made_anew_are_noticed():
    """The folded mask of a plain network belongs to the masks of its layers, which load_state_dict changes."""
    torch.manual_seed(0)
    one, other = (
        flow(flows.MaskedAffineAutoregressive(6, 13, use_residual_blocks=False, random_mask=True)) for _ in range(2)
    )
    x = draw(4, 6)
    with integrations.patch("normflows"):
        one.log_prob(x)
        one.load_state_dict(other.state_dict())
        found = one.log_prob(x)
    torch.testing.assert_close(found, other.log_prob(x), rtol=1e-9, atol=1e-9)
    counts()


def test_context():
    torch.manual_seed(0)
    model = randomized(flows.MaskedAffineAutoregressive(6, 13, context_features=3))
    x, c = draw(5, 6), draw(5, 3, seed=4)
    assert_ours(same(model, lambda m: m(x, c)), MaskedAffineAutoregressive_forward=1)
    assert_passed_on(same(model, lambda m: m.inverse(x, c)), "a context, which gates the blocks")


@pytest.mark.parametrize("kind", ["realnvp", "maf"])
def test_single_precision_is_as_accurate(kind):
    torch.manual_seed(2)
    if kind == "realnvp":
        model = masked_realnvp(16)
    else:
        model = flow(*(flows.MaskedAffineAutoregressive(16, 32, num_blocks=1) for _ in range(2)), features=16)
    model, x = model.float(), draw(100, 16).float().requires_grad_()
    call = lambda m: [m.log_prob(x), m(x)]  # noqa: E731
    theirs = outcome(model, call, x)
    with integrations.patch("normflows"):
        ours = outcome(model, call, x)
    wide = x.detach().double().requires_grad_()
    exact = outcome(copy.deepcopy(model).double(), lambda m: [m.log_prob(wide), m(wide)], wide)
    assert errors(ours, exact) <= 2.0 * errors(theirs, exact) + 1e-6
    counts()


def test_numbers_that_are_not_finite():
    class Fixed(torch.nn.Module):
        def __init__(self, values):
            super().__init__()
            self.values = torch.tensor(values, dtype=torch.float64)

        def forward(self, z):
            return self.values.expand_as(z)

    inf, nan = float("inf"), float("nan")
    log_scale, shift = Fixed([inf, -inf, nan, 0.5, 9.0]), Fixed([1.0, 1.0, 1.0, inf, 9.0])
    layer, x = flows.MaskedAffineFlow(torch.tensor([0.0, 0, 0, 0, 1]).double(), shift, log_scale), draw(3, 5)
    for name in ("forward", "inverse"):
        expected = getattr(layer, name)(x)
        with integrations.patch("normflows"):
            found = getattr(layer, name)(x)
        torch.testing.assert_close(found, expected, equal_nan=True)
    counts()


def test_what_is_not_recognised_is_normflows():
    x, mask = draw(4, 6), torch.tensor([1.0, 0, 1, 0, 1, 0])
    density = lambda m: m.log_prob(x)  # noqa: E731
    network = functools.partial(nets.MLP, [6, 8, 6])
    partial_mask = flow(flows.MaskedAffineFlow(0.5 * mask, network(), network()))
    assert_passed_on(same(partial_mask, density), "a mask that is not 0 and 1")
    additive = flow(flows.AffineCouplingBlock(nets.MLP([3, 8, 3]), scale=False))
    assert {*same(additive, density)["normflows.AffineCouplingBlock.inverse"].reasons} == {"a coupling without a scale"}
    hooked = flow(flows.AffineCouplingBlock(nets.MLP([3, 8, 6])))
    hooked.flows[0].flows[0].register_forward_hook(lambda module, given, value: None)
    rows = same(hooked, density)
    assert rows["normflows.AffineCouplingBlock.inverse"].reasons == {"hooks": 1}
    assert rows["normflows.AffineCoupling.inverse"].ours == 1
    masked = functools.partial(flows.MaskedAffineAutoregressive, 6, 8)
    assert_passed_on(same(flow(masked(dropout_probability=0.5)), density), "dropout in the network")
    assert_passed_on(same(flow(masked(use_batch_norm=True)).eval(), density), "batch normalisation in the network")

    class Scaled(flows.MaskedAffineFlow):
        def inverse(self, z):
            z, log_det = super().inverse(z)
            return 2.0 * z, log_det

    assert_passed_on(same(flow(Scaled(mask, network(), network())), density), "a subclass")
    spline = flow(flows.CoupledRationalQuadraticSpline(6, 1, 8), flows.LULinearPermute(6), flows.Planar((6,)))
    assert same(flow(*list(spline.flows)[:2]), density) == {}


@pytest.mark.parametrize("backend", cgm_kernels.available_backends())
def test_every_backend(backend):
    x = draw(3, 6)
    torch.manual_seed(0)
    blocks = [flows.AffineCouplingBlock(nets.MLP([3, 8, 6]), scale_map=scale_map) for scale_map in MAPS]
    layers = [flows.MaskedAffineAutoregressive(6, 13), flows.AffineConstFlow(6)]
    for model in (masked_realnvp(), flow(*blocks), flow(*layers)):
        call = lambda m: [m.log_prob(x), m(x)]  # noqa: E731
        expected = outcome(model, call)
        with integrations.patch("normflows"), cgm_kernels.use_backend(backend):
            torch.testing.assert_close(outcome(model, call), expected, rtol=1e-9, atol=1e-9)
    counts()
