"""The benchmarks by name; their modules are imported when asked for."""

from __future__ import annotations

import functools
import importlib

from .benchmark import Benchmark

NAMES = (
    "sliced_ot",
    "coupling",
    "masked_inverse",
    "langevin",
    "divergence",
    "potential",
    "runge_kutta",
    "models",
    "flow_libraries",
)
"""Modules of this package that hold a ``BENCHMARK``, in the order of the README."""


@functools.cache
def find(name: str) -> Benchmark:
    """The benchmark of that name; ValueError where there is none."""
    if name not in NAMES:
        raise ValueError(f"a benchmark is one of {', '.join(NAMES)}: got {name!r}")
    found: Benchmark = importlib.import_module(f"{__package__}.{name}").BENCHMARK
    return found
