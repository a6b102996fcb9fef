"""OT-Flow's potential in plain PyTorch, differentiable to any order: tangents by hand, nothing of autograd inside."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def antiderivative(z: Tensor) -> Tensor:
    """σ(z) = log(e^z + e^(−z)) = |z| + log(1 + e^(−2|z|)), the antiderivative of tanh, without a kink at zero."""
    return F.softplus(2.0 * z) - z


def potential_value(
    s: Tensor,
    state: int,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    output: Tensor,
    quadratic: Tensor | None,
    linear: Tensor | None,
) -> Tensor:
    """Φ at s (B, state + context); see ``potential.py`` for the formula."""
    u = antiderivative(F.linear(s, weights[0], biases[0]))
    for weight, bias in zip(weights[1:], biases[1:], strict=True):
        u = u + antiderivative(F.linear(u, weight, bias)) / (len(weights) - 1)
    value = u @ output
    if quadratic is not None:
        value = value + 0.5 * (s[:, :state] @ quadratic.mT).square().sum(1)
    return value if linear is None else value + s[:, :state] @ linear


def potential_divergence(
    s: Tensor,
    dims: int,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    output: Tensor,
    quadratic: Tensor | None,
    linear: Tensor | None,
    directions: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """∇Φ (B, dims + 1) and the trace (B,) of its derivative by the first ``dims`` inputs, at s (B, dims + 1 + context).

    ``directions`` are those of potential_operators.py, else all of space; of none of them the second is not to be read.
    With t_l = tanh z_l and v_l = ∂(w·N)/∂u_l the trace is Σ_l h_l Σ_i (1 − t_l²)_i v_l,i |∂z_l,i/∂x|², h_0 = 1.
    """
    step = 1.0 / max(len(weights) - 1, 1)
    z = F.linear(s, weights[0], biases[0])
    u, slopes = antiderivative(z), [torch.tanh(z)]
    along = weights[0][:, :dims].mT if directions is None else directions  # ∂z_l/∂x, (B, d, m) from the second layer
    tangent = slopes[0].unsqueeze(1) * along
    squares = [along.square().sum(-2)]
    for weight, bias in zip(weights[1:], biases[1:], strict=True):
        z = F.linear(u, weight, bias)
        slopes.append(torch.tanh(z))
        along = tangent @ weight.mT
        squares.append(along.square().sum(-2))
        if len(slopes) < len(weights):
            u = u + step * antiderivative(z)
            tangent = tangent + step * slopes[-1].unsqueeze(1) * along
    v, laplacian = output.expand_as(slopes[-1]), s.new_zeros(len(s))
    for layer in range(len(weights) - 1, 0, -1):
        laplacian = laplacian + step * ((1.0 - slopes[layer].square()) * v * squares[layer]).sum(1)
        v = v + step * (slopes[layer] * v) @ weights[layer]
    laplacian = laplacian + ((1.0 - slopes[0].square()) * v * squares[0]).sum(1)
    gradient = (slopes[0] * v) @ weights[0][:, : dims + 1]
    if quadratic is not None:
        gradient = gradient + (s[:, : dims + 1] @ quadratic.mT) @ quadratic
        laplacian = laplacian + quadratic[:, :dims].square().sum()
    return (gradient if linear is None else gradient + linear), laplacian
