"""The coordinates that the chains of a maximum-entropy model move in."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .features import as_fields
from .features_spectral import squared_modulus, taper

_FLOOR = 1e-4


class Coordinates(nn.Module):
    """Coordinates u of a point x: the standardised field (x − μ)/σ itself, or that field whitened by its spectrum.

    A class has the mean μ (of every channel) and the standard deviation σ (one number) of its examples. Whitened, the
    field is the circular convolution of u with a filter whose amplitude is the root of the examples' power spectrum,
    smoothed over neighbouring frequencies and at least 1e-4 of its mean: white noise u is then a Gaussian field with
    the spectrum of the example, and all frequencies move at one pace. Points on the torus are their own coordinates.
    """

    location: Tensor
    scale: Tensor
    amplitude: Tensor

    def __init__(self, event_shape: tuple[int, ...], n_classes: int, periodic: bool, whiten: bool) -> None:
        super().__init__()
        self.event_shape, self.periodic, self.whiten = event_shape, periodic, whiten
        channels, self.shape = (1, ()) if periodic else as_fields("coordinates", event_shape)
        self.register_buffer("location", torch.zeros(n_classes, channels))
        self.register_buffer("scale", torch.ones(n_classes))
        half = (*self.shape[:-1], self.shape[-1] // 2 + 1) if whiten else (0,)
        self.register_buffer("amplitude", torch.ones(n_classes, *half))

    @torch.no_grad()
    def set_from(self, x: Tensor, label: int, standardize: bool) -> None:
        """Take the numbers of a class from its examples (n, *event)."""
        if self.periodic:
            return
        fields = x.reshape(len(x), self.location.shape[1], *self.shape)
        if fields.amin() == fields.amax():
            raise ValueError(f"x must vary: the example{f' of class {label}' * (len(self.scale) > 1)} is constant")
        if standardize:
            sites = fields.transpose(0, 1).flatten(1).double()
            location = sites.mean(1)
            deviation = (sites - location[:, None]).square().mean().sqrt()
            self.location[label] = location.to(x.dtype)
            self.scale[label] = deviation if deviation > 0 else 1.0  # 0 of channels that are each constant
        if self.whiten:
            labels = torch.full((len(x),), label, device=x.device)
            fields = self._standardised(x, labels).reshape(fields.shape)
            spectrum = taper(squared_modulus(self._transform(fields.double())).mean((0, 1)), self.shape)
            spectrum = spectrum / fields[0, 0].numel()
            self.amplitude[label] = spectrum.clamp_min(_FLOOR * spectrum.mean()).sqrt().to(x.dtype)

    def initial(self, n: int, generator: torch.Generator | None) -> Tensor:
        """``n`` draws of u from the law without features: white noise, or uniform points."""
        shape, dtype = (n, *self.event_shape), self.scale.dtype
        draw = torch.rand if self.periodic else torch.randn
        return draw(shape, generator=generator, dtype=dtype).to(self.scale.device)

    def field(self, u: Tensor, labels: Tensor) -> Tensor:
        """The standardised field that the statistics are of."""
        if not self.whiten:
            return u
        fields = u.reshape(len(u), -1, *self.shape)
        dims = self._dims()
        return torch.fft.irfftn(
            self._transform(fields) * self.amplitude[labels].unsqueeze(1), s=self.shape, dim=dims
        ).reshape(u.shape)

    def to_data(self, u: Tensor, labels: Tensor) -> Tensor:
        if self.periodic:
            return u - u.floor()
        location, scale = self._of(labels)
        return self.field(u, labels) * scale + location

    def from_data(self, x: Tensor, labels: Tensor) -> Tensor:
        """The coordinates of points x."""
        if self.periodic:
            return x
        fields = self._standardised(x, labels)
        if not self.whiten:
            return fields
        transform = self._transform(fields.reshape(len(x), -1, *self.shape)) / self.amplitude[labels].unsqueeze(1)
        return torch.fft.irfftn(transform, s=self.shape, dim=self._dims()).reshape(x.shape)

    def _standardised(self, x: Tensor, labels: Tensor) -> Tensor:
        location, scale = self._of(labels)
        return (x - location) / scale

    def _of(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation of every row, in shapes that go with an event."""
        ones = (1,) * (len(self.event_shape) - 1)
        return self.location[labels].reshape(len(labels), -1, *ones), self.scale[labels].reshape(-1, 1, *ones)

    def _transform(self, fields: Tensor) -> Tensor:
        return torch.fft.rfftn(fields, dim=self._dims())

    def _dims(self) -> tuple[int, ...]:
        return tuple(range(-len(self.shape), 0))
