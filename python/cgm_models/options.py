"""What the models' constructors ask of their arguments; an error names the argument, what it must be and what came."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from cgm_kernels import checks


def is_whole(value: Any, least: int) -> bool:
    """A whole number of any type, NumPy's too, booleans left out."""
    try:
        return checks.integer("value", value) >= least
    except TypeError:
        return False


def is_number(value: Any) -> bool:
    """A finite real number, booleans left out."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def check_whole(name: str, value: Any, least: int) -> int:
    """``value`` as an int, whose sums and differences do not wrap as those of other types may."""
    if not is_whole(value, least):
        raise ValueError(f"{name} must be a whole number, at least {least}: got {value!r}")
    return checks.integer(name, value)


def check_positive(name: str, value: Any) -> None:
    if not is_number(value) or value <= 0:
        raise ValueError(f"{name} must be a positive finite number: got {value!r}")


def check_not_negative(name: str, value: Any) -> None:
    if not is_number(value) or value < 0:
        raise ValueError(f"{name} must be a finite number, not negative: got {value!r}")


def check_share(name: str, value: Any) -> None:
    if not is_number(value) or not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} must lie in [0, 1]: got {value!r}")


def check_flag(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False: got {value!r}")


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}: got {value!r}")


def check_event_shape(event_shape: Sequence[int]) -> tuple[int, ...]:
    """The shape as a tuple."""
    if isinstance(event_shape, str) or not isinstance(event_shape, Sequence):
        raise TypeError(f"event_shape must be a tuple of sizes, as (2,): got {event_shape!r}")
    shape = tuple(event_shape)
    if not shape or not all(is_whole(size, 1) for size in shape):
        raise ValueError(f"event_shape must hold positive sizes: got {shape}")
    return tuple(map(int, shape))


def resolve_event_shape(event_shape: Sequence[int] | None, dim: int | None, context_dim: int) -> tuple[int, ...]:
    """The shape that ``event_shape``, or ``dim`` for vectors, stands for; ``context_dim`` is checked with it."""
    check_whole("context_dim", context_dim, 0)
    if (event_shape is None) == (dim is None):
        raise ValueError(f"give event_shape or dim, and not both: got {event_shape!r} and {dim!r}")
    if event_shape is not None:
        return check_event_shape(event_shape)
    return (check_whole("dim", dim, 1),)
