"""The inverse of a masked autoregressive network the usual way: the whole network once for each dimension."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from . import reference
from .masked_plan import ends_a_block, output_rows
from .scales import Scale

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {  # in the order of Activation in masked_formula.h
    "relu": F.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "gelu": F.gelu,
    "elu": F.elu,
    "softplus": F.softplus,
}


def network(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    masks: Sequence[Tensor] | None,
    context: Tensor | None,
    activation: str,
    residual: bool,
) -> Tensor:
    """The outputs (..., 2 D) of the whole masked network at x (..., D)."""
    act = ACTIVATIONS[activation]
    if context is not None:
        x = torch.cat([x, context.expand(*x.shape[:-1], -1)], -1)
    hidden: list[Tensor] = []
    for number, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        if number == 0:
            value = x
        elif residual and number == len(weights) - 1:
            value = hidden[-1]
        else:
            value = act(hidden[-1])
        weight = weight if masks is None else weight * masks[number]
        if bias is None or bias.dim() == 1:
            value = F.linear(value, weight, bias)
        else:
            value = F.linear(value, weight) + bias
        if ends_a_block(number, len(weights), residual):
            value = value + hidden[-2]
        hidden.append(value)
    return hidden[-1]


def masked_inverse(
    y: Tensor, evaluate: Callable[[Tensor], Tensor], layout: str, scale: Scale, standardize: bool
) -> tuple[Tensor, Tensor]:
    """x and the log-determinant of y → x; ``evaluate`` is the network, and pass k makes the k-th dimension right."""
    rows = output_rows(y.shape[-1], layout).to(y.device)
    x = torch.zeros_like(y)
    log_det = y.new_zeros(y.shape[:-1])
    for _ in range(y.shape[-1]):
        log_scale, shift = evaluate(x)[..., rows].unflatten(-1, (-1, 2)).unbind(-1)
        if standardize:
            x, log_det = reference.affine(y, log_scale, shift, scale, 1, False)
        else:
            x, log_det = reference.affine(y, log_scale, shift, scale, 1, True)
    return x, log_det
