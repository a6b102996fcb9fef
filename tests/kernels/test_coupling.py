"""The affine couplings on every backend, against the reference in float64, their Jacobians and their inverses."""

import math

import pytest
import torch

import cgm_kernels
from tests.support.backends import fused, running
from tests.support.coupling import CASES, EVENT_CASES, LARGE_CASES, SCALES, Case, results
from tests.support.levels import simd_level
from tests.support.tolerances import assert_as_accurate

NATIVE = [pair for pair in fused() if "native" in pair.id]
HALVES = (torch.float16, torch.bfloat16)


def assert_accurate(case, backend, device, dtype):
    drawn = case.draw(dtype, device)
    with cgm_kernels.use_backend("reference"):
        exact = results(case, tuple(leaf.double() for leaf in drawn))
        eager = results(case, drawn)
    with cgm_kernels.use_backend(backend):
        actual = results(case, drawn)
    for one, true, plain in zip(actual, exact, eager, strict=True):
        if true.numel():
            assert_as_accurate(one, true, plain)
        assert one.shape == true.shape


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("pair", fused())
@pytest.mark.parametrize("case", [*CASES, *EVENT_CASES], ids=str)
def test_values_and_gradients(case, pair, dtype):
    assert_accurate(case, *pair, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("pair", NATIVE)
@pytest.mark.parametrize("case", LARGE_CASES, ids=str)
def test_large_values_and_gradients(case, pair, dtype):
    assert_accurate(case, *pair, dtype)


@pytest.mark.parametrize("pair", NATIVE)
@pytest.mark.parametrize("level", ["baseline", "avx2"])
def test_every_simd_level(level, pair):
    with simd_level(level):
        for case in [*CASES, *EVENT_CASES]:
            assert_accurate(case, *pair, torch.float32)


@pytest.mark.parametrize("pair", [pair for pair in running() if "triton" not in pair.id])
@pytest.mark.parametrize("case", [case for case in CASES if case.shape[-1] < 100] + EVENT_CASES, ids=str)
def test_gradcheck(case, pair):
    backend, device = pair
    leaves = tuple(leaf.requires_grad_() for leaf in case.draw(torch.float64, device))
    with cgm_kernels.use_backend(backend):
        assert torch.autograd.gradcheck(lambda *leaves: case.call(leaves), leaves, atol=1e-6)


@pytest.mark.parametrize("pair", running())
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("inverse", [False, True])
def test_log_det_is_that_of_the_jacobian(scale, inverse, pair):
    backend, device = pair
    case = Case((3, 5), scale, eps=0.01, inverse=inverse)
    x, log_scale, shift = case.draw(torch.float64, device)
    with cgm_kernels.use_backend(backend):
        _, log_det = case.call((x, log_scale, shift))
        for i in range(3):
            row = slice(i, i + 1)
            jacobian = torch.autograd.functional.jacobian(
                lambda v, row=row: case.call((v[None], log_scale[row], shift[row]))[0][0], x[i]
            )
            torch.testing.assert_close(log_det[i], torch.linalg.slogdet(jacobian)[1], rtol=0, atol=1e-10)


@pytest.mark.parametrize("pair", running())
@pytest.mark.parametrize("scale", SCALES)
def test_the_inverse_undoes_the_map(scale, pair):
    backend, device = pair
    x, log_scale, shift = Case((4, 9), scale).draw(torch.float64, device)
    with cgm_kernels.use_backend(backend):
        y, log_det = cgm_kernels.affine_coupling(x, log_scale, shift, scale=scale, bound=1.5, eps=0.1)
        back, inverse_log_det = cgm_kernels.affine_coupling_inverse(
            y, log_scale, shift, scale=scale, bound=1.5, eps=0.1
        )
    torch.testing.assert_close(back, x, rtol=0, atol=1e-12)
    torch.testing.assert_close(inverse_log_det, -log_det, rtol=0, atol=1e-12)


@pytest.mark.parametrize("pair", running())
def test_closed_forms(pair):
    """σ(s) and log σ(s) as the definition says, at numbers that a hand can check."""
    backend, device = pair
    s = torch.tensor([[-3.0, 0.0, 0.5, 4.0]], dtype=torch.float64, device=device)
    one, zero = torch.ones_like(s), torch.zeros_like(s)
    expected = {
        "exp": s.exp(),
        "tanh": (3 * torch.tanh(s / 3)).exp(),
        "softclip": (s / (1 + s.abs() / 3)).exp(),
        "sigmoid": 1 / (1 + (-s - 0.7).exp()) + 0.01,
        "softplus": torch.log1p((s + 0.7).exp()) + 0.01,
        "gate": 1 / (1 + (-s).exp()),
    }
    with cgm_kernels.use_backend(backend):
        for scale, sigma in expected.items():
            options = dict(scale=scale, bound=3.0, offset=0.7, eps=0.01)
            y, log_det = cgm_kernels.affine_coupling(one, s, zero, **options)
            torch.testing.assert_close(y, sigma, rtol=1e-13, atol=0)
            torch.testing.assert_close(log_det, sigma.log().sum(-1), rtol=1e-12, atol=1e-13)
            shifted, _ = cgm_kernels.affine_coupling(zero, s, one, **options)
            torch.testing.assert_close(shifted, 1 - sigma if scale == "gate" else one, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("pair", fused())
@pytest.mark.parametrize("scale", SCALES)
def test_large_and_small_parameters(scale, pair):
    """As accurate as PyTorch where log-scales are tiny, and no NaN where sigmoids saturate."""
    backend, device = pair
    s = torch.tensor([[1e-6, -3e-5, 2e-4, -60.0, -20.0, 15.0, 40.0, 80.0]], device=device)
    x, shift = torch.ones_like(s), torch.zeros_like(s)

    def run(s):
        return cgm_kernels.affine_coupling(x.to(s.dtype), s, shift.to(s.dtype), scale=scale, event_dims=0)

    with cgm_kernels.use_backend("reference"):
        exact, eager = run(s.double()), run(s)
    with cgm_kernels.use_backend(backend):
        actual = run(s)
    for one, true, plain in zip(actual, exact, eager, strict=True):
        error, bound = (((v.double() - true) / true).abs() for v in (one, plain))
        assert (error <= 2 * bound + 3e-7).all(), (error, bound)


@pytest.mark.parametrize("pair", fused())
@pytest.mark.parametrize("bound", [60.0, 87.0, 88.0, 110.0])
@pytest.mark.parametrize("scale", ["tanh", "softclip"])
def test_scales_at_the_ends_of_what_float32_holds(scale, bound, pair):
    """σ to the rounding of log σ while it is a normal number; beyond, what overflows is infinite, as in PyTorch."""
    backend, device = pair
    s = torch.tensor([[1e9, 300.0, 90.0, 1.0, 0.0, -1.0, -90.0, -300.0, -1e9]], device=device)
    x, shift = torch.ones_like(s), torch.zeros_like(s)
    with cgm_kernels.use_backend("reference"):
        exact, _ = cgm_kernels.affine_coupling(
            x.double(), s.double(), shift.double(), scale=scale, bound=bound, event_dims=0
        )
    with cgm_kernels.use_backend(backend):
        y, _ = cgm_kernels.affine_coupling(x, s, shift, scale=scale, bound=bound, event_dims=0)
    float32 = torch.finfo(torch.float32)
    normal = (exact > float32.tiny) & (exact < float32.max)
    torch.testing.assert_close(y.double()[normal], exact[normal], rtol=3e-7 * (1 + bound), atol=0)
    assert torch.equal(y[exact > float32.max], torch.full_like(y[exact > float32.max], torch.inf))
    assert (y[exact < float32.tiny] <= 2 * float32.tiny).all()


@pytest.mark.parametrize("pair", running())
@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0, 0), (0, 3, 2, 2)])
def test_empty(shape, pair):
    backend, device = pair
    with cgm_kernels.use_backend(backend):
        leaves = tuple(torch.zeros(shape, device=device, requires_grad=True) for _ in range(3))
        y, log_det = cgm_kernels.affine_coupling(*leaves)
        assert y.shape == shape and (log_det == torch.zeros(shape[0], device=device)).all()
        (y.sum() + log_det.sum()).backward()
        assert all(leaf.grad.shape == shape for leaf in leaves)
        whole = torch.zeros(shape[0], 2 * shape[1], *shape[2:], device=device)
        y, log_det = cgm_kernels.affine_coupling_event(whole, whole, shape[1])
        assert y.shape == whole.shape and log_det.shape == shape[:1]


@pytest.mark.parametrize("pair", running())
@pytest.mark.parametrize("shape", [(4, 0), (4, 0, 3), (4, 3, 0), (0, 3), (0, 0), (4, 2, 0, 3)])
@pytest.mark.parametrize("function", [cgm_kernels.affine_coupling, cgm_kernels.affine_coupling_inverse])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_empty_with_parameters_by_channel(dtype, function, shape, pair):
    backend, device = pair
    with cgm_kernels.use_backend(backend):
        sizes = (shape, *[(shape[1], *[1] * (len(shape) - 2))] * 2)
        leaves = [torch.ones(size, dtype=dtype, device=device, requires_grad=True) for size in sizes]
        y, log_det = function(*leaves)
        assert y.shape == shape and y.dtype is dtype and torch.equal(log_det, log_det.new_zeros(shape[0]))
        (y.sum() + log_det.sum()).backward()
        assert all(torch.equal(leaf.grad, torch.zeros_like(leaf)) for leaf in leaves)


@pytest.mark.parametrize("pair", fused())
@pytest.mark.parametrize("inner", [1, 100])
@pytest.mark.parametrize("inverse", [False, True])
def test_channel_operators_take_points_without_channels(inverse, inner, pair):
    backend, device = pair
    operators = getattr(torch.ops, f"cgm_{backend}")
    x, parameters = torch.ones(3, 0, inner, device=device), torch.ones(0, device=device)
    assert operators.channel_forward(x, parameters, parameters, inverse).shape == x.shape
    grads = operators.channel_backward(x, x, parameters, parameters, inverse)
    assert [grad.shape for grad in grads] == [x.shape, parameters.shape, parameters.shape]


@pytest.mark.parametrize("pair", running())
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_in_its_event(bad, pair):
    backend, device = pair
    x, log_scale, shift = (leaf.clone() for leaf in Case((6, 20)).draw(torch.float32, device))
    with cgm_kernels.use_backend(backend):
        clean = results(Case((6, 20), "tanh"), (x, log_scale, shift))
        log_scale[2, 3], shift[4, 1] = float("nan"), bad
        dirty = results(Case((6, 20), "tanh"), (x, log_scale, shift))
    assert dirty[1][2].isnan() and dirty[0][2, 3].isnan() and not dirty[0][4, 1].isfinite()
    for one, other in zip(clean, dirty, strict=True):
        torch.testing.assert_close(one[[0, 1, 3, 5]], other[[0, 1, 3, 5]])


@pytest.mark.parametrize("pair", running())
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_half_precision_accumulates_in_float32(dtype, pair):
    backend, device = pair
    leaves = Case((4, 600)).draw(dtype, device)
    with cgm_kernels.use_backend(backend):
        y, log_det = cgm_kernels.affine_coupling(*leaves)
        mixed, _ = cgm_kernels.affine_coupling(leaves[0].float(), *leaves[1:])
    assert y.dtype is dtype and log_det.dtype is torch.float32 and mixed.dtype is torch.float32
    torch.testing.assert_close(log_det, leaves[1].double().sum(-1).float(), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(y.float(), mixed, rtol=2 * torch.finfo(dtype).eps, atol=1e-4)


@pytest.mark.parametrize("pair", NATIVE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("width", [1000, 3072, 100_001])
def test_wide_sums_are_as_accurate_as_pytorch(width, dtype, pair):
    backend, device = pair
    log_scale = torch.randn(64, width, dtype=dtype, generator=torch.Generator().manual_seed(0)).to(device)
    exact = torch.tensor([math.fsum(row) for row in log_scale.tolist()], dtype=torch.float64, device=device)
    with cgm_kernels.use_backend(backend):
        _, log_det = cgm_kernels.affine_coupling(log_scale, log_scale, log_scale)
    error, eager = ((v.double() - exact).square().mean() for v in (log_det, log_scale.sum(-1)))
    assert error <= eager


@pytest.mark.parametrize("pair", NATIVE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_what_is_not_finite_stays_what_it_is_in_wide_sums(dtype, pair):
    backend, device = pair
    log_scale = torch.zeros(4, 3072, dtype=dtype, device=device)
    log_scale[0, 5], log_scale[1, 700], log_scale[2, 3000] = math.inf, -math.inf, math.nan
    log_scale[3, 9], log_scale[3, 2000] = math.inf, -math.inf
    with cgm_kernels.use_backend(backend):
        _, log_det = cgm_kernels.affine_coupling(log_scale, log_scale, log_scale)
    expected = torch.tensor([math.inf, -math.inf, math.nan, math.nan], dtype=dtype, device=device)
    torch.testing.assert_close(log_det, expected, equal_nan=True)
