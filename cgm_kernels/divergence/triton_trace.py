"""The closed form of the trace of two and three layers: what the kernels take for all rows, and its derivative.

With D_k = a'(u_k) γ_k, C = W_1 Γ_K W_K, the trace is Σ_i (D_1)_i C_ii of two layers and D_2ᵀ (W_2 ∘ Cᵀ) D_1 of three.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import packing


def trace_matrix(parameters: Tensor, film: Tensor | None, widths: Sequence[int]) -> Tensor:
    """diag(C) (H_1,), or W_2 ∘ Cᵀ (H_2, H_1)."""
    weights, _ = packing.unpack(parameters, widths)
    last = _scaled(weights[-1], film)
    if len(weights) == 2:
        return (weights[0] * last.mT).sum(1)
    return weights[1] * (last.mT @ weights[0].mT)


def add_trace_gradients(
    grad: Tensor, parameters: Tensor, film: Tensor | None, widths: Sequence[int], grad_parameters: Tensor,
    grad_film: Tensor | None,
) -> None:  # fmt: skip
    """Add the gradients by the parameters and by the scales of the last layer, given that by the matrix."""
    weights, _ = packing.unpack(parameters, widths)
    grads, _ = packing.unpack(grad_parameters, widths)  # views
    first, last = weights[0], _scaled(weights[-1], film)
    if len(weights) == 2:
        by_first, by_last = grad[:, None] * last.mT, grad * first.mT
    else:
        grads[1] += grad * (last.mT @ first.mT)
        by_product = (grad * weights[1]).mT  # by C
        by_first, by_last = by_product @ last.mT, first.mT @ by_product
    grads[0] += by_first
    if film is not None and grad_film is not None:
        d = widths[-1]
        grad_film[0, -2 * d : -d] += (by_last * weights[-1]).sum(1)
        by_last = _scaled(by_last, film)
    grads[-1] += by_last


def _scaled(weight: Tensor, film: Tensor | None) -> Tensor:
    """Γ_K W_K"""
    if film is None:
        return weight
    d = len(weight)
    return torch.mul(weight, film[0, -2 * d : -d].unsqueeze(1))
