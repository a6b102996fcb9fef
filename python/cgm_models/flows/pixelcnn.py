"""PixelCNN and PixelRNN (van den Oord et al. 2016) with mixtures of logistics (Salimans et al. 2017)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..nets import GatedPixelLayer, MaskedConv2d, RowLSTM
from ..options import check_whole
from .pixels import PixelModel


class _Head(nn.Module):
    """Two 1×1 layers from features to the parameters of each colour, which sees the colours before it."""

    def __init__(self, channels: int, outputs: int, n_colours: int) -> None:
        super().__init__()
        self.hidden = MaskedConv2d(channels, channels, (1, 1), n_colours, own=True)
        self.output = MaskedConv2d(channels, outputs, (1, 1), n_colours, own=True)

    def forward(self, h: Tensor) -> Tensor:
        return self.output(torch.relu(self.hidden(torch.relu(h))))


class PixelCNN(PixelModel):
    """Gated masked convolutions, in a stack for the rows above and one for the pixels to the left.

    A discrete model without a latent variable: ``forward``, ``inverse`` and ``reverse_kl`` raise NotImplementedError.

    Args:
        n_levels: pixels are k / (n_levels − 1).
        n_layers: gated layers.
        hidden_channels: features for each colour of the image.
        kernel_size: of the convolutions, odd; the first layer's is two larger.
        n_components: logistics in each pixel's mixture.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        context_dim: int = 0,
        n_levels: int = 17,
        n_layers: int = 5,
        hidden_channels: int = 32,
        kernel_size: int = 3,
        n_components: int = 5,
    ) -> None:
        super().__init__("PixelCNN", tuple(event_shape), context_dim, n_levels, n_components)
        check_whole("n_layers", n_layers, 1)
        check_whole("hidden_channels", hidden_channels, 1)
        check_whole("kernel_size", kernel_size, 3)
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd: got {kernel_size}")
        n_colours = self.event_shape[0]
        channels = n_colours * hidden_channels
        layers = [GatedPixelLayer(n_colours, channels, kernel_size + 2, n_colours, context_dim, first=True)]
        layers += [
            GatedPixelLayer(channels, channels, kernel_size, n_colours, context_dim, first=False)
            for _ in range(n_layers - 1)
        ]
        self.layers: Sequence[GatedPixelLayer]
        self.layers = nn.ModuleList(layers)  # type: ignore[assignment]
        self.head = _Head(channels, n_colours * 3 * n_components, n_colours)
        self._begin(self.head.output)

    def _distributions(self, x: Tensor, context: Tensor | None) -> Tensor:
        vertical = horizontal = x
        for layer in self.layers:
            vertical, horizontal = layer(vertical, horizontal, context)
        return self._unpack(self.head(horizontal))


class PixelRNN(PixelModel):
    """Row LSTMs: a state that passes down the rows of the image, from the three nearest pixels above.

    A discrete model without a latent variable: ``forward``, ``inverse`` and ``reverse_kl`` raise NotImplementedError.

    Args:
        n_levels: pixels are k / (n_levels − 1).
        n_layers: LSTM layers, each added to its input.
        hidden_channels: features for each colour of the image.
        n_components: logistics in each pixel's mixture.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        context_dim: int = 0,
        n_levels: int = 17,
        n_layers: int = 3,
        hidden_channels: int = 32,
        n_components: int = 5,
    ) -> None:
        super().__init__("PixelRNN", tuple(event_shape), context_dim, n_levels, n_components)
        check_whole("n_layers", n_layers, 1)
        check_whole("hidden_channels", hidden_channels, 1)
        n_colours = self.event_shape[0]
        channels = n_colours * hidden_channels
        self.input = MaskedConv2d(n_colours, channels, (7, 7), n_colours, own=False)
        self.layers: Sequence[RowLSTM]
        self.layers = nn.ModuleList(  # type: ignore[assignment]
            RowLSTM(channels, n_colours, context_dim) for _ in range(n_layers)
        )
        self.head = _Head(channels, n_colours * 3 * n_components, n_colours)
        self._begin(self.head.output)

    def _distributions(self, x: Tensor, context: Tensor | None) -> Tensor:
        h = self.input(x)
        for layer in self.layers:
            h = layer(h, context)
        return self._unpack(self.head(h))
