"""Images at several scales: pixels become channels, and half of the channels leave for the latent after every scale."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from ..options import check_whole
from .transform import Composition, Transform


class Squeeze(Transform):
    """From the data: every 2×2 block of pixels becomes channels, ``(c, h, w) -> (4c, h/2, w/2)``.

    The pixels ``00 01 / 10 11`` of a block go to the channels in the order 00, 11, 01, 10: the two halves of the
    channels are the two colours of a checkerboard.
    """

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        upper_left, lower_right, upper_right, lower_left = z.chunk(4, dim=1)
        upper = torch.stack((upper_left, upper_right), dim=-1).flatten(-2)
        lower = torch.stack((lower_left, lower_right), dim=-1).flatten(-2)
        return torch.stack((upper, lower), dim=-2).flatten(-3, -2), z.new_zeros(len(z))

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        upper, lower = x[..., 0::2, :], x[..., 1::2, :]
        blocks = (upper[..., 0::2], lower[..., 1::2], upper[..., 1::2], lower[..., 0::2])
        return torch.cat(blocks, dim=1), x.new_zeros(len(x))


class ShiftPixels(Transform):
    """From the data: the pixels 00, 11, 01, 10 of squeezed blocks become 11, 01, 10, 00.

    The halves of the channels, before a checkerboard, are then the right and the left columns.
    """

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return z.roll(z.shape[1] // 4, dims=1), z.new_zeros(len(z))

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x.roll(-(x.shape[1] // 4), dims=1), x.new_zeros(len(x))


class MultiScale(Transform):
    """``scales`` from the data to the latent; after each but the last, the second half of the channels leaves.

    A scale maps an image with halved height and width to one of twice its size and a quarter of its channels. The
    latent holds what left at the first scale, then at the second, and so on, in row-major order, in the event's shape.
    """

    def __init__(self, event_shape: tuple[int, ...], scales: Iterable[Composition]) -> None:
        super().__init__()
        self.scales: Sequence[Composition]
        self.scales = nn.ModuleList(scales)  # type: ignore[assignment]
        self.shapes: list[tuple[int, int, int]] = []  # of the image at every scale, inside it
        channels, height, width = event_shape
        for _ in self.scales:
            channels, height, width = 4 * channels, height // 2, width // 2
            self.shapes.append((channels, height, width))
            channels //= 2

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.accumulate(z, context, None, inverse=False)

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.accumulate(x, context, None, inverse=True)

    def accumulate(
        self, x: Tensor, context: Tensor | None, log_det: Tensor | None, *, inverse: bool
    ) -> tuple[Tensor, Tensor]:
        return self._to_latent(x, context, log_det) if inverse else self._to_data(x, context, log_det)

    def _to_latent(self, x: Tensor, context: Tensor | None, log_det: Tensor | None) -> tuple[Tensor, Tensor]:
        event, gone = x.shape, []
        for index, scale in enumerate(self.scales):
            if index:
                half = x.shape[1] // 2
                gone.append(x[:, half:].flatten(1))
                x = x[:, :half]
            x, log_det = scale.accumulate(x, context, log_det, inverse=True)
        assert log_det is not None
        return torch.cat((*gone, x.flatten(1)), dim=1).view(event), log_det

    def _to_data(self, z: Tensor, context: Tensor | None, log_det: Tensor | None) -> tuple[Tensor, Tensor]:
        event = z.shape
        sizes = [math.prod(shape) // 2 for shape in self.shapes]
        sizes[-1] *= 2
        parts = z.flatten(1).split(sizes, dim=1)
        x = parts[-1].view(-1, *self.shapes[-1])
        for scale, part, shape in zip(reversed(self.scales), (None, *parts[-2::-1]), self.shapes[::-1], strict=True):
            if part is not None:
                x = torch.cat((x, part.reshape(-1, shape[0] // 2, *shape[1:])), dim=1)
            x, log_det = scale.accumulate(x, context, log_det, inverse=False)
        assert log_det is not None
        return x.view(event), log_det


def check_scales(shape: tuple[int, ...], n_scales: int | None) -> int:
    """How often an image of ``shape`` is squeezed: ``n_scales``, or as often as it can be, at most 3 times."""
    _, height, width = shape
    most = 0
    while height % 2 ** (most + 1) == 0 and width % 2 ** (most + 1) == 0:
        most += 1
    if most == 0:
        raise ValueError(f"an image is squeezed by 2×2 blocks: height and width must be even: got {shape}")
    if n_scales is None:
        return min(most, 3)
    check_whole("n_scales", n_scales, 1)
    if n_scales > most:
        raise ValueError(f"n_scales must be at most {most} for images of shape {shape}: got {n_scales}")
    return n_scales
