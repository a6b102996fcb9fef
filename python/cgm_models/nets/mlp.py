"""Perceptrons over an input and an optional context."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..options import is_whole
from .context import given

# Those whose gradient is a function of their result overwrite their input: the layer before them does not need it.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu_,
    "tanh": torch.tanh_,
    "sigmoid": torch.sigmoid_,
    "elu": F.elu,
    "gelu": F.gelu,
    "leaky_relu": F.leaky_relu,
    "silu": F.silu,
    "softplus": F.softplus,
}


def find_activation(name: str) -> Callable[[Tensor], Tensor]:
    """The activation called ``name``; it may overwrite its argument.

    Raises:
        ValueError: if there is none, with the names there are.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(map(repr, ACTIVATIONS))}: got {name!r}")
    return ACTIVATIONS[name]


def check_features(hidden_features: Sequence[int]) -> tuple[int, ...]:
    sizes = tuple(hidden_features) if isinstance(hidden_features, Sequence) else (hidden_features,)
    if isinstance(hidden_features, str) or not all(is_whole(n, 1) for n in sizes):
        raise ValueError(f"hidden_features must hold positive whole numbers: got {hidden_features!r}")
    return tuple(map(int, sizes))


class InputLayer(nn.Module):
    """``x Wᵀ + c Vᵀ + b``: a linear layer of the concatenated input and context, which are never concatenated."""

    def __init__(self, in_features: int, out_features: int, context_dim: int = 0) -> None:
        super().__init__()
        joint = nn.Linear(in_features + context_dim, out_features)  # for its initialisation, scaled to both inputs
        self.weight = nn.Parameter(joint.weight.detach()[:, :in_features].clone())
        self.bias = nn.Parameter(joint.bias.detach())
        self.context_weight = nn.Parameter(joint.weight.detach()[:, in_features:].clone()) if context_dim else None

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        conditioning = self.conditioning(context)
        if conditioning is None:
            return F.linear(x, self.weight, self.bias)
        return torch.addmm(conditioning + self.bias, x, self.weight.t())

    def conditioning(self, context: Tensor | None) -> Tensor | None:
        """What the context adds to the result, ``c Vᵀ``; None for a layer without one."""
        if self.context_weight is None:
            return None
        return F.linear(given(context), self.context_weight)


class MLP(nn.Module):
    """Linear layers with an activation after all but the last; ``(batch, in), (batch, context) -> (batch, out)``.

    With ``zero_last`` the last layer begins at zero, so that what it conditions begins at the identity.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        hidden_features: Sequence[int] = (64, 64),
        context_dim: int = 0,
        activation: str = "relu",
        zero_last: bool = True,
    ) -> None:
        super().__init__()
        self.activation, self.activation_name = find_activation(activation), activation
        self.layers: Sequence[nn.Linear]
        sizes = (*check_features(hidden_features), out_features)
        self.input = InputLayer(in_features, sizes[0], context_dim)
        self.layers = nn.ModuleList(nn.Linear(n, m) for n, m in itertools.pairwise(sizes))  # type: ignore[assignment]
        if zero_last:
            last = self.layers[-1] if self.layers else self.input
            zero_(last)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        h = self.input(x, context)
        for layer in self.layers:
            h = layer(self.activation(h))
        return h

    def weights_and_biases(self) -> tuple[list[Tensor], list[Tensor]] | None:
        """Of all layers, for who computes them in another way; None where the modules themselves have to be called."""
        children: dict[str, Any] = self._modules  # type: ignore[assignment]  # quicker than attributes, at every step
        first, rest = children["input"], children["layers"]
        if type(rest) is not nn.ModuleList or _watched(self):
            return None
        weights: list[Tensor] = []
        biases: list[Tensor] = []
        for layer in (first, *rest._modules.values()):
            if type(layer) not in (nn.Linear, InputLayer) or _watched(layer):
                return None
            own = layer._parameters
            weight, bias = own.get("weight"), own.get("bias")
            if weight is None or bias is None:
                return None
            weights.append(weight)
            biases.append(bias)
        return weights, biases


def _watched(module: nn.Module) -> bool:
    """Whether hooks want the module to be called, or an instance's own forward."""
    hooks = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    return bool(hooks) or "forward" in vars(module)


class ResidualMLP(nn.Module):
    """``n_blocks`` blocks h ← h + W₂ a(W₁ a(h)) of one width between an input and an output layer."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        hidden_features: int = 64,
        n_blocks: int = 2,
        context_dim: int = 0,
        activation: str = "relu",
        zero_last: bool = True,
    ) -> None:
        super().__init__()
        (width,) = check_features((hidden_features,))
        self.activation = find_activation(activation)
        self.input = InputLayer(in_features, width, context_dim)
        self.blocks: Sequence[Sequence[nn.Module]]
        self.blocks = nn.ModuleList(  # type: ignore[assignment]
            nn.ModuleList((nn.Linear(width, width), nn.Linear(width, width))) for _ in range(n_blocks)
        )
        self.output = nn.Linear(width, out_features)
        if zero_last:
            zero_(self.output)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        h = self.input(x, context)
        for first, second in self.blocks:
            # The skip connection reads h, so the activation must not overwrite it.
            h = h + second(self.activation(first(self.activation(h.clone()))))
        return self.output(self.activation(h))


def zero_(layer: nn.Module) -> None:
    """Set every parameter of ``layer`` to zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
