"""Masks and indices that change after the first call, seen by PyTorch's count of changes or not."""

import pytest
import torch

import cgm_kernels
from tests.support.flow_libraries import counts, outcome, points, randomized


def replace(module, name, new):
    setattr(module, name, new)


def write(module, name, new):
    getattr(module, name).copy_(new)


def exchange_data(module, name, new):
    getattr(module, name).data = new


def exchange_data_twice(module, name, new):
    getattr(module, name).data = torch.zeros_like(new)  # whose memory the second may get
    getattr(module, name).data = new


def write_data(module, name, new):
    getattr(module, name).data.copy_(new)


def write_with_numpy(module, name, new):
    getattr(module, name).numpy()[...] = new.numpy()


CHANGES = [replace, write, exchange_data, exchange_data_twice, write_data, write_with_numpy]


def normflows_row(n_layers=2):
    normflows = pytest.importorskip("normflows", reason="normflows is not installed (pip install normflows)")
    mask, layers = torch.tensor([1.0, 0.0, 1.0, 0.0]), []
    for index in range(n_layers):
        s, t = (normflows.nets.MLP([4, 8, 4]) for _ in range(2))
        layers.append(normflows.flows.MaskedAffineFlow((1 - mask if index else mask).clone(), t, s))
    model = normflows.NormalizingFlow(normflows.distributions.DiagGaussian(4), layers)
    return model, [(layer, "b", 1 - layer.b) for layer in layers]


def normflows_alone():
    return normflows_row(1)


def normflows_maf():
    """The network of whose first two layers we make one, and the mask of that."""
    normflows = pytest.importorskip("normflows", reason="normflows is not installed (pip install normflows)")
    layer = normflows.flows.MaskedAffineAutoregressive(4, 9, num_blocks=2, use_residual_blocks=False)
    first = layer.autoregressive_net.initial_layer
    new = first.mask.clone()
    first.mask.zero_()
    return normflows.NormalizingFlow(normflows.distributions.DiagGaussian(4), [layer]), [(first, "mask", new)]


def nflows_coupling():
    transforms = pytest.importorskip("nflows.transforms", reason="nflows is not installed (pip install nflows)")
    from nflows.nn.nets import ResidualNet

    mask = torch.tensor([0, 1, 1, 0])
    layer = transforms.AffineCouplingTransform(mask, lambda n_in, n_out: ResidualNet(n_in, n_out, 8, num_blocks=1))
    passed, moved = layer.identity_features.clone(), layer.transform_features.clone()
    return layer, [(layer, "identity_features", moved), (layer, "transform_features", passed)]


def zuko_coupling():
    zuko = pytest.importorskip("zuko", reason="zuko is not installed (pip install zuko)")
    model = zuko.flows.RealNVP(4, transforms=2, hidden_features=(8,))
    couplings = [one for one in model.modules() if isinstance(one, zuko.flows.GeneralCouplingTransform)]
    return model, [(one, "mask", ~one.mask) for one in couplings]


MODELS = {  # and a call of each
    "normflows_row": (normflows_row, lambda m, x: m.log_prob(x)),
    "normflows_alone": (normflows_alone, lambda m, x: m.log_prob(x)),
    "normflows_maf": (normflows_maf, lambda m, x: m.log_prob(x)),
    "nflows_coupling": (nflows_coupling, lambda m, x: m(x, None)),
    "zuko_coupling": (zuko_coupling, lambda m, x: m().log_prob(x)),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", MODELS)
def test_changes_are_noticed(name, change):
    make, call = MODELS[name]
    torch.manual_seed(0)
    model, changes = make()
    x = points(5, 4)
    model = randomized(model)
    before = outcome(model, lambda m: call(m, x), x)
    with cgm_kernels.accelerate(model):
        torch.testing.assert_close(outcome(model, lambda m: call(m, x), x), before, rtol=1e-9, atol=1e-9)
        for module, buffer, new in changes:
            change(module, buffer, new.to(getattr(module, buffer).dtype))
        found = outcome(model, lambda m: call(m, x), x)
    assert sum(row.ours for row in counts().values()) >= 2
    expected = outcome(model, lambda m: call(m, x), x)
    assert not torch.allclose(expected[0], before[0])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
