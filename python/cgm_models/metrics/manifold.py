"""Precision, recall, density and coverage: do samples lie on the data, and is the data covered?"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..options import check_whole
from ._pairwise import centred, fill_diagonal, flat_clouds, refuse_overflow, squared_distance_blocks

_ROUNDING = 1e-12


class PrecisionRecall(NamedTuple):
    precision: float
    recall: float


class DensityCoverage(NamedTuple):
    density: float
    coverage: float


def precision_recall(samples: Tensor, reference: Tensor, *, k: int = 3) -> PrecisionRecall:
    """Each set is taken as the union of the closed balls that reach from its points to their k-th neighbours in it.

    ``precision = mean_j 1[∃i: |s_j - x_i| <= r_k(x_i)]``, the share of samples ``s`` inside the union of the
    reference points ``x``; ``recall = mean_i 1[∃j: |x_i - s_j| <= r_k(s_j)]`` the other way round; ``r_k`` is the
    distance to the k-th nearest *other* point of the own set.

    Shapes: ``samples (m, *event)``, ``reference (n, *event)``, events flattened, more than k points each. Computed in
    float64 by blocks of bounded memory. NaN and infinite points are refused. Both are usually taken between features
    of equal numbers of points, and depend on k and on the numbers.

    Source: Kynkäänniemi, Karras, Laine, Lehtinen and Aila, "Improved precision and recall metric for assessing
    generative models", 2019.
    """
    k = check_whole("k", k, 1)
    s, x = _checked(samples, reference, k)
    ball_s, ball_x = _squared_radius(s, k), _squared_radius(x, k)
    inside_x = torch.zeros(len(s), dtype=torch.bool, device=s.device)
    inside_s = []
    for rows, squared in squared_distance_blocks(x, s):
        inside_x |= (squared <= ball_x[rows, None]).any(0)
        inside_s.append((squared <= ball_s).any(1))
    return PrecisionRecall(_share(inside_x), _share(torch.cat(inside_s)))


def density_coverage(samples: Tensor, reference: Tensor, *, k: int = 5) -> DensityCoverage:
    """Balls round the reference points only, so that an outlier among the samples cannot inflate the result.

    ``density = 1/(km) Σ_j Σ_i 1[|s_j - x_i| <= r_k(x_i)]``, about 1 for samples of the law of the reference, possibly
    more; ``coverage = mean_i 1[∃j: |s_j - x_i| <= r_k(x_i)]``, with the expectation
    ``1 - Π_{l=1..k} (n - l)/(n + m - l)`` for samples of that law. ``r_k`` as in ``precision_recall``.

    Shapes, numbers and NaN as in ``precision_recall``.

    Source: Naeem, Oh, Uh, Choi and Yoo, "Reliable fidelity and diversity metrics for generative models", 2020.
    """
    k = check_whole("k", k, 1)
    s, x = _checked(samples, reference, k)
    ball = _squared_radius(x, k)
    hits, covered = 0, []
    for rows, squared in squared_distance_blocks(x, s):
        inside = squared <= ball[rows, None]
        hits += int(inside.sum())
        covered.append(inside.any(1))
    return DensityCoverage(hits / (k * len(s)), _share(torch.cat(covered)))


def _checked(samples: Tensor, reference: Tensor, k: int) -> list[Tensor]:
    s, x = centred(*flat_clouds(finite=True, minimum=k + 1, samples=samples, reference=reference))
    refuse_overflow(s, x, "samples", "reference")
    return [s, x]


def _squared_radius(x: Tensor, k: int) -> Tensor:
    """Squared distance of each point to its k-th nearest other point, a rounding error more.

    Data on a lattice is full of ties, and a tie is inside the closed ball: the allowance keeps it there.
    """
    radii = []
    for rows, squared in squared_distance_blocks(x, x):
        fill_diagonal(squared, rows, torch.inf)
        radii.append(squared.kthvalue(k, dim=1).values)
    return torch.cat(radii) * (1.0 + _ROUNDING) + _ROUNDING * x.square().sum(1)


def _share(inside: Tensor) -> float:
    return float(inside.double().mean())
