"""What keeps the paths of a continuous flow short and straight, so that few steps integrate them (RNODE)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..options import check_not_negative
from .solver import Solution


@dataclass(frozen=True)
class Regularizers:
    """``λ_K ∫ |v|² dt + λ_J ∫ |∂v/∂x|²_F dt`` along the path of each point (Finlay et al. 2020, How to train your ODE).

    The Frobenius norm is exact with the exact trace, else estimated with the probes of the divergence:
    E |J e|² = |J|²_F.

    Args:
        kinetic: λ_K, the weight of the kinetic energy.
        frobenius: λ_J, the weight of the Jacobian's norm.
    """

    kinetic: float = 0.0
    frobenius: float = 0.0

    def __post_init__(self) -> None:
        for name in ("kinetic", "frobenius"):
            check_not_negative(name, getattr(self, name))

    @property
    def active(self) -> bool:
        return self.kinetic > 0.0 or self.frobenius > 0.0

    def penalty(self, solution: Solution, *, inverse: bool) -> Tensor:
        """``(batch,)`` of a solve with regularisers; backwards, where dt < 0, the integrals change their sign."""
        assert solution.kinetic is not None and solution.frobenius is not None
        total = self.kinetic * solution.kinetic + self.frobenius * solution.frobenius
        return -total if inverse else total
