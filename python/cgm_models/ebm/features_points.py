"""Statistics of N points of the torus [0, 1)^d, which do not depend on their order.

The maximum-entropy law of pair counts is the Gibbs process of a pair potential φ(r) = Σ_k θ_k b_k(r) for a fixed number
of points. (A hard core shows no pairs at short distances: its multipliers there grow up to the bound on θ.)
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..nets.constants import register_constant
from ..options import check_positive, check_whole
from .features import Feature


class _PointFeature(Feature):
    """What the features of points share: the distances of their pairs."""

    periodic = True

    def __init__(self, event_shape: tuple[int, ...]) -> None:
        super().__init__()
        if len(event_shape) != 2 or event_shape[0] < 2:
            raise ValueError(f"feature {self.name!r} is of at least two points (n, dim): got {event_shape}")
        self.n_points = event_shape[0]
        self.pairs: Tensor
        register_constant(self, "pairs", lambda: torch.triu_indices(self.n_points, self.n_points, 1))

    def distances(self, x: Tensor) -> Tensor:
        """The distance on the torus of every pair i < j, (batch, n (n − 1) / 2)."""
        offset = x.index_select(1, self.pairs[0]) - x.index_select(1, self.pairs[1])
        offset = offset - offset.detach().round()
        # The square root has no gradient at 0, where two points meet.
        return (offset.square().sum(-1) + 1e-12).sqrt()


class PairCounts(_PointFeature):
    """F_k(x) = Σ_{i<j} exp(−(|x_i − x_j| − r_k)² / 2w²): how many pairs have about the distance r_k.

    Args:
        n_bins: K, distances r_k = (k + ½)·max_distance/K.
        max_distance: at most ½, half the side of the torus.
        width: w in units of max_distance/K.
    """

    name = "pair_counts"

    def __init__(
        self, event_shape: tuple[int, ...], n_bins: int = 12, max_distance: float = 0.25, width: float = 0.6
    ) -> None:
        super().__init__(event_shape)
        n_bins = check_whole("n_bins", n_bins, 1)
        check_positive("max_distance", max_distance)
        check_positive("width", width)
        spacing = max_distance / n_bins
        if max_distance > 0.5:
            raise ValueError(f"max_distance must be at most 0.5, half the side of the torus: got {max_distance}")
        self.centres: Tensor
        register_constant(self, "centres", lambda: (torch.arange(n_bins).double() + 0.5) * spacing)
        self.width = width * spacing
        self.n_features = n_bins

    def forward(self, x: Tensor) -> Tensor:
        offset = self.distances(x)[..., None] - self.centres.to(x)
        return torch.exp(offset.square() * (-0.5 / self.width**2)).sum(1)


class NeighbourCounts(_PointFeature):
    """F_k(x) = Σ_i exp(−(n_i − k)² / 2): how many points have about k others within ``radius``.

    n_i = Σ_{j≠i} σ((radius − |x_i − x_j|) / w), w = softness · radius, k = 0, …, n_counts − 1; the last one counts
    points with more neighbours as well (n_i − k is taken to be at most 0), so that no crowd escapes the statistics.
    """

    name = "neighbour_counts"

    def __init__(
        self, event_shape: tuple[int, ...], n_counts: int = 8, radius: float = 0.1, softness: float = 0.1
    ) -> None:
        super().__init__(event_shape)
        n_counts = check_whole("n_counts", n_counts, 1)
        check_positive("radius", radius)
        check_positive("softness", softness)
        if radius > 0.5:
            raise ValueError(f"radius must be at most 0.5, half the side of the torus: got {radius}")
        self.radius, self.softness = radius, softness * radius
        self.counts: Tensor
        register_constant(self, "counts", lambda: torch.arange(n_counts).double())
        self.n_features = n_counts

    def forward(self, x: Tensor) -> Tensor:
        near = torch.sigmoid((self.radius - self.distances(x)) / self.softness)
        neighbours = near.new_zeros(len(x), self.n_points)
        for end in self.pairs:
            neighbours = neighbours.index_add(1, end, near)
        above = neighbours[..., None] - self.counts.to(x)
        above = torch.cat((above[..., :-1], above[..., -1:].clamp_max(0.0)), dim=-1)
        return torch.exp(-0.5 * above.square()).sum(1)
