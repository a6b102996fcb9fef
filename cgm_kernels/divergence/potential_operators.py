"""The registered operators of OT-Flow's potential: schemas, fakes, and what autograd keeps.

s (B, d + 1 + c) holds space, time and context. ``parameters`` are K_0, b_0, K_1, b_1, …, w, A (rank, d + 1) and, where
``linear``, b (d + 1), one after the other. ``directions`` (P, m) are the derivatives of K_0 s along orthonormal
directions that span all in which K_0 x moves: the tangents of the Laplacian. Their gradient is apart from K_0's.
Without directions (P = 0) the gradient of Φ is right, and the second result is not the Laplacian.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._derivatives import pulled_back
from .._register import define, operator, register
from . import potential_triton
from .potential_reference import potential_divergence

_NETWORK = "Tensor s, Tensor parameters, Tensor directions, int dims, int width, int layers, int rank, bool linear"


def packed(
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    output: Tensor,
    quadratic: Tensor | None,
    linear: Tensor | None,
) -> Tensor:
    parts = [part.reshape(-1) for layer in zip(weights, biases, strict=True) for part in layer]
    rest = [part.reshape(-1) for part in (output, quadratic, linear) if part is not None]
    return torch.cat([*parts, *rest])


def directions(first: Tensor, dims: int, layers: int) -> Tensor:
    """(P, m). Of K_0x Qᵀ with an orthonormal Q the products K_0x K_0xᵀ are the same, and those are all that counts.

    So of more dimensions than units as many tangents as units are enough, and Q is a constant: the gradient by K_0x
    through K_0x Qᵀ is the right one, but not the second derivative: where one may be asked for, Q is not taken. Only on
    the CPU, since GPUs take longer for Q than for the tangents.
    """
    along = first[:, :dims].mT
    if layers == 1 or dims <= len(first) or not first.is_cpu or torch.is_grad_enabled():
        return along
    return torch.linalg.qr(along.detach())[0].mT @ along


def _fake(s: Tensor, parameters: Tensor, directions: Tensor, dims: int, *_: Any) -> tuple[Tensor, Tensor]:
    return s.new_empty((s.shape[0], dims + 1)), s.new_empty(s.shape[:1])


def _backward_fake(
    grad_gradient: Tensor | None, grad_laplacian: Tensor | None, s: Tensor, parameters: Tensor, directions: Tensor,
    *_: Any,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    return s.new_empty(s.shape), parameters.new_empty(parameters.shape), directions.new_empty(directions.shape)


def _setup(ctx: Any, inputs: Any, output: Any) -> Sequence[Tensor]:
    s, parameters, along, *ctx.options = inputs
    return s, parameters, along


def _backward(
    ctx: Any, grad_gradient: Tensor | None, grad_laplacian: Tensor | None, *saved: Tensor
) -> tuple[Tensor | None, ...]:
    rest = [None] * len(ctx.options)
    if grad_gradient is None and grad_laplacian is None:
        return (None, None, None, *rest)
    kernel = operator(ctx.backend, "potential_divergence_backward")
    return *kernel(grad_gradient, grad_laplacian, *saved, *ctx.options), *rest


def _backward_composed(
    grad_gradient: Tensor | None, grad_laplacian: Tensor | None, s: Tensor, parameters: Tensor, along: Tensor,
    dims: int, width: int, layers: int, rank: int, linear: bool,
) -> list[Tensor]:  # fmt: skip
    inputs = [s.shape[1]] + [width] * (layers - 1)
    sizes = [size for columns in inputs for size in (columns * width, width)]
    sizes += [width, rank * (dims + 1), (dims + 1) * linear]

    def forward(s: Tensor, parameters: Tensor, along: Tensor) -> tuple[Tensor, Tensor]:
        *rest, output, quadratic, straight = parameters.split(sizes)
        weights = [weight.view(width, columns) for weight, columns in zip(rest[::2], inputs, strict=True)]
        square = quadratic.view(rank, dims + 1) if rank else None
        return potential_divergence(s, dims, weights, rest[1::2], output, square, straight if linear else None, along)

    return pulled_back(forward, (s, parameters, along), (grad_gradient, grad_laplacian))


define(
    "potential_divergence_backward",
    f"(Tensor? grad_gradient, Tensor? grad_laplacian, {_NETWORK}) -> (Tensor, Tensor, Tensor)",
    fake=_backward_fake,
    triton=potential_triton.potential_backward,
    composed=_backward_composed,
)

register(
    "potential_divergence",
    f"({_NETWORK}) -> (Tensor, Tensor)",
    fake=_fake,
    setup_context=_setup,
    backward=_backward,
    triton=potential_triton.potential_forward,
    values=2,
)
