"""Checks of the samplers' arguments, with errors that name the argument."""

from __future__ import annotations

from typing import Any

from cgm_kernels import checks


def positive(name: str, value: Any) -> float:
    """A finite number above 0."""
    if not checks.number(name, value) > 0.0:
        raise ValueError(f"{name} must be positive: got {value}")
    return float(value)


def not_negative(name: str, value: Any) -> float:
    """A finite number, at least 0."""
    if not checks.number(name, value) >= 0.0:
        raise ValueError(f"{name} must not be negative: got {value}")
    return float(value)


def share(name: str, value: Any) -> float:
    """A number strictly between 0 and 1."""
    if not 0.0 < checks.number(name, value) < 1.0:
        raise ValueError(f"{name} must lie between 0 and 1: got {value}")
    return float(value)


def whole(name: str, value: Any, least: int) -> int:
    """An int, at least ``least``."""
    number = checks.integer(name, value)
    if number < least:
        raise ValueError(f"{name} must be at least {least}: got {value}")
    return number


def positives(name: str, values: Any) -> tuple[float, ...]:
    """At least one positive number."""
    if isinstance(values, str) or not hasattr(values, "__iter__"):
        raise TypeError(f"{name} must be a sequence of numbers: got {type(values).__name__}")
    checked = tuple(positive(f"{name}[{i}]", value) for i, value in enumerate(values))
    if not checked:
        raise ValueError(f"{name} must hold at least one number: got none")
    return checked
