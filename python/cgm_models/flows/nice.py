"""NICE (Dinh, Krueger and Bengio 2015)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..nets import MLP
from ..options import check_whole, resolve_event_shape
from .coupling import AdditiveCoupling, alternating_split
from .flow import Flow
from .options import require_two
from .scaling import DiagonalScaling
from .transform import Transform, on_vectors


class NICE(Flow):
    """Additive couplings, which keep volumes, under one diagonal scaling ``x = z · e^s``.

    Images are taken for vectors. The flow begins at the identity. Nothing bounds s: where the scaling overflows,
    FloatingPointError names its layer.

    Args:
        n_layers: couplings.
        hidden_features: widths of the conditioners' hidden layers.
        activation: of the conditioners.
        base: the base distribution by name, as RealNVP's; the paper takes 'logistic'.
        base_options: the options of the base.
        n_levels: of images with pixels k / (n_levels − 1), which are then dequantised; else the data are continuous.
        logit_alpha: with n_levels, pixels x pass logit(α + (1 − 2α) x) first.
    """

    def __init__(
        self,
        event_shape: Sequence[int] | None = None,
        context_dim: int = 0,
        n_layers: int = 6,
        hidden_features: Sequence[int] = (128, 128),
        activation: str = "relu",
        base: str = "normal",
        base_options: dict[str, Any] | None = None,
        n_levels: int | None = None,
        logit_alpha: float = 0.05,
        *,
        dim: int | None = None,
    ) -> None:
        shape = resolve_event_shape(event_shape, dim, context_dim)
        size = require_two("NICE", shape)
        check_whole("n_layers", n_layers, 1)
        layers: list[Transform] = [DiagonalScaling(size)]
        for index in range(n_layers):
            split, n_passing, n_moved = alternating_split(index, size)
            conditioner = MLP(n_passing, n_moved, hidden_features, context_dim, activation)
            layers.append(AdditiveCoupling(conditioner, split))
        layers = on_vectors(layers, shape)
        super().__init__(shape, context_dim, layers, base, base_options, n_levels, logit_alpha)
