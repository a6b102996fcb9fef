"""What a run of a sampler gives: its draws, what is known of each, and where the chains stand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import diagnostics
from .state import State

if TYPE_CHECKING:
    from arviz import InferenceData


@dataclass
class Samples:
    """Draws of chains, the first dimension the draws and the second the chains."""

    positions: Tensor
    """(draws, chains, *event)"""
    energies: Tensor
    """(draws, chains): E at the positions."""
    step_size: Tensor
    """(draws,) in float64: the step size of the step before each draw; (draws, levels) where there are replicas."""
    statistics: dict[str, Tensor]
    """(draws, ...) by name: means over the steps since the draw before."""
    state: State
    """Where the chains stand: ``run(samples.state, energy, n_steps)`` continues them exactly."""

    @property
    def acceptance(self) -> Tensor:
        """(draws, chains): the mean probability of acceptance since the draw before; 1 where nothing is rejected."""
        accepted = self.statistics.get("acceptance")
        return torch.ones_like(self.energies) if accepted is None else accepted

    def flat(self) -> Tensor:
        """``(draws · chains, *event)``: all draws as one sample, draw by draw."""
        return self.positions.flatten(0, 1)

    def rhat(self) -> Tensor:
        """The rank-normalised split R̂ of each number of the event, ``(*event)``: near 1 where the chains agree.

        Source: Vehtari et al. 2021, "Rank-normalization, folding, and localization: an improved R̂"; by ArviZ.
        """
        return diagnostics.rhat(self)

    def ess(self, method: str = "bulk") -> Tensor:
        """The effective sample size of each number of the event over all chains, ``(*event)``.

        ``method`` is one of ArviZ's: "bulk" for the location, "tail" for the 5% and 95% quantiles, "mean", "sd", ...
        """
        return diagnostics.ess(self, method)

    def to_arviz(self, name: str = "x") -> InferenceData:
        """The draws as ArviZ has them: the posterior's variable ``name`` (chain, draw, *event) and sample_stats."""
        return diagnostics.to_arviz(self, name)
