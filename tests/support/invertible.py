"""Layers for InvertibleSequence, and the same under ordinary autograd."""

import torch
from torch import nn

from cgm_kernels import affine_coupling_event


class Coupling(nn.Module):
    """The halves in turn; the conditioner reads the other half and the context."""

    def __init__(self, dim, index, context=0, dropout=0.0, conditioner=None):
        super().__init__()
        self.half, self.first = dim // 2, index % 2 == 1
        self.net = conditioner or nn.Sequential(
            nn.Linear(dim // 2 + context, 16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, dim)
        )
        self.calls = 0

    def _map(self, x, context, inverse):
        self.calls += 1
        split = slice(0, self.half) if self.first else self.half
        passing = x[:, self.half :] if self.first else x[:, : self.half]
        given = passing if context is None else torch.cat([passing, context], 1)
        return affine_coupling_event(x, self.net(given).to(x.dtype), split, inverse=inverse, scale="tanh")

    def forward(self, x, context=None):
        return self._map(x, context, False)

    def inverse(self, y, context=None):
        return self._map(y, context, True)


class Plain(nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x, context=None):
        total = 0.0
        for layer in self.layers:
            x, log_det = layer(x, context)
            total = total + log_det
        return x, total

    def inverse(self, x, context=None):
        total = 0.0
        for layer in reversed(self.layers):
            x, log_det = layer.inverse(x, context)
            total = total + log_det
        return x, total
