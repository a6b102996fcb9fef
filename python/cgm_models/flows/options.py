"""Checks of the flows' constructor arguments, with errors that name the argument."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any


def resolve_event_shape(event_shape: Sequence[int] | None, dim: int | None, context_dim: int) -> tuple[int, ...]:
    """The shape that ``event_shape``, or ``dim`` for vectors, stands for; ``context_dim`` is checked with it."""
    check_whole("context_dim", context_dim, 0)
    if (event_shape is None) == (dim is None):
        raise ValueError(f"give event_shape or dim, and not both: got {event_shape!r} and {dim!r}")
    if event_shape is None:
        check_whole("dim", dim, 1)
        return (int(dim),)  # type: ignore[arg-type]
    if isinstance(event_shape, str) or not isinstance(event_shape, Sequence):
        raise TypeError(f"event_shape must be a tuple of sizes, as (2,): got {event_shape!r}")
    if not event_shape or not all(is_whole(size, 1) for size in event_shape):
        raise ValueError(f"event_shape must hold positive sizes: got {tuple(event_shape)}")
    return tuple(event_shape)


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


def is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def check_whole(name: str, value: Any, least: int) -> None:
    if not is_whole(value, least):
        raise ValueError(f"{name} must be a whole number, at least {least}: got {value!r}")


def check_positive(name: str, value: Any) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0.0 < value < math.inf:
        raise ValueError(f"{name} must be a positive finite number: got {value!r}")


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}: got {value!r}")
