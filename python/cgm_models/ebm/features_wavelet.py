"""Statistics of oriented wavelets of textures: how strong the bands are, and how they go together.

They are those that Portilla and Simoncelli 2000 ("A parametric texture model based on joint statistics of complex
wavelet coefficients") found to matter, in a bounded form. That makes the law normalisable for any ε > 0 in front of
‖x‖², and it keeps the products of bands, which attract, from running away together.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..nets.constants import register_constant
from ..options import check_whole
from .features import Feature, as_fields, squared_modulus
from .features_spectral import autocorrelation, lag_places


class Wavelets(Feature):
    """Sums over the sites of products of the bands z = x * ψ of analytic wavelets, J scales by L orientations.

    With z in units of its root mean square over the example, w = z/√(1 + |z|²) and m = |w|², in every channel:

    - Σ m_a for every band a, and Σ m_a m_b for every pair a ≤ b,
    - Σ_t m_a(t) m_a(t + s 2^j) for a of scale j and the shifts s of half of the square |s| ≤ max_shift but 0,
    - the real and the imaginary part of Σ w_a conj(w_b)² for a of each scale and b of the next coarser one, the phase
      of which is doubled to turn as fast: edges and lines are where the phases of scales are in step.

    The frequency response is cos(½π log₂(|ω|/ω_j)) over the two octaves around ω_j = 0.375/2^j cycles a pixel, times
    cos(φ − φ_l)^(L−1) over a half plane for images.

    Args:
        n_scales: J; by default 4, or as many as the sides have room for.
        n_orientations: L of images; signals have one.
        max_shift: of the autocorrelation of m; 0 for none.
    """

    name = "wavelets"

    def __init__(
        self, event_shape: tuple[int, ...], n_scales: int | None = None, n_orientations: int = 4, max_shift: int = 2
    ) -> None:
        super().__init__()
        self.channels, self.shape = as_fields(self.name, event_shape)
        n_orientations = check_whole("n_orientations", n_orientations, 1)
        max_shift = check_whole("max_shift", max_shift, 0)
        if n_scales is None:
            n_scales = max(1, min(4, int(math.log2(min(self.shape) / max(1, max_shift)))))
        n_scales = check_whole("n_scales", n_scales, 1)
        reach = 2**n_scales * max(1, max_shift)
        if reach > min(self.shape):
            raise ValueError(f"n_scales and max_shift reach {reach} samples, more than a side of {self.shape}")
        self.n_scales, self.n_orientations = n_scales, n_orientations if len(self.shape) == 2 else 1
        bands = n_scales * self.n_orientations
        self.filters: Tensor
        self.pairs: Tensor
        self.shifts: Tensor
        self.scales: Tensor
        register_constant(self, "filters", lambda: wavelet_filters(self.shape, n_scales, self.n_orientations))
        register_constant(self, "pairs", lambda: torch.triu_indices(bands, bands))
        register_constant(self, "shifts", lambda: _shifts(self.shape, n_scales, max_shift))
        self.register_buffer("scales", torch.ones(self.channels, bands))
        phases = 2 * (n_scales - 1) * self.n_orientations**2
        each = bands + bands * (bands + 1) // 2 + bands * self.shifts.shape[1] + phases
        self.n_features = self.channels * each

    @torch.no_grad()
    def prepare(self, x: Tensor) -> None:
        self.scales.fill_(1.0)
        power = squared_modulus(self._bands(x)).mean((0, 3))
        self.scales.copy_(power.sqrt().clamp_min(1e-6))

    def forward(self, x: Tensor) -> Tensor:
        z = self._bands(x)
        w = z * torch.rsqrt(1.0 + squared_modulus(z))
        strength = squared_modulus(w)
        products = strength @ strength.mT
        found = [strength.sum(-1), products[..., self.pairs[0], self.pairs[1]]]
        if self.shifts.shape[1]:
            found.append(self._shifted(strength))
        if self.n_scales > 1:
            found.append(self._phases(w))
        return torch.cat([part.flatten(1) for part in found], dim=1)

    def _bands(self, x: Tensor) -> Tensor:
        """z, complex (batch, channels, bands, sites)."""
        dims = tuple(range(-len(self.shape), 0))
        fields = torch.fft.fftn(x.reshape(len(x), self.channels, 1, *self.shape), dim=dims)
        bands = torch.fft.ifftn(fields * self.filters.to(x), dim=dims).flatten(3)
        return bands / self.scales.to(x)[..., None]

    def _shifted(self, strength: Tensor) -> Tensor:
        fields = strength.reshape(*strength.shape[:-1], *self.shape)
        found = autocorrelation(fields, len(self.shape)).reshape(strength.shape)
        places = self.shifts.repeat_interleave(self.n_orientations, dim=0)
        return found.gather(-1, places.expand(*found.shape[:2], *places.shape))

    def _phases(self, w: Tensor) -> Tensor:
        """Re and Im of Σ w_a conj(w_b)², (batch, channels, J − 1, L, L, 2)."""
        by_scale = w.reshape(*w.shape[:2], self.n_scales, self.n_orientations, -1)
        fine, coarse = by_scale[:, :, :-1], by_scale[:, :, 1:]
        return torch.view_as_real(fine @ (coarse * coarse).mH)


def _shifts(shape: tuple[int, ...], n_scales: int, max_shift: int) -> Tensor:
    """The flat places of the shifts of each scale, (n_scales, shifts)."""
    if not max_shift:
        return torch.empty(n_scales, 0)
    return torch.stack([lag_places(shape, max_shift, 2**j, zero=False) for j in range(n_scales)])


def wavelet_filters(shape: tuple[int, ...], n_scales: int, n_orientations: int) -> Tensor:
    """The frequency responses on the grid of ``fftn``, ``(n_scales * n_orientations, *shape)`` float64."""
    axes = [torch.fft.fftfreq(n, dtype=torch.float64) for n in shape]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    radius = grid.square().sum(0).sqrt()
    octave = torch.log2(radius.clamp_min(1e-12) / 0.375)
    found = []
    for scale in range(n_scales):
        distance = (octave + scale).clamp(-1.0, 1.0)
        ring = torch.cos(0.5 * math.pi * distance)
        for orientation in range(n_orientations):
            turn = math.pi * orientation / n_orientations
            along = grid[-1] if len(shape) == 1 else grid[1] * math.cos(turn) + grid[0] * math.sin(turn)
            cosine = (along / radius.clamp_min(1e-12)).clamp_min(0.0)
            found.append(ring * (cosine ** (n_orientations - 1) if n_orientations > 1 else (cosine > 0).double()))
    return torch.stack(found)
