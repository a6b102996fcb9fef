"""The explicit Runge–Kutta methods of fixed steps; ``csrc/divergence/tableaus.h`` holds the same numbers.

A step of size h from (t, y) computes k_s = v(t + c_s h, y + h Σ_{r<s} a_sr k_r) and ends at y + h Σ_s b_s k_s. Source:
Hairer, Nørsett and Wanner 1993, "Solving ordinary differential equations I", II.1. ``"rk4_38"``, Kutta's 3/8 rule, is
what torchdiffeq calls rk4.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["METHODS", "TABLEAUS", "Tableau"]


class Tableau(NamedTuple):
    """One method: ``matrix`` has a row a_s of s numbers for stage s, s = 0, …, S − 1."""

    nodes: tuple[float, ...]
    matrix: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]
    order: int

    @property
    def stages(self) -> int:
        return len(self.weights)


TABLEAUS = {
    "euler": Tableau((0.0,), ((),), (1.0,), 1),
    "midpoint": Tableau((0.0, 1 / 2), ((), (1 / 2,)), (0.0, 1.0), 2),
    "rk4": Tableau(
        (0.0, 1 / 2, 1 / 2, 1.0),
        ((), (1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)),
        (1 / 6, 1 / 3, 1 / 3, 1 / 6),
        4,
    ),
    "rk4_38": Tableau(
        (0.0, 1 / 3, 2 / 3, 1.0),
        ((), (1 / 3,), (-1 / 3, 1.0), (1.0, -1.0, 1.0)),
        (1 / 8, 3 / 8, 3 / 8, 1 / 8),
        4,
    ),
}
METHODS = tuple(TABLEAUS)  # an operator's `method` counts in it
