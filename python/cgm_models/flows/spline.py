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
    knots = _knots(parameters[..., : 2 * n_bins].unflatten(-1, (2, n_bins)), bound)
    slopes = F.pad(_slopes(parameters[..., 2 * n_bins :]), (1, 1), value=1.0)
    index = (clamped.unsqueeze(-1) >= knots[..., 1 if inverse else 0, 1:-1]).sum(-1, keepdim=True)
    ends = torch.cat((index, index + 1), dim=-1)
    corners, slopes = knots.gather(-1, torch.stack((ends, ends), dim=-2)), slopes.gather(-1, ends)
    if inverse:
        y, log_slope = (
            value.to(wide) for value in _inverse_in_bin(clamped.double(), corners.double(), slopes.double())
        )
    else:
        y, log_slope = _in_bin(clamped, corners, slopes)
    return torch.where(inside, y, x).to(given), torch.where(inside, log_slope, torch.zeros_like(x))


def _knots(logits: Tensor, bound: float) -> Tensor:
    """(..., K + 1) of x and y: from −bound to bound, increasing."""
    n_bins = logits.shape[-1]
    sizes = MIN_SIZE + (1.0 - MIN_SIZE * n_bins) * _softmax(logits)
    inner = (2.0 * bound) * torch.cumsum(sizes[..., :-1], dim=-1) - bound
    # The ends exactly: rounding must not leave a gap between the last bin and the tail.
    return F.pad(F.pad(inner, (1, 0), value=-bound), (0, 1), value=bound)


def _softmax(logits: Tensor) -> Tensor:
    """Over the last dimension; on the CPU PyTorch takes rows shorter than a vector number by number, columns never."""
    if torch.compiler.is_compiling() or not logits.is_cpu or logits.shape[-1] >= 16 or logits.numel() < 512:
        return torch.softmax(logits, dim=-1)
    return torch.softmax(logits.movedim(-1, 0), dim=0).movedim(0, -1)


def _slopes(logits: Tensor) -> Tensor:
    slopes = MIN_SLOPE + F.softplus(logits + math.log(math.expm1(1.0 - MIN_SLOPE)))
    return slopes.clamp_max(MAX_SLOPE)


def _in_bin(x: Tensor, corners: Tensor, slopes: Tensor) -> tuple[Tensor, Tensor]:
    """``corners`` (..., 2, 2) are the ends of the bin in x, then in y; ``slopes`` (..., 2) are there."""
    x_0, y_0, width, height = _bin(corners)
    d_0, d_1 = slopes.unbind(-1)
    share = ((x - x_0) / width).clamp(0.0, 1.0)  # a rounding beyond the end of a steep bin is no longer monotone
    secant = height / width
    product = share * (1.0 - share)
    bottom = secant + (d_0 + d_1 - 2.0 * secant) * product
    y = y_0 + height * (secant * share.square() + d_0 * product) / bottom
    return y, _log_slope(share, secant, product, bottom, d_0, d_1)


def _inverse_in_bin(y: Tensor, corners: Tensor, slopes: Tensor) -> tuple[Tensor, Tensor]:
    x_0, y_0, width, height = _bin(corners)
    d_0, d_1 = slopes.unbind(-1)
    # Counted from the nearer end of the bin, both ξ and 1 − ξ are as exact as y is.
    far = y - y_0 > 0.5 * height
    rise = torch.where(far, y_0 + height - y, y - y_0)
    near, other = torch.where(far, d_1, d_0), torch.where(far, d_0, d_1)
    secant = height / width
    bend = d_0 + d_1 - 2.0 * secant
    a = height * (secant - near) + rise * bend
    b = height * near - rise * bend
    c = -secant * rise
    # Of the two forms of the root the one that adds what has one sign; a + b = h s > 0, so that a > 0 where b < 0.
    added = b >= 0.0
    root = torch.where(added, b, -b) + torch.sqrt((b.square() - 4.0 * a * c).clamp_min(0.0))
    share = (torch.where(added, -2.0 * c, root) / torch.where(added, root, 2.0 * a)).clamp(0.0, 1.0)
    product = share * (1.0 - share)
    bottom = secant + bend * product
    x = torch.where(far, x_0 + width - share * width, x_0 + share * width)
    return x, -_log_slope(share, secant, product, bottom, near, other)


def _bin(corners: Tensor) -> tuple[Tensor, ...]:
    first, last = corners.unbind(-1)
    return *first.unbind(-1), *(last - first).unbind(-1)


def _log_slope(share: Tensor, secant: Tensor, product: Tensor, bottom: Tensor, d_0: Tensor, d_1: Tensor) -> Tensor:
    top = d_1 * share.square() + 2.0 * secant * product + d_0 * (1.0 - share).square()
    # Slopes of knots, and secants, lie in [10⁻³, 10³] and secant/2 ≤ bottom: nothing here under- or overflows.
    return torch.log(top * (secant / bottom).square())
