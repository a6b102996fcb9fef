"""The draws of a run as they come, and the progress shown meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..training.progress import Advance
from .samples import Samples
from .state import State

if TYPE_CHECKING:
    from .sampler import Sampler


class Recorder:
    """Memory for ``n_draws`` draws, on the device of the chains."""

    def __init__(self, sampler: Sampler, state: State, n_draws: int) -> None:
        self._sampler = sampler
        position, energy = sampler.kept(state)
        self._positions = position.new_empty((n_draws, *position.shape))
        self._energies = energy.new_empty((n_draws, *energy.shape))
        self._step_sizes: list[float | Tensor] = []
        self._statistics: dict[str, list[Tensor]] = {}
        self._count = 0

    def keep(self, state: State) -> None:
        self._positions[self._count], self._energies[self._count] = self._sampler.kept(state)
        self._step_sizes.append(self._sampler.step_size_of(state))
        for name, value in self._sampler.kept_statistics(state).items():
            self._statistics.setdefault(name, []).append(value)
        self._count += 1

    def samples(self, state: State) -> Samples:
        sizes = self._step_sizes
        if sizes and isinstance(sizes[0], Tensor):
            step_size = torch.stack([torch.as_tensor(size, dtype=torch.float64) for size in sizes])
        else:
            step_size = torch.tensor(sizes, dtype=torch.float64)
        statistics = {name: torch.stack(values) for name, values in self._statistics.items()}
        return Samples(self._positions, self._energies, step_size, statistics, state)


class Reporter:
    """Moves the bar every half percent, since each move costs, and showing the acceptance waits for the device."""

    def __init__(self, advance: Advance, total: int, *, shown: bool) -> None:
        self._advance = advance
        self._every, self._total = max(1, total // 200) if shown else 0, total
        self.steps = self._reported = 0

    def add(self, steps: int, statistics: dict[str, Tensor]) -> None:
        self.steps += steps
        if self._every and (self.steps - self._reported >= self._every or self.steps == self._total):
            acceptance = statistics.get("acceptance")
            shown = {} if acceptance is None else {"acceptance": float(acceptance.mean())}
            self._advance(self.steps - self._reported, **shown)
            self._reported = self.steps
