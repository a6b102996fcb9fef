"""Where flows of every scale begin: at the identity, or at z · σ^k with σ of their first log-scales."""

import copy
import math

import pytest
import torch

from cgm_kernels import InvertibleSequence
from cgm_models.flows import IAF, MAF, Composition, Glow, RealNVP
from cgm_models.flows.coupling import AffineCoupling

SIGMA = {"exp": 1.0, "tanh": 1.0, "softclip": 1.0, "softplus": 1.0, "sigmoid": 1 / (1 + math.exp(-2.0))}
SIGMA_OF_IAF = SIGMA | {"gate": 1 / (1 + math.exp(-2.0))}
CASES = [(model, scale) for model in (RealNVP, MAF) for scale in SIGMA] + [(IAF, scale) for scale in SIGMA_OF_IAF]


def normal(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def assert_begins_at(flow, factor, layer_count):
    z = normal(5, *flow.event_shape)
    context = normal(5, flow.context_dim) if flow.context_dim else None
    x, log_det = flow.forward(z, context)
    torch.testing.assert_close(x, z * factor, rtol=1e-6, atol=1e-12)
    expected = torch.full((5,), z[0].numel() * math.log(factor), dtype=torch.float64)
    torch.testing.assert_close(log_det, expected, rtol=1e-6, atol=1e-6 * layer_count)
    torch.testing.assert_close(flow.inverse(z, context)[0], z / factor, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("context_dim", [0, 2])
@pytest.mark.parametrize("hidden", [(), (8, 8)], ids=str)
@pytest.mark.parametrize("model, scale", CASES)
def test_vectors(model, scale, hidden, context_dim):
    torch.manual_seed(0)
    flow = model(dim=3, context_dim=context_dim, n_layers=4, scale=scale, hidden_features=hidden).double()
    layers = 2 if model is RealNVP else 4  # of which each dimension passes through so many
    assert_begins_at(flow, SIGMA_OF_IAF[scale] ** layers, layers)


@pytest.mark.parametrize("scale", SIGMA)
def test_images_taken_for_vectors(scale):
    for model in (RealNVP, MAF, IAF):
        options = {"n_scales": 0} if model is RealNVP else {}
        flow = model((1, 2, 2), n_layers=2, scale=scale, hidden_features=(8,), **options).double()
        layers = 1 if model is RealNVP else 2
        assert_begins_at(flow, SIGMA[scale] ** layers, layers)


@pytest.mark.parametrize("scale", SIGMA)
@pytest.mark.parametrize("model", [RealNVP, Glow])
def test_couplings_of_images(model, scale):
    options = {"n_layers": 4, "hidden_features": (4,)} if model is RealNVP else {"n_steps": 2, "hidden_channels": 4}
    flow = model((1, 4, 4), n_scales=2, scale=scale, **options).double()
    couplings = [layer for layer in flow.modules() if isinstance(layer, AffineCoupling)]
    assert len(couplings) == (8 if model is RealNVP else 5)
    for layer in couplings:
        channels = layer.conditioner.input.in_channels * 2
        z = normal(3, channels, 2, 2)
        x, log_det = layer(z)
        expected = z.clone()
        moved = layer.split if isinstance(layer.split, slice) else slice(layer.split, None)
        expected[:, moved] *= SIGMA[scale]
        torch.testing.assert_close(x, expected, rtol=1e-6, atol=0)
        total = torch.full((3,), channels // 2 * 4 * math.log(SIGMA[scale]), dtype=torch.float64)
        torch.testing.assert_close(log_det, total, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("model, scale", [case for case in CASES if case[1] != "softplus"])
def test_other_scales_begin_at_zero(model, scale):
    """Only gates and softplus have first log-scales of their own: the weights of a seed stay for all others."""
    flow = model(dim=3, n_layers=2, scale=scale)
    for layer in flow.modules():
        net = getattr(layer, "net", getattr(layer, "conditioner", None))
        if net is not None:
            bias, half = net.layers[-1].bias, len(net.layers[-1].bias) // 2
            assert not bias[half:].any() and not net.layers[-1].weight.any()
            assert torch.equal(bias[:half], torch.full((half,), 2.0 if scale == "gate" else 0.0))


@pytest.mark.parametrize("inverse", [False, True])
def test_waiting_actnorms_in_an_invertible_sequence_are_those_of_ordinary_autograd(inverse):
    """From noise to data they stay the identity, backward and drift included; the other way the batch sets them."""
    flow = RealNVP(dim=2, actnorm=True, n_layers=2, hidden_features=(8,)).double()
    z = (5.0 + 2.0 * normal(40, 2)).requires_grad_()
    results = []
    for kind in (Composition, InvertibleSequence):
        transform = kind(copy.deepcopy(flow.transform).layers)
        x, log_det = transform.inverse(z) if inverse else transform(z)
        loss = (x.sin().sum() + log_det.sum()) / len(z)
        gradients = torch.autograd.grad(loss, [z, *transform.parameters()])
        results.append([loss, *gradients, copy.deepcopy(transform.state_dict())])
    torch.testing.assert_close(*reversed(results), rtol=1e-9, atol=1e-9)
    assert transform.drift(z) < 1e-12
    torch.testing.assert_close(transform.state_dict(), results[1][-1], rtol=0, atol=0)
