"""A convolutional network from an image to a vector."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor, nn

from .context import biased
from .mlp import check_features, find_activation


class ConvEncoder(nn.Module):
    """A 3×3 convolution, 4×4 convolutions that halve the image, one a further width, and a linear layer.

    ``(batch, channels, height, width), (batch, context) -> (batch, out)``. An odd side is halved downwards. The context
    enters as one more bias of the first layer, the same at every pixel. There is no normalisation: it would tie the
    images of a batch together.
    """

    def __init__(
        self,
        image: tuple[int, int, int],
        out_features: int,
        hidden_channels: Sequence[int] = (32, 64, 128),
        context_dim: int = 0,
        activation: str = "silu",
    ) -> None:
        super().__init__()
        widths = check_features(hidden_channels)
        if not widths:
            raise ValueError("hidden_channels must name at least one width: got none")
        channels, *sides = image
        smallest = [side >> (len(widths) - 1) for side in sides]
        if min(smallest) < 1:
            raise ValueError(f"{len(widths)} widths halve an image {len(widths) - 1} times: too often for {image}")
        self.activation = find_activation(activation)
        self.input = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.context = nn.Linear(context_dim, widths[0], bias=False) if context_dim else None
        self.layers: Sequence[nn.Conv2d]
        self.layers = nn.ModuleList(  # type: ignore[assignment]
            nn.Conv2d(n, m, 4, stride=2, padding=1) for n, m in itertools.pairwise(widths)
        )
        self.output = nn.Linear(widths[-1] * smallest[0] * smallest[1], out_features)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        h = biased(self.input(x), self.context, context)
        for layer in self.layers:
            h = layer(self.activation(h))
        return self.output(self.activation(h).flatten(1))
