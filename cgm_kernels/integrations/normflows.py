"""normflows: its affine couplings, constant and activation-normalising layers, and MAF on our kernels.

What stays with normflows, each for a reason named in the report: subclasses and objects with methods of their own (the
layers are recognised by their exact class), couplings without a scale, masks that are not 0 and 1, inputs that are not
plain float32 or float64 tensors, autocast, torch.func, forward mode; an inverse where the network has batch
normalisation, dropout in training, hooks, a context, or an activation that the kernel does not have; actnorm while it
initialises itself. Couplings conditioned by normflows' own MLP run as whole layers, those in a row in one call of the
flow's method: couplings of halves with swaps of these between them, and masked ones, of a mask and its complement,
with constant layers between them, whose networks compute only what the mask leaves.
"""

from __future__ import annotations

import functools
import math
import types
from collections.abc import Callable
from typing import Any

import torch
from normflows.nets import made as made_source
from torch import Tensor, nn

from ..coupling.masked import masked_mlp_inverse
from ..coupling.masked_affine import masked_mlp_affine
from ..coupling.mlp import affine_coupling_stack
from ..coupling.op import affine_coupling, affine_coupling_inverse
from ._flows import (
    autoregressive,
    couple,
    parameters_of,
    plain,
    version_check,
)
from ._library import Library, PassOn
from ._made import fold_first
from ._made import layers as made_layers
from ._normflows_couplings import BlockRow, coupling_layer, parts_of, scale_of
from ._normflows_masked import MaskedRow, masked_flow
from ._normflows_rows import joined


def _coupling(original: Any, self: Any, z: Any, *, inverse: bool) -> Any:
    """y = x·σ + t of the second half; channel 2i of the network is a shift, channel 2i + 1 a scale."""
    first, second = z
    scale = scale_of(self)
    plain(first, second)
    if second.dim() < 2:
        raise PassOn("shape")
    parameters = parameters_of(self.param_map, second, first)
    moved, log_det = _moved(second, parameters, self.scale_map, scale, inverse)
    return [first, moved], log_det


def _moved(x: Tensor, parameters: Tensor, kind: str, scale: dict[str, Any], inverse: bool) -> tuple[Tensor, Tensor]:
    shift, log_scale = parameters[:, 0::2], parameters[:, 1::2]
    if shift.shape != x.shape or log_scale.shape != x.shape:
        raise PassOn("parameters of another shape")
    if kind != "sigmoid":
        return (affine_coupling_inverse if inverse else affine_coupling)(x, log_scale, shift, **scale)
    none = x.new_zeros(())
    if inverse:  # normflows divides by the sigmoid in its forward map: y = x / σ + t
        return affine_coupling(x - shift, log_scale, none, **scale)
    y, log_det = affine_coupling_inverse(x, log_scale, none, **scale)
    return y + shift, log_det


def _block(original: Any, self: Any, z: Any, *, inverse: bool) -> Any:
    """Split, couple and merge at once."""
    plain(z)
    coupling, by_channel = parts_of(self)
    if z.dim() < 2 or z.shape[1] < 2:
        raise PassOn("shape")
    scale, size = scale_of(coupling), (z.shape[1] + 1) // 2
    halves = slice(0, size), slice(size, z.shape[1])
    passed, moved = halves if by_channel else halves[::-1]
    layer = coupling_layer(coupling, z, moved, inverse)
    if layer is not None:
        return affine_coupling_stack(z, [layer])
    parameters = parameters_of(coupling.param_map, z, z[:, passed])
    if coupling.scale_map != "sigmoid":
        return couple(z, parameters, moved, "interleaved_shift_scale", inverse=inverse, **scale)
    part, log_det = _moved(z[:, moved], parameters, coupling.scale_map, scale, inverse)
    return torch.slice_scatter(z, part, 1, moved.start, moved.stop), log_det


def _constant(original: Any, self: Any, z: Any, *, inverse: bool) -> Any:
    """y = x·e^s + t with s and t of one event; the log-determinant is one number for the whole batch."""
    plain(z, self.s, self.t)
    if z.dim() != self.s.dim() or z.dim() < 2 or torch.broadcast_shapes(z.shape, self.s.shape) != z.shape:
        raise PassOn("shape")
    y, _ = (affine_coupling_inverse if inverse else affine_coupling)(z, self.s, self.t)
    count = math.prod(z.shape[dim] for dim in self.batch_dims[1:])
    return y, (-count if inverse else count) * torch.sum(self.s)


def _actnorm(original: Any, self: Any, z: Any, *, inverse: bool) -> Any:
    if not self.data_dep_init_done > 0.0:
        raise PassOn("the first batch")
    return _constant(original, self, z, inverse=inverse)


def _class_conditional(original: Any, self: Any, z: Any, y: Any, *, inverse: bool) -> Any:
    """y = x·e^s + t with s and t of the class of each event."""
    plain(z, y, self.s, self.s_cc)
    if z.dim() != self.s.dim() or y.dim() != 2 or len(y) != len(z):
        raise PassOn("shape")
    log_scale = self.s + (y @ self.s_cc).view(-1, *self.shape)
    shift = self.t + (y @ self.t_cc).view(-1, *self.shape)
    if torch.broadcast_shapes(z.shape, log_scale.shape) != z.shape:
        raise PassOn("shape")
    return (affine_coupling_inverse if inverse else affine_coupling)(z, log_scale, shift)


_MASKED_OPTIONS: dict[str, Any] = {
    "scale": "sigmoid", "offset": 2.0, "eps": 1e-3, "layout": "interleaved_scale_shift"
}  # fmt: skip


def _masked_forward(original: Any, self: Any, inputs: Any, context: Any) -> Any:
    """y = x·(sigmoid(s + 2) + 1e-3) + t; each dimension's scale and shift come in pairs."""
    try:
        return _masked(masked_mlp_affine, self, inputs, context)
    except PassOn:
        plain(inputs)
        if inputs.dim() != 2 or inputs.shape[1] != self.features:
            raise
        parameters = parameters_of(self.autoregressive_net, inputs, inputs, context)
        return couple(inputs, parameters, slice(0, self.features), inverse=False, **_MASKED_OPTIONS)


def _masked_inverse(original: Any, self: Any, inputs: Any, context: Any) -> Any:
    return _masked(masked_mlp_inverse, self, inputs, context)


def _masked(operation: Callable[..., Any], self: Any, inputs: Any, context: Any) -> Any:
    plain(inputs)
    if inputs.dim() != 2 or inputs.shape[1] != self.features:
        raise PassOn("shape")
    if context is not None:
        raise PassOn("a context, which gates the blocks")
    made = self.autoregressive_net
    if type(made) is not made_source.MADE or type(made.preprocessing) is not nn.Identity:
        raise PassOn("a network that is not MADE")
    found = made_layers(made, made_source, inputs, None)
    if not found.residual:  # nothing stands between the first layer and the second
        found = fold_first(found, made)
    return autoregressive(operation, inputs, **found._asdict(), **_MASKED_OPTIONS)


def _flow(original: Any, self: Any, **arguments: Any) -> Any:
    """The flow's own method on a flow whose couplings in a row are one layer."""
    layers = joined(self.flows, (BlockRow, MaskedRow))
    if len(layers) == len(self.flows):
        raise PassOn(None)
    return original(types.SimpleNamespace(q0=self.q0, flows=layers), **arguments)


def _both(path: str, route: Callable[..., Any]) -> dict[str, Callable[..., Any]]:
    return {f"{path}.{name}": functools.partial(route, inverse=name == "inverse") for name in ("forward", "inverse")}


_AFFINE = "normflows.flows.affine"
_FLOW_METHODS = (
    "forward", "forward_and_log_det", "inverse", "inverse_and_log_det", "forward_kld", "log_prob", "sample"
)  # fmt: skip

LIBRARY = Library(
    name="normflows",
    package="normflows",
    routes={},
    check=version_check("normflows", (1, 7), (1, 8)),
    methods={
        **_both(f"{_AFFINE}.coupling:AffineConstFlow", _constant),
        **_both(f"{_AFFINE}.coupling:CCAffineConst", _class_conditional),
        **_both(f"{_AFFINE}.coupling:AffineCoupling", _coupling),
        **_both(f"{_AFFINE}.coupling:AffineCouplingBlock", _block),
        **_both(f"{_AFFINE}.coupling:MaskedAffineFlow", masked_flow),
        **_both("normflows.flows.normalization:ActNorm", _actnorm),
        **{f"normflows.core:NormalizingFlow.{name}": _flow for name in _FLOW_METHODS},
        f"{_AFFINE}.autoregressive:MaskedAffineAutoregressive.forward": _masked_forward,
        f"{_AFFINE}.autoregressive:MaskedAffineAutoregressive.inverse": _masked_inverse,
    },
)
