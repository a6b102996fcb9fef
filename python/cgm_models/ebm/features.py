"""Statistics of one example that a maximum-entropy model reproduces: what one is, and the kinds there are by name.

A feature is a sum over sites (samples, pixels, pairs of points), so that its multipliers do not depend on the size of
the example: those of autocovariances are half an inverse spectrum, those of pair counts a pair potential.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

FEATURES: dict[str, type[Feature]] = {}


class Feature(nn.Module):
    """Differentiable statistics ``(batch, *event) -> (batch, n_features)``; its options are what JSON can hold.

    A subclass is registered under ``name``, takes the event's shape and its options, and sets ``n_features``.
    """

    name: ClassVar[str]
    periodic: ClassVar[bool] = False
    """Whether an event is made of points of the torus [0, 1)^d rather than of real values."""

    n_features: int

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if hasattr(cls, "name"):
            FEATURES[cls.name] = cls

    def prepare(self, x: Tensor) -> None:
        """Take what the statistics need from the examples ``x`` (n, *event), into buffers; nothing by default."""


class FeatureList(nn.Module):
    """Features side by side: ``(batch, *event) -> (batch, n_features)``.

    Args:
        event_shape: of one example.
        features: names of features, or dictionaries of a ``name`` and its options.
    """

    def __init__(self, event_shape: tuple[int, ...], features: Sequence[str | Mapping[str, Any]]) -> None:
        super().__init__()
        if isinstance(features, (str, Mapping)) or not features:
            raise ValueError(f"features must be a list of at least one name or dictionary: got {features!r}")
        self.parts: Sequence[Feature]
        self.parts = nn.ModuleList(_build(event_shape, one) for one in features)  # type: ignore[assignment]
        if len({part.periodic for part in self.parts}) > 1:
            names = ", ".join(part.name for part in self.parts)
            raise ValueError(f"features must all be of points on the torus, or none of them: got {names}")
        self.periodic = self.parts[0].periodic
        self.n_features = sum(part.n_features for part in self.parts)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([part(x) for part in self.parts], dim=1)

    def prepare(self, x: Tensor) -> None:
        for part in self.parts:
            part.prepare(x)

    def split(self, values: Tensor) -> dict[str, Tensor]:
        """``values`` (..., n_features) by the name of the feature, a number added to one that occurs again."""
        shares = values.split([part.n_features for part in self.parts], dim=-1)
        named: dict[str, Tensor] = {}
        for part, share in zip(self.parts, shares, strict=True):
            again = sum(key.split(" ")[0] == part.name for key in named)
            named[f"{part.name} {again + 1}" if again else part.name] = share
        return named


def _build(event_shape: tuple[int, ...], one: str | Mapping[str, Any]) -> Feature:
    options = {"name": one} if isinstance(one, str) else dict(one)
    name = options.pop("name", None)
    if name not in FEATURES:
        raise ValueError(f"features must be named, as one of {', '.join(map(repr, sorted(FEATURES)))}: got {one!r}")
    try:
        return FEATURES[name](event_shape, **options)
    except TypeError as error:
        raise TypeError(f"feature {name!r}: {error}") from None


def as_fields(name: str, event_shape: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    """(channels, spatial shape) of signals (n,), of one channel, and of images (channels, height, width)."""
    if len(event_shape) == 1:
        return 1, event_shape
    if len(event_shape) == 3:
        return event_shape[0], event_shape[1:]
    raise ValueError(f"feature {name!r} is of signals (n,) or images (channels, height, width): got {event_shape}")


def squared_modulus(z: Tensor) -> Tensor:
    """|z|², with a gradient at 0 too."""
    return z.real.square() + z.imag.square()
