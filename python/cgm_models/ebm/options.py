"""Checks of the constructors' arguments, with errors that name the argument."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..model import class_labels

_WHOLE = {"n_steps": 1, "buffer_size": 1, "n_slices": 1, "noise_ratio": 1, "sample_steps": 0}
_POSITIVE = ("step_size", "temperature", "max_energy_gap", "score_noise")
_POSITIVE_OR_NONE = ("spectral_norm", "reference_scale", "max_grad_norm")
_NOT_NEGATIVE = ("input_noise", "energy_penalty")


def resolve_event_shape(event_shape: Sequence[int] | None, dim: int | None) -> tuple[int, ...]:
    """The shape that ``event_shape``, or ``dim`` for vectors, stands for."""
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


def is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_number(value: Any) -> bool:
    """A finite real number, booleans left out."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def check_whole(name: str, value: Any, least: int) -> None:
    if not is_whole(value, least):
        raise ValueError(f"{name} must be a whole number, at least {least}: got {value!r}")


def check_positive(name: str, value: Any) -> None:
    if not is_number(value) or value <= 0:
        raise ValueError(f"{name} must be a positive finite number: got {value!r}")


def check_not_negative(name: str, value: Any) -> None:
    if not is_number(value) or value < 0:
        raise ValueError(f"{name} must be a finite number, not negative: got {value!r}")


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}: got {value!r}")


def check_range(name: str, value: Any) -> tuple[float, float] | None:
    """``value`` as (low, high), or None."""
    if value is None:
        return None
    pair = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else ()
    if len(pair) != 2 or not all(is_number(v) for v in pair) or not pair[0] < pair[1]:
        raise ValueError(f"{name} must be two numbers, the lower one first: got {value!r}")
    return float(pair[0]), float(pair[1])


def check_options(options: Mapping[str, Any], choices: Mapping[str, Sequence[str]]) -> None:
    """The numbers and choices among the arguments of ``EnergyModel``."""
    for name, known in choices.items():
        check_choice(name, options[name], known)
    for name, least in _WHOLE.items():
        check_whole(name, options[name], least)
    for name in _POSITIVE:
        check_positive(name, options[name])
    for name in _POSITIVE_OR_NONE:
        if options[name] is not None:
            check_positive(name, options[name])
    for name in _NOT_NEGATIVE:
        check_not_negative(name, options[name])
    if not is_number(options["restart_probability"]) or not 0.0 <= options["restart_probability"] <= 1.0:
        raise ValueError(f"restart_probability must lie in [0, 1]: got {options['restart_probability']!r}")
    if not isinstance(options["standardize"], bool):
        raise ValueError(f"standardize must be True or False: got {options['standardize']!r}")
    if options["sampler"] == "mala" and not options["clamp"] is options["max_grad_norm"] is None:
        raise ValueError("the acceptance of 'mala' knows no clamp and no max_grad_norm: leave them out")


def context_rows(context: Tensor | None, n: int, context_dim: int, like: Tensor) -> Tensor | None:
    """``context`` as (n, context_dim) in the dtype of ``like``; class labels () or (n,) become one-hot rows."""
    if not context_dim:
        if context is not None:
            raise ValueError("this model has no context: construct it with context_dim, or leave context out")
        return None
    if context is None:
        raise ValueError(f"this model is conditional: context must have shape ({context_dim},) or (n, {context_dim})")
    if not isinstance(context, Tensor):
        raise TypeError(f"context must be a Tensor: got {type(context).__name__}")
    if not context.is_floating_point():
        return torch.nn.functional.one_hot(class_labels(context, n, context_dim), context_dim).to(like)
    if context.shape not in ((context_dim,), (n, context_dim)):
        expected = f"({context_dim},) or ({n}, {context_dim})"
        raise ValueError(f"context must have shape {expected}: got {tuple(context.shape)}")
    return context.to(like).expand(n, context_dim)
