"""MADE (Germain et al. 2015) with Gaussian and mixture-of-Gaussians conditionals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from ..nets import MaskedMLP
from ..options import check_choice, check_positive, check_whole, resolve_event_shape
from .flow import Flow
from .masked import ACTIVATIONS, MaskedAffine
from .mixture import MaskedMixture, StandardLogistic
from .transform import Transform, on_vectors


class MADE(Flow):
    """``p(x) = Π_i p(x_i | x_<i)`` with Gaussian, or mixture-of-Gaussians, conditionals of one masked network.

    Densities take one pass. Gaussian samples take the work of one pass, those of mixtures a pass for each dimension.
    Images are taken for vectors. A Gaussian MADE is one affine layer on its base: over another base than the normal the
    conditionals are that base, shifted and scaled. The latent of mixtures is logistic, and takes no base.

    Args:
        n_components: of every conditional; 1 is a Gaussian.
        hidden_features: widths of the masked network's hidden layers.
        activation: of the masked network.
        order: of the dimensions: 'natural', or 'random', drawn from the seed.
        order_seed: of the random order.
        bound: of the logarithms of the standard deviations.
        base: the base distribution by name, as RealNVP's; of a Gaussian alone.
        base_options: the options of the base.
        n_levels: of images with pixels k / (n_levels − 1), which are then dequantised; else the data are continuous.
        logit_alpha: with n_levels, pixels x pass logit(α + (1 − 2α) x) first.
    """

    def __init__(
        self,
        event_shape: Sequence[int] | None = None,
        context_dim: int = 0,
        n_components: int = 1,
        hidden_features: Sequence[int] = (128, 128),
        activation: str = "relu",
        order: str = "natural",
        order_seed: int = 0,
        bound: float = 5.0,
        base: str = "normal",
        base_options: dict[str, Any] | None = None,
        n_levels: int | None = None,
        logit_alpha: float = 0.05,
        *,
        dim: int | None = None,
    ) -> None:
        shape = resolve_event_shape(event_shape, dim, context_dim)
        check_whole("n_components", n_components, 1)
        check_choice("activation", activation, ACTIVATIONS)
        check_choice("order", order, ("natural", "random"))
        check_positive("bound", bound)
        if n_components > 1 and (base != "normal" or base_options):
            raise ValueError(
                "base and base_options are for n_components = 1, since the latent of mixtures is logistic: "
                f"got n_components = {n_components}, base = {base!r} and base_options = {base_options}"
            )
        size = math.prod(shape)
        places = list(range(size))
        if order == "random":
            generator = torch.Generator().manual_seed(order_seed)
            places = torch.randperm(size, generator=generator, device="cpu").tolist()
        outputs = 2 if n_components == 1 else 3 * n_components
        net = MaskedMLP(places, outputs, hidden_features, context_dim, activation)
        layers: list[Transform] = [
            MaskedAffine(net, activation, "inverse", scale="tanh", bound=bound)
            if n_components == 1
            else MaskedMixture(net, places, n_components, bound)
        ]
        layers = on_vectors(layers, shape)
        super().__init__(shape, context_dim, layers, base, base_options, n_levels, logit_alpha)
        if n_components > 1:
            self.base = StandardLogistic(self.event_shape)
