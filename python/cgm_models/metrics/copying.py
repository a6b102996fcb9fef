"""Does a model copy its training data? Its samples' distances to it, beside those of held-out data."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ._pairwise import centred, flat_clouds, nearest_distances, refuse_overflow


@dataclass(frozen=True)
class CopyingCheck:
    """Distances to the nearest training point, of samples and of held-out data, and how they compare.

    ``ratio``: median distance of the samples over that of the held-out data; about 1 for fresh data, near 0 for copies.
    ``closer``: the probability that a random sample lies nearer to the training set than a random held-out point,
    ties counted half; ½ for fresh data. ``z``: the same as a standard normal score, positive where samples are nearer.
    ``p_value``: one-sided, small where samples are nearer than fresh data would be.
    ``exact_copies``: the share of samples at distance zero.
    """

    sample_distances: Tensor
    held_out_distances: Tensor
    ratio: float
    closer: float
    z: float
    p_value: float
    exact_copies: float


def copying_check(samples: Tensor, train: Tensor, held_out: Tensor) -> CopyingCheck:
    """Compares ``d(s) = min_t |s - t|`` over the training set for samples ``s`` and for held-out points.

    The rank statistic is Mann-Whitney's ``U = #{(s, h): d(s) < d(h)} + ½ #{ties}``; ``closer = U/nm`` and
    ``z = (U - nm/2) / √(nm/12 · (N + 1 - Σ(t³ - t)/(N(N-1))))``, N = n + m, t the sizes of the groups of ties, with the
    normal approximation for ``p_value`` (from about 20 points on each side).

    Shapes: ``(n, *event)``, ``(k, *event)``, ``(m, *event)``, events flattened. NaN and infinite points are refused.

    Source: Meehan, Chaudhuri and Dasgupta, "A non-parametric test to detect data-copying in generative models", 2020,
    with one cell.
    """
    s, t, h = flat_clouds(finite=True, samples=samples, train=train, held_out=held_out)
    for name, cloud in (("samples", s), ("held_out", h)):
        refuse_overflow(*centred(cloud, t), name, "train")
    near_s, near_h = nearest_distances(s, t), nearest_distances(h, t)
    closer, z = mann_whitney(near_s, near_h)
    ratio = near_s.quantile(0.5) / near_h.quantile(0.5)
    return CopyingCheck(
        sample_distances=near_s,
        held_out_distances=near_h,
        ratio=float(ratio),
        closer=closer,
        z=z,
        p_value=0.5 * math.erfc(z / math.sqrt(2.0)),
        exact_copies=float((near_s == 0).double().mean()),
    )


def mann_whitney(a: Tensor, b: Tensor) -> tuple[float, float]:
    """The share of pairs with ``a < b``, ties half, and its standard score under exchangeability."""
    n, m = len(a), len(b)
    ordered = b.sort().values
    below = torch.searchsorted(ordered, a, right=True)  # points of b at or below each a
    strictly_below = torch.searchsorted(ordered, a)
    u = float((m - below).sum() + 0.5 * (below - strictly_below).sum())
    _, tied = torch.cat([a, b]).unique(return_counts=True)
    total = n + m
    correction = float((tied.double() ** 3 - tied).sum()) / (total * (total - 1))
    variance = n * m / 12.0 * (total + 1 - correction)
    z = (u - n * m / 2.0) / math.sqrt(variance) if variance > 0 else 0.0
    return u / (n * m), z
