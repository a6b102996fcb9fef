"""OT-Flow's potential on Triton: the implementations of the registered operators.

The sweep is that of csrc/divergence/potential_sweep.h over the whole batch: matrix products of PyTorch, and between
them elementwise kernels, each one pass. Tangents are (count, B, m), a bounded number of directions at a time. Nothing
here waits for the device, so that a CUDA graph can capture it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

_TANGENTS = 1 << 26  # numbers of one stack of tangents


@dataclass
class Network:
    """The packed parameters taken apart, and the gradients by them, as views."""

    weights: list[Tensor]
    biases: list[Tensor]
    output: Tensor
    quadratic: Tensor
    linear: Tensor | None
    directions: Tensor
    dims: int

    @staticmethod
    def of(
        parameters: Tensor, directions: Tensor, inputs: int, dims: int, width: int, layers: int, rank: int, linear: bool
    ) -> Network:
        sizes = [width * inputs, width, *[width * width, width] * (layers - 1), width, rank * (dims + 1)]
        parts = parameters.split([*sizes, dims + 1] if linear else sizes)
        weights = [part.view(width, -1) for part in parts[0 : 2 * layers : 2]]
        quadratic = parts[2 * layers + 1].view(rank, dims + 1)
        rest = parts[2 * layers + 2] if linear else None
        return Network(weights, list(parts[1 : 2 * layers : 2]), parts[2 * layers], quadratic, rest, directions, dims)

    @property
    def last(self) -> int:
        return len(self.weights) - 1

    def step(self, layer: int) -> float:
        return 1.0 if layer == 0 else 1.0 / self.last

    def blocks(self, rows: int) -> Iterator[Tensor]:
        """The directions, a few at a time; none where no layer needs tangents."""
        if self.last == 0:
            return iter(())
        return iter(self.directions.split(max(1, _TANGENTS // max(1, rows * self.directions.shape[1]))))


class Sweep:
    """The layers at s: slopes t_l, inputs u_l of the next, covectors v_l and what they carry down."""

    def __init__(self, net: Network, s: Tensor) -> None:
        from . import potential_triton_steps as steps

        self.net, self.s, self.steps = net, s, steps
        self.t: list[Tensor] = []
        self.u: list[Tensor] = []
        for layer, (weight, bias) in enumerate(zip(net.weights, net.biases, strict=True)):
            z = (self.u[-1] if self.u else s) @ weight.mT
            before = self.u[-1] if self.u else None
            after = steps.bend(z, bias, before, net.step(layer), layer < net.last)
            self.t.append(z)
            if after is not None:
                self.u.append(after)
        self.v = [net.output.expand(len(s), -1)] * (net.last + 1)
        self.carried = list(self.t)
        for layer in range(net.last, -1, -1):
            self.carried[layer], below = steps.carry(self.t[layer], self.v[layer], net.step(layer), layer > 0)
            if below is not None:
                self.v[layer - 1] = below.addmm_(self.carried[layer], net.weights[layer])

    def squares(self) -> list[Tensor]:
        """|∂z_l/∂x|², of the first layer the same for all rows."""
        first = self.net.directions.square().sum(0).expand(len(self.s), -1)
        return [first, *(torch.zeros_like(t) for t in self.t[1:])]

    def tangents(
        self, block: Tensor, squares: list[Tensor], factor: Tensor | None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Of each layer what its product reads, (count, B, m), and what it gives, of the last times ``factor``."""
        inputs = [self.steps.seed(self.t[0], block)]
        outputs = []
        for layer in range(1, self.net.last + 1):
            along = inputs[-1] @ self.net.weights[layer].mT
            last = layer == self.net.last
            after = self.steps.advance(
                along,
                squares[layer],
                self.t[layer],
                inputs[-1],
                self.net.step(layer),
                not last,
                factor if last else None,
            )
            outputs.append(along)
            if after is not None:
                inputs.append(after)
        return inputs, outputs


def potential_forward(
    s: Tensor, parameters: Tensor, directions: Tensor, dims: int, width: int, layers: int, rank: int, linear: bool
) -> tuple[Tensor, Tensor]:
    """The gradient (B, d + 1) and the Laplacian (B,)."""
    s, directions = s.contiguous(), directions.contiguous()
    net = Network.of(parameters.contiguous(), directions, s.shape[1], dims, width, layers, rank, linear)
    if len(s) == 0:
        return s.new_empty(0, dims + 1), s.new_empty(0)
    sweep = Sweep(net, s)
    gradient = sweep.carried[0] @ net.weights[0][:, : dims + 1]
    if rank:
        gradient.addmm_(s[:, : dims + 1] @ net.quadratic.mT, net.quadratic)
    if net.linear is not None:
        gradient += net.linear
    squares = sweep.squares()
    for block in net.blocks(len(s)):
        sweep.tangents(block, squares, None)
    laplacian = net.quadratic[:, :dims].square().sum().repeat(len(s))
    for layer in range(layers):
        sweep.steps.trace(sweep.t[layer], sweep.v[layer], squares[layer], laplacian, net.step(layer))
    return gradient, laplacian


@torch.no_grad()  # under create_graph it is called where gradients are on
def potential_backward(
    grad_gradient: Tensor | None, grad_laplacian: Tensor | None, s: Tensor, parameters: Tensor, directions: Tensor,
    dims: int, width: int, layers: int, rank: int, linear: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The gradients by s, the parameters and the directions."""
    s, directions = s.contiguous(), directions.contiguous()
    shape = (s.shape[1], dims, width, layers, rank, linear)
    net = Network.of(parameters.contiguous(), directions, *shape)
    found = torch.zeros_like(parameters, memory_format=torch.contiguous_format)
    sums = Network.of(found, torch.zeros_like(directions), *shape)
    grad_s = torch.zeros_like(s)
    if len(s) == 0:
        return grad_s, found, sums.directions
    by_gradient = s.new_zeros(len(s), dims + 1) if grad_gradient is None else grad_gradient.contiguous()
    by_laplacian = None if grad_laplacian is None else grad_laplacian.contiguous()
    sweep = Sweep(net, s)
    grad_t = [torch.zeros_like(t) for t in sweep.t]
    squares = sweep.squares()
    if by_laplacian is not None:
        _differentiate_squares(sweep, squares, by_laplacian, grad_t, sums)
        sums.quadratic[:, :dims] += 2.0 * by_laplacian.sum() * net.quadratic[:, :dims]
    _lift(sweep, squares, by_gradient, by_laplacian, grad_t, sums)
    _land(sweep, grad_t, sums, grad_s)
    state = s[:, : dims + 1]
    if rank:
        low, by_low = state @ net.quadratic.mT, by_gradient @ net.quadratic.mT
        sums.quadratic.addmm_(low.mT, by_gradient).addmm_(by_low.mT, state)
        grad_s[:, : dims + 1] += by_low @ net.quadratic
    if sums.linear is not None:
        sums.linear += by_gradient.sum(0)
    return grad_s, found, sums.directions


def _differentiate_squares(
    sweep: Sweep, squares: list[Tensor], by_laplacian: Tensor, grad_t: list[Tensor], sums: Network
) -> None:
    """Fills the squares, and adds what reaches slopes, weights and directions through them."""
    net, steps = sweep.net, sweep.steps
    factors = [
        steps.factor(t, v, by_laplacian, net.step(layer))
        for layer, (t, v) in enumerate(zip(sweep.t, sweep.v, strict=True))
    ]
    start = 0
    for block in net.blocks(len(sweep.s)):
        inputs, outputs = sweep.tangents(block, squares, factors[-1])
        grad = torch.empty_like(inputs[0])
        for layer in range(net.last, 0, -1):
            along = outputs[layer - 1]
            if layer < net.last:
                steps.retreat(along, grad, grad_t[layer], factors[layer], sweep.t[layer], net.step(layer))
            flat, weight = along.flatten(0, 1), net.weights[layer]
            sums.weights[layer].addmm_(flat.mT, inputs[layer - 1].flatten(0, 1))
            if layer < net.last:
                grad.flatten(0, 1).addmm_(flat, weight)
            else:
                torch.mm(flat, weight, out=grad.flatten(0, 1))
        steps.unseed(grad, grad_t[0], sweep.t[0], block)
        sums.directions[start : start + len(block)] = grad.sum(1)
        start += len(block)
    sums.directions.addcmul_(factors[0].sum(0).expand_as(net.directions), net.directions)


def _lift(
    sweep: Sweep, squares: list[Tensor], by_gradient: Tensor, by_laplacian: Tensor | None, grad_t: list[Tensor],
    sums: Network,
) -> None:  # fmt: skip
    """Gradients of the covectors, up through the layers."""
    net = sweep.net
    grad_v = torch.zeros_like(sweep.t[0])
    for layer, weight in enumerate(net.weights):
        below = by_gradient if layer == 0 else grad_v
        weight, by_weight = weight[:, : below.shape[1]], sums.weights[layer][:, : below.shape[1]]
        by_carried = below @ weight.mT
        by_weight.addmm_(sweep.carried[layer].mT, below)
        sweep.steps.lift(
            grad_v, grad_t[layer], sweep.t[layer], sweep.v[layer], squares[layer], by_carried, by_laplacian,
            net.step(layer),
        )  # fmt: skip
    sums.output.add_(grad_v.sum(0))


def _land(sweep: Sweep, grad_t: list[Tensor], sums: Network, grad_s: Tensor) -> None:
    """Gradients of the network itself, down through the layers."""
    net = sweep.net
    grad_u: Tensor | None = None
    for layer in range(net.last, -1, -1):
        grad_z = sweep.steps.land(grad_t[layer], sweep.t[layer], grad_u, net.step(layer))
        sums.biases[layer].add_(grad_z.sum(0))
        sums.weights[layer].addmm_(grad_z.mT, sweep.u[layer - 1] if layer else sweep.s)
        if layer == 0:
            torch.mm(grad_z, net.weights[0], out=grad_s)
        elif grad_u is None:
            grad_u = grad_z @ net.weights[layer]
        else:
            grad_u.addmm_(grad_z, net.weights[layer])
