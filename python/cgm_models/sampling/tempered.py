"""Langevin dynamics at several temperatures that exchange their positions."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from cgm_kernels import langevin_step, mala_accept

from . import options
from .mala import mala_step
from .metropolis import acceptance_probability
from .sampler import Sampler
from .state import State
from .target import Target


class TemperedLangevin(Sampler):
    """Parallel tempering (replica exchange): each chain is R replicas, replica i at exp(−E/T_i), T_1 < … < T_R.

    A step is a Langevin step of every replica. After every ``swap_every`` of them neighbours exchange their positions
    with probability min(1, exp((1/T_i − 1/T_j)(E(x_i) − E(x_j)))): the pairs (1, 2), (3, 4), … and (2, 3), (4, 5), … in
    turn. The joint law ∏ exp(−E(x_i)/T_i) stays, so that the draws, the positions at T_1, have the law exp(−E/T_1),
    while hot replicas carry them over barriers. (For one chain whose temperature changes with time see
    ``AnnealedLangevin``; every sampler has a fixed ``temperature``.)

    The statistics are ``acceptance`` of the replica at T_1, ``level_acceptance`` (R,) and ``swap_acceptance`` (R − 1,),
    the probability of an exchange were one offered: a ladder is fine enough where it is 0.2 or more all along.
    ``state`` holds all replicas; a conditional energy gets the rows of its context once for each.

    Args:
        step_size: h of all replicas, where a warm-up starts to look for one for each.
        temperatures: the ladder T_1 < … < T_R; see ``geometric_ladder``.
        swap_every: Langevin steps between two rounds of exchanges.
        adjusted: accept the Langevin steps as MALA does; otherwise they are ULA's, with its bias.
        target_acceptance: what the warm-up aims at in every replica, where the steps are adjusted; None keeps h.

    Sources: Geyer 1991, "Markov chain Monte Carlo maximum likelihood"; Syed, Bouchard-Côté, Deligiannidis & Doucet
    2022, "Non-reversible parallel tempering", for the pairs in turn.
    """

    needs_energy = True

    def __init__(
        self,
        step_size: float,
        temperatures: Sequence[float],
        *,
        swap_every: int = 1,
        adjusted: bool = True,
        target_acceptance: float | None = 0.574,
    ) -> None:
        self.temperatures = options.positives("temperatures", temperatures)
        if len(self.temperatures) < 2 or any(low >= high for low, high in itertools.pairwise(self.temperatures)):
            raise ValueError(f"temperatures must be at least two, and rise: got {self.temperatures}")
        super().__init__(step_size, self.temperatures[0])
        self.replicas = len(self.temperatures)
        self.swap_every = options.whole("swap_every", swap_every, 1)
        self.adjusted = adjusted
        if adjusted and target_acceptance is not None:
            self.target_acceptance = options.share("target_acceptance", target_acceptance)

    def prepare(self, state: State) -> None:
        x = state.position
        if len(x) % self.replicas:
            raise ValueError(f"initial must have {self.replicas} replicas, as temperatures: got {len(x)} rows")
        each = torch.tensor(self.temperatures, dtype=x.dtype, device=x.device)
        state.temperature = each.repeat_interleave(len(x) // self.replicas)

    def step(self, state: State, target: Target) -> None:
        size = self.step_size if state.step_size is None else state.step_size
        temperature = self.temperature if state.temperature is None else state.temperature
        if self.adjusted:
            mala_step(state, target, size, temperature)
        else:
            x = state.position
            moved = langevin_step(x, state.gradient, size, temperature=temperature, state=state.noise, out=x)
            self.arrive(state, target, moved)
            state.statistics = {"acceptance": torch.ones_like(state.energy)}
        log_ratio = self._log_ratios(state)
        state.statistics["swap_acceptance"] = acceptance_probability(log_ratio).mean(1)
        if state.step % self.swap_every == 0:
            exchange(state, log_ratio, first=(state.step // self.swap_every) % 2)

    def _log_ratios(self, state: State) -> Tensor:
        """``(R − 1, chains)``: log of the joint law after an exchange over that before, for all neighbours."""
        energy = state.energy.view(self.replicas, -1)
        pairs = enumerate(itertools.pairwise(self.temperatures))
        return torch.stack([(1.0 / low - 1.0 / high) * (energy[i] - energy[i + 1]) for i, (low, high) in pairs])

    def kept(self, state: State) -> tuple[Tensor, Tensor]:
        chains = len(state.position) // self.replicas
        return state.position[:chains], state.energy[:chains]

    def kept_statistics(self, state: State) -> dict[str, Tensor]:
        if not state.statistics:
            return {}
        levels = state.statistics["acceptance"].view(self.replicas, -1)
        return {**state.statistics, "acceptance": levels[0], "level_acceptance": levels.mean(1)}

    def step_size_of(self, state: State) -> float | Tensor:
        if isinstance(state.step_size, Tensor):
            return state.step_size.view(self.replicas, -1)[:, 0]
        return torch.full((self.replicas,), self.step_size, dtype=torch.float64)


def exchange(state: State, log_ratio: Tensor, first: int) -> None:
    """Offer exchanges to the replicas (first, first + 1), (first + 2, first + 3), … by the ratios of all neighbours."""
    levels = len(log_ratio) + 1
    n_pairs = (levels - first) // 2
    if not n_pairs:
        return
    low, high = (slice(first + side, first + side + 2 * n_pairs, 2) for side in (0, 1))
    energy = state.energy.view(levels, -1)
    pairs = torch.stack((energy[low], energy[high]), dim=-1).flatten(0, 1)
    _, accepted = mala_accept(pairs, pairs.flip(1), log_ratio[low].flatten(), state=state.noise)
    for name in ("position", "energy", "gradient"):
        values = getattr(state, name)
        rows = values.view(levels, -1, *values.shape[1:])
        swapped = accepted.view(n_pairs, -1, *[1] * (values.ndim - 1))
        new = rows.clone()
        new[low] = torch.where(swapped, rows[high], rows[low])
        new[high] = torch.where(swapped, rows[low], rows[high])
        setattr(state, name, new.view_as(values))


def geometric_ladder(highest: float, n: int, lowest: float = 1.0) -> tuple[float, ...]:
    """``n`` temperatures from ``lowest`` to ``highest``, each the same multiple of the one before.

    Neighbours then exchange equally often where the heat capacity of the energy does not depend on the temperature.
    """
    options.positive("lowest", lowest)
    n = options.whole("n", n, 2)
    if not options.positive("highest", highest) > lowest:
        raise ValueError(f"highest must be above lowest, {lowest}: got {highest}")
    return tuple(lowest * (highest / lowest) ** (i / (n - 1)) for i in range(n))
