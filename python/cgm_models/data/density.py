"""Planar densities that are known exactly, and the quadrature they share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ..options import check_whole

_CHUNK_ELEMENTS = 1 << 19
LOG_2PI = math.log(2.0 * math.pi)


class Density2D(ABC):
    """A mixture of ``n_classes`` equally likely parts in the plane: sampler, exact density and entropy.

    ``p(x) = (1/K) Σ_k p(x | k)``. Every ``log_prob`` is computed in float64 and returned in the dtype of ``x``;
    NaN in a point gives NaN for that point.
    """

    name: ClassVar[str]
    n_classes: ClassVar[int] = 1
    extent: tuple[tuple[float, float], tuple[float, float]]
    """((x_min, x_max), (y_min, y_max)): a box that holds all but less than 1e-6 of the mass."""

    @abstractmethod
    def class_log_prob(self, x: Tensor) -> Tensor:
        """``log p(x | k)`` of every part: ``(n, 2) -> (n, n_classes)``, float64."""

    @abstractmethod
    def _draw(self, labels: Tensor, generator: torch.Generator | None) -> Tensor:
        """One float64 point from the part named by each label."""

    @abstractmethod
    def entropy(self) -> float:
        """``-∫ p log p`` in nats."""

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """``n`` independent points, ``(n, 2)`` float32 on the CPU."""
        return self.sample_labelled(n, generator)[0]

    def sample_labelled(self, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """``n`` independent points and the part each came from: ``(n, 2)`` float32 and ``(n,)`` int64."""
        n = check_whole("n", n, 0)
        labels = torch.randint(self.n_classes, (n,), generator=generator)
        return self._draw(labels, generator).float(), labels

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """``log p(x)``, or ``log p(x | context)`` for class labels ``(n,)`` or ``()``: ``(n, 2) -> (n,)``."""
        if x.ndim != 2 or x.shape[1] != 2:
            raise ValueError(f"x must have shape (n, 2): got {tuple(x.shape)}")
        if not x.is_floating_point():
            raise TypeError(f"x must be a floating-point tensor: got {x.dtype}")
        parts = self.class_log_prob(x.double())
        if context is None:
            value = torch.logsumexp(parts, dim=1) - math.log(self.n_classes)
        else:
            value = parts.gather(1, self._check_labels(context, len(x)).to(x.device)[:, None])[:, 0]
        return torch.where(x.isnan().any(dim=1), math.nan, value).to(x.dtype)

    def _check_labels(self, context: Tensor, n: int) -> Tensor:
        if context.dtype.is_floating_point or context.shape not in ((), (n,)):
            got = f"{context.dtype} of shape {tuple(context.shape)}"
            raise ValueError(f"context must hold integer labels of shape () or ({n},): got {got}")
        if context.numel() and not 0 <= int(context.min()) <= int(context.max()) < self.n_classes:
            raise ValueError(f"context must lie in 0..{self.n_classes - 1} for {self.name}")
        return context.long().expand(n)

    def __repr__(self) -> str:
        fields = ", ".join(f"{key}={value}" for key, value in vars(self).items() if isinstance(value, (int, float)))
        return f"{type(self).__name__}({fields})"


def positive_noise(noise: float) -> float:
    """``noise`` as a float; without noise a curve has no density, so zero is refused."""
    if not (isinstance(noise, (int, float)) and math.isfinite(noise) and noise > 0):
        raise ValueError(f"noise must be a positive finite number, else there is no density: got {noise!r}")
    return float(noise)


def gauss_legendre_panels(edges: np.ndarray, order: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of the composite Gauss-Legendre rule on the panels between consecutive ``edges``."""
    node, weight = np.polynomial.legendre.leggauss(order)
    half = 0.5 * np.diff(edges)[:, None]
    middle = 0.5 * (edges[1:] + edges[:-1])[:, None]
    return (middle + half * node).ravel(), (half * weight).ravel()


def gaussian_mixture_log_prob(x: Tensor, centres: np.ndarray, weights: np.ndarray, std: float) -> Tensor:
    """``log Σ_j w_j N(x; c_j, std² I)``, ``(n, 2), (m, 2), (m,) -> (n,)``, in row chunks of bounded memory.

    With quadrature nodes on a curve as centres this is the curve's uniform law convolved with the noise.
    """
    c = torch.as_tensor(centres, dtype=x.dtype, device=x.device)
    log_w = torch.as_tensor(np.log(weights), dtype=x.dtype, device=x.device) - LOG_2PI - 2.0 * math.log(std)
    rows = max(1, _CHUNK_ELEMENTS // len(centres))
    parts = []
    for chunk in x.split(rows):
        # Differences rather than the expanded square: no cancellation close to the curve.
        squared = (chunk[:, :1] - c[:, 0]).square_() + (chunk[:, 1:] - c[:, 1]).square_()
        parts.append(torch.logsumexp(log_w - squared.mul_(0.5 / std**2), dim=1))
    return torch.cat(parts)


def ring_log_prob(x: Tensor, radius: float, std: float) -> Tensor:
    """A circle of ``radius`` about the origin convolved with ``N(0, std² I)``, in closed form.

    ``p(x) = exp(-(|x|² + R²) / 2s²) I₀(|x| R / s²) / (2π s²)``; the scaled Bessel function keeps it finite.
    """
    rho = torch.linalg.vector_norm(x, dim=1)
    log_bessel = torch.log(torch.special.i0e(rho * (radius / std**2)))
    return log_bessel - (rho - radius).square() / (2.0 * std**2) - LOG_2PI - 2.0 * math.log(std)


def grid_entropy(density: Density2D, spacing: float) -> float:
    """``-∫ p log p`` by the trapezoidal rule on ``density.extent``.

    For a density smoothed by Gaussian noise of standard deviation s the rule converges like exp(-2π² (s/spacing)²),
    so a spacing of 0.4 s is exact to rounding; what remains is the mass outside the box.
    """
    axes = [torch.arange(low, high + spacing, spacing, dtype=torch.float64) for low, high in density.extent]
    log_p = density.log_prob(torch.cartesian_prod(*axes))
    return float(torch.special.entr(log_p.exp()).sum()) * spacing**2
