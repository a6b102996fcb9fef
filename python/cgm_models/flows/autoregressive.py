"""Masked and inverse autoregressive flows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..options import check_choice, check_positive, resolve_event_shape
from .flow import Flow
from .masked import masked_layers
from .scales import SCALES


class MAF(Flow):
    """``x_i = z_i · σ(s_i(x_<i)) + t_i(x_<i)``: densities in one pass (Papamakarios et al. 2017).

    A sample takes the dimensions one after the other, in the work of one pass. Images are taken for vectors. The flow
    begins at the identity; with ``scale="sigmoid"``, which does not reach 1, every layer at x = 0.88 z.

    Args:
        n_layers: autoregressive layers.
        hidden_features: widths of the masked networks' hidden layers.
        activation: of the masked networks.
        order: of the dimensions: 'reversed' turns it round after each layer, 'random' draws one for each layer.
        order_seed: of the random orders.
        scale: σ: 'tanh' and 'softclip' keep |log σ| below the bound, 'exp', 'sigmoid' and 'softplus' do not.
        bound: of log σ, where the scale has one.
        base: the base distribution by name, as RealNVP's.
        base_options: the options of the base.
        n_levels: of images with pixels k / (n_levels − 1), which are then dequantised; else the data are continuous.
        logit_alpha: with n_levels, pixels x pass logit(α + (1 − 2α) x) first.
    """

    def __init__(
        self,
        event_shape: Sequence[int] | None = None,
        context_dim: int = 0,
        n_layers: int = 5,
        hidden_features: Sequence[int] = (64, 64),
        activation: str = "relu",
        order: str = "reversed",
        order_seed: int = 0,
        scale: str = "tanh",
        bound: float = 2.0,
        base: str = "normal",
        base_options: dict[str, Any] | None = None,
        n_levels: int | None = None,
        logit_alpha: float = 0.05,
        *,
        dim: int | None = None,
    ) -> None:
        shape = resolve_event_shape(event_shape, dim, context_dim)
        check_choice("scale", scale, SCALES)
        check_positive("bound", bound)
        layers = masked_layers(
            shape, context_dim, n_layers, hidden_features, activation, "inverse", order, order_seed, scale, bound
        )
        super().__init__(shape, context_dim, layers, base, base_options, n_levels, logit_alpha)


class IAF(Flow):
    """``x = σ ⊙ z + (1 − σ) ⊙ t`` with gates σ_i(z_<i) and t_i(z_<i): samples in one pass (Kingma et al. 2016).

    The density of a given point takes the dimensions one after the other, in the work of one pass. Images are taken for
    vectors. Every gate begins at 0.88, near 1, where the layer is the identity. A gate only contracts: that suits a
    posterior trained on its own samples. Nothing bounds its log σ from below: where the inverse overflows,
    FloatingPointError names the layer. A density trained by maximum likelihood wants a bounded scale that goes both
    ways, ``scale="tanh"``. With it and MAF's other scales the layer is ``x = σ ⊙ z + t`` and begins at the identity;
    with ``scale="sigmoid"``, which does not reach 1, at x = 0.88 z.

    Args:
        n_layers: autoregressive layers.
        hidden_features: widths of the masked networks' hidden layers.
        activation: of the masked networks.
        order: of the dimensions: 'reversed' turns it round after each layer, 'random' draws one for each layer.
        order_seed: of the random orders.
        scale: σ: 'gate', or one of MAF's.
        bound: of log σ, where the scale has one.
        base: the base distribution by name, as RealNVP's.
        base_options: the options of the base.
        n_levels: of images with pixels k / (n_levels − 1), which are then dequantised; else the data are continuous.
        logit_alpha: with n_levels, pixels x pass logit(α + (1 − 2α) x) first.
    """

    def __init__(
        self,
        event_shape: Sequence[int] | None = None,
        context_dim: int = 0,
        n_layers: int = 5,
        hidden_features: Sequence[int] = (64, 64),
        activation: str = "elu",
        order: str = "reversed",
        order_seed: int = 0,
        scale: str = "gate",
        bound: float = 2.0,
        base: str = "normal",
        base_options: dict[str, Any] | None = None,
        n_levels: int | None = None,
        logit_alpha: float = 0.05,
        *,
        dim: int | None = None,
    ) -> None:
        shape = resolve_event_shape(event_shape, dim, context_dim)
        check_choice("scale", scale, ("gate", *SCALES))
        check_positive("bound", bound)
        layers = masked_layers(
            shape, context_dim, n_layers, hidden_features, activation, "forward", order, order_seed, scale, bound
        )
        super().__init__(shape, context_dim, layers, base, base_options, n_levels, logit_alpha)
