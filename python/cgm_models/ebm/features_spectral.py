"""Second-order statistics of signals and images on the circle or the torus: autocovariances and power spectra.

Their maximum-entropy laws are Gaussian: with E(x) = Σ_τ θ_τ Σ_t x_t x_{t+τ} + ε‖x‖² the spectrum E|x̂(ω)|²/n is
1/(2(θ(ω) + ε)), θ(ω) = Σ_τ θ_τ cos(ωτ), and with the powers of bins it is 1/(2(θ_b + ε)) within the bin b.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..nets.constants import register_constant
from ..options import check_whole
from .features import Feature, as_fields, squared_modulus


class Autocovariance(Feature):
    """F_τ(x) = Σ_t x_t x_{t+τ} over all t of the circle, summed over the channels of an image.

    The lags of signals are 0, …, max_lag; those of images the half of the square |dy|, |dx| ≤ max_lag that holds no two
    opposite ones.

    Args:
        max_lag: less than half of every side; by default 8 where that is so, else the largest.
    """

    name = "autocovariance"

    def __init__(self, event_shape: tuple[int, ...], max_lag: int | None = None) -> None:
        super().__init__()
        self.channels, self.shape = as_fields(self.name, event_shape)
        if max_lag is None:
            max_lag = min(8, (min(self.shape) - 1) // 2)
        max_lag = check_whole("max_lag", max_lag, 0)
        if 2 * max_lag >= min(self.shape):
            raise ValueError(f"max_lag must be less than half of every side of {self.shape}: got {max_lag}")
        self.places: Tensor
        register_constant(self, "places", lambda: lag_places(self.shape, max_lag))
        self.n_features = len(self.places)

    def forward(self, x: Tensor) -> Tensor:
        fields = x.reshape(len(x), self.channels, *self.shape)
        return autocorrelation(fields, len(self.shape)).sum(1).flatten(1)[:, self.places]


class PowerSpectrum(Feature):
    """F_b(x) = (1/n) Σ_{ω in b} |x̂(ω)|², the power in bins of frequencies, summed over the channels of an image.

    Args:
        n_bins: rings of equal width in |ω|; None for a bin of every frequency and its opposite. The frequency 0, which
            an example of mean 0 has none of, belongs to the bin of the lowest one beside it.
        n_angles: sectors of equal angle that the rings of images are cut into.
    """

    name = "power_spectrum"

    def __init__(self, event_shape: tuple[int, ...], n_bins: int | None = None, n_angles: int = 1) -> None:
        super().__init__()
        self.channels, self.shape = as_fields(self.name, event_shape)
        if n_bins is not None:
            n_bins = check_whole("n_bins", n_bins, 1)
        n_angles = check_whole("n_angles", n_angles, 1)
        self.bins: Tensor
        self.shares: Tensor
        bins = register_constant(self, "bins", lambda: _frequency_bins(self.shape, n_bins, n_angles))
        register_constant(self, "shares", lambda: _shares(self.shape))
        self.n_features = int(bins.max()) + 1

    def forward(self, x: Tensor) -> Tensor:
        fields = x.reshape(len(x), self.channels, *self.shape)
        power = squared_modulus(_transform(fields, len(self.shape))).sum(1).flatten(1)
        return power.new_zeros(len(x), self.n_features).index_add(1, self.bins, power * self.shares.to(power))


def autocorrelation(fields: Tensor, spatial_dims: int) -> Tensor:
    """Σ_t x_t x_{t+τ} on the torus at every shift τ; ``(..., *spatial)`` to the same shape."""
    shape = fields.shape[-spatial_dims:]
    dims = tuple(range(-spatial_dims, 0))
    return torch.fft.irfftn(squared_modulus(_transform(fields, spatial_dims)), s=shape, dim=dims)


def lag_places(shape: tuple[int, ...], max_lag: int, step: int = 1, zero: bool = True) -> Tensor:
    """The flat places, in an array of ``shape``, of ``step`` times the lags of one half; without 0 if not ``zero``."""
    if len(shape) == 1:
        return step * torch.arange(0 if zero else 1, max_lag + 1)
    height, width = shape
    lags = [(dy, dx) for dy in range(max_lag + 1) for dx in range(-max_lag, max_lag + 1) if dy > 0 or dx > 0 or not dx]
    return torch.tensor([step * dy % height * width + step * dx % width for dy, dx in lags if zero or dy or dx])


def frequencies(shape: tuple[int, ...]) -> list[Tensor]:
    """The frequency along each axis, in cycles a sample, on the grid of ``rfftn``."""
    axes = [torch.fft.fftfreq(n, dtype=torch.float64) for n in shape[:-1]]
    axes.append(torch.fft.rfftfreq(shape[-1], dtype=torch.float64))
    return list(torch.meshgrid(*axes, indexing="ij"))


def taper(power: Tensor, shape: tuple[int, ...]) -> Tensor:
    """``power`` on the grid of ``rfftn``, smoothed by a Gaussian kernel that is narrower than one frequency."""
    dims = tuple(range(-len(shape), 0))
    window = power.new_ones(())
    for n in shape:
        lag = torch.minimum(torch.arange(n), n - torch.arange(n)).to(power)
        window = window[..., None] * torch.exp(-8.0 * (lag / n).square())
    covariance = torch.fft.irfftn(power, s=shape, dim=dims) * window
    # Both transforms are of even functions: what is imaginary is rounding.
    return torch.fft.rfftn(covariance, dim=dims).real.clamp_min(0.0)


def _transform(fields: Tensor, spatial_dims: int) -> Tensor:
    return torch.fft.rfftn(fields, dim=tuple(range(-spatial_dims, 0)))


def _shares(shape: tuple[int, ...]) -> Tensor:
    """The weight of the power at every place of the grid of ``rfftn``, flat."""
    # The half grid stands for the whole: all but the columns 0 and n/2 count twice.
    n, column = shape[-1], torch.arange(shape[-1] // 2 + 1)
    twice = torch.where((column == 0) | (2 * column == n), 1.0, 2.0).double()
    return twice.expand(*shape[:-1], len(column)).flatten() / math.prod(shape)


def _frequency_bins(shape: tuple[int, ...], n_bins: int | None, n_angles: int) -> Tensor:
    """The bin of every place of the grid of ``rfftn``, flat."""
    grid = frequencies(shape)
    radius = torch.stack(grid).square().sum(0).sqrt()
    if n_bins is None:
        bins = _pairs(shape)
    else:
        bins = (radius / radius.max() * n_bins).long().clamp_max(n_bins - 1)
        if len(shape) == 2 and n_angles > 1:
            # Half a sector further, so that the axes lie inside sectors.
            angle = torch.atan2(grid[0], grid[1]) / math.pi + 0.5 / n_angles
            bins = bins * n_angles + (angle.remainder(1.0) * n_angles).long().clamp_max(n_angles - 1)
    flat = bins.flatten()
    others = radius.flatten()[1:]
    flat[0] = flat[1:][others.argmin()]
    return flat.unique(return_inverse=True)[1]


def _pairs(shape: tuple[int, ...]) -> Tensor:
    """A number for every frequency, the same for opposite ones where the half grid holds both."""
    columns = shape[-1] // 2 + 1
    places = torch.arange(math.prod(shape[:-1]) * columns).reshape(*shape[:-1], columns)
    if len(shape) == 1:
        return places
    opposite = places[(-torch.arange(shape[0])) % shape[0]]
    column = torch.arange(columns)
    both = (column == 0) | (2 * column == shape[-1])
    return torch.where(both, torch.minimum(places, opposite), places)
