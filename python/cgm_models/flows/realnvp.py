"""RealNVP (Dinh, Sohl-Dickstein and Bengio 2017), for vectors and, at several scales, for images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from ..nets import MLP, ConvResNet
from ..options import check_choice, check_positive, check_whole, resolve_event_shape
from .actnorm import ActNorm
from .coupling import AffineCoupling, alternating_split
from .flow import Flow
from .multiscale import MultiScale, ShiftPixels, Squeeze, check_scales
from .options import require_two
from .scales import SCALES, begin
from .transform import Composition, Transform, on_vectors


class RealNVP(Flow):
    """Affine couplings ``x_b = z_b · σ(s(z_a)) + t(z_a)`` that transform the two halves of the event in turn.

    Images (channels, height, width) pass ``n_scales`` scales: the 2×2 blocks of pixels become channels, half of the
    couplings then see a checkerboard of pixels and half of them a split by columns, and half of the channels leave for
    the latent. ``n_scales=0`` takes an image for a vector. The couplings begin at the identity; with
    ``scale="sigmoid"``, which does not reach 1, at x_b = 0.88 z_b.

    Args:
        n_layers: couplings; of images, couplings at every scale.
        hidden_features: widths of the conditioner's hidden layers; of images, the first is its number of channels, and
            there is one residual block a width.
        activation: of the conditioner.
        scale: σ: 'tanh' and 'softclip' keep |log σ| below the bound, 'exp', 'sigmoid' and 'softplus' do not.
        bound: of log σ, where the scale has one.
        actnorm: put an invertible scaling before every coupling, set by the first batch to zero mean and unit variance.
        n_scales: of images; as many as fit, at most 3, where it is not given.
        base: the base distribution: 'normal', 'learnable_normal', 'uniform', 'logistic', 'laplace', 'student_t',
            'gaussian_mixture', or one registered by cgm_models.flows.register_base.
        base_options: the options of the base, as {"n_components": 10}.
        n_levels: of images with pixels k / (n_levels − 1), which are then dequantised; else the data are continuous.
        logit_alpha: with n_levels, pixels x pass logit(α + (1 − 2α) x) first.
    """

    def __init__(
        self,
        event_shape: Sequence[int] | None = None,
        context_dim: int = 0,
        n_layers: int = 8,
        hidden_features: Sequence[int] = (64, 64),
        activation: str = "relu",
        scale: str = "tanh",
        bound: float = 2.0,
        actnorm: bool = False,
        n_scales: int | None = None,
        base: str = "normal",
        base_options: dict[str, Any] | None = None,
        n_levels: int | None = None,
        logit_alpha: float = 0.05,
        *,
        dim: int | None = None,
    ) -> None:
        shape = resolve_event_shape(event_shape, dim, context_dim)
        size = require_two("RealNVP", shape)
        check_whole("n_layers", n_layers, 1)
        check_choice("scale", scale, SCALES)
        check_positive("bound", bound)
        image = len(shape) == 3 and n_scales != 0
        if image and not hidden_features:
            raise ValueError("hidden_features must name at least one width for images: got none")

        def coupling(index: int, channels: int) -> list[Transform]:
            split, n_passing, n_moved = alternating_split(index, channels)
            widths: dict[str, Any] = {"context_dim": context_dim, "activation": activation}
            conditioner = _conditioner(n_passing, n_moved, hidden_features, image, scale, **widths)
            norm = [ActNorm(channels)] if actnorm else []
            return [AffineCoupling(conditioner, split, scale=scale, bound=bound), *norm]

        layers: list[Transform] = []
        if image:
            n_scales = check_scales(shape, n_scales)
            scales, channels = [], shape[0]
            for _ in range(n_scales):
                channels *= 4
                checkerboard = [layer for i in range(n_layers - n_layers // 2) for layer in coupling(i, channels)]
                columns = [layer for i in range(n_layers // 2) for layer in coupling(i, channels)]
                scales.append(Composition([*columns, ShiftPixels(), *checkerboard, Squeeze()]))
                channels //= 2
            layers = [MultiScale(shape, scales)]
        else:
            layers = [layer for i in range(n_layers) for layer in coupling(i, size)]
            layers = on_vectors(layers, shape)
        super().__init__(shape, context_dim, layers, base, base_options, n_levels, logit_alpha)


def _conditioner(
    n_passing: int, n_moved: int, hidden_features: Sequence[int], image: bool, scale: str, **options: Any
) -> nn.Module:
    if image:
        residual = ConvResNet(n_passing, 2 * n_moved, hidden_features[0], len(hidden_features), **options)
        begin(residual.output, scale)
        return residual
    perceptron = MLP(n_passing, 2 * n_moved, hidden_features, **options)
    begin(perceptron.layers[-1] if perceptron.layers else perceptron.input, scale)
    return perceptron
