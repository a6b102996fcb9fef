"""Systems of tensors integrated in time, for every vector field."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from cgm_kernels.divergence.tableaus import TABLEAUS

from .adaptive import integrate_adaptively
from .solver import Solver
from .steps import Rates, advance


def integrate(
    rates: Rates, coupled: Sequence[Tensor], beside: Sequence[Tensor], solver: Solver, start: float, end: float
) -> tuple[list[Tensor], int]:
    """All tensors at time ``end``, and how often ``rates`` was evaluated.

    ``rates`` depends on t and on the tensors of ``coupled``, the first of which has a row for each point; those of
    ``beside`` are only accumulated, and cost one update a step rather than one a stage. ``solver.gradient`` is
    'discrete' or 'checkpoint' here.
    """
    if solver.adaptive:
        return integrate_adaptively(rates, coupled, beside, solver, start, end)
    state = [*coupled, *beside]
    times = solver.times(start, end)
    again = solver.gradient == "checkpoint" and torch.is_grad_enabled()
    for t, following in itertools.pairwise(times):
        if again:
            state = list(
                checkpoint(
                    advance, rates, len(coupled), solver.method, t, following - t, *state,
                    use_reentrant=False, preserve_rng_state=False,
                )
            )  # fmt: skip
        else:
            state = advance(rates, len(coupled), solver.method, t, following - t, *state)
    return state, evaluations(solver)


def evaluations(solver: Solver) -> int:
    """Of the rates, in all steps of a fixed size."""
    return solver.n_steps * TABLEAUS[solver.method].stages
