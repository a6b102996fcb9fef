"""zuko's continuous flows with and without our kernels."""

import functools

import pytest
import torch

zuko = pytest.importorskip("zuko", reason="zuko is not installed (pip install zuko)")

import cgm_kernels  # noqa: E402
from cgm_kernels import integrations  # noqa: E402
from tests.support.flow_libraries import (  # noqa: E402
    assert_ours,
    assert_passed_on,
    assert_same,
    counts,
    outcome,
    randomized,
)

same = functools.partial(assert_same, "zuko", rtol=1e-8)


def draw(*shape, seed=3, grad=False):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_(grad)


def flow(features=3, context=0, **options):
    torch.manual_seed(1)
    return randomized(
        zuko.flows.CNF(features, context, **{"hidden_features": (8, 9), "atol": 1e-3, "rtol": 1e-3, **options})
    )


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("context", [0, 2])
@pytest.mark.parametrize("freqs", [0, 3])
def test_densities_and_samples(exact, context, freqs):
    model = flow(3, context, exact=exact, freqs=freqs)
    x, c = draw(5, 3, grad=True), draw(5, context, seed=4, grad=True) if context else None
    given = (x, c) if context else (x,)
    call = dict.fromkeys(["FreeFormJacobianTransform_call_and_ladj"], 1)
    assert_ours(same(model, lambda m: m(c).log_prob(x), *given), **call)
    assert_ours(same(model, lambda m: m(c).rsample_and_log_prob((4,)), *given[1:]), **call)
    assert not same(model, lambda m: m(c).rsample((4,)), *given[1:])  # no divergence is needed


@pytest.mark.parametrize("hidden", [(), (7,), (6, 5, 7)])
@pytest.mark.parametrize("name", ["Tanh", "SiLU", "GELU", "Softplus", "ReLU"])
def test_networks(hidden, name):
    model, x = flow(2, hidden_features=hidden, activation=getattr(torch.nn, name)), draw(4, 2, grad=True)
    assert_ours(same(model, lambda m: m().log_prob(x), x), FreeFormJacobianTransform_call_and_ladj=1)


def test_evaluation_and_shapes():
    model = flow(3, 2).eval()
    for shape in ((3,), (2, 4, 3)):
        for c in (draw(2, grad=True), draw(*shape[:-1], 2, grad=True)):
            x = draw(*shape, grad=True)
            assert_ours(same(model, lambda m: m(c).log_prob(x), x, c), FreeFormJacobianTransform_call_and_ladj=1)  # noqa: B023


def test_what_is_not_recognised_is_zukos():
    x = draw(4, 3)
    for options, reason in (
        ({"activation": torch.nn.Hardswish}, "an activation that the kernel does not have"),
        ({"normalize": True}, "layers of another kind"),
    ):
        assert_passed_on(same(flow(**options), lambda m: m().log_prob(x)), reason)
    own = zuko.transforms.FreeFormJacobianTransform(lambda t, x: -x)
    with integrations.patch("zuko"):
        own.call_and_ladj(x)
    assert_passed_on(counts(), "a transform that no FFJTransform made")


@pytest.mark.parametrize("backend", cgm_kernels.available_backends())
def test_every_backend(backend):
    model, x = flow(2), draw(5, 2, grad=True)
    call = lambda m: m().log_prob(x)  # noqa: E731
    expected = outcome(model, call, x)
    with integrations.patch("zuko"), cgm_kernels.use_backend(backend):
        torch.testing.assert_close(outcome(model, call, x), expected, rtol=1e-8, atol=1e-8)
