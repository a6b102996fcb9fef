"""Models built on the device "meta", which holds no numbers, and given memory and a state later."""

import copy

import pytest
import torch

from cgm_models import cnf, ebm, flows, transport

IMAGE = (3, 4, 4)
FLOWS = {
    "RealNVP": lambda: flows.RealNVP(dim=3),
    "conditional": lambda: flows.RealNVP(dim=3, context_dim=2, base="learnable_normal"),
    "mixture": lambda: flows.RealNVP(dim=3, base="gaussian_mixture", base_options={"learnable": False}),
    "laplace": lambda: flows.RealNVP(dim=3, base="laplace"),
    "NICE": lambda: flows.NICE(dim=3),
    "Glow": lambda: flows.Glow(IMAGE, n_levels=8, hidden_channels=4),
    "NeuralSplineFlow": lambda: flows.NeuralSplineFlow(dim=3),
    "MAF": lambda: flows.MAF(dim=3, order="random"),
    "IAF": lambda: flows.IAF(dim=3),
    "MADE": lambda: flows.MADE(dim=3, order="random"),
    "PlanarFlow": lambda: flows.PlanarFlow(dim=3),
    "RadialFlow": lambda: flows.RadialFlow(dim=3),
    "PixelCNN": lambda: flows.PixelCNN(IMAGE, hidden_channels=2, n_layers=2),
    "PixelRNN": lambda: flows.PixelRNN(IMAGE, hidden_channels=2, n_layers=2),
    "FFJORD": lambda: cnf.FFJORD(dim=2, n_frequencies=2),
    "OTFlow": lambda: cnf.OTFlow(dim=2),
    "HamiltonianFlow": lambda: cnf.HamiltonianFlow(dim=4, dynamics="canonical"),
    "EnergyModel": lambda: ebm.EnergyModel(dim=2, spectral_norm=1.0, sample_steps=2),
    "JointEnergyModel": lambda: ebm.JointEnergyModel(dim=2, context_dim=2, energy_options={"sample_steps": 2}),
}
SIGNAL, FIELD, POINTS = (16,), (1, 16, 16), (6, 2)
FEATURES = [
    (SIGNAL, "autocovariance"),
    (FIELD, "autocovariance"),
    (SIGNAL, "power_spectrum"),
    (FIELD, {"name": "power_spectrum", "n_bins": 4, "n_angles": 3}),
    (FIELD, "wavelets"),
    (SIGNAL, "histogram"),
    (FIELD, {"name": "convolution", "n_layers": 2}),
    (POINTS, "pair_counts"),
    (POINTS, "neighbour_counts"),
]


def tensors(model):
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def on_meta(build):
    with torch.device("meta"):
        model = build()
    assert all(tensor.is_meta for tensor in tensors(model).values())
    return model


def emptied(model):
    """``model`` with memory of its own that holds anything."""
    model = copy.deepcopy(model).to_empty(device="cpu")
    for tensor in tensors(model).values():
        tensor.data.fill_(7)
    return model


def check_loaded(build, trained):
    """With and without memory of its own, a model takes over the numbers that an ordinary one does."""
    expected, empty = build(), on_meta(build)
    expected.load_state_dict(trained.state_dict())
    for model in (emptied(empty), empty):
        model.load_state_dict(trained.state_dict(), assign=True)
        torch.testing.assert_close(tensors(model), tensors(expected), rtol=0, atol=0)
    return model.eval(), expected.eval()


@pytest.mark.parametrize("name", FLOWS)
def test_a_model_built_without_numbers_is_the_one_whose_state_it_takes(name):
    trained = FLOWS[name]()
    if name == "Glow":
        trained.initialize(torch.rand(8, *IMAGE))
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model, expected = check_loaded(FLOWS[name], trained)
    context = torch.zeros(1, dtype=torch.long)[0] if model.context_dim else None
    samples = (one.sample(2, context, generator=torch.Generator().manual_seed(0)) for one in (model, expected))
    assert torch.equal(*samples)


@pytest.mark.parametrize("shape, feature", FEATURES, ids=str)
def test_features_built_without_numbers_are_whole_again(shape, feature):
    def build():
        return ebm.MaximumEntropyModel(shape, features=[feature])

    model, expected = check_loaded(build, build())
    x = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model.features(x), expected.features(x))
    assert model.features.n_features == expected.features.n_features


def test_the_neural_flow_built_without_numbers_sees_the_times_again():
    def build():
        return transport.NeuralSlicedWassersteinFlow((2,), hidden_features=(8,), n_frequencies=2)

    model, expected = check_loaded(build, build())
    samples = (one.sample(3, generator=torch.Generator().manual_seed(0), time=5.0) for one in (model, expected))
    assert torch.equal(*samples)
