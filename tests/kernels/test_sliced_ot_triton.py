"""The Triton kernels of sliced_ot against the float64 reference and SciPy; without a GPU, in Triton's interpreter."""

import pytest
import torch
from scipy.stats import wasserstein_distance

import cgm_kernels
from cgm_kernels.sliced_ot import triton_rows
from cgm_kernels.sliced_ot.operators import COEFFICIENTS, GRADIENT, NOTHING
from tests.support.sliced_ot import DEVICE, clouds, masses

pytest.importorskip("triton")
if cgm_kernels.backends.absence("triton", DEVICE):
    pytest.skip(cgm_kernels.backends.absence("triton", DEVICE), allow_module_level=True)

DTYPES = (torch.float32, torch.float64)
SIZES = [(1, 1), (1, 5), (33, 33), (40, 3)]


@pytest.fixture(params=["in registers", "by torch.sort"])
def route(request, monkeypatch):
    """Each case again as if it were beyond the sizes that a program holds, in chunks of a few rows."""
    if request.param == "by torch.sort":
        monkeypatch.setattr(triton_rows, "REGISTER_LIMIT", 0)
        monkeypatch.setattr(triton_rows, "WORKSPACE_BYTES", 8000)


def close(actual, exact, eager, dtype):
    """The error is at most twice that of the reference in the same dtype, plus a few roundings.

    In float64 the oracle rounds too, and derivatives by weights are small differences of larger sums.
    """
    scale = exact.abs().max()
    roundings = 16 if dtype is torch.float32 else 64
    bound = 2 * (eager.double() - exact).abs().max() + roundings * torch.finfo(dtype).eps * scale
    assert actual.dtype is dtype
    assert actual.shape == exact.shape
    assert (actual.double() - exact).abs().max() <= bound


def value_and_gradients(backend, function, inputs, **arguments):
    inputs = [t.detach().requires_grad_() for t in inputs]
    with cgm_kernels.use_backend(backend):
        value = function(*inputs, **arguments)
    upstream = torch.linspace(0.5, 1.5, value.numel(), dtype=value.dtype, device=value.device).reshape(value.shape)
    return [value.detach(), *torch.autograd.grad(value, inputs, upstream)]


def compare(function, dtype, x, y, projections, weights, p):
    x, y, projections = (t.to(dtype) for t in (x, y, projections))
    given = {"x_weights": weights[0], "y_weights": weights[1], "p": p}

    def run(backend, kind):
        inputs = [t.to(kind) for t in (x, y)]
        return value_and_gradients(backend, function, inputs, projections=projections.to(kind), **given)

    results = run("triton", dtype), run("reference", torch.float64), run("reference", dtype)
    for ours, exact, eager in zip(*results, strict=True):
        close(ours, exact, eager, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "n, m, p", [*((*s, 2.0) for s in SIZES), *((*s, p) for s in SIZES[2:] for p in (1.0, 3.0, 1.1))]
)
def test_sliced_ot_forward_and_gradients(route, n, m, p, dtype):
    compare(cgm_kernels.sliced_wasserstein_distance, dtype, *clouds(n, m), (None, None), p)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "x_weighted, y_weighted, shared", [(True, False, True), (False, True, False), (True, True, False)]
)
def test_sliced_ot_weights(route, x_weighted, y_weighted, shared, dtype):
    n, m, batch = 35, 20, (2,)
    weights = [
        masses((size,) if shared else (*batch, size), seed) if wanted else None
        for wanted, size, seed in ((x_weighted, n, 1), (y_weighted, m, 2))
    ]
    compare(cgm_kernels.sliced_wasserstein_cost, dtype, *clouds(n, m, batch=batch), weights, 2.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d, n_directions", [(1, 1), (2, 9), (70, 4)])
def test_sliced_ot_batches_and_dimensions(route, d, n_directions, dtype):
    """More directions than dimensions keeps the gradient, fewer the coefficients."""
    arguments = clouds(19, 19, d, n_directions, (3,))
    compare(cgm_kernels.sliced_wasserstein_distance, dtype, *arguments, (None, None), 2.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n, m, weighted", [(9, 9, False), (9, 14, False), (9, 9, True)])
def test_sliced_ot_kept(route, n, m, weighted, dtype):
    x, y, projections = clouds(n, m, batch=(2,), dtype=dtype)
    weights = masses((2, n)) if weighted else None
    forward = torch.ops.cgm_triton.sliced_forward
    keeps = [
        (COEFFICIENTS, COEFFICIENTS),
        (NOTHING, NOTHING),
        (NOTHING, GRADIENT),
        (GRADIENT, NOTHING),
        (GRADIENT, GRADIENT),
    ]
    run = [forward(x, y, projections, weights, None, 2.0, True, keep_x, keep_y) for keep_x, keep_y in keeps]
    for (keep_x, keep_y), (value, kept_x, kept_y) in zip(keeps, run, strict=True):
        # float32 orders and sorts without order take other kernels: equal to rounding.
        torch.testing.assert_close(value, run[0][0], rtol=8 * torch.finfo(dtype).eps, atol=0)
        for kept, keep, cloud, others in ((kept_x, keep_x, x, run[0][1]), (kept_y, keep_y, y, run[0][2])):
            if keep == NOTHING:
                assert kept.shape == (0,)
            elif keep == COEFFICIENTS:
                assert kept.shape == (2, projections.shape[1], cloud.shape[1])
            else:
                expected = others.transpose(1, 2) @ projections.T / projections.shape[1]
                torch.testing.assert_close(kept, expected)
    again = forward(x, y, projections, weights, None, 2.0, True, GRADIENT, GRADIENT)
    assert all(torch.equal(a, b) for a, b in zip(again, run[-1], strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [torch.nan, -torch.inf])
@pytest.mark.parametrize("n, m, weighted", [(6, 6, False), (6, 9, False), (6, 6, True)])
def test_sliced_ot_bad_points(route, n, m, weighted, bad, dtype):
    x, y, projections = clouds(n, m, n_directions=2, batch=(3,), dtype=dtype)
    weights = masses((n,)) if weighted else None
    y[1, -1, 0] = bad
    keeps = (COEFFICIENTS, GRADIENT)
    for result in torch.ops.cgm_triton.sliced_forward(x, y, projections, weights, None, 2.0, False, *keeps):
        assert result[1].isnan().all()
        assert result[[0, 2]].isfinite().all()
    value = torch.ops.cgm_triton.sliced_forward(x, y, projections, weights, None, 2.0, True, NOTHING, NOTHING)[0]
    assert value.isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("weights", [[0.0, 0.0, 0.0], [1.0, -1.0, 2.0], [1.0, torch.nan, 1.0], [1.0, torch.inf, 1.0]])
@pytest.mark.parametrize("dtype", DTYPES)
def test_sliced_ot_bad_weights(route, weights, dtype):
    """Compiled graphs do not look at the weights: bad ones give NaN there."""
    x, y, projections = clouds(3, 3, dtype=dtype)
    weights = torch.tensor(weights, device=DEVICE)
    out = torch.ops.cgm_triton.sliced_forward(x, y, projections, None, weights, 2.0, False, GRADIENT, NOTHING)
    assert out[0].isnan().all()
    assert out[1].isnan().all()


def test_sliced_ot_huge_weights(route):
    """Their sum overflows float64; only their proportions count."""
    x, y, projections = clouds(4, 3, dtype=torch.float32)
    weights = torch.tensor([1.0, 1.0, 0.5, 0.25], dtype=torch.float64, device=DEVICE)
    values = [
        torch.ops.cgm_triton.sliced_forward(x, y, projections, scale * weights, None, 2.0, True, NOTHING, NOTHING)[0]
        for scale in (1.0, 1.5e308)
    ]
    torch.testing.assert_close(*values)


@pytest.mark.parametrize("dtype", DTYPES)
def test_sliced_ot_ties_and_coincidence(route, dtype):
    x, _, projections = clouds(12, 12, dtype=dtype)
    x[3:6] = x[0]
    x.requires_grad_()
    with cgm_kernels.use_backend("triton"):
        distance = cgm_kernels.sliced_wasserstein_distance(x, x.detach()[torch.randperm(12)], projections=projections)
        (gradient,) = torch.autograd.grad(distance, x)
    assert distance == 0
    assert torch.equal(gradient, torch.zeros_like(x))


def test_sliced_ot_strides_and_empty_batches(route):
    x, y, projections = clouds(10, 14, batch=(2,), dtype=torch.float32)
    strided = torch.stack([x, x], -1).transpose(0, 1).contiguous().transpose(0, 1)[..., 0]
    wide = projections.T.contiguous().T
    forward = torch.ops.cgm_triton.sliced_forward
    keeps = (None, None, 2.0, False, GRADIENT, COEFFICIENTS)
    for ours, expected in zip(
        forward(strided, y[:, :, :], wide, *keeps), forward(x, y, projections, *keeps), strict=True
    ):
        assert ours.is_contiguous()
        torch.testing.assert_close(ours, expected)
    shapes = [tuple(t.shape) for t in forward(x[:0], y[:0], projections, *keeps)]
    assert shapes == [(0,), (0, 10, 3), (0, 2, 14)]


@pytest.mark.parametrize("dtype", DTYPES)
def test_sliced_displacement(route, dtype):
    x, y, projections = clouds(11, 17, dtype=torch.float64)
    weights = masses((11,))
    results = []
    for backend, kind in (("triton", dtype), ("reference", torch.float64), ("reference", dtype)):
        cloud = x.to(kind).requires_grad_()
        with cgm_kernels.use_backend(backend):
            moved = cgm_kernels.sliced_displacement(
                cloud, y.to(kind), projections=projections.to(kind), x_weights=weights
            )
        results.append((moved.detach(), *torch.autograd.grad(moved.square().sum(), cloud)))
    for ours, exact, eager in zip(*results, strict=True):
        close(ours, exact, eager, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("p", [1.0, 2.0, 2.5])
@pytest.mark.parametrize("n, m", [(8, 8), (21, 34), (1, 6)])
def test_wasserstein_1d_gradients(route, n, m, p, dtype):
    """In points and weights; random weights leave no ties of boundaries, where the derivative is not unique."""
    generator = torch.Generator().manual_seed(3)
    shapes = [(2, 3, n), (3, m), (n,), (2, 3, m)]
    x, y, a, b = (torch.rand(shape, generator=generator, dtype=torch.float64).to(dtype).to(DEVICE) for shape in shapes)

    def function(x, y, a, b):
        return cgm_kernels.wasserstein_1d(x, y, x_weights=a, y_weights=b, p=p)

    inputs = (x, y, a, b)
    exact = value_and_gradients("reference", function, [t.double() for t in inputs])
    eager = value_and_gradients("reference", function, inputs)
    for ours, *others in zip(value_and_gradients("triton", function, inputs), exact, eager, strict=True):
        close(ours, *others, dtype)


def test_wasserstein_1d_against_scipy(route):
    generator = torch.Generator().manual_seed(4)
    x, y = torch.randn(30, generator=generator), torch.randn(41, generator=generator)
    a, b = torch.rand(30, generator=generator), torch.rand(41, generator=generator)
    with cgm_kernels.use_backend("triton"):
        uniform = cgm_kernels.wasserstein_1d(x.to(DEVICE), y.to(DEVICE), p=1)
        weighted = cgm_kernels.wasserstein_1d(
            *(t.to(DEVICE) for t in (x, y)), x_weights=a.to(DEVICE), y_weights=b.to(DEVICE), p=1
        )
    assert uniform.item() == pytest.approx(wasserstein_distance(x.numpy(), y.numpy()), rel=1e-6)
    assert weighted.item() == pytest.approx(wasserstein_distance(x.numpy(), y.numpy(), a.numpy(), b.numpy()), rel=1e-6)


def test_wasserstein_1d_weight_derivative_at_ties(route):
    """Equal weights share every boundary: both derivatives are those of one optimal coupling, Σ a f + Σ b g = cost."""
    x, y = (torch.tensor(v, device=DEVICE) for v in ([[0.0, 1.0, 3.0]], [[0.5, 2.0, 2.5]]))
    ones = torch.ones(1, 3, device=DEVICE)
    *_, f, g = torch.ops.cgm_triton.wasserstein_1d_forward(x, y, ones, ones, 2.0, False, False, True, True)
    # Dual feasibility up to one constant a row: f_i + g_j <= |x_i − y_j|² + c, with equality on the coupling.
    slack = (x.mT - y).square() - 3 * (f.mT + g)
    torch.testing.assert_close(slack.diagonal(), slack[0, 0].expand(3))
    assert (slack >= slack[0, 0] - 1e-5).all()


@pytest.mark.parametrize("row_bytes, sizes", [(0, [10]), (100, [5, 5]), (200, [3, 2, 3, 2]), (10**9, [1] * 10)])
def test_chunks_are_whole_items_or_parts_of_one(monkeypatch, row_bytes, sizes):
    monkeypatch.setattr(triton_rows, "WORKSPACE_BYTES", 700)
    side = triton_rows.Side(torch.zeros(2, 4, 3), None, False)
    problem = triton_rows.Problem(side, side, torch.zeros(3, 5), 2.0)
    chunks = list(problem.chunks(row_bytes))
    assert [chunk.stop - chunk.start for chunk in chunks] == sizes
    assert [chunk.start for chunk in chunks[1:]] + [10] == [chunk.stop for chunk in chunks]
