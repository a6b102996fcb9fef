"""The Langevin step on every backend, against its formula in float64 and against closed forms."""

import math

import pytest
import torch

import cgm_kernels
from cgm_kernels.langevin import noise_state
from cgm_kernels.philox import noise_words
from tests.support.backends import fused, running
from tests.support.langevin import CASES, KEY, LARGE_CASES, STEP, Case, state
from tests.support.levels import simd_level
from tests.support.tolerances import assert_as_accurate

NATIVE = [pair for pair in fused() if "native" in pair.id]
HALVES = (torch.float16, torch.bfloat16)


def assert_accurate(case, backend, device, dtype):
    drawn = case.draw(dtype, device)
    source = state(device)
    with cgm_kernels.use_backend(backend):
        actual = case.call(drawn, state=source)
    assert source.tolist() == [KEY, STEP + 1]
    assert actual.is_contiguous() and actual.device.type == device
    assert_as_accurate(actual, case.formula(drawn, torch.float64), case.formula(drawn, dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("pair", running())
@pytest.mark.parametrize("case", CASES, ids=str)
def test_step(case, pair, dtype):
    assert_accurate(case, *pair, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("pair", NATIVE)
@pytest.mark.parametrize("case", LARGE_CASES, ids=str)
def test_large_step(case, pair, dtype):
    assert_accurate(case, *pair, dtype)


@pytest.mark.parametrize("pair", NATIVE)
@pytest.mark.parametrize("level", ["baseline", "avx2"])
def test_every_simd_level(level, pair):
    with simd_level(level):
        for case in [*CASES, LARGE_CASES[1], LARGE_CASES[2]]:
            for dtype in (torch.float32, torch.float64):
                assert_accurate(case, *pair, dtype)


@pytest.mark.parametrize("pair", running())
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("case", [Case((5, 70)), Case((6, 3), per_chain="hT", max_grad_norm=1.0)], ids=str)
def test_half_precision_is_computed_in_float32(case, dtype, pair):
    backend, device = pair
    drawn = case.draw(dtype, device)
    with cgm_kernels.use_backend(backend):
        actual = case.call(drawn, state=state(device))
        out = torch.empty_like(drawn[0])
        assert case.call(drawn, state=state(device), out=out) is out
    exact = case.formula(drawn, torch.float64)
    assert actual.dtype is dtype and out.equal(actual)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(actual.cpu().double(), exact, rtol=0.51 * eps, atol=1e-6 + eps * 1e-3)
    assert cgm_kernels.langevin_step(drawn[0].float(), drawn[1], 0.1).dtype is torch.float32


@pytest.mark.parametrize("pair", running())
@pytest.mark.parametrize("shape", [(0,), (0, 4), (3, 0), (0, 2, 2)])
def test_empty(shape, pair):
    backend, device = pair
    with cgm_kernels.use_backend(backend):
        x = torch.zeros(shape, device=device)
        sizes = torch.ones(shape[0], device=device)
        assert cgm_kernels.langevin_step(x, x, 0.1, max_grad_norm=1.0, clamp=(0, 1)).shape == shape
        assert cgm_kernels.langevin_step(x, x, sizes, temperature=sizes, out=x) is x
        assert cgm_kernels.normal(shape, device=device).shape == shape
        chosen, accepted = cgm_kernels.mala_accept(x, x, torch.zeros(shape[0], device=device))
        assert chosen.shape == shape and accepted.shape == shape[:1] and accepted.all()
        leaf = x.clone().requires_grad_()
        cgm_kernels.langevin_step(leaf, x, 0.1, max_grad_norm=1.0).sum().backward()
        assert leaf.grad.shape == shape


@pytest.mark.parametrize("pair", running())
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_stays_in_its_element(bad, pair):
    backend, device = pair
    case = Case((4, 70))
    drawn = case.draw(torch.float32, device)
    with cgm_kernels.use_backend(backend):
        for options in ({}, {"clamp": (-1.0, 1.0)}):
            clean = cgm_kernels.langevin_step(*drawn[:3], state=state(device), **options)
            x, grad = drawn[0].clone(), drawn[1].clone()
            x[1, 2], grad[2, 3] = bad, bad
            dirty = cgm_kernels.langevin_step(x, grad, drawn[2], state=state(device), **options)
            if math.isnan(bad) or not options:
                assert not dirty[1, 2].isfinite() and not dirty[2, 3].isfinite()
            else:
                assert dirty[1, 2] == 1.0 and dirty[2, 3] == -1.0
            dirty[1, 2], dirty[2, 3] = clean[1, 2], clean[2, 3]
            assert dirty.equal(clean)


@pytest.mark.parametrize("pair", running())
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("layout", ["dense", "transposed"])
def test_a_norm_that_is_not_finite_makes_its_chain_nan(layout, bad, pair):
    backend, device = pair
    case = Case((4, 70), layout=layout, max_grad_norm=1.0)
    drawn = case.draw(torch.float32, device)
    with cgm_kernels.use_backend(backend):
        clean = case.call(drawn, state=state(device))
        drawn[1][2, 3] = bad
        dirty = case.call(drawn, state=state(device))
    assert dirty[2].isnan().all()
    assert dirty[[0, 1, 3]].equal(clean[[0, 1, 3]])


@pytest.mark.parametrize("pair", running())
@pytest.mark.parametrize(
    ("dtype", "magnitude"),
    [(torch.float32, 3e38), (torch.float32, 1e-42), (torch.float64, 1.5e308), (torch.float64, 1e-310)],
)
def test_huge_and_tiny_gradients_are_projected(dtype, magnitude, pair):
    """Squares that overflow or underflow: ten equal components of norm c have c/√10 each; far below c they stay."""
    backend, device = pair
    grad = torch.full((3, 10), magnitude, dtype=dtype, device=device)
    grad[1] = 0.0
    x = torch.zeros_like(grad)
    bound = 2.0 if magnitude > 1 else 1e-3 * magnitude
    with cgm_kernels.use_backend(backend):
        moved = cgm_kernels.langevin_step(x, grad, 1.0, temperature=0.0, max_grad_norm=bound)
        still = cgm_kernels.langevin_step(x, grad, 1.0, temperature=0.0, max_grad_norm=1e3)
    expected = torch.full_like(grad, -bound / math.sqrt(10))
    expected[1] = 0.0
    if magnitude > 1:
        torch.testing.assert_close(moved, expected, rtol=2e-6, atol=0)
    if magnitude < 1:
        assert still.equal(-grad)
        assert moved.isfinite().all() and (moved.abs() <= grad.abs()).all()


@pytest.mark.parametrize("pair", running())
def test_a_number_and_its_tensors_are_the_same(pair):
    backend, device = pair
    x, grad, _, _ = Case((6, 70)).draw(torch.float64, device)
    with cgm_kernels.use_backend(backend):
        plain = cgm_kernels.langevin_step(x, grad, 0.3, temperature=0.2, state=state(device))
        for shape in ((), (6,)):
            h, t = (torch.full(shape, v, dtype=torch.float64, device=device) for v in (0.3, 0.2))
            for given in ((h, t), (h, 0.2), (0.3, t), (h.cpu() if not shape else h, t)):
                tensors = cgm_kernels.langevin_step(x, grad, given[0], temperature=given[1], state=state(device))
                torch.testing.assert_close(tensors, plain, rtol=1e-14, atol=1e-15)
        zero = cgm_kernels.langevin_step(x, grad, 0, temperature=1, state=state(device))
        assert zero.equal(x), "a step of size 0 stays"
        strided = torch.full((12,), 0.3, dtype=torch.float64, device=device)[::2]
        assert cgm_kernels.langevin_step(x, grad, strided, temperature=0.2, state=state(device)).allclose(plain)
        single = cgm_kernels.langevin_step(x, grad, strided.float(), temperature=0.2, state=state(device))
        torch.testing.assert_close(single, plain, rtol=0, atol=1e-6)


@pytest.mark.parametrize("pair", running())
def test_acceptance(pair):
    """log u < log_ratio with the uniform words of the step, its top bit set."""
    backend, device = pair
    n = 1001
    words = noise_words(n, KEY, STEP | -(2**63))
    log_u = ((words.double() + 0.5) / 2**32).log().to(device)
    x = torch.arange(3.0 * n, device=device).reshape(n, 3)
    with cgm_kernels.use_backend(backend):
        for ratio in (torch.full_like(log_u, -0.5), log_u + 1e-12, log_u - 1e-12):
            chosen, accepted = cgm_kernels.mala_accept(x, -x, ratio, state=state(device))
            assert accepted.dtype is torch.bool and accepted.equal(log_u < ratio)
            assert chosen.equal(torch.where(accepted[:, None], -x, x))
        sure = torch.tensor([math.inf, 0.0, -math.inf, math.nan] * 50, device=device)
        for dtype in (torch.float32, torch.float64, *HALVES):
            values = torch.ones(200, 2, 2, device=device, dtype=dtype)
            chosen, accepted = cgm_kernels.mala_accept(values, 2 * values, sure.to(dtype), state=state(device))
            assert chosen.dtype is dtype
            assert accepted.tolist() == [True, True, False, False] * 50
            assert chosen.equal(values * (1 + accepted.to(dtype)[:, None, None]))
        chosen, accepted = cgm_kernels.mala_accept(x[0, 0], -x[0, 1], torch.tensor(0.0, device=device))
        assert chosen.shape == accepted.shape == () and accepted and chosen == -1.0
        strided = cgm_kernels.mala_accept(
            x.t().contiguous().t(), -x, ratio[:, None].expand(n, 2)[:, 0], state=state(device)
        )
        assert strided[1].equal(log_u < ratio)


@pytest.mark.parametrize("pair", running())
def test_ula_reaches_its_known_variance(pair):
    """On N(0, s²) ULA's own law is normal with variance s²/(1 − h/(2s²)), where chains that begin there stay."""
    backend, device = pair
    variance, h, chains = 1.5, 0.6, 4000
    exact = variance / (1 - h / (2 * variance))
    generator = torch.Generator().manual_seed(0)
    x = (exact**0.5 * torch.randn(chains, generator=generator, dtype=torch.float64)).to(device)
    source = noise_state(generator, device)
    steps = 20 if "triton" in backend and device == "cpu" else 200
    with cgm_kernels.use_backend(backend):
        for _ in range(steps):
            cgm_kernels.langevin_step(x, x / variance, h, state=source, out=x)
    assert source[1] == steps
    assert abs(x.var().item() / exact - 1) <= 4.5 * (2 / chains) ** 0.5
    assert abs(x.mean().item()) <= 4.5 * (exact / chains) ** 0.5
