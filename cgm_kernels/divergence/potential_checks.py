"""What the arguments of OT-Flow's potential must be; an error names the argument, what was expected and what came."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..checks import like, number, tensor


def arguments(
    x: Tensor, t: Tensor | float, weights: Sequence[Tensor], biases: Sequence[Tensor], output: Tensor,
    quadratic: Tensor | None, linear: Tensor | None, context: Tensor | None,
) -> None:  # fmt: skip
    point(x, t, context)
    network(x, x.shape[1] + 1 + (0 if context is None else context.shape[-1]), weights, biases, output)
    rest(x, quadratic, linear)


def point(x: Tensor, t: Tensor | float, context: Tensor | None) -> None:
    tensor("x", x)
    if x.dim() != 2 or x.shape[1] == 0:
        raise ValueError(f"x must be (B, d) with at least one dimension: got shape {tuple(x.shape)}")
    if isinstance(t, Tensor):
        like("t", t, "x", x)
        if t.dim() > 0 and t.shape != x.shape[:1]:
            raise ValueError(
                f"t must be a number, () or ({len(x)},) for x of shape {tuple(x.shape)}: got {tuple(t.shape)}"
            )
    else:
        number("t", t)
    if context is not None:
        like("context", context, "x", x)
        if context.dim() not in (1, 2) or (context.dim() == 2 and len(context) != len(x)):
            raise ValueError(
                f"context must be (c,) or ({len(x)}, c) for x of shape {tuple(x.shape)}: got {tuple(context.shape)}"
            )


def network(x: Tensor, inputs: int, weights: Sequence[Tensor], biases: Sequence[Tensor], output: Tensor) -> None:
    """``inputs`` are those of the first layer: x, t and the context."""
    if not weights or len(weights) != len(biases):
        raise ValueError(f"biases must be as many as weights, at least one: got {len(biases)} for {len(weights)}")
    width = 0
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        name = f"weights[{layer}]"
        like(name, weight, "x", x)
        like(f"biases[{layer}]", bias, "x", x)
        if layer == 0:
            if weight.dim() != 2 or weight.shape[1] != inputs or len(weight) == 0:
                raise ValueError(f"{name} must be (m, {inputs}), for x, t and context: got {tuple(weight.shape)}")
            width = len(weight)
        elif weight.shape != (width, width):
            raise ValueError(
                f"{name} must be {(width, width)}, as weights[0] has {width} rows: got {tuple(weight.shape)}"
            )
        if bias.shape != (width,):
            raise ValueError(f"biases[{layer}] must be ({width},): got {tuple(bias.shape)}")
    like("output", output, "x", x)
    if output.shape != (width,):
        raise ValueError(f"output must be ({width},): got {tuple(output.shape)}")


def rest(x: Tensor, quadratic: Tensor | None, linear: Tensor | None) -> None:
    """The part of the potential that is no network."""
    state = x.shape[1] + 1
    if quadratic is not None:
        like("quadratic", quadratic, "x", x)
        if quadratic.dim() != 2 or quadratic.shape[1] != state:
            raise ValueError(f"quadratic must be (r, {state}), for x and t: got {tuple(quadratic.shape)}")
    if linear is not None:
        like("linear", linear, "x", x)
        if linear.shape != torch.Size((state,)):
            raise ValueError(f"linear must be ({state},), for x and t: got {tuple(linear.shape)}")
