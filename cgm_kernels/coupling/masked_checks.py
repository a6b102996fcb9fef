"""What the arguments of the masked operations must be; an error names the argument, what was expected and what came."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..checks import choice, flag, like, tensor
from .layout import LAYOUTS
from .masked_reference import ACTIVATIONS

MAPS = ("affine", "standardize")


def options(activation: str, residual: bool, map: str, layout: str) -> None:
    choice("activation", activation, ACTIVATIONS)
    flag("residual", residual)
    choice("map", map, MAPS)
    choice("layout", layout, LAYOUTS)


def tensors(
    y: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    masks: Sequence[Tensor] | None,
    context: Tensor | None,
    residual: bool,
    name: str = "y",
) -> None:
    """``name`` is that of the points, ``y``."""
    tensor(name, y)
    if y.dim() == 0 or y.shape[-1] == 0:
        raise ValueError(f"{name} must have at least one dimension in its last axis: got shape {tuple(y.shape)}")
    _layers("weights", weights, None)
    _layers("biases", biases, len(weights))
    if context is not None:
        like("context", context, name, y)
        if context.dim() == 0 or (context.dim() > 1 and context.shape[:-1] != y.shape[:-1]):
            raise ValueError(
                f"context must be (C,) or {(*y.shape[:-1], 'C')} for {name} of shape {tuple(y.shape)}: "
                f"got {tuple(context.shape)}"
            )
    _weights(name, y, weights, 0 if context is None else context.shape[-1])
    if masks is not None:
        _layers("masks", masks, len(weights))
        _masks(masks, weights)
    _biases(name, y, weights, biases)
    if residual:
        _residual(weights)


def _layers(name: str, value: Sequence[Tensor | None], length: int | None) -> None:
    if not value or (length is not None and len(value) != length):
        expected = "at least one layer" if length is None else f"{length} layers, as weights"
        raise ValueError(f"{name} must have {expected}: got {len(value)}")


def _weights(points: str, y: Tensor, weights: Sequence[Tensor], n_context: int) -> None:
    n_features = y.shape[-1]
    inputs, source = n_features + n_context, f"{points} and context" if n_context else points
    for number, weight in enumerate(weights):
        name = f"weights[{number}]"
        like(name, weight, points, y)
        if weight.dim() != 2 or weight.shape[1] != inputs or len(weight) == 0:
            raise ValueError(f"{name} must be (out, {inputs}) after {source}: got {tuple(weight.shape)}")
        inputs, source = len(weight), name
    if inputs != 2 * n_features:
        raise ValueError(
            f"weights[{len(weights) - 1}] must give {2 * n_features} outputs, a log-scale and a shift for each of the "
            f"{n_features} dimensions of {points}: got {inputs}"
        )


def _masks(masks: Sequence[Tensor], weights: Sequence[Tensor]) -> None:
    for number, (mask, weight) in enumerate(zip(masks, weights, strict=True)):
        name = f"masks[{number}]"
        if not isinstance(mask, Tensor):
            raise TypeError(f"{name} must be a tensor: got {type(mask).__name__}")
        if mask.shape != weight.shape:
            raise ValueError(
                f"{name} must have the shape of weights[{number}], {tuple(weight.shape)}: got {tuple(mask.shape)}"
            )
        if mask.device != weight.device:
            raise ValueError(f"{name} must be on the device of weights[{number}], {weight.device}: got {mask.device}")


def _biases(points: str, y: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> None:
    for number, (bias, weight) in enumerate(zip(biases, weights, strict=True)):
        if bias is None:
            continue
        name = f"biases[{number}]"
        like(name, bias, points, y)
        if tuple(bias.shape) not in ((len(weight),), (*y.shape[:-1], len(weight))):
            raise ValueError(
                f"{name} must be {(len(weight),)} or {(*y.shape[:-1], len(weight))}: got {tuple(bias.shape)}"
            )


def _residual(weights: Sequence[Tensor]) -> None:
    if len(weights) % 2:
        raise ValueError(f"residual weights must be the first, pairs, and the last, an even number: got {len(weights)}")
    for number in range(2, len(weights) - 1, 2):
        if len(weights[number]) != len(weights[number - 2]):
            raise ValueError(
                f"weights[{number}] must have {len(weights[number - 2])} outputs, to be added to those of "
                f"weights[{number - 2}]: got {len(weights[number])}"
            )
