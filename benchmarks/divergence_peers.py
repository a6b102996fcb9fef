"""The divergence of a tanh perceptron as one writes it in PyTorch: by a VJP, by torch.func.jvp, by tangents by hand.

Each takes x (B, d), probes (P, B, d) or None for the exact trace, and weights and biases in turn; it gives the value
and the divergence. With a gradient the VJP keeps its graph.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Pair = tuple[Tensor, Tensor]


def network(x: Tensor, layers: tuple[Tensor, ...]) -> Tensor:
    h = F.linear(x, layers[0], layers[1])
    for number in range(2, len(layers), 2):
        h = F.linear(torch.tanh(h), layers[number], layers[number + 1])
    return h


def vjp(probes: Tensor | None, x: Tensor, *layers: Tensor) -> Pair:
    gradient = torch.is_grad_enabled() and any(one.requires_grad for one in (x, *layers))
    with torch.enable_grad():
        x = x if x.requires_grad and gradient else x.detach().requires_grad_()
        value = network(x, layers)
        if probes is None:
            unit = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)[:, None].expand(-1, *x.shape)
            (rows,) = torch.autograd.grad(value, x, unit, create_graph=gradient, is_grads_batched=True)
            divergence = torch.einsum("ibi->b", rows)
        else:
            products = [torch.autograd.grad(value, x, e, create_graph=gradient, retain_graph=True)[0] for e in probes]
            divergence = _mean(probes, products)
    return (value, divergence) if gradient else (value.detach(), divergence.detach())


def jvp(probes: Tensor | None, x: Tensor, *layers: Tensor) -> Pair:
    def push(direction: Tensor) -> Pair:
        return torch.func.jvp(lambda points: network(points, layers), (x,), (direction,))  # type: ignore[return-value]

    if probes is None:
        unit = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)[:, None].expand(-1, *x.shape)
        values, columns = torch.func.vmap(push)(unit)
        return values[0], torch.einsum("ibi->b", columns)
    pushed = [push(e) for e in probes]
    return pushed[0][0], _mean(probes, [tangent for _, tangent in pushed])


def tangents(probes: Tensor | None, x: Tensor, *layers: Tensor) -> Pair:
    """Value and tangents through each layer together; the exact trace starts from the columns of the first weight."""
    h = F.linear(x, layers[0], layers[1])
    rates = F.linear(probes, layers[0]) if probes is not None else layers[0].T[:, None]
    for number in range(2, len(layers), 2):
        h = torch.tanh(h)
        rates = rates * (1 - h * h)
        h = F.linear(h, layers[number], layers[number + 1])
        if probes is None and number + 2 == len(layers):
            return h, torch.einsum("ibh,ih->b", rates, layers[number])
        rates = F.linear(rates, layers[number])
    return h, _mean(probes, list(rates))  # type: ignore[arg-type]


def _mean(probes: Tensor, products: list[Tensor]) -> Tensor:
    return sum((e * product).sum(1) for e, product in zip(probes, products, strict=True)) / len(products)  # type: ignore


PEERS: dict[str, Callable[..., Pair]] = {"eager": tangents, "vjp": vjp, "jvp": jvp}
