"""A whole coupling layer: the perceptron that conditions it, and the coupling itself."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import backends
from .._extension import _C
from ..checks import choice, flag, integer, like, listed, tensor
from ..precision import autocasts
from . import layout as layouts
from . import scales
from .checks import together
from .masked_reference import ACTIVATIONS
from .op import affine_coupling_event

FUSED = {"relu": 0, "tanh": 1}  # as TileActivation in mlp_kernels.h


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
    layers of up to 1024 features, and a split that cuts x in two. All else, other devices, transforms and compiled
    graphs included, is the composition of matrix products and :func:`affine_coupling_event`.

    Args:
        x: (B, D); with ``inverse`` it is the image, y.
        weights: W_k of shape (features of h_k, features of h_(k−1)), as of ``torch.nn.Linear``; ``biases``: b_k. The
            last layer has 2k features for k transformed ones.
        split, log_det, inverse, scale, bound, offset, eps, layout: as in :func:`affine_coupling_event`; a slice must
            leave a slice of features.
        activation: relu, tanh, sigmoid, silu, gelu (exact), elu or softplus.
        conditioning: (B, features of h_1), as from a context: V c.

    Returns:
        y (B, D) and the log-determinant (B,), differentiable in x, weights, biases, log_det and conditioning.

    Raises:
        TypeError, ValueError: naming the argument that has a wrong type, dtype, device, shape or value.
    """
    if type(split) is not int and not isinstance(split, slice):
        split = integer("split", split, "an int or a slice")
    if type(inverse) is not bool:
        inverse = flag("inverse", inverse)
    weights, biases = listed("weights", weights), listed("biases", biases)
    if isinstance(x, Tensor) and x.dim() == 2:
        found = _fused(
            x, weights, biases, split, log_det, activation, conditioning, inverse, (scale, bound, offset, eps), layout
        )
        if found is not None:
            return found
    tensor("x", x)
    if x.dim() != 2:
        raise ValueError(f"x must be (B, D): got shape {tuple(x.shape)}")
    choice("activation", activation, ACTIVATIONS)
    passing = layouts.passing_part(split, x.shape[1])
    _check(x, passing, weights, biases, conditioning)
    h = x[:, passing]
    h = F.linear(h, weights[0], biases[0])
    h = h if conditioning is None else h + conditioning
    for weight, bias in zip(weights[1:], biases[1:], strict=True):
        h = F.linear(ACTIVATIONS[activation](h), weight, bias)
    return affine_coupling_event(
        x, h, split, log_det, inverse=inverse, scale=scale, bound=bound, offset=offset, eps=eps, layout=layout
    )


def _fused(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    split: int | slice,
    log_det: Tensor | None,
    activation: str,
    conditioning: Tensor | None,
    inverse: bool,
    scale: tuple[str, float, float, float],
    layout: str,
) -> tuple[Tensor, Tensor] | None:
    """What the kernel gives; None where the arguments are wrong or not for it."""
    if torch.compiler.is_compiling() or backends.select(x.device.type) != "native" or len(weights) != len(biases):
        return None
    kind, *numbers = scale
    try:
        start, stop, step = split.indices(x.shape[1]) if isinstance(split, slice) else (split, x.shape[1], 1)
        act = FUSED.get(activation)
        if step != 1 or act is None:
            return None
        layers = [part for layer in zip(weights, biases, strict=True) for part in layer]
        place = (start, stop, layouts.INDEX.get(layout, -1), scales.INDEX.get(kind, -1))
        return _C.affine_coupling_mlp(x, layers, log_det, conditioning, *place, *numbers, act, inverse)
    except TypeError:  # an option of a wrong type: said better by the composition
        return None


def _check(
    x: Tensor, passing: slice, weights: Sequence[Tensor], biases: Sequence[Tensor], conditioning: Tensor | None
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
    if width != 2 * moved:
        raise ValueError(
            f"weights[{len(weights) - 1}] must give {2 * moved} numbers, a log-scale and a shift for each of the "
            f"{moved} features that split transforms: got {width}"
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
