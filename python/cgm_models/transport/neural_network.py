"""The network of the neural sliced-Wasserstein flow."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..nets import MLP

_MOST_MODES = 64


class VelocityNetwork(nn.Module):
    """v(w, u, x, context): a perceptron over x, Fourier features of the times, and the context, plus a linear map of x.

    The linear map B diag(g) A has a scaling g of its own at every time and context. From a Gaussian to a Gaussian the
    velocity is of this form, with the principal axes in A and B: the perceptron is left with the rest.

    ``w (k,), u (k,), x (n, d), context (n, c) or None -> (n, d)``, k either n or 1.
    """

    frequencies: Tensor

    def __init__(
        self, dim: int, context_dim: int, hidden_features: Sequence[int], n_frequencies: int, activation: str
    ) -> None:
        super().__init__()
        features = 2 * (1 + 2 * n_frequencies) + context_dim
        self.mlp = MLP(dim, dim, hidden_features, context_dim=features, activation=activation)
        modes = min(dim, _MOST_MODES)
        self.into_modes = nn.Linear(dim, modes)
        self.gates = MLP(features, modes, (modes,), activation=activation, zero_last=False)
        self.out_of_modes = nn.Linear(modes, dim)
        angles = math.pi * torch.arange(1, n_frequencies + 1, dtype=torch.get_default_dtype())
        self.register_buffer("frequencies", angles, persistent=False)

    def forward(self, w: Tensor, u: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
        times = torch.stack((w, u), 1)
        angles = (times[:, :, None] * self.frequencies).flatten(1)
        features = torch.cat((times - 0.5, angles.sin(), angles.cos()), 1)
        if context is not None:
            features = torch.cat((features.expand(len(x), -1), context), 1)
        # One row of times is broadcast over all points inside the first layer.
        modes = self.into_modes(x) * self.gates(features)
        return self.mlp(x, features) + self.out_of_modes(modes)
