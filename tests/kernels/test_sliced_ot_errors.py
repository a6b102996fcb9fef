"""Bad input of the sliced operations: each error names the argument."""

import pytest
import torch

import cgm_kernels
from tests.support.backends import running

X, Y = torch.randn(6, 3), torch.randn(5, 3)
THETA = cgm_kernels.random_projections(3, 4)

CLOUD_ERRORS = [
    (dict(x=[1.0]), TypeError, "x must be a tensor: got list"),
    (dict(x=X.int()), TypeError, "x must be float32"),
    (dict(x=X.to_sparse()), TypeError, "x must be a dense tensor"),
    (dict(projections=None, generator=3), TypeError, "generator must be a torch.Generator"),
    (dict(y=Y.double()), TypeError, "y must have the dtype of x"),
    (dict(y=Y.to("meta")), ValueError, "y must be on the device of x"),
    (dict(x=X[0]), ValueError, "x must be a cloud"),
    (dict(y=Y[:, :2]), ValueError, "y must be"),
    (dict(y=Y[None]), ValueError, "y must be"),
    (dict(x=X[None].expand(2, -1, -1), y=Y[None].expand(3, -1, -1)), ValueError, "y must be"),
    (dict(x=X[:0]), ValueError, "x must hold at least one point"),
    (dict(y=Y[:0]), ValueError, "y must hold at least one point"),
    (dict(x=X[:, :0], y=Y[:, :0]), ValueError, "at least one dimension"),
    (dict(projections=THETA.T), ValueError, "projections must be"),
    (dict(projections=THETA[:, :0]), ValueError, "projections must hold at least one direction"),
    (dict(projections=THETA.double()), TypeError, "projections must have the dtype of x"),
    (dict(projections=None, n_projections=0), ValueError, "n_projections must be at least 1"),
    (dict(projections=None, n_projections=2.0), TypeError, "n_projections must be an int"),
    (dict(x_weights=torch.ones(5)), ValueError, "x_weights must be"),
    (dict(x_weights=torch.tensor([-1.0, 1, 1, 1, 1, 1])), ValueError, "x_weights must be nonnegative"),
    (dict(y_weights=torch.zeros(5)), ValueError, "y_weights must not be all zero"),
    (dict(y_weights=torch.full((5,), torch.nan)), ValueError, "y_weights must be finite"),
    (dict(y_weights=torch.tensor([torch.inf, 1, 1, 1, 1])), ValueError, "y_weights must be finite"),
    (dict(x_weights=[1.0] * 6), TypeError, "x_weights must be a tensor"),
]
POWER_ERRORS = [(0.5, ValueError), (float("nan"), ValueError), (float("inf"), ValueError), ("two", TypeError)]


@pytest.mark.parametrize(("change", "kind", "message"), CLOUD_ERRORS)
def test_sliced_ot_errors(change, kind, message):
    arguments = {"x": X, "y": Y, "projections": THETA, **change}
    for name in ("sliced_wasserstein_distance", "sliced_wasserstein_cost", "sliced_displacement"):
        with pytest.raises(kind, match=message):
            getattr(cgm_kernels, name)(**arguments)


@pytest.mark.parametrize(("p", "kind"), POWER_ERRORS)
def test_power_errors(p, kind):
    for call in (
        lambda: cgm_kernels.sliced_wasserstein_distance(X, Y, p=p),
        lambda: cgm_kernels.wasserstein_1d(X[0], Y[0], p=p),
    ):
        with pytest.raises(kind, match="p must be"):
            call()


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ((X[:, :0], Y), ValueError, "x must hold at least one point"),
        ((torch.tensor(1.0), Y), ValueError, "x must hold at least one point"),
        ((X, Y[:4]), ValueError, "y must broadcast to x"),
        ((X, Y.half()), TypeError, "y must have the dtype of x"),
    ],
)
def test_wasserstein_1d_errors(arguments, kind, message):
    with pytest.raises(kind, match=message):
        cgm_kernels.wasserstein_1d(*arguments)


def test_random_projections_errors():
    with pytest.raises(ValueError, match="dim must be at least 1"):
        cgm_kernels.random_projections(0, 3)
    with pytest.raises(ValueError, match="n_projections must be at least 1"):
        cgm_kernels.random_projections(3, -1)
    with pytest.raises(TypeError, match="orthogonal must be True or False: got str"):
        cgm_kernels.random_projections(3, 2, orthogonal="no")


def test_backend_errors():
    with pytest.raises(ValueError, match="name must be one of auto, native, triton, reference: got 'cuda'"):
        cgm_kernels.set_backend("cuda")
    with pytest.raises(ValueError, match="name must be one of"), cgm_kernels.use_backend("fast"):
        pass


@pytest.mark.parametrize("pair", running())
def test_gradients_that_the_kernels_lack_are_refused(pair):
    backend, device = pair
    x, y, theta = X[:5].to(device), Y.to(device), THETA.to(device)
    cases = {
        "projections": dict(projections=theta.clone().requires_grad_()),
        "x_weights": dict(projections=theta, x_weights=torch.ones(5, device=device, requires_grad=True)),
    }
    for name, arguments in cases.items():
        with cgm_kernels.use_backend(backend):
            if backend == "reference":
                cgm_kernels.sliced_wasserstein_cost(x, y, **arguments).backward()
            else:
                with pytest.raises(ValueError, match=f"{name} requires grad"):
                    cgm_kernels.sliced_wasserstein_cost(x, y, **arguments)


@pytest.mark.parametrize("pair", running())
def test_second_derivatives_are_refused_and_forward_ones_right(pair):
    backend, device = pair
    x = X[:5].double().to(device).requires_grad_()
    y, theta = Y.double().to(device), THETA.double().to(device)
    functions = {
        "sliced": lambda x: cgm_kernels.sliced_wasserstein_cost(x, y, projections=theta),
        "rows": lambda x: cgm_kernels.wasserstein_1d(x, y).sum(),
    }
    for function in functions.values():
        with cgm_kernels.use_backend(backend):
            (first,) = torch.autograd.grad(function(x), x, create_graph=True)
            with torch.autograd.forward_ad.dual_level():
                dual = torch.autograd.forward_ad.make_dual(x.detach(), torch.ones_like(x))
                slope = torch.autograd.forward_ad.unpack_dual(function(dual)).tangent
            torch.testing.assert_close(slope, first.detach().sum())
            _, slope = torch.func.jvp(function, (x.detach(),), (torch.ones_like(x),))
            torch.testing.assert_close(slope, first.detach().sum())
            if backend == "reference":
                first.sum().backward()
                continue
            with pytest.raises(RuntimeError, match="reference"):
                first.sum().backward()


@pytest.mark.parametrize("pair", running())
def test_mixed_second_derivatives_are_refused(pair):
    """Neither the upstream factor nor the other cloud may silently drop out of a gradient's graph."""
    backend, device = pair
    x, y = (t.double().to(device).requires_grad_() for t in (X[:5], Y))
    factor = torch.ones((), dtype=torch.float64, device=device, requires_grad=True)
    with cgm_kernels.use_backend(backend):
        for value in (cgm_kernels.wasserstein_1d(x, y).sum(), cgm_kernels.sliced_wasserstein_cost(x, y)):
            (first,) = torch.autograd.grad(factor * value, x, create_graph=True)
            for source in (factor, y):
                if backend == "reference":
                    assert torch.autograd.grad(first.sum(), source, retain_graph=True)[0] is not None
                else:
                    with pytest.raises(RuntimeError, match="reference"):
                        torch.autograd.grad(first.sum(), source, retain_graph=True, allow_unused=True)


@pytest.mark.parametrize("pair", running())
@pytest.mark.parametrize("bad", [[-1.0, 1, 1, 1, 1], [0.0] * 5, [float("nan"), 1, 1, 1, 1], [float("inf"), 1, 1, 1, 1]])
def test_bad_weights_in_a_compiled_call_give_nan(pair, bad):
    backend, device = pair
    x, y, theta = X.to(device), Y.to(device), THETA.to(device)
    weights = torch.tensor(bad, device=device)

    def value(w):
        rows = cgm_kernels.wasserstein_1d(x.T.contiguous(), y.T.contiguous(), y_weights=w)
        return cgm_kernels.sliced_wasserstein_cost(x, y, projections=theta, y_weights=w), rows

    with cgm_kernels.use_backend(backend):
        results = torch.compile(value, fullgraph=True, backend="aot_eager")(weights)
    torch._dynamo.reset()
    for result in results:
        assert result.isnan().all()


@pytest.mark.parametrize("pair", running())
def test_huge_weights_do_not_overflow(pair):
    backend, device = pair
    x = torch.arange(5.0, device=device)
    weights = torch.full((5,), 1e308, dtype=torch.float64, device=device)
    with cgm_kernels.use_backend(backend):
        assert cgm_kernels.wasserstein_1d(x, x + 1, x_weights=weights, y_weights=weights).item() == pytest.approx(1.0)
