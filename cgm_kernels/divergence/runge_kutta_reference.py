"""The combinations of a Runge–Kutta step in PyTorch's arithmetic, differentiable to any order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def combination(stages: Sequence[Tensor], coefficients: Sequence[float]) -> Tensor:
    """Σ_i c_i k_i"""
    total = stages[0] * coefficients[0]
    for stage, coefficient in zip(stages[1:], coefficients[1:], strict=True):
        total = torch.add(total, stage, alpha=coefficient)
    return total


def update(y: Tensor, stages: Sequence[Tensor], coefficients: Sequence[float], step: Tensor | float) -> Tensor:
    return y + step * combination(stages, coefficients)


def error(
    y0: Tensor,
    y1: Tensor,
    stages: Sequence[Tensor],
    coefficients: Sequence[float],
    step: Tensor | float,
    rtol: float,
    atol: float,
) -> Tensor:
    ratio = step * combination(stages, coefficients) / (atol + rtol * torch.maximum(y0.abs(), y1.abs()))
    return ratio.square().mean().sqrt()
