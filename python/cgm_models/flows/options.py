"""What the constructors of flows ask of the event's shape beyond what all models do."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..options import resolve_event_shape


def require_image(model: str, event_shape: Sequence[int], context_dim: int) -> tuple[int, int, int]:
    """``event_shape`` as (channels, height, width)."""
    shape = resolve_event_shape(event_shape, None, context_dim)
    if len(shape) != 3:
        raise ValueError(f"{model} is for images: event_shape must be (channels, height, width): got {shape}")
    return shape[0], shape[1], shape[2]


def require_two(model: str, shape: tuple[int, ...]) -> int:
    """The number of dimensions, which a coupling needs two of."""
    dim = math.prod(shape)
    if dim < 2:
        raise ValueError(f"{model} couples dimensions with one another and needs at least 2: got event_shape {shape}")
    return dim
