"""Sliced optimal transport on every backend: values, gradients, displacements against the reference in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cgm_kernels
from tests.support.backends import fused, running
from tests.support.sliced_ot import CASES, LARGE_CASES, Case
from tests.support.tolerances import assert_as_accurate

FUNCTIONS = ("sliced_wasserstein_cost", "sliced_wasserstein_distance")


def evaluate(backend, name, arguments, p, gradients=True):
    """Value and gradients in x and y of a sliced function."""
    x, y = (arguments[key].detach().clone().requires_grad_(gradients) for key in ("x", "y"))
    rest = {key: value for key, value in arguments.items() if key not in ("x", "y")}
    with cgm_kernels.use_backend(backend):
        value = getattr(cgm_kernels, name)(x, y, p=p, **rest)
        if not gradients:
            return (value,)
        upstream = torch.arange(1, value.numel() + 1, dtype=value.dtype, device=value.device).reshape(value.shape)
        return value, *torch.autograd.grad(value, (x, y), upstream)


def widened(arguments):
    return {key: None if value is None else value.double() for key, value in arguments.items()}


def compare(backend, device, case, dtype, name):
    # The reference's cumulative weights are rounded at the scale of their sum, 1, a point's own weight is about 1/n.
    roundings = 64 + 8 * max(case.n, case.m) * (case.n != case.m or bool(case.weighted))
    arguments = case.draw(dtype, device)
    exact = evaluate("reference", name, widened(arguments), case.p)
    eager = evaluate("reference", name, arguments, case.p)
    for actual, oracle, torch_eager in zip(evaluate(backend, name, arguments, case.p), exact, eager, strict=True):
        assert_as_accurate(actual, oracle, torch_eager, roundings)
    (value,) = evaluate(backend, name, arguments, case.p, gradients=False)
    assert_as_accurate(value, exact[0], eager[0], roundings)


@pytest.mark.parametrize("pair", fused())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_sliced_ot_backends_agree(pair, case, dtype):
    for name in FUNCTIONS:
        compare(*pair, case, dtype, name)


@pytest.mark.parametrize("pair", [pair for pair in fused() if "native" in pair.id])
@pytest.mark.parametrize("case", LARGE_CASES, ids=str)
def test_sliced_ot_large(pair, case):
    # In float64: near-ties may swap ranks in float32, which moves a gradient by more than rounding.
    compare(*pair, case, torch.float64, "sliced_wasserstein_cost")


@pytest.mark.parametrize("pair", running())
@pytest.mark.parametrize("case", [case for case in CASES if case.p == 2.0], ids=str)
def test_sliced_ot_displacement_is_the_gradient_per_mass(pair, case):
    backend, device = pair
    arguments = case.draw(torch.float64, device)
    _, gradient, _ = evaluate("reference", "sliced_wasserstein_cost", arguments, 2.0)
    gradient = gradient / torch.arange(1, (case.batch or 1) + 1, device=device).reshape(-1, *[1] * (gradient.dim() - 1))
    gradient = gradient.reshape(arguments["x"].shape)
    weights = arguments["x_weights"]
    mass = torch.full(arguments["x"].shape[:-1], 1.0 / case.n, dtype=torch.float64, device=device)
    if weights is not None:
        mass = (weights / weights.sum(-1, keepdim=True)).expand(arguments["x"].shape[:-1])
    expected = torch.where(mass.unsqueeze(-1) > 0, -gradient / (2 * mass.unsqueeze(-1)), 0.0)
    with cgm_kernels.use_backend(backend):
        actual = cgm_kernels.sliced_displacement(**arguments)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("pair", running())
@pytest.mark.parametrize("weighted", ["", "xy"])
def test_sliced_ot_displacement_derivative(pair, weighted):
    backend, device = pair
    arguments = Case(6, 6, weighted=weighted).draw(torch.float64, device)
    x = arguments.pop("x").requires_grad_()
    with cgm_kernels.use_backend(backend):
        assert torch.autograd.gradcheck(lambda point: cgm_kernels.sliced_displacement(point, **arguments), (x,))


@pytest.mark.parametrize("pair", running())
@pytest.mark.parametrize(
    "case", [Case(6, 6), Case(5, 8, p=3.0), Case(5, 4, batch=2, weighted="xy"), Case(4, 4, p=1.0)], ids=str
)
def test_sliced_ot_gradcheck(pair, case):
    backend, device = pair
    arguments = case.draw(torch.float64, device)
    x, y = (arguments.pop(key).requires_grad_() for key in ("x", "y"))
    with cgm_kernels.use_backend(backend):
        for name in FUNCTIONS:
            function = getattr(cgm_kernels, name)
            assert torch.autograd.gradcheck(lambda a, b, f=function: f(a, b, p=case.p, **arguments), (x, y))


@pytest.mark.parametrize("pair", running())
@pytest.mark.parametrize(("n", "m", "p"), [(5, 5, 2.0), (4, 7, 1.5), (6, 3, 1.0)])
def test_wasserstein_1d_gradcheck(pair, n, m, p):
    backend, device = pair
    generator = torch.Generator().manual_seed(n)
    x, y = (torch.randn(2, k, generator=generator, dtype=torch.float64).to(device).requires_grad_() for k in (n, m))
    a, b = (torch.rand(2, k, generator=generator, dtype=torch.float64).to(device).requires_grad_() for k in (n, m))
    shared = a.detach()[0].clone().requires_grad_()
    with cgm_kernels.use_backend(backend):
        for weights in (a, shared):
            function = lambda x, y, a, b: cgm_kernels.wasserstein_1d(x, y, x_weights=a, y_weights=b, p=p)  # noqa: E731
            assert torch.autograd.gradcheck(function, (x, y, weights, b))


@pytest.mark.parametrize("pair", running())
def test_wasserstein_1d_weight_gradient_at_a_zero_weight(pair):
    """One-sided: mass can only be added to a point that has none."""
    backend, device = pair
    generator = torch.Generator().manual_seed(5)
    x, y, b = (torch.randn(k, generator=generator, dtype=torch.float64).to(device) for k in (5, 7, 7))
    a = torch.tensor([0.3, 0.0, 0.5, 0.1, 0.4], dtype=torch.float64, device=device, requires_grad=True)

    def cost(weights):
        return cgm_kernels.wasserstein_1d(x, y, x_weights=weights, y_weights=b.abs())

    with cgm_kernels.use_backend(backend):
        (gradient,) = torch.autograd.grad(cost(a), a)
        for k in range(5):
            step = torch.zeros(5, dtype=torch.float64, device=device)
            step[k] = 1e-7
            difference = (cost(a.detach() + step) - cost(a.detach())) / 1e-7
            torch.testing.assert_close(gradient[k], difference, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pair", running())
@pytest.mark.parametrize("name", ["x_t", "sliced", "expanded", "projections"])
def test_sliced_ot_strides(pair, name):
    backend, device = pair
    arguments = Case(24, 24, batch=2).draw(torch.float64, device)
    expected = evaluate(backend, "sliced_wasserstein_cost", arguments, 2.0)
    if name == "x_t":
        arguments["x"] = arguments["x"].transpose(0, 2).contiguous().transpose(0, 2)
    elif name == "sliced":
        wide = torch.full((2, 48, 7), torch.nan, dtype=torch.float64, device=device)
        wide[:, ::2, 1:7:2] = arguments["x"]
        arguments["x"] = wide[:, ::2, 1:7:2]
    elif name == "expanded":
        arguments["x"] = arguments["x"][:1].expand(2, -1, -1)
        expected = evaluate(backend, "sliced_wasserstein_cost", {**arguments, "x": arguments["x"].contiguous()}, 2.0)
    else:
        arguments["projections"] = arguments["projections"].T.contiguous().T
    for actual, oracle in zip(evaluate(backend, "sliced_wasserstein_cost", arguments, 2.0), expected, strict=True):
        torch.testing.assert_close(actual, oracle, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("pair", running())
def test_sliced_ot_empty(pair):
    backend, device = pair
    x = torch.zeros(0, 4, 3, device=device, requires_grad=True)
    with cgm_kernels.use_backend(backend):
        value = cgm_kernels.sliced_wasserstein_distance(x, torch.zeros(0, 5, 3, device=device))
        value.sum().backward()
        rows = cgm_kernels.wasserstein_1d(torch.zeros(2, 0, 3, device=device), torch.zeros(2, 0, 4, device=device))
        assert cgm_kernels.sliced_displacement(x.detach(), torch.zeros(0, 5, 3, device=device)).shape == (0, 4, 3)
    assert value.shape == (0,)
    assert x.grad.shape == x.shape
    assert rows.shape == (2, 0)


@pytest.mark.parametrize("pair", running())
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("weighted", ["", "xy"])
def test_sliced_ot_non_finite_points_make_their_item_nan(pair, bad, weighted):
    backend, device = pair
    for m in (9, 6):
        arguments = Case(9, m, batch=3, weighted=weighted).draw(torch.float32, device)
        clean = evaluate(backend, "sliced_wasserstein_cost", arguments, 2.0)
        arguments["x"][1, 4, 2] = bad
        value, x_grad, y_grad = evaluate(backend, "sliced_wasserstein_cost", arguments, 2.0)
        for actual, before in zip((value, x_grad, y_grad), clean, strict=True):
            assert actual[1].isnan().all()
            torch.testing.assert_close(actual[[0, 2]], before[[0, 2]])


@pytest.mark.parametrize("pair", running())
@pytest.mark.parametrize("p", [1.0, 2.0, 3.0])
def test_sliced_distance_of_equal_clouds_has_a_finite_gradient(pair, p):
    backend, device = pair
    arguments = Case(8, 8).draw(torch.float32, device)
    value, x_grad, y_grad = evaluate(backend, "sliced_wasserstein_distance", {**arguments, "y": arguments["x"]}, p)
    assert value == 0
    assert (x_grad == 0).all()
    assert (y_grad == 0).all()


@pytest.mark.parametrize("pair", fused())
@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 40),
    m=st.integers(1, 40),
    p=st.sampled_from([1.0, 1.5, 2.0, 4.0]),
    levels=st.integers(1, 6),
    weighted=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_wasserstein_1d_with_ties(pair, n, m, p, levels, weighted, seed):
    """Few distinct values: the coupling is not unique, the cost is."""
    backend, device = pair
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randint(levels, (3, k), generator=generator).double().to(device) for k in (n, m))
    weights = {}
    if weighted:
        weights = {
            f"{name}_weights": torch.rand(k, generator=generator).to(device) + 0.1 for name, k in (("x", n), ("y", m))
        }
    with cgm_kernels.use_backend("reference"):
        expected = cgm_kernels.wasserstein_1d(x, y, p=p, **weights)
    with cgm_kernels.use_backend(backend):
        torch.testing.assert_close(cgm_kernels.wasserstein_1d(x, y, p=p, **weights), expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("pair", running())
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sliced_ot_half_precision_is_computed_in_float32(pair, dtype):
    backend, device = pair
    arguments = Case(20, 20).draw(torch.float32, device)
    halves = {key: value if value is None else value.to(dtype) for key, value in arguments.items()}
    value, x_grad, _ = evaluate(backend, "sliced_wasserstein_cost", halves, 2.0)
    exact, exact_grad, _ = evaluate("reference", "sliced_wasserstein_cost", widened(halves), 2.0)
    assert value.dtype is x_grad.dtype is dtype
    torch.testing.assert_close(value.double(), exact, rtol=torch.finfo(dtype).eps, atol=0)
    torch.testing.assert_close(x_grad.double(), exact_grad, rtol=2 * torch.finfo(dtype).eps, atol=1e-4)
