"""Planar flows (Rezende and Mohamed 2015)."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgm_kernels.precision import wide

from ..nets.context import given
from .stacked import StackedFlow
from .transform import Transform

MARGIN = 1e-3
"""How far from singular the layers stay: no slope is less."""


def above_minus_one(x: Tensor) -> Tensor:
    """A smooth increasing map onto (−1 + MARGIN, ∞) that sends 0 to 0."""
    return F.softplus(x + math.log(math.expm1(1.0 - MARGIN))) - (1.0 - MARGIN)


class SolvePlanar(torch.autograd.Function):
    """The root α of ``α + c tanh α = r``, c > −1, elementwise; its gradient is that of the implicit function.

    The left side increases, so the root is bracketed by r ± |c|: 32 bisections, then Newton steps inside the bracket.
    No step reads a value back, and the backward is made of the result, so that it can be differentiated again.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(r: Tensor, c: Tensor) -> Tensor:  # type: ignore[override]
        low, high = r - c.abs(), r + c.abs()
        for _ in range(32):
            middle = low + (high - low) / 2
            above = middle + c * torch.tanh(middle) > r
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        root = low + (high - low) / 2
        for _ in range(8):
            height = torch.tanh(root)
            step = (root + c * height - r) / (1.0 + c * (1.0 - height * height))
            root = torch.minimum(torch.maximum(root - step, low), high)
        return root

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1], output)
        ctx.save_for_forward(inputs[1], output)

    @staticmethod
    def jvp(ctx: Any, by_r: Tensor, by_c: Tensor) -> Tensor:  # type: ignore[override]
        c, root = ctx.saved_tensors
        height = torch.tanh(root)
        return (by_r - height * by_c) / (1.0 + c * (1.0 - height * height))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        c, root = ctx.saved_tensors
        height = torch.tanh(root)
        by_r = gradient / (1.0 + c * (1.0 - height * height))
        return by_r, -by_r * height


class Planar(Transform):
    """``x = z + û tanh(w·z + b)``, ``log|det ∂x/∂z| = log(1 + (w·û)(1 − tanh²))``.

    û is u moved along w until w·û > −1, where the map is invertible. The inverse solves one scalar equation a point.
    A context adds to w, u and b by a linear map. In half precision the layer computes in float32, and so gives its
    log-determinant.
    """

    def __init__(self, dim: int, context_dim: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(dim) / math.sqrt(dim))
        self.direction = nn.Parameter(torch.zeros(dim))
        self.bias = nn.Parameter(torch.zeros(()))
        self.of_context = nn.Linear(context_dim, 2 * dim + 1, bias=False) if context_dim else None
        if self.of_context is not None:
            nn.init.zeros_(self.of_context.weight)

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        weight, direction, bias = self._conditioned(context)
        height = torch.tanh((z * weight).sum(1) + bias)
        x = z + direction * height[:, None]
        return x.to(z.dtype), torch.log1p((weight * direction).sum(-1) * (1.0 - height * height))

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        weight, direction, bias = self._conditioned(context)
        right = (x * weight).sum(1) + bias
        slope = (weight * direction).sum(-1).expand_as(right)
        height = torch.tanh(SolvePlanar.apply(right, slope))
        z = x - direction * height[:, None]
        return z.to(x.dtype), -torch.log1p(slope * (1.0 - height * height))

    def _conditioned(self, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """w, û and b: (dim,), (dim,), (), or with one more dimension (batch) in front."""
        weight, direction, bias = wide(self.weight), wide(self.direction), wide(self.bias)
        if self.of_context is not None:
            dim = len(weight)
            by_weight, by_direction, by_bias = self.of_context(given(context)).split((dim, dim, 1), dim=1)
            weight, direction, bias = weight + by_weight, direction + by_direction, bias + by_bias[:, 0]
        along = (weight * direction).sum(-1, keepdim=True)
        length = weight.square().sum(-1, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)
        return weight, direction + (above_minus_one(along) - along) * weight / length, bias


class PlanarFlow(StackedFlow):
    """Planar layers ``x = z + û tanh(w·z + b)``; both directions work, log_prob by solving an equation a layer.

    Images are taken for vectors. The flow begins at the identity.

    Args:
        n_layers: planar layers.
        base: the base distribution by name, as RealNVP's.
        base_options: the options of the base.
        n_levels: of images with pixels k / (n_levels − 1), which are then dequantised; else the data are continuous.
        logit_alpha: with n_levels, pixels x pass logit(α + (1 − 2α) x) first.
    """

    layer = Planar
