"""Radial flows (Rezende and Mohamed 2015)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cgm_kernels.precision import wide

from ..nets.context import given
from .planar import above_minus_one
from .stacked import StackedFlow
from .transform import Transform


class Radial(Transform):
    """``x = z + γ α / (α + r) · (z − z₀)``, ``r = |z − z₀|``, α > 0 and γ > −1, where the map is invertible.

    ``log|det ∂x/∂z| = (D − 1) log(1 + γ α / (α + r)) + log(1 + γ α² / (α + r)²)``. The inverse is closed: with
    ρ = |x − z₀|, r is the positive root of ``r² + (α + γα − ρ) r − αρ = 0``. A context adds to z₀, log α and the
    logit of γ by a linear map. In half precision the layer computes in float32, and so gives its log-determinant.
    """

    def __init__(self, dim: int, context_dim: int = 0) -> None:
        super().__init__()
        self.center = nn.Parameter(torch.randn(dim))
        self.log_alpha = nn.Parameter(torch.zeros(()))
        self.gamma_logit = nn.Parameter(torch.zeros(()))
        self.of_context = nn.Linear(context_dim, dim + 2, bias=False) if context_dim else None
        if self.of_context is not None:
            nn.init.zeros_(self.of_context.weight)

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        center, alpha, gamma = self._conditioned(context)
        offset = z - center
        pull, log_det = self._pull(torch.linalg.vector_norm(offset, dim=1), alpha, gamma)
        return (z + pull[:, None] * offset).to(z.dtype), log_det

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        center, alpha, gamma = self._conditioned(context)
        offset = x - center
        reach = torch.linalg.vector_norm(offset, dim=1)
        linear = alpha + gamma * alpha - reach
        root = torch.sqrt(linear.square() + 4.0 * alpha * reach)
        # Of the two forms of the root, the one that subtracts nothing.
        positive = linear > 0
        below = torch.where(positive, linear + root, torch.ones_like(root))
        radius = torch.where(positive, 2.0 * alpha * reach / below, (root - linear) / 2.0)
        pull, log_det = self._pull(radius, alpha, gamma)
        z = center + offset / (1.0 + pull)[:, None]
        return z.to(x.dtype), -log_det

    def _pull(self, radius: Tensor, alpha: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor]:
        """``γ α / (α + r)``, and the log-determinant of the forward map."""
        share = alpha / (alpha + radius)
        pull = gamma * share
        return pull, (len(self.center) - 1) * torch.log1p(pull) + torch.log1p(pull * share)

    def _conditioned(self, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """z₀, α and γ: (dim,), (), (), or with one more dimension (batch) in front."""
        center, log_alpha, logit = wide(self.center), wide(self.log_alpha), wide(self.gamma_logit)
        if self.of_context is not None:
            change = self.of_context(given(context))
            center, log_alpha, logit = center + change[:, :-2], log_alpha + change[:, -2], logit + change[:, -1]
        return center, log_alpha.exp(), above_minus_one(logit)


class RadialFlow(StackedFlow):
    """Radial layers ``x = z + γ α / (α + |z − z₀|) · (z − z₀)``, with a closed inverse.

    Images are taken for vectors. The flow begins at the identity.

    Args:
        n_layers: radial layers.
        base: the base distribution by name, as RealNVP's.
        base_options: the options of the base.
        n_levels: of images with pixels k / (n_levels − 1), which are then dequantised; else the data are continuous.
        logit_alpha: with n_levels, pixels x pass logit(α + (1 − 2α) x) first.
    """

    layer = Radial
