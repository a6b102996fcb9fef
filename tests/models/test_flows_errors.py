"""What flows refuse, by name: options, inputs, and numbers that overflow."""

import math

import pytest
import torch

import cgm_models
from cgm_models import cnf
from cgm_models.flows import RealNVP
from tests.support.flows import make, points


@pytest.mark.parametrize(
    ("make_flow", "message"),
    [
        (lambda: RealNVP(), "event_shape or dim"),
        (lambda: RealNVP((2,), dim=2), "event_shape or dim"),
        (lambda: RealNVP(dim=1), "at least 2"),
        (lambda: RealNVP(dim=0), "dim must be"),
        (lambda: RealNVP((2, 0)), "positive sizes"),
        (lambda: RealNVP(dim=2, n_layers=0), "n_layers"),
        (lambda: RealNVP(dim=2, hidden_features=(0,)), "hidden_features"),
        (lambda: RealNVP((1, 2, 2), hidden_features=()), "hidden_features"),
        (lambda: RealNVP(dim=2, scale="gate"), "scale must be one of"),
        (lambda: RealNVP(dim=2, bound=0.0), "bound"),
        (lambda: RealNVP(dim=2, activation="rrelu"), "activation must be one of"),
        (lambda: RealNVP(dim=2, base="gamma"), "base must be one of"),
        (lambda: RealNVP(dim=2, base_options={"df": 1}), "base_options .* do not fit the base 'normal'"),
        (lambda: RealNVP(dim=2, context_dim=-1), "context_dim"),
        (lambda: RealNVP(dim=2, n_levels=1), "n_levels"),
        (lambda: RealNVP(dim=2, n_levels=2, logit_alpha=0.5), "logit_alpha"),
        (lambda: RealNVP((1, 3, 4)), "height and width must be even"),
        (lambda: RealNVP((1, 4, 4), n_scales=3), "n_scales must be at most 2"),
        (lambda: cgm_models.flows.Glow((2,)), r"Glow is for images"),
        (lambda: cgm_models.flows.Glow((1, 4, 4), convolution="qr"), "parametrization"),
        (lambda: cgm_models.flows.NeuralSplineFlow(dim=2, n_bins=1), "n_bins"),
        (lambda: cgm_models.flows.NeuralSplineFlow(dim=2, mixing="shuffle"), "mixing"),
    ],
)
def test_wrong_options_are_named(make_flow, message):
    with pytest.raises(ValueError, match=message):
        make_flow()


def test_wrong_inputs_are_named():
    flow, conditional = make("realnvp"), make("realnvp-context")
    x = points(flow)
    with pytest.raises(ValueError, match=r"x must have shape \(n, 5\): got \(4, 4\)"):
        flow.log_prob(x[:, :4])
    with pytest.raises(TypeError, match=r"dtype of the model, torch\.float64: got torch\.float32"):
        flow.log_prob(x.float())
    with pytest.raises(ValueError, match="no context"):
        flow.log_prob(x, x)
    with pytest.raises(ValueError, match="conditional"):
        conditional.sample(2)
    with pytest.raises(ValueError, match=r"context must have shape \(3,\) or \(4, 3\): got \(4, 2\)"):
        conditional.log_prob(x[:, :4], torch.zeros(4, 2, dtype=torch.float64))
    with pytest.raises(TypeError, match="context must be a Tensor"):
        conditional.log_prob(x[:, :4], [0, 1, 2, 0])
    with pytest.raises(ValueError, match="n must be a whole number"):
        flow.sample(-1)
    with pytest.raises(ValueError, match="temperature"):
        flow.sample(1, temperature=-1.0)
    with pytest.raises(ValueError, match="x must be finite, and 1 of 4 rows"):
        flow.log_prob(torch.cat((x[:3], x[:1] * math.nan)))


def test_an_overflow_names_the_layer_and_is_never_a_silent_nan():
    flow = make("realnvp-exp", dtype=torch.float32)
    x = points(flow)
    last = flow.transform.layers[1].conditioner.layers[-1]
    with torch.no_grad():
        last.bias.fill_(1e3)
    for call in (lambda: flow.sample(2), lambda: flow(x)):
        with pytest.raises(FloatingPointError, match=r"layer layers\.1 \(AffineCoupling\) gives values"):
            call()
    with torch.no_grad():
        last.bias.fill_(-1e3)
    for call in (lambda: flow.loss(x), lambda: flow.log_prob(x), lambda: flow.inverse(x)):
        with pytest.raises(FloatingPointError, match=r"layer layers\.1 \(AffineCoupling\)"):
            call()
    with torch.no_grad():
        last.bias[0] = math.nan
    with pytest.raises(FloatingPointError, match=r"parameter transform\.layers\.1\.conditioner.*bias"):
        flow.loss(x)
    assert "accumulate" not in vars(flow.transform.layers[1])
    flow.check_finite = False
    assert flow.loss(x).isnan()


def test_an_overflow_of_layers_that_keep_volumes_is_noticed_too():
    flow = make("nice", dtype=torch.float32)
    with torch.no_grad():
        for index in (1, 3):
            flow.transform.layers[index].conditioner.layers[-1].bias.fill_(3e38)
    for call in (lambda: flow.sample(2), lambda: flow(points(flow)), lambda: flow.inverse(points(flow))):
        with pytest.raises(FloatingPointError, match=r"layer layers\.[13] \(AdditiveCoupling\)"):
            call()


@pytest.mark.parametrize("family", [cnf.FFJORD, cnf.OTFlow, cnf.HamiltonianFlow, cgm_models.flows.NICE])
def test_points_too_far_away_for_any_density_have_none(family):
    far = torch.tensor([[0.0, 0.0], [1e25, 1.0]])
    for base in ("normal", "student_t", "learnable_normal", "uniform"):
        found = family(dim=2, base=base).eval().log_prob(far)
        assert found[0].isfinite() and found[1] == -math.inf


def test_weights_that_carry_points_out_of_the_range_are_noticed():
    flow = cnf.FFJORD(dim=2).eval()
    with torch.no_grad():
        list(flow.parameters())[-1].fill_(1e31)
    with pytest.raises(FloatingPointError, match=r"no finite density at 3 of 3 rows; \|z\| reaches 5e\+30"):
        flow.log_prob(torch.zeros(3, 2))


def test_bounded_scales_cannot_overflow():
    flow = make("realnvp", dtype=torch.float32)
    with torch.no_grad():
        for layer in flow.transform.layers:
            layer.conditioner.layers[-1].bias.mul_(1e30).clamp_(-1, 1)
            layer.conditioner.layers[-1].weight.mul_(1e30)
            layer.conditioner.layers[-1].weight[len(layer.conditioner.layers[-1].weight) // 2 :] = 0
    assert flow.log_prob(points(flow)).isfinite().all()
