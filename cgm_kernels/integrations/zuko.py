"""zuko: its affine couplings, its masked affine autoregressive transforms in both directions, and the divergence of its
continuous flows, on our kernels.

What stays with zuko, each for a reason named in the report: univariate transforms that are not
``MonotonicAffineTransform`` (splines, neural ones), transforms that zuko's own coupling and masked autoregressive
modules did not make, subclasses and objects with methods of their own, inputs that are not plain float32 or float64
tensors, autocast, torch.func, forward mode; an inverse where the masked network has residual blocks, hooks, or an
activation that the kernel does not have.
"""

from __future__ import annotations

import functools
import math
import types
from typing import Any

import torch
from torch import Tensor
from zuko.flows.autoregressive import MaskedAutoregressiveTransform
from zuko.flows.continuous import FFJTransform
from zuko.flows.coupling import GeneralCouplingTransform
from zuko.nn import MaskedLinear, MaskedMLP, Residual
from zuko.transforms import (
    AutoregressiveTransform,
    CouplingTransform,
    FreeFormJacobianTransform,
    MonotonicAffineTransform,
)
from zuko.utils import broadcast

from ..coupling.masked import masked_mlp_inverse
from ..coupling.masked_affine import masked_mlp_affine
from ._accelerate import accelerated
from ._flows import (
    activation_name,
    as_slice,
    autoregressive,
    couple,
    parameters_of,
    plain,
    refuse_hooks,
    remembered,
    take,
    version_check,
)
from ._library import Library, PassOn
from ._zuko_continuous import call_and_ladj, layers_of

_LAYOUT = "interleaved_shift_scale"


def _maker(transform: Any, kind: type) -> tuple[Any, Any, dict[str, Any]]:
    """The module of class ``kind`` that made this transform, its context, and its scale function."""
    meta = transform.meta
    method = meta.func if type(meta) is functools.partial else None
    if type(method) is not types.MethodType or method.__func__ is not kind.meta:  # type: ignore[attr-defined]
        raise PassOn("a transform that no coupling or masked module made")
    module = method.__self__
    if getattr(type(module), "_accelerates", type(module)) is not kind or len(meta.args) != 1 or meta.keywords:
        raise PassOn("a subclass")
    return module, meta.args[0], _scale(module)


def _scale(module: Any) -> dict[str, Any]:
    """σ = exp(s / (1 + |s / log slope|))."""
    univariate: Any = module.univariate
    slope = 1e-3
    if type(univariate) is functools.partial and not univariate.args and univariate.keywords.keys() == {"slope"}:
        univariate, slope = univariate.func, univariate.keywords["slope"]
    if univariate is not MonotonicAffineTransform or module.total != 2 or [*map(tuple, module.shapes)] != [(), ()]:
        raise PassOn("a univariate transform that is not affine")
    if not isinstance(slope, float) or slope <= 0.0 or slope == 1.0:
        raise PassOn("a slope that is not a positive number")
    return {"scale": "softclip", "bound": abs(math.log(slope))}


def _rows(x: Tensor, features: int) -> Tensor:
    """x (…, D) as (B, D)."""
    if x.dim() == 0 or x.shape[-1] != features:
        raise PassOn("shape")
    return x if x.dim() == 2 else x.reshape(-1, features)


def _context(x: Tensor, context: Any) -> list[Tensor]:
    """The context, if any, once for each row of x (…, D)."""
    if context is None:
        return []
    plain(x, context)
    if context.dim() == 0 or torch.broadcast_shapes(x.shape[:-1], context.shape[:-1]) != x.shape[:-1]:
        raise PassOn("shape of the context")
    return [context]


def _couple(transform: Any, x: Any, inverse: bool) -> tuple[Tensor, Tensor]:
    plain(x)
    module, context, scale = _maker(transform, GeneralCouplingTransform)
    rows = _rows(x, len(module.mask))
    passed, moved = remembered(module, (module.mask,), lambda mask: [_where(mask), _where(~mask)])
    given = take(rows, passed)
    given = given if x.dim() == 2 else given.reshape(*x.shape[:-1], given.shape[-1])
    if extra := _context(x, context):
        given = torch.cat(broadcast(given, *extra, ignore=1), dim=-1)
    parameters = parameters_of(module.hyper, x, given)
    y, log_det = couple(rows, _flat(parameters, x), moved, _LAYOUT, inverse=inverse, **scale)
    return (y, log_det) if x.dim() == 2 else (y.reshape(x.shape), log_det.reshape(x.shape[:-1]))


def _where(mask: Tensor) -> slice | Tensor:
    return as_slice(mask.nonzero().squeeze(-1))


def _flat(parameters: Tensor, x: Tensor) -> Tensor:
    if parameters.shape[:-1] != x.shape[:-1]:
        raise PassOn("parameters of another shape")
    return parameters if x.dim() == 2 else parameters.reshape(-1, parameters.shape[-1])


def _coupling_call(original: Any, self: Any, x: Any) -> Tensor:
    return _couple(self, x, False)[0]


def _coupling_inverse(original: Any, self: Any, y: Any) -> Tensor:
    return _couple(self, y, True)[0]


def _coupling_both(original: Any, self: Any, x: Any) -> tuple[Tensor, Tensor]:
    return _couple(self, x, False)


def _masked(transform: Any, x: Any) -> tuple[Tensor, Tensor]:
    plain(x)
    module, context, scale = _maker(transform, MaskedAutoregressiveTransform)
    features = module.hyper.out_features // 2
    rows = _rows(x, features)
    try:
        network = _network(module.hyper, x, context)
    except PassOn:
        extra = _context(x, context)
        given = torch.cat(broadcast(x, *extra, ignore=1), dim=-1) if extra else x
        parameters = parameters_of(module.hyper, x, given)
        y, log_det = couple(rows, _flat(parameters, x), slice(0, features), _LAYOUT, inverse=False, **scale)
        return (y, log_det) if x.dim() == 2 else (y.reshape(x.shape), log_det.reshape(x.shape[:-1]))
    return autoregressive(masked_mlp_affine, x, layout=_LAYOUT, **network, **scale)


def _masked_call(original: Any, self: Any, x: Any) -> Tensor:
    return _masked(self, x)[0]


def _masked_both(original: Any, self: Any, x: Any) -> tuple[Tensor, Tensor]:
    return _masked(self, x)


def _masked_inverse(original: Any, self: Any, y: Any) -> Tensor:
    plain(y)
    module, context, scale = _maker(self, MaskedAutoregressiveTransform)
    network = _network(module.hyper, y, context)
    _rows(y, module.hyper.out_features // 2)
    if self.passes != module.passes:
        raise PassOn("passes of another number")
    return autoregressive(masked_mlp_inverse, y, layout=_LAYOUT, **network, **scale)[0]


def _network(hyper: Any, x: Tensor, context: Any) -> dict[str, Any]:
    """The masked network and its context as arguments of masked_mlp_affine and masked_mlp_inverse."""
    linears, activation = _layers(hyper)
    weights, biases = [linear.weight for linear in linears], [linear.bias for linear in linears]
    plain(x, *weights, *(bias for bias in biases if bias is not None))
    (given,) = [one.expand(*x.shape[:-1], -1) for one in _context(x, context)] or (None,)
    masks = [linear.mask for linear in linears]
    return {"weights": weights, "biases": biases, "masks": masks, "context": given, "activation": activation}


def _layers(hyper: Any) -> tuple[list[Any], str]:
    """The masked layers of the network, between which one activation stands."""
    if type(hyper) is not MaskedMLP:
        raise PassOn("a network that is not MaskedMLP")
    refuse_hooks(hyper)
    linears, activations = list(hyper)[0::2], list(hyper)[1::2]
    plain_layers = all(type(linear) is MaskedLinear for linear in linears) and len(linears) == len(activations) + 1
    if not plain_layers or any(isinstance(activation, Residual) for activation in activations):
        raise PassOn("residual blocks, or layers of another kind")
    names = {activation_name(activation) for activation in activations}
    if len(names) > 1:
        raise PassOn("activations of several kinds")
    return linears, names.pop() if names else "relu"


def _make_coupling(self: Any, c: Tensor | None = None) -> Any:
    transform = GeneralCouplingTransform.forward(self, c)
    transform.__class__ = accelerated(LIBRARY, CouplingTransform)
    return transform


def _make_masked(self: Any, c: Tensor | None = None) -> Any:
    transform = MaskedAutoregressiveTransform.forward(self, c)
    transform.__class__ = accelerated(LIBRARY, AutoregressiveTransform)
    return transform


def _make_continuous(self: Any, c: Tensor | None = None) -> Any:
    return _continuous(FFJTransform.forward(self, c))


def _inverse_continuous(self: Any) -> Any:
    return _continuous(FreeFormJacobianTransform.inv.fget(self))  # type: ignore[attr-defined]


def _continuous(transform: Any) -> Any:
    transform.__class__ = accelerated(LIBRARY, FreeFormJacobianTransform)
    return transform


def _fits(layer: Any) -> None:
    """Couplings and autoregressive layers are affine; the network of a continuous flow is zuko's MLP."""
    if isinstance(layer, FFJTransform):
        layers_of(layer.ode)
    else:
        _scale(layer)


_COUPLING = "zuko.transforms:CouplingTransform"
_AUTOREGRESSIVE = "zuko.transforms:AutoregressiveTransform"
_CONTINUOUS = "zuko.transforms:FreeFormJacobianTransform"

LIBRARY = Library(
    name="zuko",
    package="zuko",
    routes={},
    check=version_check("zuko", (1, 6), (1, 7)),
    methods={
        f"{_COUPLING}._call": _coupling_call,
        f"{_COUPLING}._inverse": _coupling_inverse,
        f"{_COUPLING}.call_and_ladj": _coupling_both,
        f"{_AUTOREGRESSIVE}._call": _masked_call,
        f"{_AUTOREGRESSIVE}._inverse": _masked_inverse,
        f"{_AUTOREGRESSIVE}.call_and_ladj": _masked_both,
        f"{_CONTINUOUS}.call_and_ladj": call_and_ladj,
    },
    instances={
        "zuko.flows.coupling:GeneralCouplingTransform.forward": _make_coupling,
        "zuko.flows.autoregressive:MaskedAutoregressiveTransform.forward": _make_masked,
        "zuko.flows.continuous:FFJTransform.forward": _make_continuous,
        f"{_CONTINUOUS}.inv": property(_inverse_continuous),
    },
    fits=_fits,
)
