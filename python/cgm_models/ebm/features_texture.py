"""Statistics of textures: histograms, and the sums of a small random convolutional network.

All are bounded, or grow no faster than |x|, so that any ε > 0 in front of ‖x‖² makes their law normalisable.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..nets.constants import register_constant
from ..options import check_whole, is_number
from .features import Feature, as_fields


class Histogram(Feature):
    """F_k(x) = Σ_t exp(−(x_t − c_k)² / 2w²), a soft histogram of the standardised values, one a channel.

    Args:
        n_bins: centres c_k, equally spaced from ``low`` to ``high``; w is their spacing.
        low, high: in standard deviations of the example.
    """

    name = "histogram"

    def __init__(self, event_shape: tuple[int, ...], n_bins: int = 12, low: float = -3.0, high: float = 3.0) -> None:
        super().__init__()
        self.channels, _ = as_fields(self.name, event_shape)
        n_bins = check_whole("n_bins", n_bins, 2)
        if not (is_number(low) and is_number(high) and low < high):
            raise ValueError(f"low and high must be two finite numbers, the lower one first: got {low!r}, {high!r}")
        self.centres: Tensor
        register_constant(self, "centres", lambda: torch.linspace(low, high, n_bins, dtype=torch.float64))
        self.width = (high - low) / (n_bins - 1)
        self.n_features = self.channels * n_bins

    def forward(self, x: Tensor) -> Tensor:
        offset = x.reshape(len(x), self.channels, 1, -1) - self.centres.to(x)[:, None]
        return torch.exp(offset.square() * (-0.5 / self.width**2)).sum(-1).flatten(1)


class Convolution(Feature):
    """Sums over the sites of every channel of every layer of a convolutional network with fixed random filters.

    A layer is a circular convolution by filters of sum 0 and norm 1 (with the filters over all channels after the
    first), divided by the channel's standard deviation over the example, then softplus(h) + softplus(−h) − 2 ln 2,
    which is |h| smoothed; between layers the image is averaged over 2 × 2 pixels.

    Args:
        n_filters: channels of a layer.
        kernel_size: odd.
        n_layers: how many.
        seed: of the filters.
    """

    name = "convolution"

    def __init__(
        self, event_shape: tuple[int, ...], n_filters: int = 16, kernel_size: int = 5, n_layers: int = 3, seed: int = 0
    ) -> None:
        super().__init__()
        channels, self.shape = as_fields(self.name, event_shape)
        for option, value in {"n_filters": n_filters, "kernel_size": kernel_size, "n_layers": n_layers}.items():
            check_whole(option, value, 1)
        seed = check_whole("seed", seed, 0)
        smallest = min(self.shape) // 2 ** (n_layers - 1)
        if kernel_size % 2 == 0 or kernel_size > smallest:
            raise ValueError(f"kernel_size must be odd, and at most {smallest} in the last layer: got {kernel_size}")
        generator = torch.Generator().manual_seed(seed)
        self.filters = nn.ParameterList()
        self.channels = channels
        for _ in range(n_layers):
            shape = (n_filters, channels, *(kernel_size,) * len(self.shape))
            drawn = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu").flatten(2)
            drawn = F.normalize((drawn - drawn.mean(2, keepdim=True)).flatten(1), dim=1).reshape(shape)
            drawn = drawn.to(torch.get_default_device(), torch.get_default_dtype())
            self.filters.append(nn.Parameter(drawn, requires_grad=False))
            channels = n_filters
        self.scales: Tensor
        self.register_buffer("scales", torch.ones(n_layers, n_filters))
        self.n_features = n_layers * n_filters

    @torch.no_grad()
    def prepare(self, x: Tensor) -> None:
        self.scales.fill_(1.0)
        for layer in range(len(self.filters)):
            response = self._responses(x)[layer]
            self.scales[layer] = response.transpose(0, 1).flatten(1).std(1).clamp_min(1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([_smooth_modulus(h).flatten(2).sum(2) for h in self._responses(x)], dim=1)

    def _responses(self, x: Tensor) -> list[Tensor]:
        dims = len(self.shape)
        convolve, pool = (F.conv1d, F.avg_pool1d) if dims == 1 else (F.conv2d, F.avg_pool2d)
        h = x.reshape(len(x), self.channels, *self.shape)
        found: list[Tensor] = []
        for filters, scale in zip(self.filters, self.scales, strict=True):
            if found:
                h = pool(_smooth_modulus(h), 2)
            around = filters.shape[-1] // 2
            h = convolve(F.pad(h, (around,) * (2 * dims), mode="circular"), filters.to(h))
            h = h / scale.to(h).reshape(-1, *(1,) * dims)
            found.append(h)
        return found


def _smooth_modulus(h: Tensor) -> Tensor:
    return F.softplus(h) + F.softplus(-h) - 2.0 * F.softplus(h.new_zeros(()))
