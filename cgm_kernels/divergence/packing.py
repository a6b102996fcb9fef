"""A perceptron's tensors as the registered operators take them: one vector of parameters, one table of FiLM.

``parameters`` holds W_1[:, :d], then W_2, b_2, …, W_K, b_K, each row-major. ``film`` is (1 or B, 2 ΣH_k), for each
layer its scales and then its shifts. What b_1, the time and the context add to the first layer is ``added``, (1 or B,
H_1).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

Film = Sequence[tuple[Tensor, Tensor] | None]


def widths(x: Tensor, weights: Sequence[Tensor]) -> list[int]:
    """[d, H_1, …, H_(K−1), d]."""
    return [x.shape[1], *(weight.shape[0] for weight in weights)]


def pack(weights: Sequence[Tensor], biases: Sequence[Tensor | None], d: int) -> Tensor:
    parts = [weights[0][:, :d].reshape(-1)]
    for weight, bias in zip(weights[1:], biases[1:], strict=True):
        parts.append(weight.reshape(-1))
        parts.append(weight.new_zeros(weight.shape[0]) if bias is None else bias)
    return torch.cat(parts)


def unpack(parameters: Tensor, widths: Sequence[int]) -> tuple[list[Tensor], list[Tensor]]:
    """The weights, and the biases of all layers but the first, as views."""
    weights, biases, start = [], [], 0
    for number, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        weights.append(parameters[start : start + outputs * inputs].reshape(outputs, inputs))
        start += outputs * inputs
        if number > 0:
            biases.append(parameters[start : start + outputs])
            start += outputs
    return weights, biases


def folded(
    film: Film, weights: Sequence[Tensor], biases: Sequence[Tensor | None]
) -> tuple[list[Tensor], list[Tensor | None]]:
    """The layers with scales and shifts that all rows share inside: γ ∘ (W h + b) + β = (γW) h + γb + β."""
    new_weights, new_biases = list(weights), list(biases)
    for k, entry in enumerate(film):
        if entry is not None:
            bias, (scale, shift) = biases[k], entry
            new_weights[k] = scale.unsqueeze(1) * weights[k]
            new_biases[k] = shift if bias is None else scale * bias + shift
    return new_weights, new_biases


def pack_film(film: Film | None, widths: Sequence[int], like: Tensor) -> Tensor | None:
    """A column for each scale and shift; as many rows as the entries that have rows, else one."""
    if film is None or all(entry is None for entry in film):
        return None
    parts = []
    for entry, width in zip(film, widths[1:], strict=True):
        scale, shift = (like.new_ones(width), like.new_zeros(width)) if entry is None else entry
        parts += [scale, shift]
    n_rows = next((len(part) for part in parts if part.dim() == 2), 1)
    return torch.cat([part.expand(n_rows, -1) for part in parts], 1)


def unpack_film(film: Tensor | None, widths: Sequence[int]) -> list[tuple[Tensor, Tensor] | None]:
    """(scale, shift), each (1 or B, H_k), of every layer."""
    if film is None:
        return [None] * (len(widths) - 1)
    parts = film.split([width for width in widths[1:] for _ in range(2)], 1)
    return list(zip(parts[0::2], parts[1::2], strict=True))


def kept_numbers(batch: int, n_probes: int, widths: Sequence[int]) -> int:
    """How many numbers the backward of the divergence needs: h and its tangents of each hidden layer, and q = ε W_K."""
    return batch * ((1 + n_probes) * sum(widths[1:-1]) + n_probes * widths[-2])


def first_addition(
    weight: Tensor, bias: Tensor | None, d: int, t: Tensor | float | None, context: Tensor | None
) -> Tensor:
    """What does not depend on x in the first layer, (1 or B, H_1): b_1 + t w_t + W_c c."""
    added = (weight.new_zeros(weight.shape[0]) if bias is None else bias).unsqueeze(0)
    if t is not None:
        if isinstance(t, Tensor):
            t = t.to(weight.dtype)
            t = t.unsqueeze(1) if t.dim() == 1 else t  # a number on the CPU stays one, for weights on a GPU
        added = added + t * weight[:, d]
        d += 1
    return added if context is None else added + context @ weight[:, d:].mT
