"""Images as continuous points: dequantisation, the logit of pixel values, and bits per dimension.

A pixel of ``n_levels`` levels is one of k / (n_levels − 1). Uniform noise over its cell makes it a point of (0, 1),
whose density p bounds the probability of the image: log P(k) ≥ E_u log p((k + u) / n_levels) − D log n_levels.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ..options import check_whole
from .transform import Transform


def dequantize(x: Tensor, n_levels: int, generator: Generator | None = None) -> Tensor:
    """``(k + u) / n_levels`` for the levels k of ``x`` in [0, 1], u uniform in (0, 1).

    Raises:
        ValueError: if a value lies outside [0, 1].
    """
    levels = x * (n_levels - 1)
    rounded = levels.round()
    if x.numel() and not (0.0 <= float(x.min()) <= float(x.max()) <= 1.0):
        raise ValueError(f"x must lie in [0, 1] to be dequantised: got {float(x.min()):g} to {float(x.max()):g}")
    device = generator.device if generator is not None else x.device
    noise = torch.rand(x.shape, generator=generator, dtype=x.dtype, device=device).to(x.device)
    return (rounded + noise) / n_levels


def quantize(x: Tensor, n_levels: int) -> Tensor:
    """The pixel values k / (n_levels − 1) of the cells that points of [0, 1] lie in, or of the nearest."""
    return (x * n_levels).floor().clamp(0, n_levels - 1) / (n_levels - 1)


def bits_per_dim(log_prob: Tensor, dim: int, n_levels: int) -> Tensor:
    """``(log n_levels − log p / D) / log 2`` for densities p of dequantised images of D = ``dim`` pixels."""
    return (math.log(n_levels) - log_prob / dim) / math.log(2.0)


class Sigmoid(Transform):
    """``x = (sigmoid(z) − α) / (1 − 2α)``: the whole line to the values of pixels; its inverse is their logit.

    ``α`` keeps the logit of 0 and 1 finite. log|det ∂z/∂x| = Σ_i log(1 − 2α) + softplus(z_i) + softplus(−z_i).
    """

    def __init__(self, alpha: float = 0.05) -> None:
        super().__init__()
        if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not 0.0 < alpha < 0.5:
            raise ValueError(f"logit_alpha must lie in (0, 0.5): got {alpha!r}")
        self.alpha = alpha

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return (z.sigmoid() - self.alpha) / (1.0 - 2.0 * self.alpha), -self._log_det(z)

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z = torch.logit(self.alpha + (1.0 - 2.0 * self.alpha) * x)
        return z, self._log_det(z)

    def _log_det(self, z: Tensor) -> Tensor:
        """Of the inverse map; softplus(z) + softplus(−z) = |z| + 2 softplus(−|z|) loses no digits at either end."""
        size = z.abs()
        return (size + 2.0 * F.softplus(-size) + math.log1p(-2.0 * self.alpha)).flatten(1).sum(1)


def check_levels(n_levels: int | None) -> None:
    if n_levels is not None:
        check_whole("n_levels", n_levels, 2)
