"""The planar sets: moons as scikit-learn draws them, the others with the parameters of FFJORD's toy generators.

Where those generators space points evenly along a curve, ours draw the position uniformly, so that points are
independent and the stated density is exactly theirs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from .density import (
    Density2D,
    gauss_legendre_panels,
    gaussian_mixture_log_prob,
    grid_entropy,
    positive_noise,
    ring_log_prob,
)

_PANEL = 4.0  # panel length along a curve in noise standard deviations, 16 quadrature nodes each
_MARGIN = 8.0  # the extent reaches this many noise standard deviations beyond the curve


def _uniform(n: int, generator: torch.Generator | None) -> Tensor:
    return torch.rand(n, generator=generator, dtype=torch.float64)


def _noise(n: int, std: float, generator: torch.Generator | None) -> Tensor:
    return std * torch.randn(n, 2, generator=generator, dtype=torch.float64)


class Moons(Density2D):
    """Two half circles of radius 1, the second turned over and moved to (1, 0.5), plus Gaussian noise.

    ``p(x | k) = (1/π) ∫₀^π N(x; c_k(θ), noise² I) dθ``, ``c_0 = (cos θ, sin θ)``, ``c_1 = (1 − cos θ, ½ − sin θ)``,
    by composite Gauss-Legendre quadrature. Parameters as ``sklearn.datasets.make_moons``.
    """

    name = "moons"
    n_classes = 2

    def __init__(self, noise: float = 0.05) -> None:
        self.noise = positive_noise(noise)
        margin = _MARGIN * self.noise
        self.extent = ((-1.0 - margin, 2.0 + margin), (-0.5 - margin, 1.0 + margin))
        panels = max(4, math.ceil(math.pi / (_PANEL * self.noise)))
        theta, weights = gauss_legendre_panels(np.linspace(0.0, math.pi, panels + 1))
        upper = np.stack([np.cos(theta), np.sin(theta)], axis=1)
        self._nodes = (upper, np.array([1.0, 0.5]) - upper)
        self._weights = weights / math.pi

    def class_log_prob(self, x: Tensor) -> Tensor:
        parts = [gaussian_mixture_log_prob(x, nodes, self._weights, self.noise) for nodes in self._nodes]
        return torch.stack(parts, dim=1)

    def _draw(self, labels: Tensor, generator: torch.Generator | None) -> Tensor:
        theta = math.pi * _uniform(len(labels), generator)
        upper = torch.stack([theta.cos(), theta.sin()], dim=1)
        lower = torch.tensor([1.0, 0.5], dtype=torch.float64) - upper
        return torch.where(labels[:, None] == 0, upper, lower) + _noise(len(labels), self.noise, generator)

    def entropy(self) -> float:
        return grid_entropy(self, 0.4 * self.noise)


class SwissRoll(Density2D):
    """The spiral ``(t cos t, t sin t)``, ``t`` uniform on (3π/2, 9π/2), plus ``N(0, noise² I)``, all divided by 5.

    ``p(x) = (1/3π) ∫ N(x; c(t)/5, (noise/5)² I) dt`` by composite Gauss-Legendre quadrature.
    """

    name = "swissroll"
    _scale = 5.0

    def __init__(self, noise: float = 1.0) -> None:
        self.noise = positive_noise(noise)
        low, high = 1.5 * math.pi, 4.5 * math.pi
        # Panels of equal arc length: the arc length from 0 to t is t²/2 up to a logarithm.
        panels = max(16, math.ceil((high**2 - low**2) / 2 / (_PANEL * self.noise)))
        t, weights = gauss_legendre_panels(np.sqrt(np.linspace(low**2, high**2, panels + 1)))
        self._nodes = np.stack([t * np.cos(t), t * np.sin(t)], axis=1) / self._scale
        self._weights = weights / (high - low)
        reach = (high + _MARGIN * self.noise) / self._scale
        self.extent = ((-reach, reach), (-reach, reach))

    def class_log_prob(self, x: Tensor) -> Tensor:
        return gaussian_mixture_log_prob(x, self._nodes, self._weights, self.noise / self._scale)[:, None]

    def _draw(self, labels: Tensor, generator: torch.Generator | None) -> Tensor:
        t = 1.5 * math.pi * (1.0 + 2.0 * _uniform(len(labels), generator))
        curve = torch.stack([t * t.cos(), t * t.sin()], dim=1)
        return (curve + _noise(len(labels), self.noise, generator)) / self._scale

    def entropy(self) -> float:
        return grid_entropy(self, 0.4 * self.noise / self._scale)


class _ConcentricRings(Density2D):
    """Circles about the origin with equal mass, convolved with Gaussian noise of standard deviation ``_std``."""

    radii: ClassVar[tuple[float, ...]]

    def _set_noise(self, std: float) -> None:
        self._std = std
        reach = max(self.radii) + _MARGIN * std
        self.extent = ((-reach, reach), (-reach, reach))

    def class_log_prob(self, x: Tensor) -> Tensor:
        return torch.stack([ring_log_prob(x, radius, self._std) for radius in self.radii], dim=1)

    def _draw(self, labels: Tensor, generator: torch.Generator | None) -> Tensor:
        radius = torch.tensor(self.radii, dtype=torch.float64)[labels]
        theta = 2.0 * math.pi * _uniform(len(labels), generator)
        circle = radius[:, None] * torch.stack([theta.cos(), theta.sin()], dim=1)
        return circle + _noise(len(labels), self._std, generator)

    def entropy(self) -> float:
        return grid_entropy(self, 0.4 * self._std)


class Circles(_ConcentricRings):
    """Circles of radius 1 and 0.5 with noise 0.08, times 3. ``noise`` is meant before the scaling."""

    name = "circles"
    n_classes = 2
    radii = (3.0, 1.5)

    def __init__(self, noise: float = 0.08) -> None:
        self.noise = positive_noise(noise)
        self._set_noise(3.0 * self.noise)


class Rings(_ConcentricRings):
    """Circles of radius 3, 2.25, 1.5 and 0.75, each a quarter of the mass, plus noise 0.08."""

    name = "rings"
    n_classes = 4
    radii = (3.0, 2.25, 1.5, 0.75)

    def __init__(self, noise: float = 0.08) -> None:
        self.noise = positive_noise(noise)
        self._set_noise(self.noise)


class EightGaussians(Density2D):
    """Eight Gaussians of standard deviation 0.5 on a circle of radius 4, all divided by 1.414 (not √2)."""

    name = "8gaussians"
    n_classes = 8
    _std = 0.5 / 1.414

    def __init__(self) -> None:
        angle = np.arange(8) * (math.pi / 4)
        self._centres = np.stack([np.cos(angle), np.sin(angle)], axis=1) * (4.0 / 1.414)
        reach = 4.0 / 1.414 + _MARGIN * self._std
        self.extent = ((-reach, reach), (-reach, reach))

    def class_log_prob(self, x: Tensor) -> Tensor:
        one = np.ones(1)
        parts = [gaussian_mixture_log_prob(x, centre[None], one, self._std) for centre in self._centres]
        return torch.stack(parts, dim=1)

    def _draw(self, labels: Tensor, generator: torch.Generator | None) -> Tensor:
        return torch.from_numpy(self._centres)[labels] + _noise(len(labels), self._std, generator)

    def entropy(self) -> float:
        return grid_entropy(self, 0.4 * self._std)


class Checkerboard(Density2D):
    """Uniform on the 8 squares of side 2 in (-4, 4)² whose column and row numbers have an even sum."""

    name = "checkerboard"
    extent = ((-4.0, 4.0), (-4.0, 4.0))

    def class_log_prob(self, x: Tensor) -> Tensor:
        column_plus_row = torch.floor(x / 2.0).sum(dim=1)
        inside = ((x >= -4.0) & (x < 4.0)).all(dim=1) & (column_plus_row.remainder(2.0) == 0)
        return torch.where(inside, x.new_tensor(-self.entropy()), x.new_tensor(-math.inf))[:, None]

    def _draw(self, labels: Tensor, generator: torch.Generator | None) -> Tensor:
        # Midpoints of a lattice of step 2^-19: exact in float32 and never on an edge, where the density jumps.
        n = len(labels)
        u = (torch.randint(1 << 20, (n, 2), generator=generator).double() + 0.5) * 2.0**-20
        column = torch.randint(-2, 2, (n,), generator=generator)
        row = 2 * torch.randint(-1, 1, (n,), generator=generator) + column % 2
        return 2.0 * (u + torch.stack([column, row], dim=1))

    def entropy(self) -> float:
        return math.log(32.0)


NOISY: dict[str, Callable[..., Density2D]] = {
    "moons": Moons,
    "circles": Circles,
    "swissroll": SwissRoll,
    "rings": Rings,
}
