"""Monotone rational-quadratic splines (Gregory and Delbourgo 1982; Durkan et al. 2019)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

MIN_SIZE = 1e-3
"""Of a bin, as a share of the interval."""
MIN_SLOPE, MAX_SLOPE = 1e-3, 1e3
"""At the knots; within a bin the slope may be anywhere above 0."""


def rational_quadratic_spline(
    x: Tensor, parameters: Tensor, bound: float, *, inverse: bool = False
) -> tuple[Tensor, Tensor]:
    """A monotone map of [−bound, bound] onto itself, elementwise, and the log of its slope; the identity outside.

    Half precision is computed in float32, and the root of the inverse in float64, so that whatever the parameters it is
    as exact as the rounding of x and y allows: in float32 f(f⁻¹(y)) is y within 4·10⁻⁴ bound, and f⁻¹(f(x)) is x within
    10⁻⁴ bound wherever the slope is above 0.01. What flatter places map together no float32 can part again.

    In the bin [x_k, x_k + w] → [y_k, y_k + h] with slopes d₀ and d₁ at its ends, ξ = (x − x_k) / w and s = h / w:

        y = y_k + h (s ξ² + d₀ ξ(1 − ξ)) / (s + (d₁ + d₀ − 2s) ξ(1 − ξ)).

    Args:
        x: any shape.
        parameters: (*x.shape, 3K − 1) for K bins: K logits of widths, K of heights, K − 1 of the inner slopes; the
            outer slopes are 1. All zero, the map is the identity.
        inverse: the inverse map, by the root of a quadratic equation.

    Returns:
        The image of x, and the log of the slope of the map that was applied, both of the shape of x; of half precision
        the logarithm is float32.
    """
    given = x.dtype
    wide = torch.promote_types(torch.promote_types(given, parameters.dtype), torch.float32)
    x, parameters = x.to(wide), parameters.to(wide)
    n_bins = (parameters.shape[-1] + 1) // 3
    inside = x.abs() < bound
    # The others take a point where every formula is finite, so that no gradient becomes NaN behind the mask.
    clamped = torch.where(inside, x, torch.zeros_like(x))
    x_knots = _knots(parameters[..., :n_bins], bound)
    y_knots = _knots(parameters[..., n_bins : 2 * n_bins], bound)
    slopes = F.pad(_slopes(parameters[..., 2 * n_bins :]), (1, 1), value=1.0)
    knots = y_knots if inverse else x_knots
    index = (clamped.unsqueeze(-1) >= knots[..., 1:-1]).sum(-1, keepdim=True)
    both = torch.cat((index, index + 1), dim=-1)
    (x_0, x_1), (y_0, y_1), (d_0, d_1) = (values.gather(-1, both).unbind(-1) for values in (x_knots, y_knots, slopes))
    if inverse:
        exact = [value.double() for value in (clamped, x_0, x_1 - x_0, y_0, y_1 - y_0, d_0, d_1)]
        y, log_slope = (value.to(wide) for value in _inverse_in_bin(*exact))
    else:
        y, log_slope = _in_bin(clamped, x_0, x_1 - x_0, y_0, y_1 - y_0, d_0, d_1)
    return torch.where(inside, y, x).to(given), torch.where(inside, log_slope, torch.zeros_like(x))


def _knots(logits: Tensor, bound: float) -> Tensor:
    """(..., K + 1): from −bound to bound, increasing."""
    n_bins = logits.shape[-1]
    sizes = MIN_SIZE + (1.0 - MIN_SIZE * n_bins) * torch.softmax(logits, dim=-1)
    inner = (2.0 * bound) * torch.cumsum(sizes[..., :-1], dim=-1) - bound
    # The ends exactly: rounding must not leave a gap between the last bin and the tail.
    return F.pad(F.pad(inner, (1, 0), value=-bound), (0, 1), value=bound)


def _slopes(logits: Tensor) -> Tensor:
    slopes = MIN_SLOPE + F.softplus(logits + math.log(math.expm1(1.0 - MIN_SLOPE)))
    return slopes.clamp_max(MAX_SLOPE)


def _in_bin(
    x: Tensor, x_0: Tensor, width: Tensor, y_0: Tensor, height: Tensor, d_0: Tensor, d_1: Tensor
) -> tuple[Tensor, Tensor]:
    share = ((x - x_0) / width).clamp(0.0, 1.0)  # a rounding beyond the end of a steep bin is no longer monotone
    secant = height / width
    product = share * (1.0 - share)
    bottom = secant + (d_0 + d_1 - 2.0 * secant) * product
    y = y_0 + height * (secant * share.square() + d_0 * product) / bottom
    return y, _log_slope(share, secant, product, bottom, d_0, d_1)


def _inverse_in_bin(
    y: Tensor, x_0: Tensor, width: Tensor, y_0: Tensor, height: Tensor, d_0: Tensor, d_1: Tensor
) -> tuple[Tensor, Tensor]:
    secant = height / width
    rise = y - y_0
    bend = d_0 + d_1 - 2.0 * secant
    a = height * (secant - d_0) + rise * bend
    b = height * d_0 - rise * bend
    c = -secant * rise
    # This form of the root is exact for b ≥ 0, and a + b = h s > 0 keeps the square root away from −b where b < 0.
    share = (2.0 * c / (-b - torch.sqrt((b.square() - 4.0 * a * c).clamp_min(0.0)))).clamp(0.0, 1.0)
    product = share * (1.0 - share)
    bottom = secant + bend * product
    return x_0 + share * width, -_log_slope(share, secant, product, bottom, d_0, d_1)


def _log_slope(share: Tensor, secant: Tensor, product: Tensor, bottom: Tensor, d_0: Tensor, d_1: Tensor) -> Tensor:
    top = d_1 * share.square() + 2.0 * secant * product + d_0 * (1.0 - share).square()
    return 2.0 * (torch.log(secant) - torch.log(bottom)) + torch.log(top)
