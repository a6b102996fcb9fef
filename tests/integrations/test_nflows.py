"""nflows' RealNVP, MAF and Glow-like models with and without our kernels."""

import copy
import functools

import pytest
import torch
from torch.nn import functional as F

nflows = pytest.importorskip("nflows", reason="nflows is not installed (pip install nflows)")

from nflows import transforms  # noqa: E402
from nflows.flows import MaskedAutoregressiveFlow, SimpleRealNVP  # noqa: E402
from nflows.nn.nets import ConvResidualNet, ResidualNet  # noqa: E402

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

same = functools.partial(assert_same, "nflows")
MASKED = "MaskedAffineAutoregressiveTransform"


def draw(*shape, seed=3, grad=False):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_(grad)


def coupling(mask, context=None, hidden=8):
    network = lambda n_in, n_out: ResidualNet(n_in, n_out, hidden, context_features=context, num_blocks=1)  # noqa: E731
    torch.manual_seed(0)
    return randomized(transforms.AffineCouplingTransform(torch.tensor(mask), network))


def masked(features=6, **options):
    torch.manual_seed(0)
    return randomized(transforms.MaskedAffineAutoregressiveTransform(features, 13, **options))


def test_realnvp():
    torch.manual_seed(0)
    model, x = randomized(SimpleRealNVP(7, 16, num_layers=3, num_blocks_per_layer=1)), draw(5, 7, grad=True)
    assert_ours(same(model, lambda m: m.log_prob(x), x), AffineCouplingTransform_forward=3)
    assert_ours(same(model, lambda m: m._transform.inverse(x), x), AffineCouplingTransform_inverse=3)
    assert_ours(same(model.float(), lambda m: m.sample(5), rtol=1e-5), AffineCouplingTransform_inverse=3)


@pytest.mark.parametrize(
    "mask", [[0, 1], [1, 0, 0, 0], [0, 0, 1, 1, 1], [0, 1, 0, 1, 0], [1, 0, 0, 1, 1, 0], [1, 1, 0]]
)
@pytest.mark.parametrize("context", [None, 3])
def test_masks(mask, context):
    model, x = coupling(mask, context), draw(4, len(mask), grad=True)
    c = None if context is None else draw(4, 3, seed=5, grad=True)
    given = [x] if c is None else [x, c]
    assert_ours(same(model, lambda m: m(x, c), *given), AffineCouplingTransform_forward=1)
    assert_ours(same(model, lambda m: m.inverse(x, c), *given), AffineCouplingTransform_inverse=1)


def glow(channels=4):
    def step(mask):
        network = lambda n_in, n_out: ConvResidualNet(n_in, n_out, hidden_channels=5, num_blocks=1)  # noqa: E731
        layers = [transforms.ActNorm(channels), transforms.OneByOneConvolution(channels)]
        return [*layers, transforms.AffineCouplingTransform(torch.tensor(mask), network)]

    torch.manual_seed(0)
    steps = [*step([0, 0, 1, 1]), *step([0, 1, 0, 1]), *step([1, 0, 0, 1])]
    return randomized(transforms.CompositeTransform(steps))


@pytest.mark.filterwarnings("ignore:torch.triangular_solve")
def test_glow_like():
    model, x = glow(), draw(3, 4, 4, 6, grad=True)
    rows = same(model.eval(), lambda m: m(x), x)
    assert_ours(rows, ActNorm_forward=3, AffineCouplingTransform_forward=3)
    rows = same(model, lambda m: m.inverse(x), x)
    assert_ours(rows, ActNorm_inverse=3, AffineCouplingTransform_inverse=3)


def test_actnorm_initialises_itself():
    x = draw(20, 3)
    theirs, ours, swapped = (transforms.ActNorm(3).double() for _ in range(3))
    expected = [theirs(x), theirs(x)]
    with integrations.patch("nflows"):
        found = [ours(x), ours(x)]
    row = counts()["nflows.ActNorm.forward"]
    assert (row.ours, row.reasons) == (1, {"the first batch": 1})
    cgm_kernels.accelerate(swapped)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close([swapped(x), swapped(x)], expected, rtol=1e-12, atol=1e-12)
    assert_ours(same(ours, lambda m: [*m(x), *m.inverse(x)]), ActNorm_forward=1, ActNorm_inverse=1)


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("context", [None, 3])
@pytest.mark.parametrize("blocks", [0, 1, 3])
def test_masked_affine(residual, context, blocks):
    model = masked(use_residual_blocks=residual, context_features=context, num_blocks=blocks)
    x, c = draw(5, 6, grad=True), None if context is None else draw(5, 3, seed=5, grad=True)
    given = [x] if c is None else [x, c]
    assert_ours(same(model, lambda m: m(x, c), *given), **{f"{MASKED}_forward": 1})
    assert_ours(same(model, lambda m: m.inverse(x, c), *given), **{f"{MASKED}_inverse": 1})


@pytest.mark.parametrize("activation", [F.relu, torch.tanh, torch.sigmoid, F.silu, F.gelu, F.elu, F.softplus])
def test_activations(activation):
    y = draw(4, 6, grad=True)
    for residual in (True, False):
        model = masked(activation=activation, use_residual_blocks=residual)
        assert_ours(same(model, lambda m: m.inverse(y), y), **{f"{MASKED}_inverse": 1})


def test_maf():
    torch.manual_seed(0)
    x = draw(5, 6, grad=True)
    for options in ({}, {"use_residual_blocks": False, "use_random_masks": True}):
        model = randomized(MaskedAutoregressiveFlow(6, 16, 3, 2, use_random_permutations=True, **options))
        assert_ours(same(model, lambda m: m.log_prob(x), x), **{f"{MASKED}_forward": 3})
        assert_ours(same(model, lambda m: m._transform.inverse(x), x), **{f"{MASKED}_inverse": 3})


@pytest.mark.parametrize("kind", ["realnvp", "maf"])
def test_single_precision_is_as_accurate(kind):
    torch.manual_seed(2)
    make = SimpleRealNVP if kind == "realnvp" else MaskedAutoregressiveFlow
    model = randomized(make(16, 32, 3, 1), torch.float32)
    x = draw(100, 16).float().requires_grad_()
    call = lambda m: [m.log_prob(x), m._transform.inverse(x)[0]]  # noqa: E731
    theirs = outcome(model, call, x)
    with integrations.patch("nflows"):
        ours = outcome(model, call, x)
    wide = x.detach().double().requires_grad_()
    exact = outcome(copy.deepcopy(model).double(), lambda m: [m.log_prob(wide), m._transform.inverse(wide)[0]], wide)
    assert errors(ours, exact) <= 2.0 * errors(theirs, exact) + 1e-6


def test_what_is_not_recognised_is_nflows():
    x = draw(4, 6)
    inverse = lambda m: m.inverse(x)  # noqa: E731
    assert_passed_on(same(masked(dropout_probability=0.5), inverse), "dropout in the network")
    assert_ours(same(masked(dropout_probability=0.5).eval(), inverse), **{f"{MASKED}_inverse": 1})
    normed = masked(use_batch_norm=True, use_residual_blocks=True).eval()
    assert_passed_on(same(normed, inverse), "batch normalisation in the network")
    assert_passed_on(same(masked(activation=F.leaky_relu), inverse), "an activation that the kernel does not have")
    hooked = masked()
    hooked.autoregressive_net.final_layer.register_forward_hook(lambda module, given, value: 2.0 * value)
    assert_passed_on(same(hooked, inverse), "hooks")
    replaced = coupling([0, 1, 0, 1, 0, 1])
    replaced._scale_and_shift = lambda parameters: (parameters[:, :3].exp(), parameters[:, 3:])
    assert_passed_on(same(replaced, inverse), "a method replaced in one object")

    class Exponential(transforms.AffineCouplingTransform):
        def _scale_and_shift(self, parameters):
            return parameters[:, :3].exp(), parameters[:, 3:]

    network = lambda n_in, n_out: ResidualNet(n_in, n_out, 8)  # noqa: E731
    model = randomized(Exponential(torch.tensor([0, 1, 0, 1, 0, 1]), network))
    assert_passed_on(same(model, inverse), "a subclass")
    additive = randomized(transforms.AdditiveCouplingTransform(torch.tensor([0, 1, 0, 1, 0, 1]), network))
    assert_passed_on(same(additive, inverse), "a subclass")
    spline = transforms.PiecewiseRationalQuadraticCouplingTransform(
        torch.tensor([0, 1, 0, 1, 0, 1]), network, tails="linear"
    )
    assert same(randomized(spline), inverse) == {}


def test_transforms_and_modes_are_nflows():
    model, x = coupling([0, 1, 0, 1]), draw(4, 4)
    density = lambda x: model(x)[1].sum()  # noqa: E731
    assert_passed_on(_patched(lambda: torch.func.grad(density)(x)), "torch.func")
    assert_passed_on(_patched(lambda: torch.func.jvp(density, (x,), (x,))), "torch.func")

    def autocast():
        with torch.autocast("cpu"):
            return model.float()(x.float())[0]

    assert_passed_on(_patched(autocast), "autocast")
    assert_passed_on(_patched(lambda: copy.deepcopy(model).bfloat16()(x.bfloat16())[0]), "dtype bfloat16")


def _patched(call):
    expected = call()
    counts()
    with integrations.patch("nflows"):
        torch.testing.assert_close(call(), expected, rtol=0, atol=0)
    return counts()


def test_errors_are_nflows():
    model = coupling([0, 1, 0, 1])
    for x in (draw(4, 3), draw(4, 4, 2), [1.0, 2.0]):
        with pytest.raises(Exception) as theirs:
            model(x)
        with integrations.patch("nflows"), pytest.raises(type(theirs.value)) as ours:
            model(x)
        assert str(ours.value) == str(theirs.value)


@pytest.mark.parametrize("make", [lambda: coupling([0, 1, 0, 1, 1, 0]), masked], ids=["coupling", "masked"])
@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_second_derivatives(direction, make):
    """By the points and by all parameters, as of score matching."""
    model, x = make(), draw(4, 6, grad=True)
    leaves = [x, *model.parameters()]

    def curvature():
        y, log_det = getattr(model, direction)(x)
        (first,) = torch.autograd.grad(y.square().sum() + log_det.sin().sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), leaves, materialize_grads=True)

    expected = curvature()
    with integrations.patch("nflows"):
        torch.testing.assert_close(curvature(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("backend", cgm_kernels.available_backends())
def test_every_backend(backend):
    x = draw(3, 6)
    for model in (coupling([0, 1, 0, 1, 0, 1]), masked()):
        call = lambda m: [*m(x), *m.inverse(x)]  # noqa: E731
        expected = outcome(model, call)
        with integrations.patch("nflows"), cgm_kernels.use_backend(backend):
            torch.testing.assert_close(outcome(model, call), expected, rtol=1e-9, atol=1e-9)
