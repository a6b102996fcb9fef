"""Objects of torch.distributions as bases: they go where their flow goes."""

import copy

import pytest
import torch
from torch.distributions import (
    Categorical,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    TransformedDistribution,
    Uniform,
)
from torch.distributions.transforms import AffineTransform, ComposeTransform, SigmoidTransform

from cgm_models.flows import RealNVP, register_base

LOC, SCALE = torch.tensor([1.0, -2.0]), torch.tensor([[2.0, 0.0], [0.5, 1.0]])


UNCHECKED = {"validate_args": False}  # the checks look at numbers, which "meta" has not


def logistic(dtype):
    both = ComposeTransform([SigmoidTransform().inv, AffineTransform(LOC.to(dtype), SCALE[1].to(dtype))])
    assert both.inv.inv is both  # and so it knows its inverse
    noise = Uniform(torch.zeros(2, dtype=dtype), torch.ones(2, dtype=dtype), **UNCHECKED)
    return TransformedDistribution(noise, [both], **UNCHECKED)


def mixture(dtype):
    parts = Independent(Normal(SCALE.to(dtype), 0.5, **UNCHECKED), 1)
    return MixtureSameFamily(Categorical(logits=LOC.to(dtype)), parts, **UNCHECKED)


LAWS = {
    "normal": lambda dtype: Normal(LOC.to(dtype), 1.0, **UNCHECKED),
    "correlated": lambda dtype: MultivariateNormal(LOC.to(dtype), scale_tril=SCALE.to(dtype), **UNCHECKED),
    "logistic": logistic,
    "mixture": mixture,
}
ALL = pytest.mark.parametrize("name", LAWS)


def make(name):
    register_base(name + "-of-a-test", lambda event_shape, context_dim: LAWS[name](torch.float32))
    torch.manual_seed(0)
    return RealNVP(dim=2, n_layers=2, hidden_features=(4,), base=name + "-of-a-test")


def log_prob(law, z):
    value = law.log_prob(z)
    return value.sum(1) if value.ndim > 1 else value


@ALL
def test_it_computes_in_the_precision_of_its_flow(name):
    base, z = make(name).base, torch.randn(5, 2, dtype=torch.float64)
    exact = log_prob(LAWS[name](torch.float64), z)
    for dtype, tolerance in ((torch.float64, 1e-14), (torch.float32, 1e-5), (torch.bfloat16, 0.2)):
        base.to(dtype)
        found = base.log_prob(z.to(dtype))
        assert found.dtype is torch.promote_types(dtype, torch.float32)
        torch.testing.assert_close(found.double(), exact, rtol=tolerance, atol=tolerance)
        draw = base.draw(3, generator=torch.Generator().manual_seed(0))
        assert draw.dtype is dtype and draw.isfinite().all()
    assert not base.state_dict()


def test_in_double_precision_it_draws_more_numbers_than_float32_has():
    draws = make("correlated").double().sample(4)
    assert draws.dtype is torch.float64 and not torch.equal(draws, draws.float().double())


@ALL
def test_it_goes_to_other_devices_and_copies_stay(name):
    flow = make(name)
    other = flow if "logistic" in name else copy.deepcopy(flow)  # PyTorch cannot copy the inverse of a sigmoid
    z = torch.randn(3, 2)
    expected = flow.base.log_prob(z)
    moved = other.base.to("meta")
    assert moved.log_prob(z.to("meta")).is_meta and moved.draw(2).is_meta
    if other is not flow:
        assert torch.equal(flow.base.log_prob(z), expected)


@ALL
def test_a_flow_built_without_numbers_has_them_with_its_state(name):
    trained = make(name)
    with torch.device("meta"):
        empty = make(name)
    assert all(buffer.is_meta for buffer in empty.buffers())
    for flow in (copy.deepcopy(empty).to_empty(device="cpu") if name != "logistic" else empty, empty):
        flow.load_state_dict(trained.state_dict(), assign=True)
        z = torch.randn(3, 2)
        assert torch.equal(flow.base.log_prob(z), trained.base.log_prob(z))


def test_parameters_of_others_stay_theirs():
    mean = torch.nn.Parameter(torch.zeros(2))
    register_base("learnt-elsewhere", lambda event_shape, context_dim: Normal(mean, 1.0))
    base = RealNVP(dim=2, n_layers=1, base="learnt-elsewhere").double().base
    base.log_prob(torch.ones(1, 2, dtype=torch.float64)).sum().backward()
    assert torch.equal(mean.grad, torch.ones(2))
