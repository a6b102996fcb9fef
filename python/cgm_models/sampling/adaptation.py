"""Step sizes that settle at a wanted acceptance."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_SHRINKAGE, _DELAY, _FORGETTING = 0.05, 10.0, 0.75


@dataclass(frozen=True)
class DualAveraging:
    """Nesterov's dual averaging of log h, one for each group of chains: all fields (groups,), float64, on the device.

    After the t-th step with the mean acceptance a_t, and δ the one that is wanted,

        H ← (1 − 1/(t + t₀)) H + (δ − a_t)/(t + t₀),    log h = μ − √t H / γ,    log h̄ ← t^−κ log h + (1 − t^−κ) log h̄

    where μ = log(10 h₀) favours steps that are larger than the first. The warm-up walks with h, and what comes after it
    with h̄. Source: Hoffman & Gelman 2014, "The No-U-Turn sampler", with its γ = 0.05, t₀ = 10, κ = 0.75.
    """

    centre: Tensor
    log_step: Tensor
    log_average: Tensor
    error: Tensor
    count: int = 0

    @classmethod
    def start(cls, step_size: Tensor) -> DualAveraging:
        log_step = step_size.double().log()
        return cls(math.log(10.0) + log_step, log_step, log_step, torch.zeros_like(log_step))

    def updated(self, acceptance: Tensor, wanted: float) -> DualAveraging:
        """After a step with ``acceptance`` (groups,)."""
        t = self.count + 1
        rate, weight = 1.0 / (t + _DELAY), t**-_FORGETTING
        error = (1.0 - rate) * self.error + rate * (wanted - acceptance.double())
        log_step = self.centre - (math.sqrt(t) / _SHRINKAGE) * error
        log_average = weight * log_step + (1.0 - weight) * self.log_average
        return DualAveraging(self.centre, log_step, log_average, error, t)

    def tensors(self) -> dict[str, Tensor]:
        tensors = {name: value for name, value in vars(self).items() if name != "count"}
        return {**tensors, "count": torch.tensor(self.count)}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> DualAveraging:
        return cls(**{name: value for name, value in tensors.items() if name != "count"}, count=int(tensors["count"]))
