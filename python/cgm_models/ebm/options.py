"""Checks of the constructors' arguments, with errors that name the argument."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..options import check_choice, check_flag, check_not_negative, check_positive, check_share, check_whole, is_number

_WHOLE = {"n_steps": 1, "buffer_size": 1, "n_slices": 1, "noise_ratio": 1, "sample_steps": 0}
_POSITIVE = ("step_size", "temperature", "max_energy_gap", "score_noise")
_POSITIVE_OR_NONE = ("spectral_norm", "reference_scale", "max_grad_norm")
_NOT_NEGATIVE = ("input_noise", "energy_penalty")


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
    check_share("restart_probability", options["restart_probability"])
    check_flag("standardize", options["standardize"])
    if options["sampler"] == "mala" and not options["clamp"] is options["max_grad_norm"] is None:
        raise ValueError("the acceptance of 'mala' knows no clamp and no max_grad_norm: leave them out")
