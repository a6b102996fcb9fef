"""Activation normalisation: one scale and shift a channel, set by the first batch (Kingma and Dhariwal 2018)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cgm_kernels import InvertibleSequence, affine_coupling, affine_coupling_inverse

from .transform import Transform


class ActNorm(Transform):
    """``x = z · exp(log_scale) + shift`` with one scale and shift for every channel (dimension 1).

    Nothing bounds the log-scales: where a scale overflows, the flow raises FloatingPointError with this layer's name.

    The first batch that a training module maps to the latent sets them so that its channels get mean 0 and variance 1;
    until then the map is the identity. A batch that holds NaN or infinities is left to the next one, and a channel that
    does not vary keeps the scale 1. That it happened is part of the state dictionary. What an ``InvertibleSequence``
    recomputes sets nothing. With several processes the statistics are those of the batches of all. FSDP drops what a
    forward writes into parameters: ``Flow.initialize`` sets them before a flow is sharded, as the trainer does.
    """

    initialized: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(channels))
        self.shift = nn.Parameter(torch.zeros(channels))
        self.register_buffer("initialized", torch.tensor(False))
        self.waits = True  # the buffer, known without reading a device

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return affine_coupling(z, *self._shaped(z))

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if self.waits and self.training and len(x) and not InvertibleSequence.recomputing():
            self._initialize(x.detach())
        return affine_coupling_inverse(x, *self._shaped(x))

    def _shaped(self, x: Tensor) -> tuple[Tensor, Tensor]:
        shape = (-1,) + (1,) * (x.ndim - 2)
        return self.log_scale.view(shape), self.shift.view(shape)

    @torch.no_grad()
    def _initialize(self, x: Tensor) -> None:
        rows = x.transpose(0, 1).flatten(1)
        mean, variance = rows.mean(1), rows.var(1, unbiased=False)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            n = torch.distributed.get_world_size()
            local = torch.stack((mean, variance, mean.square()))
            torch.distributed.all_reduce(local)
            mean, within, between = local / n
            variance = within + between - mean.square()
        if not torch.isfinite(mean + variance).all():
            return
        varies = variance > 1e-12
        self.shift.copy_(mean)
        self.log_scale.copy_(torch.where(varies, variance, 1.0).log() / 2)
        self.initialized.fill_(True)
        self.waits = False

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self.waits = not bool(self.initialized)
