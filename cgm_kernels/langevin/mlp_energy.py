"""A network as an energy, whose gradient the kernels take by a sweep forward and back over its layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .. import checks
from ..activations import ACTIVATIONS
from .energies import Energy
from .parameters import MlpParameters

__all__ = ["MLPEnergy"]


class MLPEnergy(Energy):
    """f(x) = W_n a(… a(W_1 x + b_1) …) + b_n from R^d to R; p(x) ∝ exp(−f(x)) is not normalised.

    Args:
        weights: W_l of each layer, (out, in) as of ``torch.nn.Linear``; the first takes d numbers, the last gives one.
        biases: b_l of each layer, (out,) or None.
        activation: tanh, softplus, silu, gelu (exact), relu, leaky_relu, elu or sin, after each layer but the last.
        slope: of leaky_relu below zero.
    """

    def __init__(
        self,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor | None],
        *,
        activation: str = "silu",
        slope: float = 0.01,
    ) -> None:
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}: got {activation!r}")
        self.activation, self.slope = activation, checks.number("slope", slope)
        self.weights, self.biases = _layers("weights", weights), _layers("biases", biases)
        if len(self.biases) != len(self.weights):
            raise ValueError(f"biases must have {len(self.weights)} layers, as weights: got {len(self.biases)}")
        self._check_shapes()
        self.dims = self.weights[0].shape[1]

    def _check_shapes(self) -> None:
        inputs = None
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            name = f"weights[{number}]"
            checks.tensor(name, weight)
            if weight.dim() != 2 or 0 in weight.shape or (inputs is not None and weight.shape[1] != inputs):
                expected = "(out, in)" if inputs is None else f"(out, {inputs}) after weights[{number - 1}]"
                raise ValueError(f"{name} must be {expected}: got {tuple(weight.shape)}")
            inputs = len(weight)
            if bias is not None:
                checks.tensor(f"biases[{number}]", bias)
                if bias.shape != (inputs,):
                    raise ValueError(f"biases[{number}] must be ({inputs},): got {tuple(bias.shape)}")
        if inputs != 1:
            raise ValueError(f"weights[{len(self.weights) - 1}] must give one output, the energy: got {inputs}")

    def tensors(self) -> Iterator[Tensor]:
        yield from self.weights
        yield from (bias for bias in self.biases if bias is not None)

    def packed(self, dtype: torch.dtype) -> MlpParameters:
        weights = tuple(weight.to(dtype) for weight in self.weights)
        biases = tuple(
            weight.new_zeros(len(weight)) if bias is None else bias.to(dtype)
            for weight, bias in zip(weights, self.biases, strict=True)
        )
        return MlpParameters(weights, biases, self.activation, self.slope)


def _layers(name: str, value: Sequence) -> list:
    if isinstance(value, Tensor) or not isinstance(value, Sequence):
        raise TypeError(f"{name} must be a list of tensors, one for each layer: got {type(value).__name__}")
    if not value:
        raise ValueError(f"{name} must have at least one layer: got none")
    return list(value)
