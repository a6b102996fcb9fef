"""Whole coupling layers, perceptron and coupling, alone and one after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import backends
from .._extension import _C
from ..checks import choice, flag, integer, like, listed, number, tensor
from ..precision import autocasts
from . import layout as layouts
from . import scales, stack_operators
from .additive import additive_coupling_event
from .checks import together
from .masked_reference import ACTIVATIONS
from .op import affine_coupling_event

ADDITIVE = "none"
SCALES = (*scales.KINDS, ADDITIVE)
FUSED = {"relu": 0, "tanh": 1}  # as TileActivation in mlp_kernels.h


class CouplingLayer(NamedTuple):
    """A layer of :func:`affine_coupling_stack`: what :func:`affine_coupling_mlp` takes under these names."""

    weights: Sequence[Tensor]
    biases: Sequence[Tensor]
    split: int | slice
    activation: str = "relu"
    conditioning: Tensor | None = None
    inverse: bool = False
    scale: str = "exp"
    bound: float = 2.0
    offset: float = 2.0
    eps: float = 0.0
    layout: str = "scale_shift"


def affine_coupling_mlp(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    split: int | slice,
    log_det: Tensor | None = None,
    *,
    activation: str = "relu",
    conditioning: Tensor | None = None,
    inverse: bool = False,
    scale: str = "exp",
    bound: float = 2.0,
    offset: float = 2.0,
    eps: float = 0.0,
    layout: str = "scale_shift",
) -> tuple[Tensor, Tensor]:
    """:func:`affine_coupling_event` with parameters h_K, where h_0 holds the features of x that pass and

        h_k = W_k a(h_(k−1)) + b_k,   a the identity for k = 1, and h_1 with ``conditioning`` added.

    On the CPU a thread takes its rows through all layers, so that activations stay in its cache: for relu and tanh,
    layers of up to 1024 features, and a split that cuts x in two. On Triton it is one kernel for layers of up to 128
    features, and all activations but sigmoid. All else, other devices and the CPU's transforms and compiled graphs
    included, is the composition of matrix products and :func:`affine_coupling_event`.

    Args:
        x: (B, D); with ``inverse`` it is the image, y.
        weights: W_k of shape (features of h_k, features of h_(k−1)), as of ``torch.nn.Linear``; ``biases``: b_k. The
            last layer has 2k features for k transformed ones; k under ``scale="none"``.
        split, log_det, inverse, scale, bound, offset, eps, layout: as in :func:`affine_coupling_event`; a slice must
            leave a slice of features. ``scale="none"`` is the additive coupling of NICE, σ = 1 and log-determinant 0
            (Dinh et al. 2015): h_K holds the shifts alone.
        activation: relu, tanh, sigmoid, silu, gelu (exact), elu or softplus.
        conditioning: (B, features of h_1), as from a context: V c.

    Returns:
        y (B, D) and the log-determinant (B,), differentiable in x, weights, biases, log_det and conditioning.

    Raises:
        TypeError, ValueError: naming the argument that has a wrong type, dtype, device, shape or value.
    """
    layer = _checked(
        CouplingLayer(weights, biases, split, activation, conditioning, inverse, scale, bound, offset, eps, layout)
    )
    found = _fused(x, [layer], log_det)
    return _composed(x, layer, log_det) if found is None else found


def affine_coupling_stack(
    x: Tensor, layers: Sequence[CouplingLayer], log_det: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Coupling layers one after another, each an :func:`affine_coupling_mlp` of what the one before gave:

        x_k, log_det_k = layer_k(x_(k−1), log_det_(k−1)).

    On the CPU a thread takes its rows through all layers, forward and back, so that the points between two layers stay
    in its cache, too; where :func:`affine_coupling_mlp` fuses every one of them. On Triton all layers are one kernel,
    where they have one direction, scale, activation and number of hidden layers. All else goes layer by layer.

    Args:
        x: (B, D).
        layers: at least one :class:`CouplingLayer`, in the order in which x passes them.
        log_det: (B,), to which the log-determinants of all layers are added; None is 0.

    Returns:
        what the last layer gives (B, D), and the log-determinant (B,), differentiable as in
        :func:`affine_coupling_mlp`.

    Raises:
        TypeError, ValueError: naming the layer, and its argument that has a wrong type, dtype, device, shape or value.
    """
    if not isinstance(layers, (list, tuple)) or isinstance(layers, CouplingLayer):
        raise TypeError(f"layers must be a list of CouplingLayer: got {type(layers).__name__}")
    if not layers:
        raise ValueError("layers must hold at least one CouplingLayer: got none")
    stack = [_of_layer(k, _checked, layer) for k, layer in enumerate(layers)]
    found = _fused(x, stack, log_det)
    if found is not None:
        return found
    for k, layer in enumerate(stack):
        x, log_det = _of_layer(k, _composed, x, layer, log_det)
    return x, log_det  # type: ignore[return-value]


def _of_layer(index: int, call: Callable[..., Any], *arguments: Any) -> Any:
    """The call; its errors name the layer."""
    try:
        return call(*arguments)
    except TypeError as error:
        raise TypeError(f"layers[{index}]: {error}") from error
    except ValueError as error:
        raise ValueError(f"layers[{index}]: {error}") from error


def _checked(layer: CouplingLayer) -> CouplingLayer:
    if not isinstance(layer, CouplingLayer):
        raise TypeError(f"must be a CouplingLayer: got {type(layer).__name__}")
    split, inverse = layer.split, layer.inverse
    if type(split) is not int and not isinstance(split, slice):
        split = integer("split", split, "an int or a slice")
    if type(inverse) is not bool:
        inverse = flag("inverse", inverse)
    if layer.scale not in SCALES:
        choice("scale", layer.scale, SCALES)
    if not (type(layer.bound) is float and type(layer.offset) is float and type(layer.eps) is float):
        for name in ("bound", "offset", "eps"):
            number(name, getattr(layer, name))
    if layer.scale == ADDITIVE:  # nothing further on looks at what it does not use
        choice("layout", layer.layout, layouts.LAYOUTS)
        scales.checked("exp", layer.bound, layer.offset, layer.eps)
    weights, biases = listed("weights", layer.weights), listed("biases", layer.biases)
    if weights is layer.weights and biases is layer.biases and split is layer.split and inverse is layer.inverse:
        return layer
    return layer._replace(weights=weights, biases=biases, split=split, inverse=inverse)


def _fused(x: Tensor, layers: list[CouplingLayer], log_det: Tensor | None) -> tuple[Tensor, Tensor] | None:
    """What the kernel gives; None where the arguments are wrong or not for it."""
    if not isinstance(x, Tensor) or x.dim() != 2:
        return None
    backend = backends.select(x.device.type)
    if stack_operators.chosen(backend):
        return stack_operators.whole_stack(x, layers, log_det)
    if backend != "native" or torch.compiler.is_compiling():
        return None
    try:
        plain = [_plain(layer, x.shape[1]) for layer in layers]
        return None if None in plain else _C.affine_coupling_stack(x, log_det, plain)
    except TypeError:  # an option of a wrong type: said better by the composition
        return None


def _plain(layer: CouplingLayer, n_features: int) -> tuple[object, ...] | None:
    """A layer as the extension takes it."""
    split, act = layer.split, FUSED.get(layer.activation)
    start, stop, step = split.indices(n_features) if isinstance(split, slice) else (split, n_features, 1)
    if step != 1 or act is None or len(layer.weights) != len(layer.biases):
        return None
    tensors = [part for pair in zip(layer.weights, layer.biases, strict=True) for part in pair]
    additive = layer.scale == ADDITIVE
    kind, order = 0 if additive else scales.INDEX.get(layer.scale, -1), layouts.INDEX.get(layer.layout, -1)
    integers = (start, stop, order, kind, act, layer.inverse, additive)
    return tensors, layer.conditioning, integers, (layer.bound, layer.offset, layer.eps)


def _composed(x: Tensor, layer: CouplingLayer, log_det: Tensor | None) -> tuple[Tensor, Tensor]:
    tensor("x", x)
    if x.dim() != 2:
        raise ValueError(f"x must be (B, D): got shape {tuple(x.shape)}")
    choice("activation", layer.activation, ACTIVATIONS)
    passing = layouts.passing_part(layer.split, x.shape[1])
    _check(x, passing, layer.weights, layer.biases, layer.conditioning, layer.scale == ADDITIVE)
    h = F.linear(x[:, passing], layer.weights[0], layer.biases[0])
    h = h if layer.conditioning is None else h + layer.conditioning
    for weight, bias in zip(layer.weights[1:], layer.biases[1:], strict=True):
        h = F.linear(ACTIVATIONS[layer.activation](h), weight, bias)
    if layer.scale == ADDITIVE:
        return additive_coupling_event(x, h, layer.split, log_det, inverse=layer.inverse)
    return affine_coupling_event(
        x, h, layer.split, log_det, inverse=layer.inverse, scale=layer.scale, bound=layer.bound,
        offset=layer.offset, eps=layer.eps, layout=layer.layout,
    )  # fmt: skip


def _check(
    x: Tensor,
    passing: slice,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    conditioning: Tensor | None,
    additive: bool,
) -> None:
    if not weights or len(weights) != len(biases):
        raise ValueError(f"biases must be as many as weights, at least one: got {len(biases)} for {len(weights)}")
    n_passing = len(range(x.shape[1])[passing])
    width = n_passing
    for k, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        _like(f"weights[{k}]", weight, x)
        _like(f"biases[{k}]", bias, x)
        if weight.dim() != 2 or weight.shape[1] != width:
            raise ValueError(f"weights[{k}] must be (out, {width}): got {tuple(weight.shape)}")
        width = weight.shape[0]
        if bias.shape != (width,):
            raise ValueError(f"biases[{k}] must be ({width},): got {tuple(bias.shape)}")
    moved = x.shape[1] - n_passing
    if width != (moved if additive else 2 * moved):
        expected = f"{moved} numbers, a shift" if additive else f"{2 * moved} numbers, a log-scale and a shift"
        raise ValueError(
            f"weights[{len(weights) - 1}] must give {expected} for each of the {moved} features that split "
            f"transforms: got {width}"
        )
    if conditioning is not None:
        _like("conditioning", conditioning, x)
        if conditioning.shape != (x.shape[0], weights[0].shape[0]):
            expected = f"({x.shape[0]}, {weights[0].shape[0]})"
            raise ValueError(f"conditioning must be {expected}: got {tuple(conditioning.shape)}")


def _like(name: str, value: Tensor, x: Tensor) -> None:
    """A tensor on the device of x and, where autocast does not make them alike, of its dtype."""
    together(**{"x": x, name: value})
    if not autocasts(x.device.type):
        like(name, value, "x", x)
