"""A scale of its own for every dimension."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .transform import Transform


class DiagonalScaling(Transform):
    """``x = z · exp(log_scale)``, ``log|det ∂x/∂z| = Σ log_scale``.

    Nothing bounds the log-scales: where a scale overflows, the flow raises FloatingPointError with this layer's name.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(dim))

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return z * self.log_scale.exp(), self.log_scale.sum().expand(len(z))

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x * torch.exp(-self.log_scale), -self.log_scale.sum().expand(len(x))
