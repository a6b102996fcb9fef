"""Glow (Kingma and Dhariwal 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..nets import ConvResNet
from ..options import check_choice, check_positive, check_whole
from .actnorm import ActNorm
from .convolution import InvertibleConvolution
from .coupling import AffineCoupling
from .flow import Flow
from .multiscale import MultiScale, Squeeze, check_scales
from .options import require_image
from .scales import SCALES, begin
from .transform import Composition, Transform


class Glow(Flow):
    """Steps of actnorm, an invertible 1×1 convolution and an affine coupling of the channels, at several scales.

    At every scale the 2×2 blocks of pixels become channels, ``n_steps`` steps follow, and half of the channels leave
    for the latent; what leaves is normalised given what stays, by one more coupling (the learned prior of the paper).
    ``sample(n, temperature=0.7)`` draws sharper images, ``interpolate(x, y, n_steps)`` walks between two.

    Args:
        n_steps: steps at every scale.
        n_scales: as many as fit, at most 3, where it is not given.
        hidden_channels: of the conditioners.
        n_blocks: residual blocks of the conditioners.
        activation: of the conditioners.
        convolution: 'lu' or 'plain': how the matrix of the 1×1 convolution is parametrised.
        scale: σ of the couplings, as RealNVP's.
        bound: of log σ, where the scale has one.
        base: the base distribution by name, as RealNVP's.
        base_options: the options of the base.
        n_levels: of images with pixels k / (n_levels − 1), which are then dequantised; else the data are continuous.
        logit_alpha: with n_levels, pixels x pass logit(α + (1 − 2α) x) first.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        context_dim: int = 0,
        n_steps: int = 8,
        n_scales: int | None = None,
        hidden_channels: int = 64,
        n_blocks: int = 1,
        activation: str = "relu",
        convolution: str = "lu",
        scale: str = "tanh",
        bound: float = 2.0,
        base: str = "normal",
        base_options: dict[str, Any] | None = None,
        n_levels: int | None = None,
        logit_alpha: float = 0.05,
    ) -> None:
        shape = require_image("Glow", event_shape, context_dim)
        check_whole("n_steps", n_steps, 1)
        check_whole("n_blocks", n_blocks, 0)
        check_choice("scale", scale, SCALES)
        check_positive("bound", bound)
        n_scales = check_scales(shape, n_scales)

        def coupling(channels: int) -> AffineCoupling:
            half = channels // 2
            conditioner = ConvResNet(
                half, 2 * (channels - half), hidden_channels, n_blocks, context_dim=context_dim, activation=activation
            )
            begin(conditioner.output, scale)
            return AffineCoupling(conditioner, half, scale=scale, bound=bound)

        scales, channels = [], shape[0]
        for index in range(n_scales):
            channels *= 4
            prior: list[Transform] = [coupling(channels)] if index < n_scales - 1 else []
            steps = [
                layer
                for _ in range(n_steps)
                for layer in (coupling(channels), InvertibleConvolution(channels, convolution), ActNorm(channels))
            ]
            scales.append(Composition([*prior, *steps, Squeeze()]))
            channels //= 2
        super().__init__(shape, context_dim, [MultiScale(shape, scales)], base, base_options, n_levels, logit_alpha)
