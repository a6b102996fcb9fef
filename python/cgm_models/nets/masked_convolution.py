"""Convolutions that see only the pixels before their own, in row-major order and then by colour."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .constants import register_constant
from .context import biased


class MaskedConv2d(nn.Conv2d):
    """A convolution of ``kernel_size`` (height, width) centred on its pixel, blind to what comes later.

    Channels are ``n_colours`` equal groups, ``repeats`` times over in the output. Of its own pixel a group sees the
    groups before it, and with ``own`` itself as well.

    Args:
        rows_above: keep only what lies in earlier rows, all of it.
    """

    mask: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int],
        n_colours: int,
        *,
        own: bool,
        repeats: int = 1,
        rows_above: bool = False,
    ) -> None:
        height, width = kernel_size
        super().__init__(in_channels, out_channels, kernel_size, padding=(height // 2, width // 2))

        def mask() -> Tensor:
            kept = torch.zeros(out_channels, in_channels, height, width)
            kept[:, :, : height // 2] = 1.0
            if not rows_above:
                kept[:, :, height // 2, : width // 2] = 1.0
                colours, each = torch.arange(n_colours), out_channels // repeats // n_colours
                outputs = colours.repeat_interleave(each).repeat(repeats).unsqueeze(1)
                inputs = colours.repeat_interleave(in_channels // n_colours)
                kept[:, :, height // 2, width // 2] = (outputs >= inputs if own else outputs > inputs).float()
            return kept

        register_constant(self, "mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.mask, self.bias, padding=self.padding)


class ContextBias(nn.Module):
    """A bias of every channel, linear in the context: 0 without one."""

    def __init__(self, context_dim: int, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(context_dim, channels, bias=False) if context_dim else None

    def forward(self, h: Tensor, context: Tensor | None) -> Tensor:
        return biased(h, self.linear, context)


class GatedPixelLayer(nn.Module):
    """A layer of a gated PixelCNN: a stack that sees the rows above, and one that sees the pixels to the left.

    ``(vertical, horizontal, context) -> (vertical, horizontal)``; two stacks leave no blind spot. The first layer reads
    the image itself, of which the pixel's own row is hidden from the vertical stack and its own colour from both.
    """

    def __init__(
        self, in_channels: int, channels: int, kernel_size: int, n_colours: int, context_dim: int, first: bool
    ) -> None:
        super().__init__()
        self.first, reach = first, kernel_size // 2
        # Past the first layer the vertical features know nothing of their own row, which may then be read.
        self.vertical: nn.Module = (
            MaskedConv2d(in_channels, 2 * channels, (kernel_size, kernel_size), 1, own=False, rows_above=True)
            if first
            else nn.Sequential(
                nn.ZeroPad2d((reach, reach, reach, 0)), nn.Conv2d(channels, 2 * channels, (reach + 1, kernel_size))
            )
        )
        self.down = nn.Conv2d(2 * channels, 2 * channels, 1)
        self.horizontal = MaskedConv2d(in_channels, 2 * channels, (1, kernel_size), n_colours, own=not first, repeats=2)
        self.output = MaskedConv2d(channels, channels, (1, 1), n_colours, own=True)
        self.context = ContextBias(context_dim, 2 * channels)

    def forward(self, vertical: Tensor, horizontal: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        above = self.vertical(vertical)
        left = self.horizontal(horizontal) + self.down(above)
        moved = self.output(_gate(self.context(left, context)))
        return _gate(self.context(above, context)), moved if self.first else horizontal + moved


class RowLSTM(nn.Module):
    """An LSTM down the rows (van den Oord et al. 2016): ``(batch, channels, height, width)`` to the same shape.

    Its input sees the pixel and those to its left, its state the three nearest pixels of the row above. The result is
    added to the input.
    """

    def __init__(self, channels: int, n_colours: int, context_dim: int) -> None:
        super().__init__()
        self.input = MaskedConv2d(channels, 4 * channels, (1, 3), n_colours, own=True, repeats=4)
        self.state = nn.Conv1d(channels, 4 * channels, 3, padding=1, bias=False)
        self.output = MaskedConv2d(channels, channels, (1, 1), n_colours, own=True)
        self.context = ContextBias(context_dim, 4 * channels)

    def forward(self, x: Tensor, context: Tensor | None) -> Tensor:
        given = self.context(self.input(x), context)
        state = memory = torch.zeros_like(x[:, :, 0])
        rows = []
        for row in given.unbind(2):
            keep, write, show, value = (row + self.state(state)).chunk(4, 1)
            memory = torch.sigmoid(keep) * memory + torch.sigmoid(write) * torch.tanh(value)
            state = torch.sigmoid(show) * torch.tanh(memory)
            rows.append(state)
        return x + self.output(torch.stack(rows, 2))


def _gate(h: Tensor) -> Tensor:
    value, gate = h.chunk(2, 1)
    return torch.tanh(value) * torch.sigmoid(gate)
