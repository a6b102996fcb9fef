"""The flows of zuko, normflows and nflows, of one size: as many layers, widths and parameters as ours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

LAYERS = {"RealNVP": 8, "MAF": 3}  # the families of the headlines
DEPTHS = {
    **LAYERS, "NICE": 8, "NeuralSplineFlow": 4, "IAF": 3, "MADE": 1, "PlanarFlow": 16, "RadialFlow": 16,
}  # fmt: skip
SPLINE_BINS, SPLINE_BOUND = 8, 5.0
HIDDEN = 64  # the width of both hidden layers
TOLERANCES = {"rtol": 1e-5, "atol": 1e-6}  # zuko's own

CONTINUOUS: dict[str, dict[str, Any]] = {
    "CNF": {}, "CNF_estimate": {"exact": False},
    **{
        f"FFJORD_dopri5{rest}": {
            "hidden_features": (HIDDEN,) * 3, "activation": nn.Tanh, "freqs": 2, "exact": not rest, **TOLERANCES
        }
        for rest in ("", "_estimate")
    },
}  # fmt: skip
"""Of zuko: its own default, the same by Hutchinson's estimate, and as ours, by the exact trace and by the estimate."""

_MASKED = ("MAF", "IAF", "MADE")  # a MADE with Gaussian conditionals is a MAF of one layer
_SIMPLE = ("PlanarFlow", "RadialFlow")
_FFJORDS = ("FFJORD", "FFJORD_exact", "FFJORD_dopri5", "FFJORD_dopri5_estimate")
ABSENT = {
    **{(library, kind): f"it has no {kind}" for library in ("zuko", "nflows") for kind in (*_SIMPLE, "Glow")},
    **{(one, kind): "it has no continuous flow" for one in ("normflows", "nflows") for kind in _FFJORDS},
    ("normflows", "Glow"): "its blocks have other networks, and its levels no prior that is learned",
    **{("zuko", kind): "its steps are adaptive: it stands beside dopri5" for kind in ("FFJORD", "FFJORD_exact")},
    ("nflows", "NICE"): "it has no scaling alone to learn",
}
"""Why a library is left out of a family, by both."""
NO_DENSITY = {("normflows", kind): "it has no inverse of these layers" for kind in _SIMPLE}
"""Why its densities alone are."""


@dataclass(frozen=True)
class FlowModel:
    """A flow of any library; its calls look the methods up, which accelerating the flow changes."""

    module: nn.Module
    log_prob: Callable[[Tensor], Tensor]
    sample: Callable[[int], Any]

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [one for one in self.module.parameters() if one.requires_grad]

    @property
    def size(self) -> int:
        return sum(one.numel() for one in self.parameters)


def zuko(kind: str, dim: int) -> FlowModel:
    import zuko.flows as library

    widths = {"hidden_features": (HIDDEN, HIDDEN)}
    if kind in CONTINUOUS:
        flow = library.CNF(dim, **CONTINUOUS[kind])
    elif kind in _MASKED:
        flow = library.MAF(dim, transforms=DEPTHS[kind], **widths)
        if kind == "IAF":
            flow = library.Flow([layer.inv for layer in flow.transform.transforms], flow.base)
    elif kind == "RealNVP":
        flow = library.RealNVP(dim, transforms=DEPTHS[kind], **widths)
    else:
        flow = _zuko_couplings(kind, dim, widths)
    return FlowModel(flow, lambda x: flow().log_prob(x), lambda n: flow().sample((n,)))


@torch.no_grad()
def share_field(theirs: nn.Module, ours: nn.Module) -> None:
    """Gives zuko's CNF the field of our FFJORD, which goes the other way in time.

    What it has of both is sin 2πt and cos 2πt, so that the columns of cos πt, sin πt and, in ours, t must be zero.
    """
    field: Any = ours.transform.layers[0].field  # type: ignore[union-attr, index]
    network: Any = theirs.transform.ode  # type: ignore[union-attr]
    dim = field.dim
    layers = [layer for layer in network if hasattr(layer, "weight")]
    for mine, other in zip(layers, field.layers, strict=True):
        mine.bias.copy_(other.bias)
        if mine is not layers[0]:
            mine.weight.copy_(other.weight)
    points, still, sine, cosine = field.layers[0].weight.split([dim, 1, 1, 1], 1)
    assert not still.any()
    zero = torch.zeros_like(still)
    layers[0].weight.copy_(torch.cat((zero, cosine, zero, -sine, points), 1))
    layers[-1].weight.neg_()
    layers[-1].bias.neg_()


def _zuko_couplings(kind: str, dim: int, widths: dict[str, Any]) -> Any:
    """NICE with its scaling, or rational-quadratic splines; zuko's own NSF is autoregressive."""
    import zuko.flows as library
    from zuko import transforms

    if kind == "NeuralSplineFlow":
        shapes = ((SPLINE_BINS,), (SPLINE_BINS,), (SPLINE_BINS - 1,))
        spline = partial(transforms.MonotonicRQSTransform, bound=SPLINE_BOUND)
        return library.NICE(dim, transforms=DEPTHS[kind], univariate=spline, shapes=shapes, **widths)

    def scaling(log_scale: Tensor) -> Any:
        return transforms.DependentTransform(
            transforms.MonotonicAffineTransform(torch.zeros_like(log_scale), log_scale), 1
        )

    additive = {"univariate": transforms.AdditiveTransform, "shapes": ((),)}
    flow = library.NICE(dim, transforms=DEPTHS[kind], **additive, **widths)
    layers = [library.UnconditionalTransform(scaling, torch.zeros(dim)), *flow.transform.transforms]
    return library.Flow(layers, flow.base)


def normflows(kind: str, dim: int) -> FlowModel:
    import normflows as library

    layers = [layer for index in range(DEPTHS[kind]) for layer in _normflows_layer(kind, dim, index)]
    if kind == "NICE":
        layers.insert(0, library.flows.AffineConstFlow((dim,), shift=False))
    flow = library.NormalizingFlow(library.distributions.DiagGaussian(dim, trainable=False), layers)
    return FlowModel(flow, lambda x: flow.log_prob(x), lambda n: flow.sample(n))


def _normflows_layer(kind: str, dim: int, index: int) -> list[nn.Module]:
    from normflows import flows, nets
    from normflows.flows.neural_spline.coupling import PiecewiseRationalQuadraticCoupling

    half, swap = dim // 2, flows.Permute(dim, mode="swap")
    if kind in _SIMPLE:
        return [flows.Planar((dim,)) if kind == "PlanarFlow" else flows.Radial((dim,))]
    if kind in _MASKED:
        layer = flows.MaskedAffineAutoregressive(dim, HIDDEN, num_blocks=1, use_residual_blocks=False)
        return [layer if kind == "IAF" else flows.Reverse(layer), swap]  # the inverse's densities take one pass
    if kind == "NeuralSplineFlow":

        def network(inputs: int, outputs: int) -> nn.Module:
            return _WithoutContext(nets.MLP([inputs, HIDDEN, HIDDEN, outputs]))

        spline = {"num_bins": SPLINE_BINS, "tails": "linear", "tail_bound": SPLINE_BOUND}
        return [PiecewiseRationalQuadraticCoupling(_half_mask(dim, index), network, **spline)]
    additive = kind == "NICE"
    net = nets.MLP([half, HIDDEN, HIDDEN, half if additive else 2 * half])
    return [flows.AffineCouplingBlock(net, scale=not additive), swap]


class _WithoutContext(nn.Module):
    """A network for couplings that hand it a context, too."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, context: Tensor | None = None) -> Any:
        return self.net(x)


def nflows(kind: str, dim: int) -> FlowModel:
    from nflows import distributions, flows, transforms
    from nflows.nn import nets

    class Perceptron(nets.MLP):
        """nflows hands a context to the networks of its couplings, which its own MLP does not take."""

        def forward(self, inputs: Tensor, context: Tensor | None = None) -> Tensor:
            return super().forward(inputs)

    def network(inputs: int, outputs: int) -> nn.Module:
        return Perceptron([inputs], [outputs], [HIDDEN, HIDDEN])

    spline = {"num_bins": SPLINE_BINS, "tails": "linear", "tail_bound": SPLINE_BOUND}
    layers = []
    for index in range(DEPTHS[kind]):
        mask = _half_mask(dim, index)
        if kind == "RealNVP":
            layers.append(transforms.AffineCouplingTransform(mask, network))
        elif kind == "NeuralSplineFlow":
            layers.append(transforms.PiecewiseRationalQuadraticCouplingTransform(mask, network, **spline))
        else:
            layer = transforms.MaskedAffineAutoregressiveTransform(dim, HIDDEN, num_blocks=1, use_residual_blocks=False)
            layers += [
                transforms.InverseTransform(layer) if kind == "IAF" else layer, transforms.ReversePermutation(dim)
            ]  # fmt: skip
    flow = flows.Flow(transforms.CompositeTransform(layers), distributions.StandardNormal([dim]))
    return FlowModel(flow, lambda x: flow.log_prob(x), lambda n: flow.sample(n))


def _half_mask(dim: int, index: int) -> Tensor:
    return ((torch.arange(dim) < dim // 2) == bool(index % 2)).long()


LIBRARIES: dict[str, Callable[[str, int], FlowModel]] = {"zuko": zuko, "normflows": normflows, "nflows": nflows}
