"""The perceptrons that normflows conditions its couplings with, as weights and biases: some run with the coupling."""

from __future__ import annotations

from typing import Any, NamedTuple

from normflows import nets
from torch import Tensor, nn
from torch.nn import functional as F

from ._flows import plain, refuse_hooks, select
from ._library import PassOn


class Perceptron(NamedTuple):
    """Linear layers with a ReLU after each but the last."""

    weights: list[Tensor]
    biases: list[Tensor]

    def takes(self, n_inputs: int, n_outputs: int) -> bool:
        return self.weights[0].shape[1] == n_inputs and len(self.weights[-1]) == n_outputs

    def part(self, x: Tensor, inputs: slice | Tensor, outputs: slice | Tensor) -> Tensor:
        """``outputs`` of the perceptron of x (B, D) whose other features than ``inputs`` are zero."""
        weights, biases = list(self.weights), list(self.biases)
        weights[0] = select(weights[0], inputs, 1)
        weights[-1], biases[-1] = select(weights[-1], outputs, 0), select(biases[-1], outputs, 0)
        hidden = F.linear(select(x, inputs, 1), weights[0], biases[0])
        for weight, bias in zip(weights[1:], biases[1:], strict=True):
            hidden = F.linear(hidden.relu(), weight, bias)
        return hidden


def perceptron(network: Any, x: Tensor) -> Perceptron | None:
    """The layers of normflows' MLP; None for another network, and where running its modules would do more."""
    if type(network) is not nets.MLP or type(network.net) is not nn.Sequential:
        return None
    modules: list[Any] = list(network.net._modules.values())
    linears, activations = modules[0::2], modules[1::2]
    if len(linears) != len(activations) + 1 or any(type(linear) is not nn.Linear for linear in linears):
        return None
    if any(type(one) is not nn.LeakyReLU or one.negative_slope != 0.0 for one in activations):
        return None
    if any(linear.bias is None for linear in linears):
        return None
    found = Perceptron([linear.weight for linear in linears], [linear.bias for linear in linears])
    try:
        refuse_hooks(network)
        plain(x, *found.weights, *found.biases)
    except PassOn:
        return None
    return found
