"""Densities of models whose log Z is estimated: energy-based ones, by annealed importance sampling."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor

from cgm_models.model import GenerativeModel

N_CHAINS, N_TEMPERATURES = 1000, 250


def is_annealed(kind: type[GenerativeModel]) -> bool:
    """Whether models of this class have an energy in place of a density."""
    return hasattr(kind, "log_partition")


def density(model: GenerativeModel) -> Callable[[Tensor], Tensor]:
    """log p as a function of points (n, *event) alone."""
    if not is_annealed(type(model)):
        return model.log_prob
    energy: Any = model.energy
    return lambda x: -energy(x) - _log_z(model)[0]


def error(model: GenerativeModel) -> float:
    """The standard error of the estimated log Z, which all points have in common; 0 where log p is exact."""
    return _log_z(model)[1] if is_annealed(type(model)) else 0.0


@functools.lru_cache(maxsize=8)
def _log_z(model: GenerativeModel) -> tuple[float, float]:
    estimate: Any = model.log_partition
    with torch.no_grad():
        found = estimate(n_chains=N_CHAINS, n_temperatures=N_TEMPERATURES, generator=Generator().manual_seed(5))
    return found.value, found.error
