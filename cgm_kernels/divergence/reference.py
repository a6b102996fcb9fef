"""The divergence of a perceptron, and its flow, in plain PyTorch: differentiable to any order, the oracle of tests.

Tangents go through the layers beside the values, u̇_k = γ_k ∘ W_k ḣ_(k−1) and ḣ_k = a'(u_k) ∘ u̇_k [+ ḣ_(k−1)].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..activations import ACTIVATIONS
from .packing import Film
from .tableaus import TABLEAUS

LEAKY_SLOPE = 0.01  # of leaky ReLU below zero, as PyTorch's


class Network(NamedTuple):
    """u_k = γ_k ∘ (W_k h_(k−1) + b_k) + β_k, h_k = a(u_k) [+ h_(k−1)], value u_K; ``added`` stands for b_1."""

    weights: Sequence[Tensor]  # W_1 (H_1, d), W_2, …
    biases: Sequence[Tensor]  # b_2, …
    film: Film  # of each layer (γ, β), each (H_k,) or (1 or B, H_k), or None
    activation: str
    residual: bool

    def run(self, x: Tensor, added: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
        """The value (B, d) at x (B, d), and J times each of the tangents (T, 1 or B, d): (T, 1 or B, d)."""
        activate, differentiate = ACTIVATIONS[self.activation]
        last = len(self.weights) - 1
        for k, (weight, film) in enumerate(zip(self.weights, self.film, strict=True)):
            u = F.linear(x, weight) + (added if k == 0 else self.biases[k - 1])
            v = F.linear(tangents, weight)
            if film is not None:
                u, v = film[0] * u + film[1], film[0] * v
            if k == last:
                return u, v
            h, w = activate(u, LEAKY_SLOPE), differentiate(u, LEAKY_SLOPE) * v
            adds = self.residual and k > 0 and h.shape == x.shape
            x, tangents = (h + x, w + tangents) if adds else (h, w)
        raise AssertionError("a network has at least one layer")


def network(
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    film: Film | None,
    activation: str,
    residual: bool,
    d: int,
) -> Network:
    """The network of all layers' weights and biases, of which the first takes more than x and its bias is apart."""
    zeros = (weight.new_zeros(len(weight)) for weight in weights[1:])
    plain = [zero if bias is None else bias for zero, bias in zip(zeros, biases[1:], strict=True)]
    return Network([weights[0][:, :d], *weights[1:]], plain, film or [None] * len(weights), activation, residual)


def mlp_divergence(x: Tensor, probes: Tensor | None, network: Network, added: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The value (B, d), mean_p e_pᵀ J e_p and mean_p |J e_p|² (B,); without probes tr J and |J|_F²."""
    if probes is None:
        directions = torch.eye(x.shape[1], dtype=x.dtype, device=x.device).unsqueeze(1)
        value, tangents = network.run(x, added, directions)
        tangents = tangents.expand(-1, len(x), -1)
        return value, torch.einsum("ibi->b", tangents), tangents.square().sum((0, 2))
    value, tangents = network.run(x, added, probes)
    n_probes = max(len(probes), 1)  # no probe, no divergence: zeros
    return value, (tangents * probes).sum((0, 2)) / n_probes, tangents.square().sum((0, 2)) / n_probes


def mlp_flow(
    x: Tensor,
    probes: Tensor | None,
    network: Network,
    time_bias: Tensor,
    added: Tensor | None,
    film: Sequence[Film],
    steps: Sequence[float],
    method: str,
    regularize: bool,
) -> tuple[Tensor, Tensor]:
    """x (B, d) after the steps, and the integrals (3, B) of the divergence, of |v|² and of mean_p |J e_p|².

    Stage s of step n has row n·S + s of ``time_bias`` (N·S, H_1) and of ``film``, which replaces the network's.
    """
    tableau = TABLEAUS[method]
    weights = tableau.weights
    integrals = x.new_zeros(3, len(x))
    for n, step in enumerate(steps):
        stages: list[Tensor] = []
        for s, row in enumerate(tableau.matrix):
            point = x + step * _combined(row, stages, x)
            place = n * tableau.stages + s
            bias = time_bias[place : place + 1]
            bias = bias if added is None else bias + added
            value, divergence, frobenius = mlp_divergence(point, probes, network._replace(film=film[place]), bias)
            rates = [divergence, value.square().sum(1), frobenius]
            rates = rates if regularize else [divergence, *[torch.zeros_like(divergence)] * 2]
            integrals = integrals + step * weights[s] * torch.stack(rates)
            stages.append(value)
        x = x + step * _combined(weights, stages, x)
    return x, integrals


def _combined(coefficients: Sequence[float], stages: Sequence[Tensor], like: Tensor) -> Tensor:
    total = torch.zeros_like(like)
    for coefficient, stage in zip(coefficients, stages, strict=False):
        if coefficient != 0:
            total = total + coefficient * stage
    return total
