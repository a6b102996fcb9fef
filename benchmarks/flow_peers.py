"""The flows of zuko, normflows and nflows, of one size: as many layers, widths and parameters as ours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

LAYERS = {"RealNVP": 8, "MAF": 3}  # the families that all of them have
SPLINE_LAYERS, SPLINE_BINS, SPLINE_BOUND = 4, 8, 5.0  # of nflows, in couplings as ours
HIDDEN = 64  # the width of both hidden layers

CONTINUOUS: dict[str, dict[str, Any]] = {
    "CNF": {}, "CNF_estimate": {"exact": False},
    "FFJORD_exact": {"hidden_features": (HIDDEN, HIDDEN, HIDDEN), "activation": nn.Tanh},
}  # fmt: skip
"""Of zuko: its own default, the same by Hutchinson's estimate, and as ours."""


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

    if kind in CONTINUOUS:
        flow = library.CNF(dim, **CONTINUOUS[kind])
        return FlowModel(flow, lambda x: flow().log_prob(x), lambda n: flow().sample((n,)))
    family = {"RealNVP": library.RealNVP, "MAF": library.MAF}[kind]
    flow = family(dim, transforms=LAYERS[kind], hidden_features=(HIDDEN, HIDDEN))
    return FlowModel(flow, lambda x: flow().log_prob(x), lambda n: flow().sample((n,)))


def normflows(kind: str, dim: int) -> FlowModel:
    import normflows as library

    half = dim // 2
    layers: list[nn.Module] = []
    for _ in range(LAYERS[kind]):
        if kind == "RealNVP":
            net = library.nets.MLP([half, HIDDEN, HIDDEN, 2 * half])
            layers += [library.flows.AffineCouplingBlock(net), library.flows.Permute(dim, mode="swap")]
        else:
            layer = library.flows.MaskedAffineAutoregressive(dim, HIDDEN, num_blocks=1, use_residual_blocks=False)
            layers += [library.flows.Reverse(layer), library.flows.Permute(dim, mode="swap")]  # densities in one pass
    flow = library.NormalizingFlow(library.distributions.DiagGaussian(dim, trainable=False), layers)
    return FlowModel(flow, lambda x: flow.log_prob(x), lambda n: flow.sample(n))


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
    for index in range(SPLINE_LAYERS if kind == "NeuralSplineFlow" else LAYERS[kind]):
        mask = ((torch.arange(dim) < dim // 2) == bool(index % 2)).long()
        if kind == "RealNVP":
            layers.append(transforms.AffineCouplingTransform(mask, network))
        elif kind == "NeuralSplineFlow":
            layers.append(transforms.PiecewiseRationalQuadraticCouplingTransform(mask, network, **spline))
        else:
            layers += [
                transforms.MaskedAffineAutoregressiveTransform(dim, HIDDEN, num_blocks=1, use_residual_blocks=False),
                transforms.ReversePermutation(dim),
            ]
    flow = flows.Flow(transforms.CompositeTransform(layers), distributions.StandardNormal([dim]))
    return FlowModel(flow, lambda x: flow.log_prob(x), lambda n: flow.sample(n))


LIBRARIES: dict[str, Callable[[str, int], FlowModel]] = {"zuko": zuko, "normflows": normflows, "nflows": nflows}
