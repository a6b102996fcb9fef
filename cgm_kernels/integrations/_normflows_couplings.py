"""normflows' coupling blocks as layers of :func:`cgm_kernels.affine_coupling_stack`, alone and in a row."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from normflows import nets
from normflows.flows import mixing, reshape
from normflows.flows.affine import coupling as coupling_source
from torch import Tensor, nn

from ..coupling.mlp import CouplingLayer, affine_coupling_stack
from ._flows import plain, refuse_hooks
from ._library import PassOn
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
    if tuple(map(_kind, flows)) != (reshape.Split, coupling_source.AffineCoupling, reshape.Merge):
        raise PassOn("flows of another kind")
    if split.mode not in ("channel", "channel_inv") or split.mode != merge.mode:
        raise PassOn("a split that is not by channels")
    refuse_hooks(*flows, inside=False)
    return coupling, split.mode == "channel"


def _kind(module: Any) -> type:
    """The class a module has for normflows."""
    return getattr(type(module), "_accelerates", type(module))


def coupling_layer(coupling: Any, z: Tensor, moved: slice, inverse: bool) -> CouplingLayer | None:
    """The coupling of the features ``moved`` of z; None where its network is not a perceptron that goes with them."""
    if z.dim() != 2 or coupling.scale_map == "sigmoid":
        return None
    layers, n_moved = perceptron(coupling.param_map, z), len(range(z.shape[1])[moved])
    if layers is None or not layers.takes(z.shape[1] - n_moved, 2 * n_moved):
        return None
    return CouplingLayer(*layers, moved, inverse=inverse, layout="interleaved_shift_scale", **scale_of(coupling))


def joined(flows: Iterable[Any]) -> list[Any]:
    """The flows, with every row of couplings of halves, and of swaps of these between them, as one."""
    result: list[Any] = []
    row: list[Any] = []
    for flow in (*flows, None):
        if flow is not None and _in_rows(flow):
            row.append(flow)
            continue
        couplings = [one for one in row if _kind(one) is coupling_source.AffineCouplingBlock]
        result += [Row(row)] if len(couplings) > 1 else row
        row = []
        if flow is not None:
            result.append(flow)
    return result


def _in_rows(flow: Any) -> bool:
    """Whether it is a swap of halves, or a coupling of halves under a perceptron."""
    try:
        refuse_hooks(flow, inside=False)
        if _kind(flow) is mixing.Permute:
            return flow.mode == "swap" and flow.num_channels % 2 == 0
        if _kind(flow) is not coupling_source.AffineCouplingBlock:
            return False
        coupling, _ = parts_of(flow)
        if type(coupling.param_map) is not nets.MLP or scale_of(coupling) is _MAPS["sigmoid"]:
            return False
        linear = [module for module in coupling.param_map.net if isinstance(module, nn.Linear)]
        return bool(linear) and linear[-1].out_features == 2 * linear[0].in_features
    except PassOn:
        return False


class Row:
    """Couplings and swaps one after another, as a flow: swapping exchanges what the couplings after it transform."""

    def __init__(self, flows: list[Any]) -> None:
        self.flows = flows

    def __call__(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self._at_once(z, inverse=False) or _in_turn(self.flows, z)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self._at_once(z, inverse=True) or _in_turn([flow.inverse for flow in reversed(self.flows)], z)

    def _at_once(self, z: Tensor, inverse: bool) -> tuple[Tensor, Tensor] | None:
        """All of them in one call; None where one is not a layer of halves of z."""
        try:
            plain(z)
        except PassOn:
            return None
        if z.dim() != 2 or z.shape[1] % 2 or not z.shape[1]:
            return None
        half, swapped, layers = z.shape[1] // 2, False, []
        for flow in reversed(self.flows) if inverse else self.flows:
            if _kind(flow) is mixing.Permute:
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


def _in_turn(maps: Iterable[Callable[[Tensor], tuple[Tensor, Tensor]]], z: Tensor) -> tuple[Tensor, Tensor]:
    total: Any = 0
    for one in maps:
        z, log_det = one(z)
        total = total + log_det
    return z, total
