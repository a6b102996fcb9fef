"""zuko's RealNVP and MAF with and without our kernels."""

import copy
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
    errors,
    outcome,
    randomized,
)

same = functools.partial(assert_same, "zuko")


def draw(*shape, seed=3, grad=False):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_(grad)


def flow(kind="RealNVP", features=6, context=0, **options):
    torch.manual_seed(1)
    return randomized(getattr(zuko.flows, kind)(features, context, transforms=3, hidden_features=(16, 9), **options))


@pytest.mark.parametrize("features", [2, 5, 6])
@pytest.mark.parametrize("randmask", [False, True])
@pytest.mark.parametrize("context", [0, 3])
def test_realnvp(features, randmask, context):
    model = flow("RealNVP", features, context, randmask=randmask)
    x, c = draw(7, features, grad=True), draw(7, context, seed=4, grad=True) if context else None
    given = (x, c) if context else (x,)
    assert_ours(same(model, lambda m: m(c).log_prob(x), *given), CouplingTransform_call_and_ladj=3)
    assert_ours(same(model, lambda m: m(c).rsample((4,)), *given[1:]), CouplingTransform__inverse=3)
    assert_ours(same(model, lambda m: m(c).transform(x), *given), CouplingTransform__call=3)
    assert_ours(same(model, lambda m: m(c).rsample_and_log_prob((4,))), CouplingTransform__inverse=3)


@pytest.mark.parametrize("options", [{}, {"randperm": True}, {"passes": 2}, {"passes": 3}])
@pytest.mark.parametrize("context", [0, 3])
def test_maf(options, context):
    model = flow("MAF", 7, context, **options)
    x, c = draw(5, 7, grad=True), draw(5, context, seed=4, grad=True) if context else None
    given = (x, c) if context else (x,)
    assert_ours(same(model, lambda m: m(c).log_prob(x), *given), AutoregressiveTransform_call_and_ladj=3)
    assert_ours(same(model, lambda m: m(c).rsample((4,)), *given[1:]), AutoregressiveTransform__inverse=3)
    assert_ours(same(model, lambda m: m(c).transform.inv(x), *given), AutoregressiveTransform__inverse=3)
    assert_ours(same(model, lambda m: m(c).transform(x), *given), AutoregressiveTransform__call=3)


@pytest.mark.parametrize("name", ["ReLU", "Tanh", "Sigmoid", "SiLU", "GELU", "ELU", "Softplus"])
def test_activations_of_the_masked_inverse(name):
    model = flow("MAF", 4, activation=getattr(torch.nn, name))
    y = draw(5, 4, grad=True)
    assert_ours(same(model, lambda m: m().transform.inv(y), y), AutoregressiveTransform__inverse=3)


def test_adjacency():
    torch.manual_seed(0)
    adjacency = torch.eye(5, dtype=torch.bool) | (torch.rand(5, 5).tril(-1) > 0.5)
    order = torch.randperm(5)
    layer = zuko.flows.MaskedAutoregressiveTransform(5, adjacency=adjacency[order][:, order], hidden_features=(12,))
    y = draw(6, 5, grad=True)
    model = randomized(layer)
    assert_ours(same(model, lambda m: m().inv(y), y), AutoregressiveTransform__inverse=1)


@pytest.mark.parametrize("kind", ["RealNVP", "MAF"])
@pytest.mark.parametrize("shape", [(6,), (1, 6), (2, 3, 6), (2, 1, 3, 6)])
def test_batch_shapes(kind, shape):
    model = flow(kind, 6, 2)
    x = draw(*shape, grad=True)
    for c in (draw(2), draw(*shape[:-1], 2)):
        same(model, lambda m: [m(c).transform.call_and_ladj(x)[1], m(c).transform.inv(x)], x)  # noqa: B023


def test_slopes():
    for slope in (1e-2, 1e-5, 20.0):
        affine = functools.partial(zuko.transforms.MonotonicAffineTransform, slope=slope)
        model, x = flow("RealNVP", univariate=affine), draw(4, 6, grad=True)
        assert_ours(same(model, lambda m: m().log_prob(x), x), CouplingTransform_call_and_ladj=3)  # noqa: B023


@pytest.mark.parametrize("kind", ["RealNVP", "MAF"])
def test_single_precision_is_as_accurate(kind):
    torch.manual_seed(2)
    model = flow(kind, 16).float()
    x = draw(200, 16).float().requires_grad_()
    call = lambda m: [m().log_prob(x), m().transform.inv(x)]  # noqa: E731
    theirs = outcome(model, call, x)
    with integrations.patch("zuko"):
        ours = outcome(model, call, x)
    exact_x = x.detach().double().requires_grad_()
    exact = outcome(
        copy.deepcopy(model).double(), lambda m: [m().log_prob(exact_x), m().transform.inv(exact_x)], exact_x
    )
    assert errors(ours, exact) <= 2.0 * errors(theirs, exact) + 1e-6


def test_what_is_not_recognised_is_zukos():
    x = draw(4, 6)

    class Half(zuko.transforms.MonotonicAffineTransform):
        def _call(self, x):
            return 0.5 * super()._call(x)

    assert_passed_on(
        same(flow("RealNVP", univariate=Half), lambda m: m().log_prob(x)),
        "a univariate transform that is not affine",
    )
    assert_passed_on(same(flow("NSF"), lambda m: m().log_prob(x)), "a univariate transform that is not affine")
    for residual in (flow("MAF", residual=True), flow("MAF", residual=True, activation=torch.nn.Tanh)):
        rows = same(residual, lambda m: m().transform.inv(x))
        assert_passed_on(rows, "residual blocks, or layers of another kind")
    assert_passed_on(
        same(flow("MAF", activation=torch.nn.LeakyReLU), lambda m: m().transform.inv(x)),
        "an activation that the kernel does not have",
    )
    hooked = flow("MAF")
    hooked.transform.transforms[0].hyper[1].register_forward_hook(lambda module, given, value: 2.0 * value)
    rows = same(hooked, lambda m: m().transform.inv(x))
    assert rows["zuko.AutoregressiveTransform._inverse"].reasons == {"hooks": 1}
    own = zuko.transforms.CouplingTransform(
        lambda a: zuko.transforms.DependentTransform(zuko.transforms.MonotonicAffineTransform(a, a), 1),
        torch.tensor([True, False]),
    )
    with integrations.patch("zuko"):
        own(x[:, :2])
    assert_passed_on(counts(), "a transform that no coupling or masked module made")


@pytest.mark.parametrize("kind", ["RealNVP", "MAF"])
def test_second_derivatives(kind):
    """Of the density and of samples, by the points and by all parameters, as of score matching."""
    model = flow(kind)
    x = draw(4, 6, grad=True)
    leaves = [x, *model.parameters()]

    def curvature():
        found = []
        for values in (model().log_prob(x), model().transform.inv(x).sin()):
            (first,) = torch.autograd.grad(values.sum(), x, create_graph=True)
            found += torch.autograd.grad(first.square().sum(), leaves, materialize_grads=True)
        return found

    expected = curvature()
    with integrations.patch("zuko"):
        torch.testing.assert_close(curvature(), expected, rtol=1e-9, atol=1e-9)


def test_a_subclass_is_zukos():
    class Doubled(zuko.flows.GeneralCouplingTransform):
        def meta(self, c, x):
            return super().meta(c, 2.0 * x)

    torch.manual_seed(0)
    x = draw(4, 6)
    rows = same(randomized(Doubled(6)), lambda m: m().call_and_ladj(x))
    assert_passed_on(rows, "a transform that no coupling or masked module made")


@pytest.mark.parametrize("backend", cgm_kernels.available_backends())
def test_every_backend(backend):
    x = draw(5, 6)
    for kind in ("RealNVP", "MAF"):
        model = flow(kind)
        call = lambda m: [m().log_prob(x), m().transform.inv(x)]  # noqa: E731
        expected = outcome(model, call)
        with integrations.patch("zuko"), cgm_kernels.use_backend(backend):
            torch.testing.assert_close(outcome(model, call), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kind", ["RealNVP", "MAF"])
def test_cuda(kind):
    model, x = flow(kind).cuda(), draw(33, 6).cuda()
    call = lambda m: [m().log_prob(x).sum(), m().transform.inv(x).square().sum()]  # noqa: E731
    expected = [value.detach() for value in call(model)]
    with integrations.patch("zuko"):
        torch.testing.assert_close([value.detach() for value in call(model)], expected, rtol=1e-9, atol=1e-9)
    assert all(row.ours and not row.passed_on for row in counts().values())
