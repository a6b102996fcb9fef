"""Convolutional networks over an image and an optional context."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from .context import biased
from .mlp import check_features, find_activation, zero_


class ConvResNet(nn.Module):
    """A 3×3 convolution, ``n_blocks`` residual blocks (3×3 then 1×1), and a 3×3 convolution to the output.

    ``(batch, in, h, w), (batch, context) -> (batch, out, h, w)``. The context enters as one more bias of the first
    layer, the same at every pixel. Group normalisation would tie pixels of an image together without need, and batch
    normalisation those of a batch: there is neither.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        hidden_channels: int = 64,
        n_blocks: int = 2,
        context_dim: int = 0,
        activation: str = "relu",
        zero_last: bool = True,
    ) -> None:
        super().__init__()
        (width,) = check_features((hidden_channels,))
        self.activation = find_activation(activation)
        self.input = nn.Conv2d(in_channels, width, 3, padding=1)
        self.context = nn.Linear(context_dim, width, bias=False) if context_dim else None
        self.blocks: Sequence[Sequence[nn.Module]]
        self.blocks = nn.ModuleList(  # type: ignore[assignment]
            nn.ModuleList((nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 1))) for _ in range(n_blocks)
        )
        self.output = nn.Conv2d(width, out_channels, 3, padding=1)
        if zero_last:
            zero_(self.output)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        h = biased(self.input(x), self.context, context)
        for first, second in self.blocks:
            # The skip connection reads h, so the activation must not overwrite it.
            h = h + second(self.activation(first(self.activation(h.clone()))))
        return self.output(self.activation(h))
