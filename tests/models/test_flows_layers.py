"""The layers of the flows one by one, against other libraries, closed forms and plain PyTorch."""

import math

import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import brentq

from cgm_kernels.coupling.layout import passing_part
from cgm_models.flows import IAF, NICE, Composition, Inverse, RealNVP, transform
from cgm_models.flows.actnorm import ActNorm
from cgm_models.flows.convolution import InvertibleConvolution
from cgm_models.flows.coupling import AdditiveCoupling, AffineCoupling, Halves
from cgm_models.flows.multiscale import MultiScale, ShiftPixels, Squeeze
from cgm_models.flows.planar import MARGIN, Planar, SolvePlanar
from cgm_models.flows.radial import Radial
from cgm_models.flows.scaling import DiagonalScaling
from cgm_models.flows.transform import Reshape, Reverse
from cgm_models.nets import MLP, ResidualMLP
from tests.support.flows import log_abs_det, normal


def random_layer(layer, seed=0, noise=0.5):
    torch.manual_seed(seed)
    layer = layer.double().eval()
    for parameter in layer.parameters():
        parameter.data.add_(noise * torch.randn_like(parameter))
    return layer


LAYERS = {
    "affine": (lambda: AffineCoupling(MLP(2, 6, (8,)), 2), (5,)),
    "affine-first": (lambda: AffineCoupling(ResidualMLP(2, 6, 8), slice(0, 3)), (5,)),
    "affine-every-other": (lambda: AffineCoupling(MLP(2, 6, (8,)), slice(0, None, 2)), (5,)),
    "affine-one-of-three": (lambda: AffineCoupling(MLP(2, 2, (8,)), slice(1, None, 2)), (3,)),
    "affine-middle": (lambda: AffineCoupling(ResidualMLP(2, 4, 8), slice(1, 3)), (4,)),
    "additive": (lambda: AdditiveCoupling(MLP(2, 3, (8,)), slice(0, 3)), (5,)),
    "actnorm": (lambda: ActNorm(3), (3,)),
    "actnorm-image": (lambda: ActNorm(2), (2, 3, 2)),
    "scaling": (lambda: DiagonalScaling(4), (4,)),
    "linear": (lambda: InvertibleConvolution(4, "plain"), (4,)),
    "linear-lu": (lambda: InvertibleConvolution(4, "lu", rotation=False), (4,)),
    "convolution": (lambda: InvertibleConvolution(3, "plain"), (3, 2, 2)),
    "convolution-lu": (lambda: InvertibleConvolution(3), (3, 2, 2)),
    "planar": (lambda: Planar(3), (3,)),
    "radial": (lambda: Radial(3), (3,)),
    "reverse": (Reverse, (4,)),
    "reshape": (lambda: Reshape((2, 2), (4,)), (4,)),
    "squeeze": (Squeeze, (2, 4, 2)),
    "composition": (lambda: Composition([Planar(3), Inverse(Radial(3)), ActNorm(3)]), (3,)),
    "empty": (lambda: Composition([]), (3,)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_log_det_and_inverse(name):
    build, shape = LAYERS[name]
    layer = random_layer(build(), noise=0.3)
    x = normal(4, *shape)
    z, log_det = layer.inverse(x)
    torch.testing.assert_close(log_det, log_abs_det(lambda v: layer.inverse(v)[0], x), rtol=0, atol=1e-8)
    again, back = layer(z)
    torch.testing.assert_close(again, x, rtol=0, atol=1e-9)
    torch.testing.assert_close(back, log_abs_det(lambda v: layer(v)[0], z.detach()), rtol=0, atol=1e-8)
    running = normal(4, seed=1)
    for inverse, point in ((True, x), (False, z)):
        moved, total = layer.accumulate(point, None, running, inverse=inverse)
        own = log_det if inverse else back
        torch.testing.assert_close(total, running + own)
        swapped = Inverse(layer).accumulate(point, None, running, inverse=not inverse)
        assert torch.equal(swapped[0], moved) and torch.equal(swapped[1], total)


SPLITS = [1, 0, 5, slice(0, 2), slice(None, 2), slice(3, None), slice(2, 2), slice(4, None, 3)]


@pytest.mark.parametrize("k", [*SPLITS, slice(0, None, 2), slice(1, None, 2)], ids=str)
def test_the_passing_part_is_what_the_split_leaves(k):
    channels = torch.arange(5)
    moved = channels[k:] if isinstance(k, int) else channels[k]
    assert sorted([*moved.tolist(), *channels[passing_part(k, 5)].tolist()]) == list(range(5))


def test_splits_that_cut_no_event_in_two_are_refused():
    with pytest.raises(ValueError, match="split must leave a slice of the 5 channels"):
        passing_part(slice(1, 3), 5)
    for split in (slice(1, 3), slice(0, None, 2), slice(2, None)):
        with pytest.raises(ValueError, match=r"split must be an int or slice\(0, k\): got slice"):
            Halves(split)
    with pytest.raises(ValueError, match="split must not be negative: got -2"):
        Halves(-2)
    with pytest.raises(ValueError, match="split must be within the 4 channels: got 5"):
        Halves(5).cut(torch.zeros(2, 4))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_realnvp_equals_a_plain_pytorch_twin_with_its_weights(dtype):
    torch.manual_seed(0)
    flow = RealNVP(dim=6, n_layers=4, hidden_features=(16, 16))
    for p in flow.parameters():
        p.data.add_(0.1 * torch.randn_like(p))
    flow.to(dtype)
    x = torch.randn(64, 6).to(dtype)

    def twin(points):
        log_det = 0.0
        for index, layer in reversed(list(enumerate(flow.transform.layers))):
            first, second = points.chunk(2, dim=1)
            passed, moved = (first, second) if index % 2 == 0 else (second, first)
            net = layer.conditioner
            h = F.relu(F.linear(passed, net.input.weight, net.input.bias))
            h = F.relu(F.linear(h, net.layers[0].weight, net.layers[0].bias))
            s, t = F.linear(h, net.layers[1].weight, net.layers[1].bias).chunk(2, dim=1)
            s = 2.0 * torch.tanh(s / 2.0)
            moved = (moved - t) * torch.exp(-s)
            log_det = log_det - s.sum(1)
            points = torch.cat((passed, moved) if index % 2 == 0 else (moved, passed), dim=1)
        return torch.distributions.Normal(0.0, 1.0).log_prob(points).sum(1) + log_det

    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-11, "atol": 1e-11}
    ours, theirs = flow.log_prob(x), twin(x)
    torch.testing.assert_close(ours, theirs, **tolerance)
    parameters = list(flow.parameters())
    gradients = [torch.autograd.grad(value.mean(), parameters) for value in (ours, theirs)]
    for mine, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, plain, **tolerance)


@pytest.mark.parametrize("parametrization", ["lu", "plain"])
def test_invertible_convolution_is_a_convolution(parametrization):
    layer = random_layer(InvertibleConvolution(3, parametrization), noise=0.2)
    x = normal(5, 3, 4, 2)
    z, log_det = layer.inverse(x)
    columns = torch.eye(3, dtype=torch.float64).reshape(3, 3, 1, 1)
    weight = layer.inverse(columns)[0].reshape(3, 3).T
    torch.testing.assert_close(z, F.conv2d(x, weight[:, :, None, None]), rtol=0, atol=1e-12)
    exact = 8 * torch.linalg.slogdet(weight).logabsdet
    torch.testing.assert_close(log_det, exact.expand(5), rtol=0, atol=1e-12)


def test_a_convolution_begins_at_a_rotation():
    for parametrization in ("lu", "plain"):
        layer = InvertibleConvolution(6, parametrization).double()
        weight = layer.inverse(torch.eye(6, dtype=torch.float64))[0]
        torch.testing.assert_close(weight @ weight.T, torch.eye(6).double(), rtol=0, atol=1e-5)


def test_the_squeeze_is_a_checkerboard():
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    z, _ = Squeeze().inverse(x)
    colour = (torch.arange(4)[:, None] + torch.arange(4)) % 2
    assert z.shape == (1, 4, 2, 2)
    assert sorted(z[0, :2].flatten().tolist()) == sorted(x[0, 0][colour == 0].tolist())
    shifted, _ = ShiftPixels().inverse(z)
    assert sorted(shifted[0, :2].flatten().tolist()) == sorted(x[0, 0][:, 1::2].flatten().tolist())


def test_checkerboard_couplings_move_one_colour_given_the_other():
    flow = RealNVP((1, 4, 4), n_layers=1, n_scales=1, hidden_features=(4,)).double()
    random_layer(flow, noise=0.2)
    x = normal(1, 1, 4, 4)
    colour = (torch.arange(4)[:, None] + torch.arange(4)) % 2
    latent, _ = Squeeze()(ShiftPixels()(flow.inverse(x)[0].view(1, 4, 2, 2))[0])
    moved = (latent - x).abs()[0, 0] > 1e-9
    assert torch.equal(moved, colour == 1)


def test_half_of_the_channels_leave_after_every_scale():
    transform = MultiScale((1, 4, 4), [Composition([Squeeze()]), Composition([Squeeze()])])
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    z, log_det = transform.inverse(x)
    first, _ = Squeeze().inverse(x)
    assert torch.equal(z.flatten()[:8], first[0, 2:].flatten())
    assert sorted(z.flatten()[8:].tolist()) == sorted(first[0, :2].flatten().tolist())
    assert torch.equal(transform(z)[0], x) and torch.equal(log_det, torch.zeros(1))


def test_the_planar_root_is_that_of_brent():
    r = torch.cat((normal(40) * 5, torch.tensor([0.0, 1e-8, 300.0, -300.0]).double()))
    for slope in (-1.0 + MARGIN, -0.5, 0.0, 1.0, 50.0, 1e4):
        c = torch.full_like(r, slope)
        roots = SolvePlanar.apply(r, c)
        width = abs(slope) + 1.0
        for right, root in zip(r.tolist(), roots.tolist(), strict=True):
            exact = brentq(
                lambda a, right=right, slope=slope: a + slope * math.tanh(a) - right,
                right - width,
                right + width,
                xtol=1e-14,
            )
            assert root == pytest.approx(exact, rel=1e-9, abs=1e-11)


def test_the_planar_root_has_exact_first_and_second_derivatives():
    r, c = normal(6).requires_grad_(), (normal(6, seed=1).abs() - 0.8).requires_grad_()
    assert torch.autograd.gradcheck(SolvePlanar.apply, (r, c), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(SolvePlanar.apply, (r, c))


def test_planar_layers_stay_invertible_whatever_their_parameters():
    for seed in range(20):
        layer = random_layer(Planar(2), seed, noise=20.0)
        z = normal(50, 2, seed=seed) * 3
        x, log_det = layer(z)
        assert log_det.isfinite().all()
        slope = float(torch.exp(-log_det.detach().min()))
        reach = 1.0 + float(x.detach().abs().max())
        torch.testing.assert_close(layer.inverse(x)[0], z, rtol=0, atol=1e-11 * (1 + slope) * reach)


def test_radial_layers_stay_invertible_whatever_their_parameters():
    for seed in range(20):
        layer = random_layer(Radial(2), seed, noise=4.0)
        z = torch.cat((normal(50, 2, seed=seed) * 3, layer.center.detach()[None]))
        x, log_det = layer(z)
        assert log_det.isfinite().all()
        torch.testing.assert_close(layer.inverse(x)[0], z, rtol=0, atol=1e-7)


def test_networks_take_a_context_as_if_it_were_concatenated():
    torch.manual_seed(0)
    net = MLP(3, 2, (8, 8), context_dim=2, zero_last=False).double()
    x, context = normal(5, 3), normal(5, 2, seed=1)
    weight = torch.cat((net.input.weight, net.input.context_weight), dim=1)
    h = F.relu(F.linear(torch.cat((x, context), dim=1), weight, net.input.bias))
    h = F.relu(F.linear(h, net.layers[0].weight, net.layers[0].bias))
    expected = F.linear(h, net.layers[1].weight, net.layers[1].bias)
    torch.testing.assert_close(net(x, context), expected, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="needs a context"):
        net(x)


@pytest.mark.parametrize("actnorm, calls", [(False, [4]), (True, [1, 1, 1, 1])])
def test_couplings_in_a_row_are_one_call(actnorm, calls, monkeypatch):
    torch.manual_seed(0)
    flow = RealNVP(dim=6, n_layers=4, context_dim=2, actnorm=actnorm, hidden_features=(8,)).double()
    made, run = [], transform.affine_coupling_stack
    monkeypatch.setattr(transform, "affine_coupling_stack", lambda x, *rest: made.append(len(rest[0])) or run(x, *rest))
    x, context = normal(5, 6), normal(5, 2, seed=1)
    for inverse in (True, False):
        y, log_det = flow.transform.accumulate(x, context, None, inverse=inverse)
        assert made == calls
        made.clear()
        expected, total = x, None
        for layer in reversed(flow.transform.layers) if inverse else flow.transform.layers:
            expected, total = layer.accumulate(expected, context, total, inverse=inverse)
        torch.testing.assert_close((y, log_det), (expected, total), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("flow", "parameter", "layer"),
    [
        (NICE(dim=4), "layers.0.log_scale", r"layers\.0 \(DiagonalScaling\)"),
        (RealNVP(dim=4, n_layers=1, actnorm=True), "layers.1.log_scale", r"layers\.1 \(ActNorm\)"),
        (IAF(dim=4, n_layers=1), "layers.0.net.layers.2.bias", r"layers\.0 \(MaskedAffine\)"),
    ],
)
def test_an_overflow_of_scales_without_bound_names_their_layer(flow, parameter, layer):
    x = torch.randn(3, 4)
    with torch.no_grad():
        flow.eval().transform.get_parameter(parameter)[:4] = -200.0
    for call in (flow.inverse, flow.log_prob, flow.loss):
        with pytest.raises(FloatingPointError, match=layer):
            call(x)
