"""Affine autoregressive layers: parallel one way, one dimension after the other the other way."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from cgm_kernels import masked_mlp_affine, masked_mlp_inverse

from ..nets import MaskedMLP
from ..options import check_choice, check_whole
from .scales import begin
from .transform import Transform, on_vectors

ACTIVATIONS = ("relu", "tanh", "sigmoid", "silu", "gelu", "elu", "softplus")
ORDERS = ("reversed", "random")


class MaskedAffine(Transform):
    """``x_i = z_i · σ(s_i) + t_i`` with (s, t) a masked network's function of earlier dimensions.

    Of earlier x where ``parallel="inverse"`` (a masked autoregressive flow: densities in one pass), of earlier z where
    ``parallel="forward"`` (an inverse autoregressive flow: samples in one pass). The other way goes dimension by
    dimension, each hidden unit computed once. With ``scale="gate"`` x = σ z + (1 − σ) t.

    Args:
        net: gives the log-scales and then the shifts.
        activation: the name of the net's.
        scale, bound: σ and what bounds it, as in ``cgm_kernels.affine_coupling``.
    """

    def __init__(
        self, net: MaskedMLP, activation: str, parallel: str, *, scale: str = "tanh", bound: float = 2.0
    ) -> None:
        super().__init__()
        check_choice("parallel", parallel, ("forward", "inverse"))
        self.net, self.activation, self.parallel = net, activation, parallel
        self.scale, self.bound = scale, bound

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if self.parallel == "inverse":
            return self._map(masked_mlp_inverse, z, context, "standardize")
        return self._map(masked_mlp_affine, z, context, "affine")

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if self.parallel == "forward":
            return self._map(masked_mlp_inverse, x, context, "affine")
        return self._map(masked_mlp_affine, x, context, "standardize")

    def _map(
        self, operation: Callable[..., tuple[Tensor, Tensor]], x: Tensor, context: Tensor | None, map: str
    ) -> tuple[Tensor, Tensor]:
        layers = self.net.layers
        return operation(
            x, [layer.weight for layer in layers], [layer.bias for layer in layers], [layer.mask for layer in layers],
            context=context, activation=self.activation, map=map, scale=self.scale, bound=self.bound,
        )  # fmt: skip


def masked_layers(
    shape: Sequence[int],
    context_dim: int,
    n_layers: int,
    hidden_features: Sequence[int],
    activation: str,
    parallel: str,
    order: str,
    order_seed: int,
    scale: str,
    bound: float,
) -> list[Transform]:
    """``n_layers`` layers; the order is turned round after each, or drawn anew for each from ``order_seed``."""
    check_whole("n_layers", n_layers, 1)
    check_choice("activation", activation, ACTIVATIONS)
    check_choice("order", order, ORDERS)
    size = math.prod(shape)
    generator = torch.Generator().manual_seed(order_seed)
    layers: list[Transform] = []
    for index in range(n_layers):
        if order == "random":
            places = torch.randperm(size, generator=generator, device="cpu").tolist()
        else:
            places = list(range(size))[:: -1 if index % 2 else 1]
        net = MaskedMLP(places, 2, hidden_features, context_dim, activation)
        begin(net.layers[-1], scale)
        layers.append(MaskedAffine(net, activation, parallel, scale=scale, bound=bound))
    return on_vectors(layers, shape)
