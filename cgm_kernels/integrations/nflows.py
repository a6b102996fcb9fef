"""nflows: its affine couplings, actnorm, and masked affine autoregressive transforms on our kernels.

What stays with nflows, each for a reason named in the report: subclasses and objects with methods of their own (the
layers are recognised by their exact class), an unconditional transform, inputs that are not plain float32 or float64
tensors, autocast, torch.func, forward mode; an inverse where the network has batch normalisation, dropout in training,
hooks, or an activation that the kernel does not have; actnorm while it initialises itself. Piecewise, additive and
linear transforms are not touched.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from nflows.transforms import made as made_source
from torch import Tensor

from ..coupling.masked import masked_mlp_inverse
from ..coupling.masked_affine import masked_mlp_affine
from ..coupling.op import affine_coupling, affine_coupling_inverse
from ._flows import as_slice, autoregressive, couple, parameters_of, plain, remembered, take, version_check
from ._library import Library, PassOn
from ._made import add_context, layers


def _event(inputs: Any, features: int, dims: tuple[int, ...]) -> Tensor:
    plain(inputs)
    if inputs.dim() not in dims or inputs.shape[1] != features:
        raise PassOn("shape")
    return inputs


def _coupling(original: Any, self: Any, inputs: Any, context: Any, *, inverse: bool) -> Any:
    """y = x·(sigmoid(s + 2) + 1e-3) + t for the features that the mask selects; shifts come before scales."""
    x = _event(inputs, self.features, (2, 4))
    if self.unconditional_transform is not None:
        raise PassOn("an unconditional transform")
    index = self.identity_features, self.transform_features
    passed, moved = remembered(self, index, lambda *indices: [as_slice(one) for one in indices])
    parameters = parameters_of(self.transform_net, x, take(x, passed), context)
    return couple(x, parameters, moved, "shift_scale", inverse=inverse, scale="sigmoid", offset=2.0, eps=1e-3)


def _actnorm(original: Any, self: Any, inputs: Any, context: Any, *, inverse: bool) -> Any:
    x = _event(inputs, len(self.log_scale), (2, 4))
    if not inverse and self.training and not self.initialized:
        raise PassOn("the first batch")
    plain(x, self.log_scale, self.shift)
    map = affine_coupling_inverse if inverse else affine_coupling
    shape = (-1, *[1] * (x.dim() - 2))
    return map(x, self.log_scale.view(shape), self.shift.view(shape))


def _masked_forward(original: Any, self: Any, inputs: Any, context: Any) -> Any:
    """y = x·(softplus(s) + eps) + t; each dimension's scale and shift come in pairs."""
    x = _event(inputs, self.features, (2,))
    try:
        return _masked(masked_mlp_affine, self, x, context)
    except PassOn:
        parameters = parameters_of(self.autoregressive_net, x, x, context)
        return couple(x, parameters, slice(0, self.features), _LAYOUT, inverse=False, **_scale(self))


def _masked_inverse(original: Any, self: Any, inputs: Any, context: Any) -> Any:
    return _masked(masked_mlp_inverse, self, _event(inputs, self.features, (2,)), context)


def _masked(operation: Callable[..., Any], self: Any, x: Tensor, context: Any) -> Any:
    made = self.autoregressive_net
    found = layers(made, made_source, x, context)
    if context is not None:
        add_context(found, 0, made.activation(made.context_layer(context)))
        for number, block in enumerate(made.blocks if found.residual else ()):
            add_context(found, 2 * number + 1, block.context_layer(context))
    # Without residual blocks an activation follows the first layer too, and it is the network's own.
    return autoregressive(operation, x, layout=_LAYOUT, **found._asdict(), **_scale(self))


def _scale(self: Any) -> dict[str, Any]:
    return {"scale": "softplus", "offset": 0.0, "eps": self._epsilon}


def _both(path: str, route: Callable[..., Any]) -> dict[str, Callable[..., Any]]:
    return {f"{path}.{name}": functools.partial(route, inverse=name == "inverse") for name in ("forward", "inverse")}


_LAYOUT = "interleaved_scale_shift"
_MASKED = "nflows.transforms.autoregressive:MaskedAffineAutoregressiveTransform"

LIBRARY = Library(
    name="nflows",
    package="nflows",
    routes={},
    check=version_check("nflows", (0, 14), (0, 15)),
    methods={
        **_both("nflows.transforms.coupling:AffineCouplingTransform", _coupling),
        **_both("nflows.transforms.normalization:ActNorm", _actnorm),
        f"{_MASKED}.forward": _masked_forward,
        f"{_MASKED}.inverse": _masked_inverse,
    },
)
