"""Rational-quadratic splines: against nflows, monotone, and as exact in float32 as they promise."""

import math

import pytest
import torch

from cgm_models.flows import rational_quadratic_spline


def normal(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("inverse", [False, True])
def test_splines_are_those_of_nflows(inverse):
    nflows = pytest.importorskip("nflows.transforms.splines.rational_quadratic")
    x, parameters = 4.0 * normal(200, 3), 2.0 * normal(200, 3, 3 * 6 - 1, seed=1)
    widths, heights, slopes = parameters.split((6, 6, 5), dim=-1)
    offset = float(torch.tensor(1.0 - 1e-3, dtype=torch.float64).expm1().log())
    theirs = nflows.unconstrained_rational_quadratic_spline(
        x, widths, heights, slopes + offset, inverse=inverse, tail_bound=3.0
    )
    for mine, other in zip(rational_quadratic_spline(x, parameters, 3.0, inverse=inverse), theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-9)


def test_splines_are_monotone_continuous_and_the_identity_outside():
    parameters = 0.7 * normal(1, 3 * 8 - 1).expand(4001, -1)
    x = torch.linspace(-4.0, 4.0, 4001, dtype=torch.float64)
    y, log_slope = rational_quadratic_spline(x, parameters, 3.0)
    assert (y[1:] > y[:-1]).all() and (y[1:] - y[:-1]).max() < 0.5
    outside = x.abs() >= 3.0
    assert torch.equal(y[outside], x[outside]) and (log_slope[outside] == 0).all()
    middle = (log_slope[1:] + log_slope[:-1]) / 2
    slope = (y[1:] - y[:-1]) / (x[1:] - x[:-1])
    torch.testing.assert_close(middle.exp(), slope, rtol=0.02, atol=0.01)
    identity, flat = rational_quadratic_spline(x, torch.zeros(4001, 23).double(), 3.0)
    torch.testing.assert_close(identity, x, rtol=0, atol=1e-14)
    torch.testing.assert_close(flat, torch.zeros_like(x), rtol=0, atol=1e-14)


def test_splines_in_float32_invert_and_differentiate_with_extreme_parameters():
    generator = torch.Generator().manual_seed(0)
    x = torch.cat((torch.rand(5000, generator=generator) * 8 - 4, torch.tensor([-3.0, 3.0, 0.0, 1e30, -1e30])))
    parameters = (20.0 * torch.randn(len(x), 23, generator=generator)).requires_grad_()
    y, log_slope = rational_quadratic_spline(x, parameters, 3.0)
    assert y.isfinite().all() and log_slope.isfinite().all()
    (gradient,) = torch.autograd.grad(y.clamp(-10, 10).sum() + log_slope.sum(), parameters)
    assert gradient.isfinite().all()
    again, back = rational_quadratic_spline(y.detach(), parameters, 3.0, inverse=True)
    assert again.isfinite().all() and back.isfinite().all()
    gap = (again - x).abs() * torch.minimum(log_slope.exp(), torch.ones(()))  # flat pieces lose the argument
    assert gap[x.abs() < 10].max() < 1e-4


@pytest.mark.parametrize("bound", [5.0, 1.0])
@pytest.mark.parametrize("logits", [1.0, 3.0, 10.0, 100.0, 1e6, 1e20])
def test_splines_in_float32_keep_what_they_promise(logits, bound):
    generator = torch.Generator().manual_seed(0)
    points = bound * (2.0 * torch.rand(10_000, generator=generator) - 1.0)
    parameters = logits * torch.randn(10_000, 23, generator=generator)
    x, _ = rational_quadratic_spline(points, parameters, bound, inverse=True)
    y, _ = rational_quadratic_spline(x, parameters, bound)
    assert (y - points).abs().max() <= 4e-4 * bound
    y, slope = rational_quadratic_spline(points, parameters, bound)
    x, back = rational_quadratic_spline(y, parameters, bound, inverse=True)
    steep = slope > math.log(1e-2)
    assert steep.float().mean() > 0.05 and x.isfinite().all() and back.isfinite().all()
    assert (x - points)[steep].abs().max() <= 1e-4 * bound
    exact, _ = rational_quadratic_spline(points.double(), parameters.double(), bound)
    close = slope < math.log(10.0)
    if logits <= 100.0:
        assert (y - exact)[close].abs().max() <= 1e-4 * bound


@pytest.mark.parametrize("logits", [1.0, 10.0, 30.0, 100.0])
def test_the_inverse_in_float64_loses_no_more_than_the_rounding_of_its_result(logits):
    bound, parameters = 5.0, logits * normal(20_000, 3 * 8 - 1)
    y = bound * torch.linspace(-0.999, 0.999, 20_000, dtype=torch.float64)
    x, back = rational_quadratic_spline(y, parameters, bound, inverse=True)
    again, log_slope = rational_quadratic_spline(x, parameters, bound)
    rounding = torch.finfo(torch.float64).eps * bound
    assert ((again - y).abs() / (1.0 + log_slope.exp())).max() < 8.0 * rounding
    assert (log_slope + back).abs().max() < 1e-10  # a narrow bin's slope changes within the rounding of x


def test_gradients_of_the_inverse_wherever_its_root_is():
    parameters = 3.0 * normal(80, 3 * 4 - 1).requires_grad_()
    y = torch.linspace(-2.9, 2.9, 80, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda y, parameters: rational_quadratic_spline(y, parameters, 3.0, inverse=True), (y, parameters)
    )
