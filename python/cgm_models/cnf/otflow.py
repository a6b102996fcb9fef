"""OT-Flow (Onken, Wu Fung, Li and Ruthotto 2021): a continuous flow along the gradient of a potential."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from cgm_kernels.divergence.tableaus import TABLEAUS

from ..flows.preprocess import dequantize
from ..flows.transform import on_vectors
from ..options import check_positive, check_whole, resolve_event_shape
from .continuous import ContinuousFlow, ContinuousTransform
from .field_potential import Potential, PotentialField
from .solver import Solver


class Costs(NamedTuple):
    """The parts of OT-Flow's loss, each the mean over a batch."""

    transport: Tensor
    """C_L = ∫ ½ |v|² dt along the path."""
    likelihood: Tensor
    """C_C = −log p(x)."""
    penalty: Tensor
    """C_R = ∫ |∂_τΦ − ½ |∇_xΦ|² / α_L| dt, zero where the Hamilton–Jacobi–Bellman equation holds."""


class PotentialTransform(ContinuousTransform):
    """The map of a ``PotentialField``, which also gives the costs along the way to the latent."""

    field: PotentialField

    def with_costs(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """``(z, log|det ∂z/∂x|, ∫ ½ |v|² dt, ∫ |HJB| dt)`` of data points, each but z of shape (batch,)."""
        if self.solver.method != "rk4":
            raise ValueError(f"the costs are integrated by solver 'rk4': got {self.solver.method!r}")
        found = self.field.carried(x, context, self.solver, 1.0, 0.0)
        self._solved(self.solver.n_steps * TABLEAUS["rk4"].stages)
        return found  # type: ignore[return-value]


class OTFlow(ContinuousFlow):
    """``dx/dt = ∇_xΦ(x, 1 − t) / α_L`` from the latent (t = 0) to the data (t = 1), Φ a network of exact Laplacian.

    The paper writes the way from the data to the latent, in the time τ = 1 − t: dx/dτ = −∇_xΦ(x, τ) / α_L. That way is
    this flow's ``inverse``, which ``loss`` and ``log_prob`` integrate; ``forward`` and ``sample`` integrate back. Both
    take classical Runge–Kutta steps of one size: forward undoes inverse up to the error of the steps.

    The loss is ``α_L C_L + α_C C_C + α_R C_R`` (``costs`` gives the parts): the cost of transport, the negative
    log-likelihood, and the penalty of the Hamilton–Jacobi–Bellman equation, all three integrated with the same steps.
    Out of training (``eval()``) the steps are ``n_steps_evaluation``, and ``loss`` is the negative log-likelihood.
    Few steps can make that look better than it is: ``converged_log_prob`` halves them until it no longer moves.

    Args:
        width: m, units of a layer of the potential's network.
        n_layers: M, its layers, at least 2 in the paper.
        rank: of the potential's quadratic term; min(10, dimension) by default.
        frequency: how large the opening layer begins; larger for data that are fine beside their extent.
        alpha: (α_L, α_C, α_R).
        n_steps: of classical Runge–Kutta between the data and the latent, in training.
        n_steps_evaluation: out of training; twice as many by default.
        gradient: 'discrete' through the steps made, or 'checkpoint', the same numbers, of which only the points at the
            beginning of each step are kept and the step is made again in the backward.
        base: the base distribution by name, as RealNVP's.
        base_options: the options of the base.
        n_levels: of images with pixels k / (n_levels − 1), which are then dequantised; else the data are continuous.
        logit_alpha: with n_levels, pixels x pass logit(α + (1 − 2α) x) first.
    """

    def __init__(
        self,
        event_shape: Sequence[int] | None = None,
        context_dim: int = 0,
        width: int = 32,
        n_layers: int = 2,
        rank: int | None = None,
        frequency: float = 4.0,
        alpha: Sequence[float] = (1.0, 100.0, 5.0),
        n_steps: int = 8,
        n_steps_evaluation: int | None = None,
        gradient: str = "discrete",
        base: str = "normal",
        base_options: dict[str, Any] | None = None,
        n_levels: int | None = None,
        logit_alpha: float = 0.05,
        *,
        dim: int | None = None,
    ) -> None:
        shape = resolve_event_shape(event_shape, dim, context_dim)
        size = math.prod(shape)
        check_whole("n_steps", n_steps, 1)
        n_steps_evaluation = 2 * n_steps if n_steps_evaluation is None else n_steps_evaluation
        check_whole("n_steps_evaluation", n_steps_evaluation, 1)
        if gradient not in ("discrete", "checkpoint"):
            raise ValueError(f"gradient must be 'discrete' or 'checkpoint': got {gradient!r}")
        weights = _check_alpha(alpha)
        field = PotentialField(Potential(size, width, n_layers, rank, context_dim, frequency), weights[0])
        training, evaluation = (Solver("rk4", n, gradient=gradient) for n in (n_steps, n_steps_evaluation))
        transform = PotentialTransform(field, training, exact_up_to=size, evaluation_solver=evaluation)
        super().__init__(shape, context_dim, on_vectors([transform], shape), base, base_options, n_levels, logit_alpha)
        self.alpha = weights

    @property
    def potential_transform(self) -> PotentialTransform:
        return next(layer for layer in self.transform.layers if isinstance(layer, PotentialTransform))

    def loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """α_L C_L + α_C C_C + α_R C_R over ``x`` of shape (batch, *event); C_C out of training."""
        if not self.training:
            return super().loss(x, context)
        loss = sum(weight * cost for weight, cost in zip(self.alpha, self.costs(x, context), strict=True))
        return self._finite("loss", loss, x, context, inverse=True)  # type: ignore[arg-type]

    def costs(self, x: Tensor, context: Tensor | None = None) -> Costs:
        """C_L, C_C and C_R, means over ``x``, whose pixels are dequantised where it has levels."""
        if self.n_levels is not None:
            x = dequantize(x, self.n_levels)
        self._check_points("x", x)
        conditions = self.expand_context(context, len(x))
        log_det = x.new_zeros(len(x))
        for layer in reversed(self.transform.layers):  # type: ignore[call-overload]
            if isinstance(layer, PotentialTransform):
                x, change, transport, penalty = layer.with_costs(x, conditions)
                log_det = log_det + change
            else:
                x, log_det = layer.accumulate(x, conditions, log_det, inverse=True)
        log_prob = self.base.log_prob(x, conditions) + log_det
        return Costs(transport.mean(), -log_prob.mean(), penalty.mean())


def _check_alpha(alpha: Sequence[float]) -> tuple[float, float, float]:
    if isinstance(alpha, str) or not isinstance(alpha, Sequence) or len(alpha) != 3:
        raise ValueError(f"alpha must be three numbers, (α_L, α_C, α_R): got {alpha!r}")
    check_positive("alpha[0]", alpha[0])
    check_positive("alpha[1]", alpha[1])
    if alpha[2] != 0:
        check_positive("alpha[2]", alpha[2])
    return float(alpha[0]), float(alpha[1]), float(alpha[2])
