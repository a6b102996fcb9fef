"""Which solver integrates a flow, how finely, and how its gradient is taken."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import Tensor

from ..options import check_choice, check_positive, check_whole

FIXED = ("euler", "midpoint", "rk4", "rk4_38")
ADAPTIVE = ("dopri5",)
METHODS = FIXED + ADAPTIVE
GRADIENTS = ("discrete", "checkpoint", "adjoint")
_ORDER = 5  # of dopri5: an error of h⁵ a step


@dataclass(frozen=True)
class Solver:
    """How ``dx/dt = v(t, x)`` is integrated.

    ``method``: explicit Runge–Kutta methods of fixed steps, 'euler', 'midpoint', 'rk4' (the classical one) and 'rk4_38'
    (Kutta's 3/8 rule, which is what torchdiffeq calls "rk4"), or 'dopri5' (Dormand and Prince 1980), whose steps follow
    the error: all rows of a batch take the steps of the row that needs the shortest.

    ``gradient``: 'discrete' differentiates the steps that were made. 'checkpoint' gives the same numbers, but keeps the
    state of each step at most, and makes the steps again in the backward. 'adjoint' integrates the adjoint equation
    back in time (Chen et al. 2018): it keeps nothing of the way, and its gradient is that of the exact solution up to
    the error of the solver, not that of the numbers computed. It reaches the points, the context and the parameters of
    the field, no other tensor that the field reads; where one requires a gradient at the first solve of a field, a
    warning says so.

    Args:
        method: as above.
        n_steps: of a fixed-step method, between the latent and the data.
        rtol: relative error of a step of an adaptive method; at least four roundings of the numbers it is computed in.
        atol: absolute error of a step.
        gradient: as above.
    """

    method: str = "rk4"
    n_steps: int = 16
    rtol: float = 1e-5
    atol: float = 1e-5
    gradient: str = "discrete"

    def __post_init__(self) -> None:
        check_choice("solver", self.method, METHODS)
        object.__setattr__(self, "n_steps", check_whole("n_steps", self.n_steps, 1))
        check_positive("rtol", self.rtol)
        check_positive("atol", self.atol)
        check_choice("gradient", self.gradient, GRADIENTS)
        if self.gradient == "checkpoint" and self.adaptive:
            raise ValueError(
                f"gradient='checkpoint' needs a solver of fixed steps, one of {', '.join(map(repr, FIXED))}: "
                f"got solver={self.method!r}; gradient='adjoint' is what saves memory there"
            )

    @property
    def adaptive(self) -> bool:
        return self.method in ADAPTIVE

    def refined(self, halvings: int) -> Solver:
        """The same solver with its step halved so often; of an adaptive one, with 2⁵ times smaller tolerances."""
        if self.adaptive:
            factor = 2.0 ** (-_ORDER * halvings)
            return replace(self, rtol=self.rtol * factor, atol=self.atol * factor)
        return replace(self, n_steps=self.n_steps * 2**halvings)

    def shortened(self, share: float) -> Solver:
        """For this share of the way, with at least as many steps there."""
        return replace(self, n_steps=max(1, math.ceil(self.n_steps * share - 1e-9)))

    def times(self, start: float, end: float) -> list[float]:
        """The ``n_steps + 1`` times between which a fixed-step method steps, increasing or decreasing."""
        n = self.n_steps
        return [start + (end - start) * (index / n) for index in range(n)] + [end]


class Solution(NamedTuple):
    """Where the points went, and what was integrated beside them over signed time, each (batch,)."""

    x: Tensor
    divergence: Tensor | None
    """∫ div v dt, the log-determinant of the map that was integrated; None where it was not asked for."""
    kinetic: Tensor | None
    """∫ |v|² dt; None without regularisers."""
    frobenius: Tensor | None
    """∫ mean_p |J e_p|² dt, ∫ |J|²_F dt with the exact trace; None without regularisers."""
    n_evaluations: int
    """Of the vector field, for the whole batch at once."""
