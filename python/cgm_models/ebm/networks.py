"""The networks that energies are made of."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm

from ..nets import MLP, ConvEncoder
from ..nets.context import given

NETWORKS = ("mlp", "convolutional", "quadratic")


def make_network(
    kind: str,
    event_shape: tuple[int, ...],
    out_features: int,
    context_dim: int,
    hidden_features: Sequence[int],
    activation: str,
    norm_bound: float | None,
) -> nn.Module:
    """A module ``(n, *event), (n, context) or None -> (n, out_features)``.

    ``norm_bound`` is the largest spectral norm of a layer's weight, of a convolution's as a matrix of output channels
    by the rest.
    """
    network: nn.Module
    if kind == "quadratic":
        if out_features != 1 or norm_bound is not None:
            raise ValueError("the quadratic network has one output and no spectral_norm")
        return QuadraticEnergy(math.prod(event_shape), context_dim)
    if kind == "convolutional":
        if len(event_shape) != 3:
            raise ValueError(f"the convolutional network is for images (channels, height, width): got {event_shape}")
        image = (event_shape[0], event_shape[1], event_shape[2])
        network = ConvEncoder(image, out_features, hidden_features, context_dim, activation)
    else:
        dim = math.prod(event_shape)
        network = FlatMLP(dim, out_features, hidden_features, context_dim, activation, zero_last=False)
    return network if norm_bound is None else bound_spectral_norms(network, norm_bound)


class FlatMLP(MLP):
    """A perceptron of the flattened event."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return super().forward(x.flatten(1), context)


class QuadraticEnergy(nn.Module):
    """f(x | c) = ½ |Lᵀ(x − μ − A c)|² + b: the energy of N(μ + A c, (L Lᵀ)⁻¹), L lower triangular.

    It begins at the standard normal. b is learned where the energy has to be −log p.
    """

    def __init__(self, dim: int, context_dim: int = 0) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(dim))
        self.root = nn.Parameter(torch.eye(dim))
        self.offset = nn.Parameter(torch.zeros(()))
        self.gain = nn.Parameter(torch.zeros(dim, context_dim)) if context_dim else None

    @property
    def precision(self) -> Tensor:
        root = self.root.tril()
        return root @ root.T

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        centred = x.flatten(1) - self.mean
        if self.gain is not None:
            centred = centred - given(context) @ self.gain.T
        return 0.5 * (centred @ self.root.tril()).square().sum(1, keepdim=True) + self.offset


class _Scaled(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, weight: Tensor) -> Tensor:
        return self.factor * weight


def bound_spectral_norms(network: nn.Module, bound: float) -> nn.Module:
    """``network``, the weights of whose layers are divided by their spectral norm and multiplied by ``bound``."""
    for module in list(network.modules()):
        weight = getattr(module, "weight", None)
        if isinstance(weight, nn.Parameter) and weight.ndim > 1:
            spectral_norm(module, "weight")
            if bound != 1.0:
                parametrize.register_parametrization(module, "weight", _Scaled(bound))
    return network
