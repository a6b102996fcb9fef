"""The energy distance and its two-sample permutation test."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..options import check_whole
from ._pairwise import centred, check_estimator, fill_diagonal, flat_clouds, refuse_overflow, squared_distance_blocks

_LABEL_ELEMENTS = 1 << 23  # 64 MB of float64 labels at once


def _distance_blocks(x: Tensor, y: Tensor, same: bool = False) -> Iterator[tuple[slice, Tensor]]:
    for rows, block in squared_distance_blocks(x, y):
        block.sqrt_()
        if same:
            fill_diagonal(block, rows, 0.0)
        yield rows, block


def _total(x: Tensor, y: Tensor, same: bool = False) -> Tensor:
    return torch.stack([block.sum() for _, block in _distance_blocks(x, y, same)]).sum()


def energy_distance(x: Tensor, y: Tensor, *, estimator: str = "v") -> Tensor:
    """``E(X, Y) = 2 E|X - Y| - E|X - X'| - E|Y - Y'|``, zero exactly when the laws are equal.

    ``estimator="v"`` (V-statistic) averages over all pairs, the zero ones of a point with itself included: never
    negative, biased up by O(1/n). ``"u"`` (U-statistic) leaves those out: unbiased, may be negative.
    ``scipy.stats.energy_distance`` is the square root of the V-statistic in one dimension.

    Shapes: ``x (n, *event)``, ``y (m, *event)``, events flattened; gives a float64 scalar. Computed in float64 by
    blocks of bounded memory, without gradient. NaN or infinity in a point gives NaN.

    Source: Székely and Rizzo, "Energy statistics: a class of statistics based on distances", 2013.
    """
    a, b = flat_clouds(x=x, y=y)
    check_estimator(estimator, a, b)
    n, m = len(a), len(b)
    a, b = centred(a, b)
    own = 0 if estimator == "v" else 1
    within_x = _total(a, a, same=True) / (n * (n - own))
    within_y = _total(b, b, same=True) / (m * (m - own))
    value = 2.0 * _total(a, b) / (n * m) - within_x - within_y
    return value + 0.0 * (a.sum() + b.sum())  # one point alone has no distance in which its NaN would show


@dataclass(frozen=True)
class EnergyTest:
    """``statistic`` is ``nm/(n+m)`` times the V-statistic of the energy distance."""

    statistic: float
    p_value: float
    n_permutations: int


def energy_test(
    x: Tensor, y: Tensor, *, n_permutations: int = 999, generator: torch.Generator | None = None
) -> EnergyTest:
    """Permutation test of "x and y have the same law" with ``T = nm/(n+m) E_V(x, y)``.

    ``p = (1 + #{permutations with T_π >= T}) / (1 + n_permutations)``, so a p-value at or below a level is reached
    with at most that probability under the hypothesis, whatever the law and the sizes.

    Shapes: ``x (n, *event)``, ``y (m, *event)``, events flattened. The distances are recomputed by blocks, so memory
    grows with neither n·m nor n·n_permutations. NaN and infinite points are refused.

    Source: Székely and Rizzo, "Testing for equal distributions in high dimension", 2004.
    """
    a, b = flat_clouds(finite=True, x=x, y=y)
    n_permutations = check_whole("n_permutations", n_permutations, 1)
    a, b = centred(a, b)
    refuse_overflow(a, b, "x", "y")
    pooled = torch.cat([a, b])
    n, m = len(a), len(b)
    chosen = torch.zeros(n + m, 1, dtype=torch.float64, device=pooled.device)
    chosen[:n] = 1.0
    rounds = max(1, _LABEL_ELEMENTS // (n + m))
    observed, exceeding, done = None, 0, 0
    while done < n_permutations:
        count = min(rounds, n_permutations - done)
        labels = torch.cat([chosen, _random_labels(chosen, count, n, generator)], dim=1)
        values, scale = _statistics(pooled, labels, n, m)
        observed = values[0] if observed is None else observed
        # Rounding must not decide between the observed split and a relabelling that repeats it.
        exceeding += int((values[1:] >= observed - 1e-11 * scale).sum())
        done += count
    assert observed is not None
    return EnergyTest(float(observed), (1 + exceeding) / (1 + n_permutations), n_permutations)


def _random_labels(chosen: Tensor, count: int, n: int, generator: torch.Generator | None) -> Tensor:
    labels = torch.zeros(len(chosen), count, dtype=torch.float64)
    for column in range(count):
        labels[torch.randperm(len(chosen), generator=generator)[:n], column] = 1.0
    return labels.to(chosen.device)


def _statistics(pooled: Tensor, labels: Tensor, n: int, m: int) -> tuple[Tensor, Tensor]:
    """T of each column of 0/1 labels, and the size of its terms.

    With D the distances, r its row sums and s a column, ``sᵀDs``, ``sᵀr - sᵀDs`` and ``1ᵀr - 2 sᵀr + sᵀDs`` are the
    sums within x, across, and within y.
    """
    quadratic = torch.zeros(labels.shape[1], dtype=torch.float64, device=pooled.device)
    row_sums = []
    for rows, block in _distance_blocks(pooled, pooled, same=True):
        quadratic += (labels[rows] * (block @ labels)).sum(0)
        row_sums.append(block.sum(1))
    r = torch.cat(row_sums)
    marginal = r @ labels
    across, within_y = marginal - quadratic, r.sum() - 2.0 * marginal + quadratic
    energy = 2.0 * across / (n * m) - quadratic / n**2 - within_y / m**2
    weight = n * m / (n + m)
    return energy * weight, r.mean() / (n + m) * weight
