"""Masked perceptrons (Germain et al. 2015): each output depends on the inputs before its own in an order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .constants import register_constant
from .mlp import check_features, find_activation, zero_


class MaskedLinear(nn.Linear):
    """``x (W ∘ M)ᵀ + b`` with a mask M of zeros and ones, (out, in)."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__(mask.shape[1], mask.shape[0])
        register_constant(self, "mask", lambda: mask)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.mask, self.bias)


class MaskedMLP(nn.Module):
    """``(batch, dim), (batch, context) -> (batch, n_outputs · dim)``, autoregressive in ``order``.

    Args:
        order: the place of each dimension, a permutation of 0 … dim − 1. Output k · dim + i depends on the dimensions
            whose place is before that of i, and on the context.
        n_outputs: outputs of each dimension.
        hidden_features: widths of the hidden layers, whose units are shared out evenly among the places.
        activation: after each layer but the last.
        zero_last: the last layer begins at zero.
    """

    def __init__(
        self,
        order: Sequence[int],
        n_outputs: int,
        hidden_features: Sequence[int] = (64, 64),
        context_dim: int = 0,
        activation: str = "relu",
        zero_last: bool = True,
    ) -> None:
        super().__init__()
        self.activation = find_activation(activation)
        self.layers: Sequence[MaskedLinear]
        self.layers = nn.ModuleList(  # type: ignore[assignment]
            map(MaskedLinear, _masks(order, n_outputs, check_features(hidden_features), context_dim))
        )
        if zero_last:
            zero_(self.layers[-1])

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        h = x if context is None else torch.cat((x, context), 1)
        for number, layer in enumerate(self.layers):
            h = layer(h if number == 0 else self.activation(h))
        return h


def _masks(order: Sequence[int], n_outputs: int, widths: Sequence[int], context_dim: int) -> list[Tensor]:
    """On the CPU, whatever device the network is built on."""
    with torch.device("cpu"):
        places = torch.as_tensor(order)
        dim = len(places)
        if not torch.equal(places.sort().values, torch.arange(dim)):
            raise ValueError(f"order must be a permutation of 0 to {dim - 1}: got {list(order)}")
        # A unit of degree d sees the d first dimensions; only a context makes a unit that sees none worth having.
        least = 0 if context_dim else min(1, dim - 1)
        degrees = torch.cat((places + 1, torch.zeros(context_dim, dtype=torch.long)))
        masks = []
        for width in widths:
            own = least + torch.arange(width) % max(dim - least, 1)
            masks.append((own.unsqueeze(1) >= degrees).float())
            degrees = own
        return [*masks, ((places + 1).repeat(n_outputs).unsqueeze(1) > degrees).float()]
