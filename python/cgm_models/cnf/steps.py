"""One step of an explicit Runge–Kutta method, for every vector field."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from cgm_kernels import runge_kutta_update
from cgm_kernels.divergence.tableaus import TABLEAUS, Tableau

Rates = Callable[..., Sequence[Tensor]]
"""``rates(t, *coupled)``: the time derivatives of the coupled tensors, then those of what is integrated beside them."""


def advance(rates: Rates, n_coupled: int, method: str, t: float, step: float, *state: Tensor) -> list[Tensor]:
    """``y + h Σ_i b_i k_i``: an explicit Runge–Kutta step."""
    tableau = TABLEAUS[method]
    slopes, _ = stages(rates, tableau, t, step, state[:n_coupled])
    return [updated(y, slopes, i, tableau.weights, step) for i, y in enumerate(state)]


def stages(
    rates: Rates, tableau: Tableau, t: float, step: float, coupled: Sequence[Tensor],
    first: Sequence[Tensor] | None = None,
) -> tuple[list[Sequence[Tensor]], Sequence[Tensor]]:  # fmt: skip
    """``k_i = rates(t + c_i h, y + h Σ_j a_ij k_j)`` for all i, and the tensors of which the last one is taken.

    ``first``: k_0, where it is known.
    """
    slopes: list[Sequence[Tensor]] = [] if first is None else [first]
    at = list(coupled)
    for node, row in list(zip(tableau.nodes, tableau.matrix, strict=True))[len(slopes) :]:
        if row:
            at = [updated(y, slopes, i, row, step) for i, y in enumerate(coupled)]
        slopes.append(rates(t + node * step, *at))
    return slopes, at


def updated(
    y: Tensor, slopes: Sequence[Sequence[Tensor]], index: int, coefficients: Sequence[float], step: float
) -> Tensor:
    """y + h Σ_i c_i k_i of part ``index`` of the state; stages whose coefficient is zero need not be read."""
    used = [(slope[index], c) for slope, c in zip(slopes, coefficients, strict=False) if c != 0.0]
    return runge_kutta_update(y, [slope for slope, _ in used], [c for _, c in used], step)
