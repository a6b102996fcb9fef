"""MADE as nflows and normflows have it (both from one source): its layers as arguments of our masked networks."""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from ._flows import activation_name, plain, refuse_hooks, remembered
from ._library import PassOn


class Layers(NamedTuple):
    """Arguments of masked_mlp_affine and masked_mlp_inverse."""

    weights: list[Tensor]
    biases: list[Tensor | None]
    masks: list[Tensor]
    activation: str
    residual: bool


def layers(made: Any, source: ModuleType, y: Tensor, context: Any) -> Layers:
    """The layers of a MADE of module ``source``, or :class:`PassOn` for what the kernel does not have."""
    if type(made) is not source.MADE:
        raise PassOn("a network that is not MADE")
    refuse_hooks(made)
    blocks = list(made.blocks)
    if blocks:
        residual = type(blocks[0]) is source.MaskedResidualBlock
    else:  # nothing stands between the two layers, or in nflows, where blocks would be plain ones, the activation
        residual = bool(getattr(made, "use_residual_blocks", True))
    activations = {_activation(block, source, residual) for block in blocks}
    if not residual and hasattr(made, "activation"):
        activations.add(made.activation)
    if len(activations) > 1:
        raise PassOn("activations of several kinds")
    linears = [made.initial_layer]
    for block in blocks:
        linears += list(block.linear_layers) if residual else [block.linear]
    linears.append(made.final_layer)
    if any(type(linear) is not source.MaskedLinear for linear in linears):
        raise PassOn("layers that are not MaskedLinear")
    found = Layers(
        [linear.weight for linear in linears],
        [linear.bias for linear in linears],
        [linear.mask for linear in linears],
        activation_name(activations.pop()) if activations else "relu",
        residual,
    )
    plain(y, *found.weights, *(bias for bias in found.biases if bias is not None), *_tensors(context))
    return found


def add_context(found: Layers, number: int, part: Tensor) -> None:
    """``part`` (B, out) is added to the output of layer ``number``, row by row."""
    bias = found.biases[number]
    found.biases[number] = part if bias is None else part + bias


def fold_first(found: Layers, made: Any) -> Layers:
    """The first two layers, with nothing between them, as one."""
    (first, second, *weights), (inner, outer, *biases) = found.weights, found.biases
    first_mask, second_mask, *masks = found.masks
    second = second * second_mask
    bias = outer if inner is None else F.linear(inner, second, outer)
    mask = remembered(made, (first_mask, second_mask), lambda a, b: ((b @ a) > 0).to(a.dtype))
    return found._replace(
        weights=[second @ (first * first_mask), *weights], biases=[bias, *biases], masks=[mask, *masks]
    )


def _activation(block: Any, source: ModuleType, residual: bool) -> Any:
    if type(block) is not (source.MaskedResidualBlock if residual else source.MaskedFeedforwardBlock):
        raise PassOn("blocks of another kind")
    if block.use_batch_norm if residual else block.batch_norm is not None:
        raise PassOn("batch normalisation in the network")
    if type(block.dropout) is not nn.Dropout or (block.dropout.p > 0.0 and block.dropout.training):
        raise PassOn("dropout in the network")
    return block.activation


def _tensors(context: Any) -> list[Any]:
    return [] if context is None else [context]
