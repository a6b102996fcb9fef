"""The maximum mean discrepancy with a Gaussian kernel of several bandwidths."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ._pairwise import centred, check_estimator, fill_diagonal, flat_clouds, squared_distance_blocks

_MEDIAN_POINTS = 1000


def median_heuristic(x: Tensor, y: Tensor) -> float:
    """The median distance between two points of the pooled clouds, the customary bandwidth.

    From at most 1,000 evenly spaced points of each cloud. NaN with a NaN or infinite point among them.
    """
    a, b = flat_clouds(x=x, y=y)
    pooled = torch.cat([_thinned(a), _thinned(b)])
    return float(torch.pdist(pooled).median()) if len(pooled) > 1 else 0.0


def _thinned(x: Tensor) -> Tensor:
    if len(x) <= _MEDIAN_POINTS:
        return x
    return x[torch.linspace(0, len(x) - 1, _MEDIAN_POINTS, dtype=torch.float64).round().long()]


def mmd(
    x: Tensor,
    y: Tensor,
    *,
    estimator: str = "u",
    bandwidths: Sequence[float] | None = None,
    multipliers: Sequence[float] = (0.25, 0.5, 1.0, 2.0, 4.0),
) -> Tensor:
    """``MMD² = E k(X, X') + E k(Y, Y') - 2 E k(X, Y)``, ``k(a, b) = mean over σ of exp(-|a - b|² / 2σ²)``.

    The bandwidths ``σ`` are ``bandwidths``, or ``multipliers`` times the median distance. Note the square.
    ``estimator="u"`` is Gretton's unbiased MMD²_u, which may be negative; ``"v"`` keeps the pairs of a point with
    itself and is the biased MMD²_b, never negative.

    Shapes: ``x (n, *event)``, ``y (m, *event)``, events flattened; gives a float64 scalar. Computed in float64 by
    blocks of bounded memory, without gradient. NaN or infinity in a point gives NaN.

    Source: Gretton, Borgwardt, Rasch, Schölkopf and Smola, "A kernel two-sample test", 2012, equations 3 and 5.
    """
    a, b = flat_clouds(x=x, y=y)
    check_estimator(estimator, a, b)
    chosen = _bandwidths(a, b, bandwidths, multipliers)
    n, m = len(a), len(b)
    a, b = centred(a, b)
    own = 0 if estimator == "v" else 1
    within_x = _kernel_total(a, a, chosen, diagonal=1 - own) / (n * (n - own))
    within_y = _kernel_total(b, b, chosen, diagonal=1 - own) / (m * (m - own))
    value = within_x + within_y - 2.0 * _kernel_total(a, b, chosen) / (n * m)
    return value + 0.0 * (a.sum() + b.sum())  # the fixed diagonal would hide the NaN of a point


def _bandwidths(
    a: Tensor, b: Tensor, bandwidths: Sequence[float] | None, multipliers: Sequence[float]
) -> Sequence[float]:
    name, given = ("multipliers", multipliers) if bandwidths is None else ("bandwidths", bandwidths)
    if not len(given) or not all(math.isfinite(value) and value > 0 for value in given):
        raise ValueError(f"{name} must be one or more positive finite numbers: got {given!r}")
    if bandwidths is not None:
        return bandwidths
    median = median_heuristic(a, b)
    if median == 0.0:
        raise ValueError("bandwidths must be given: more than half of the points of x and y coincide, the median is 0")
    return [median * multiplier for multiplier in multipliers]


def _kernel_total(x: Tensor, y: Tensor, bandwidths: Sequence[float], diagonal: float | None = None) -> Tensor:
    """``Σ_ij k(x_i, y_j)``; with ``diagonal`` the entries i = j are set to it."""
    totals = []
    for rows, squared in squared_distance_blocks(x, y):
        kernel = torch.zeros_like(squared)
        for bandwidth in bandwidths:
            kernel += torch.exp(squared * (-0.5 / bandwidth**2))
        kernel /= len(bandwidths)
        if diagonal is not None:
            fill_diagonal(kernel, rows, diagonal)
        totals.append(kernel.sum())
    return torch.stack(totals).sum()
