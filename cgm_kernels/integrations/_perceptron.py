"""The perceptrons that normflows conditions its couplings with, as weights and biases: some run with the coupling."""

from __future__ import annotations

from typing import Any, NamedTuple

from normflows import nets
from torch import Tensor, nn

from ._flows import refuse_hooks
from ._library import PassOn


class Perceptron(NamedTuple):
    """Linear layers with a ReLU after each but the last."""

    weights: list[Tensor]
    biases: list[Tensor]

    def takes(self, n_inputs: int, n_outputs: int) -> bool:
        return self.weights[0].shape[1] == n_inputs and len(self.weights[-1]) == n_outputs

    @property
    def tensors(self) -> list[Tensor]:
        return self.weights + self.biases


def perceptron(network: Any) -> Perceptron | None:
    """The layers of normflows' MLP; None for another network, and where running its modules would do more."""
    if type(network) is not nets.MLP:
        return None
    inner = vars(network)["_modules"].get("net")
    if type(inner) is not nn.Sequential:
        return None
    modules: list[Any] = list(inner._modules.values())
    linears, activations = modules[0::2], modules[1::2]
    if len(linears) != len(activations) + 1:
        return None
    for one in activations:
        if type(one) is not nn.LeakyReLU or one.negative_slope != 0.0:
            return None
    weights: list[Tensor] = []
    biases: list[Tensor] = []
    for linear in linears:
        if type(linear) is not nn.Linear:
            return None
        weight, bias = linear._parameters.get("weight"), linear._parameters.get("bias")
        if weight is None or bias is None:
            return None
        weights.append(weight)
        biases.append(bias)
    try:
        refuse_hooks(network)
    except PassOn:
        return None
    return Perceptron(weights, biases)
