"""The network of the neural sliced-Wasserstein flow."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..nets import MLP
from ..nets.constants import register_constant


class VelocityNetwork(nn.Module):
    """v(w, u, x, context): a perceptron over x, the times w − 1 and u, sines and cosines of them, and the context.

    ``features(w (k,), u (k,), context (n, c) or None) -> (k or n, f)``, k either n or 1, is what is said of times and
    context; ``forward(x (n, d), features) -> (n, d)``. At the end of the flow, in the first step, both times are 0: few
    and small features keep the optimiser's noise in their weights, which acts on all points alike, small.
    """

    frequencies: Tensor

    def __init__(
        self, dim: int, context_dim: int, hidden_features: Sequence[int], n_frequencies: int, activation: str
    ) -> None:
        super().__init__()
        n_features = 2 * (1 + 2 * n_frequencies) + context_dim
        self.mlp = MLP(dim, dim, hidden_features, context_dim=n_features, activation=activation)
        register_constant(
            self, "frequencies", lambda: math.pi * torch.arange(1, n_frequencies + 1, dtype=torch.get_default_dtype())
        )

    def features(self, w: Tensor, u: Tensor, context: Tensor | None = None) -> Tensor:
        times = torch.stack((w - 1.0, u), 1)
        angles = (times[:, :, None] * self.frequencies).flatten(1)
        features = torch.cat((times, angles.sin(), angles.cos()), 1)
        return features if context is None else torch.cat((features.expand(len(context), -1), context), 1)

    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        # One row of features is broadcast over all points inside the first layer.
        return self.mlp(x, features)
