"""FFJORD (Grathwohl et al. 2019): a free-form vector field integrated in time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..flows.actnorm import ActNorm
from ..flows.preprocess import dequantize
from ..flows.transform import Transform, on_vectors
from ..options import check_whole, resolve_event_shape
from .continuous import ContinuousFlow, ContinuousTransform
from .field_perceptron import PerceptronField
from .regularization import Regularizers
from .solver import Solver


class FFJORD(ContinuousFlow):
    """``x(1) = z + ∫_0^1 v_θ(t, x(t), context) dt``, ``log p(x) = log p_base(z) − ∫_0^1 div v_θ dt``.

    v is a perceptron. In the ``loss`` of training the divergence is Hutchinson's estimate, with probes drawn once for a
    whole solve. Everywhere else, ``log_prob`` in training too, it is the exact trace up to ``exact_up_to`` dimensions,
    and beyond the estimate, whose values differ from call to call; out of training ``loss`` is −log p without the
    regularisers. How fine the steps have to be for a likelihood to be trusted, and whether the probes are enough, is
    what ``converged_log_prob`` finds out.

    Args:
        hidden_features: widths of the hidden layers of v.
        activation: of v: 'tanh', 'softplus', 'silu', 'gelu', 'sin', 'elu', 'relu' or 'leaky_relu'.
        time: how the time enters v: 'film' scales and shifts every layer by it (the "concatsquash" of the paper),
            'concat' puts it beside x, 'none' leaves it out.
        conditioning: how the context enters v, 'concat' or 'film'.
        n_frequencies: sines and cosines of so many multiples of 2πt enter beside t.
        residual: add each hidden layer's input to its output where their widths agree.
        frequency: how large the first layer of v begins; larger for data that are fine beside their extent.
        n_blocks: flows of this kind, each with a v of its own, one after the other.
        solver: 'euler', 'midpoint', 'rk4', 'rk4_38' (torchdiffeq's "rk4") of fixed steps, or the adaptive 'dopri5'.
        n_steps: of a solver of fixed steps.
        rtol: relative error of a step of dopri5.
        atol: absolute error of a step of dopri5.
        gradient: 'discrete' through the steps made; 'checkpoint' the same, made again in the backward, so that no step
            keeps anything of the points (but with a context by 'film' where they are at its beginning); or 'adjoint' by
            the adjoint equation, which keeps nothing of the way.
        exact: take the exact trace in the loss of training too.
        exact_up_to: the largest dimension for which the trace is exact outside of that loss.
        n_probes: of Hutchinson's estimate.
        noise: of the probes, 'rademacher' or 'gaussian'.
        kinetic: weight of ∫|v|² dt in the training loss (RNODE).
        frobenius: weight of ∫|∂v/∂x|² dt in the training loss (RNODE).
        actnorm: scale and shift the data first, set by the first batch to zero mean and unit variance.
        base: the base distribution by name, as RealNVP's.
        base_options: the options of the base.
        n_levels: of images with pixels k / (n_levels − 1), which are then dequantised; else the data are continuous.
        logit_alpha: with n_levels, pixels x pass logit(α + (1 − 2α) x) first.
    """

    def __init__(
        self,
        event_shape: Sequence[int] | None = None,
        context_dim: int = 0,
        hidden_features: Sequence[int] = (64, 64, 64),
        activation: str = "tanh",
        time: str = "film",
        conditioning: str = "concat",
        n_frequencies: int = 0,
        residual: bool = False,
        frequency: float = 1.0,
        n_blocks: int = 1,
        solver: str = "rk4",
        n_steps: int = 16,
        rtol: float = 1e-5,
        atol: float = 1e-5,
        gradient: str = "discrete",
        exact: bool = False,
        exact_up_to: int = 64,
        n_probes: int = 1,
        noise: str = "rademacher",
        kinetic: float = 0.0,
        frobenius: float = 0.0,
        actnorm: bool = False,
        base: str = "normal",
        base_options: dict[str, Any] | None = None,
        n_levels: int | None = None,
        logit_alpha: float = 0.05,
        *,
        dim: int | None = None,
    ) -> None:
        shape = resolve_event_shape(event_shape, dim, context_dim)
        size = math.prod(shape)
        check_whole("n_blocks", n_blocks, 1)
        chosen = Solver(solver, n_steps, rtol, atol, gradient)
        regularizers = Regularizers(kinetic, frobenius)

        def block() -> ContinuousTransform:
            field = PerceptronField(
                size, hidden_features, context_dim, activation, time, conditioning, n_frequencies, residual, frequency
            )
            return ContinuousTransform(field, chosen, exact_up_to, n_probes, noise)

        layers: list[Transform] = [*(block() for _ in range(n_blocks)), *([ActNorm(size)] if actnorm else [])]
        super().__init__(shape, context_dim, on_vectors(layers, shape), base, base_options, n_levels, logit_alpha)
        self.exact, self.regularizers = exact, regularizers

    def loss(self, x: Tensor, context: Tensor | None = None, *, state: Tensor | None = None) -> Tensor:
        """The mean of −log p(x | context) in nats, in training estimated, and with the regularisers.

        ``state`` is the noise state, on the device of ``x``, that the probes of training are drawn from in place of
        torch's CPU generator (``cgm_kernels.langevin.noise_state``). A training step that a CUDA graph captures needs
        one: each replay advances it and draws fresh probes. (Pixels with levels cannot be captured: to dequantise them
        looks at their range.)
        """
        if not self.training:
            return super().loss(x, context)
        if self.n_levels is not None:
            x = dequantize(x, self.n_levels)
        self._check_points("x", x)
        conditions = self.expand_context(context, len(x))
        z, log_det, penalty = x, None, x.new_zeros(len(x))
        for layer in reversed(self.transform.layers):  # type: ignore[call-overload]
            if not isinstance(layer, ContinuousTransform):
                z, log_det = layer.accumulate(z, conditions, log_det, inverse=True)
                continue
            exact, regularize = self.exact, self.regularizers.active
            solution = layer.solve(z, conditions, inverse=True, exact=exact, regularizers=regularize, state=state)
            assert solution.divergence is not None
            z, log_det = solution.x, solution.divergence if log_det is None else log_det + solution.divergence
            if regularize:
                penalty = penalty + self.regularizers.penalty(solution, inverse=True)
        assert log_det is not None
        loss = (penalty - self.base.log_prob(z, conditions) - log_det).mean()
        return self._finite("loss", loss, x, context, inverse=True)
