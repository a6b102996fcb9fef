"""Neural spline flows with couplings (Durkan et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ..nets import MLP
from ..options import check_choice, check_positive, check_whole, resolve_event_shape
from .convolution import InvertibleConvolution
from .coupling import Halves, alternating_split
from .flow import Flow
from .options import require_two
from .spline import MIN_SIZE, rational_quadratic_spline
from .transform import Transform, on_vectors


class SplineCoupling(Transform):
    """Each ``x_b`` is a monotone spline of ``z_b`` whose knots are computed from ``z_a``, which passes.

    The map from the data to the latent is the spline, and the other its inverse: training takes no square root.

    Args:
        conditioner: maps (batch, passing channels) and the context to (batch, transformed channels × (3 n_bins − 1)).
        split: as in ``Halves``.
        bound: outside [−bound, bound] the spline is the identity.
    """

    def __init__(self, conditioner: nn.Module, split: int | slice, bound: float) -> None:
        super().__init__()
        self.conditioner = conditioner
        self.halves = Halves(split)
        self.bound = bound

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._map(z, context, inverse=True)

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._map(x, context, inverse=False)

    def _map(self, x: Tensor, context: Tensor | None, *, inverse: bool) -> tuple[Tensor, Tensor]:
        passed, moved = self.halves.cut(x)
        parameters = self.conditioner(passed, context).unflatten(1, (moved.shape[1], -1))
        moved, log_slope = rational_quadratic_spline(moved, parameters, self.bound, inverse=inverse)
        return self.halves.join(passed, moved), log_slope.sum(1)


class NeuralSplineFlow(Flow):
    """Couplings by rational-quadratic splines with linear tails, and invertible linear layers between them.

    Images are taken for vectors. The flow begins at the identity.

    Args:
        n_layers: couplings.
        hidden_features: widths of the conditioners' hidden layers.
        activation: of the conditioners.
        n_bins: bins of every spline.
        bound: outside [−bound, bound] the splines are the identity.
        mixing: between the couplings: 'lu', an invertible linear layer in LU form, or 'none'.
        base: the base distribution by name, as RealNVP's.
        base_options: the options of the base.
        n_levels: of images with pixels k / (n_levels − 1), which are then dequantised; else the data are continuous.
        logit_alpha: with n_levels, pixels x pass logit(α + (1 − 2α) x) first.
    """

    def __init__(
        self,
        event_shape: Sequence[int] | None = None,
        context_dim: int = 0,
        n_layers: int = 6,
        hidden_features: Sequence[int] = (64, 64),
        activation: str = "relu",
        n_bins: int = 8,
        bound: float = 5.0,
        mixing: str = "lu",
        base: str = "normal",
        base_options: dict[str, Any] | None = None,
        n_levels: int | None = None,
        logit_alpha: float = 0.05,
        *,
        dim: int | None = None,
    ) -> None:
        shape = resolve_event_shape(event_shape, dim, context_dim)
        size = require_two("NeuralSplineFlow", shape)
        check_whole("n_layers", n_layers, 1)
        check_whole("n_bins", n_bins, 2)
        if n_bins * MIN_SIZE >= 1.0:
            raise ValueError(f"n_bins must be less than {1.0 / MIN_SIZE:.0f}: got {n_bins}")
        check_positive("bound", bound)
        check_choice("mixing", mixing, ("lu", "none"))
        layers: list[Transform] = []
        for index in range(n_layers):
            split, n_passing, n_moved = alternating_split(index, size)
            conditioner = MLP(n_passing, n_moved * (3 * n_bins - 1), hidden_features, context_dim, activation)
            layers.append(SplineCoupling(conditioner, split, bound))
            if mixing == "lu":
                layers.append(InvertibleConvolution(size, rotation=False))
        layers = on_vectors(layers, shape)
        super().__init__(shape, context_dim, layers, base, base_options, n_levels, logit_alpha)
