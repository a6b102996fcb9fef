"""normflows' coupling blocks as layers of :func:`cgm_kernels.affine_coupling_stack`, alone and in a row."""

from __future__ import annotations

from typing import Any

from normflows import nets
from normflows.flows import mixing, reshape
from normflows.flows.affine import coupling as coupling_source
from torch import Tensor, nn

from ..coupling.mlp import CouplingLayer, affine_coupling_stack
from ._flows import plain, refuse_hooks
from ._library import PassOn
from ._normflows_rows import Row
from ._perceptron import perceptron

_MAPS: dict[str, dict[str, Any]] = {
    "exp": {"scale": "exp"},
    "sigmoid_inv": {"scale": "sigmoid", "offset": 2.0},
    "sigmoid": {"scale": "sigmoid", "offset": 2.0},
}


def scale_of(coupling: Any) -> dict[str, Any]:
    """The scale that the kernels know the coupling's by."""
    if not coupling.scale:
        raise PassOn("a coupling without a scale")
    if coupling.scale_map not in _MAPS:
        raise PassOn("an unknown scale_map")
    return _MAPS[coupling.scale_map]


def parts_of(block: Any) -> tuple[Any, bool]:
    """The coupling of the block, and whether the first half of the channels passes."""
    if len(block.flows) != 3:
        raise PassOn("flows of another kind")
    split, coupling, merge = flows = list(block.flows)
    if tuple(map(kind_of, flows)) != (reshape.Split, coupling_source.AffineCoupling, reshape.Merge):
        raise PassOn("flows of another kind")
    if split.mode not in ("channel", "channel_inv") or split.mode != merge.mode:
        raise PassOn("a split that is not by channels")
    refuse_hooks(*flows, inside=False)
    return coupling, split.mode == "channel"


def kind_of(module: Any) -> type:
    """The class a module has for normflows."""
    return getattr(type(module), "_accelerates", type(module))


def coupling_layer(coupling: Any, z: Tensor, moved: slice, inverse: bool) -> CouplingLayer | None:
    """The coupling of the features ``moved`` of z; None where its network is not a perceptron that goes with them."""
    if z.dim() != 2 or coupling.scale_map == "sigmoid":
        return None
    layers, n_moved = perceptron(coupling.param_map), len(range(z.shape[1])[moved])
    if layers is None or not layers.takes(z.shape[1] - n_moved, 2 * n_moved):
        return None
    try:
        plain(z, *layers.tensors)
    except PassOn:
        return None
    return CouplingLayer(*layers, moved, inverse=inverse, layout="interleaved_shift_scale", **scale_of(coupling))


def _in_rows(flow: Any) -> bool:
    """Whether it is a swap of halves, or a coupling of halves under a perceptron."""
    try:
        refuse_hooks(flow, inside=False)
        if kind_of(flow) is mixing.Permute:
            return flow.mode == "swap" and flow.num_channels % 2 == 0
        if kind_of(flow) is not coupling_source.AffineCouplingBlock:
            return False
        coupling, _ = parts_of(flow)
        if type(coupling.param_map) is not nets.MLP or scale_of(coupling) is _MAPS["sigmoid"]:
            return False
        linear = [module for module in coupling.param_map.net if isinstance(module, nn.Linear)]
        return bool(linear) and linear[-1].out_features == 2 * linear[0].in_features
    except PassOn:
        return False


class BlockRow(Row):
    """Couplings of halves, and swaps of these: swapping exchanges what the couplings after it transform."""

    def take(self, flow: Any) -> bool:
        if not _in_rows(flow):
            return False
        self.flows.append(flow)
        self.n_couplings += kind_of(flow) is coupling_source.AffineCouplingBlock
        return True

    def at_once(self, z: Tensor, inverse: bool) -> tuple[Tensor, Tensor] | None:
        try:
            plain(z)
        except PassOn:
            return None
        if z.dim() != 2 or z.shape[1] % 2 or not z.shape[1]:
            return None
        half, swapped, layers = z.shape[1] // 2, False, []
        for flow in reversed(self.flows) if inverse else self.flows:
            if kind_of(flow) is mixing.Permute:
                if flow.num_channels != z.shape[1]:
                    return None
                swapped = not swapped
                continue
            coupling, by_channel = parts_of(flow)
            second = by_channel != swapped
            layer = coupling_layer(coupling, z, slice(half, 2 * half) if second else slice(0, half), inverse)
            if layer is None:
                return None
            layers.append(layer)
        y, log_det = affine_coupling_stack(z, layers)
        return y.roll(half, 1) if swapped else y, log_det
