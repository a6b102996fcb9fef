"""The activations of perceptrons: each a function and its derivative, differentiable again."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Function = Callable[[Tensor, float], Tensor]

_SOFTPLUS_THRESHOLD = 20.0  # PyTorch's: beyond it softplus is the identity


def _softplus_derivative(z: Tensor, slope: float) -> Tensor:
    return torch.where(z > _SOFTPLUS_THRESHOLD, torch.ones_like(z), torch.sigmoid(z))


def _silu_derivative(z: Tensor, slope: float) -> Tensor:
    sigmoid = torch.sigmoid(z)
    return sigmoid * (1 + z * (1 - sigmoid))


def _gelu_derivative(z: Tensor, slope: float) -> Tensor:
    distribution = 0.5 * (1 + torch.erf(z * math.sqrt(0.5)))
    return distribution + z * torch.exp(-0.5 * z * z) * (1 / math.sqrt(2 * math.pi))


def _step(z: Tensor, below: float) -> Tensor:
    return torch.where(z > 0, torch.ones_like(z), torch.full_like(z, below))


def _elu_derivative(z: Tensor, slope: float) -> Tensor:
    return torch.where(z > 0, torch.ones_like(z), torch.exp(z.clamp(max=0)))


# In the order in which the kernels count them: a(z) and a'(z); ``slope`` is leaky ReLU's below zero. A kink has the
# derivative that PyTorch gives it, that of its left.
ACTIVATIONS: dict[str, tuple[Function, Function]] = {
    "tanh": (lambda z, slope: torch.tanh(z), lambda z, slope: 1 - torch.tanh(z).square()),
    "softplus": (lambda z, slope: F.softplus(z), _softplus_derivative),
    "silu": (lambda z, slope: F.silu(z), _silu_derivative),
    "gelu": (lambda z, slope: F.gelu(z), _gelu_derivative),
    "relu": (lambda z, slope: F.relu(z), lambda z, slope: _step(z, 0.0)),
    "leaky_relu": (lambda z, slope: F.leaky_relu(z, slope), lambda z, slope: _step(z, slope)),
    "elu": (lambda z, slope: F.elu(z), _elu_derivative),
    "sin": (lambda z, slope: torch.sin(z), lambda z, slope: torch.cos(z)),
}
