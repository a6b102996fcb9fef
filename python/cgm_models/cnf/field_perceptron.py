"""Perceptrons of time, point and context as vector fields, on the fused kernels."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cgm_kernels import mlp_divergence, mlp_flow, mlp_value
from cgm_kernels.activations import ACTIVATIONS
from cgm_kernels.divergence.tableaus import TABLEAUS

from ..nets.constants import register_constant
from ..nets.mlp import check_features, zero_
from ..options import check_choice, check_positive, check_whole
from .field import Time, VectorField
from .solver import Solution, Solver

TIMES = ("concat", "film", "none")
CONDITIONINGS = ("concat", "film")


class Gate(nn.Module):
    """``h ↦ σ(W c + b) ∘ h + V c``: how FFJORD's "concatsquash" layers take a condition c, which there is the time."""

    def __init__(self, n_conditions: int, features: int) -> None:
        super().__init__()
        self.scale = nn.Linear(n_conditions, features)
        self.shift = nn.Linear(n_conditions, features, bias=False)

    def forward(self, condition: Tensor) -> tuple[Tensor, Tensor]:
        """The scale and the shift, each of shape (..., features)."""
        return torch.sigmoid(self.scale(condition)), self.shift(condition)


class PerceptronField(VectorField):
    """``u_k = γ_k ∘ (W_k h_{k−1} + b_k) + β_k``, ``h_k = a(u_k)``, ``v = u_K``, h_0 = x and what is concatenated to it.

    What enters as 'concat' is concatenated to x; what enters as 'film' sets scale γ and shift β of every layer by a
    ``Gate``. The last layer begins at zero: the flow begins at the identity.

    Args:
        dim: of the points.
        hidden_features: widths of the hidden layers.
        context_dim: of the context, 0 for none.
        activation: a: 'tanh', 'softplus', 'silu', 'gelu', 'sin', 'elu', 'relu' or 'leaky_relu'.
        time: how the time enters, 'concat', 'film' or 'none' for a field that does not change.
        conditioning: how the context enters, 'concat' or 'film'.
        n_frequencies: sin(2πjt) and cos(2πjt) for j up to this number enter beside t.
        residual: add each hidden layer's input to its output where their widths agree.
        frequency: the weights of x and the biases of the first layer begin so many times as large as ``nn.Linear``
            makes them. Data that are fine beside their distance from the origin are learned sooner with 8 to 16.
    """

    def __init__(
        self,
        dim: int,
        hidden_features: Sequence[int] = (64, 64, 64),
        context_dim: int = 0,
        activation: str = "tanh",
        time: str = "film",
        conditioning: str = "concat",
        n_frequencies: int = 0,
        residual: bool = False,
        frequency: float = 1.0,
    ) -> None:
        super().__init__()
        check_choice("activation", activation, tuple(ACTIVATIONS))
        check_choice("time", time, TIMES)
        check_choice("conditioning", conditioning, CONDITIONINGS)
        n_frequencies = check_whole("n_frequencies", n_frequencies, 0)
        check_positive("frequency", frequency)
        self.dim, self.context_dim, self.activation = dim, context_dim, activation
        self.time, self.conditioning, self.residual = time, conditioning, residual
        n_time = 0 if time == "none" else 1 + 2 * n_frequencies
        gated = {"time": n_time if time == "film" else 0, "context": context_dim if conditioning == "film" else 0}
        n_joined = n_time + context_dim - sum(gated.values())
        widths = (*check_features(hidden_features), dim)
        self.layers: Sequence[nn.Linear]
        self.layers = nn.ModuleList(  # type: ignore[assignment]
            nn.Linear(n, m) for n, m in itertools.pairwise((dim + n_joined, *widths))
        )
        with torch.no_grad():
            self.layers[0].weight[:, :dim].mul_(frequency)
            self.layers[0].bias.mul_(frequency)
        zero_(self.layers[-1])
        self.gates: Sequence[Gate] | None = None
        if any(gated.values()):
            gates = [Gate(sum(gated.values()), width) for width in widths]
            zero_(gates[-1].shift)
            self.gates = nn.ModuleList(gates)  # type: ignore[assignment]
        register_constant(self, "angles", lambda: 2.0 * math.pi * torch.arange(1, n_frequencies + 1))

    angles: Tensor

    @property
    def weights(self) -> list[Tensor]:
        return [layer.weight for layer in self.layers]

    @property
    def biases(self) -> list[Tensor]:
        return [layer.bias for layer in self.layers]

    def forward(self, t: Time, x: Tensor, context: Tensor | None = None) -> Tensor:
        joined, film = self._conditions(t, x, context)
        return mlp_value(
            x, self.weights, self.biases, activation=self.activation, context=joined, residual=self.residual, film=film
        )

    def divergence(
        self,
        t: Time,
        x: Tensor,
        context: Tensor | None = None,
        *,
        probes: Tensor | None = None,
        exact: bool = False,
        frobenius: bool = False,
    ) -> tuple[Tensor, ...]:
        joined, film = self._conditions(t, x, context)
        return mlp_divergence(
            x, self.weights, self.biases, activation=self.activation, probes=probes, exact=exact, context=joined,
            residual=self.residual, film=film, frobenius=frobenius,
        )  # fmt: skip

    def flow(
        self,
        x: Tensor,
        context: Tensor | None,
        solver: Solver,
        start: float,
        end: float,
        *,
        probes: Tensor | None,
        exact: bool,
        regularizers: bool,
    ) -> Solution | None:
        if context is not None and self.conditioning == "film":
            return None  # the kernel takes one scale and shift for all rows of a stage
        gates = self.gates
        film = None if gates is None else lambda times: [gate(self.time_features(times)) for gate in gates]
        result = mlp_flow(
            x, self.weights, self.biases, times=solver.times(start, end), method=solver.method,
            activation=self.activation, probes=probes, exact=exact, context=context,
            time_features=self.time_features if self.time == "concat" else None, residual=self.residual, film=film,
            regularizers=regularizers, keep_states=solver.gradient != "checkpoint",
        )  # fmt: skip
        return Solution(*result, solver.n_steps * TABLEAUS[solver.method].stages)

    def time_features(self, t: Tensor) -> Tensor:
        """``(t, sin 2πjt, cos 2πjt)``, (n,) -> (n, 1 + 2 n_frequencies)."""
        turns = t[:, None] * self.angles
        return torch.cat((t[:, None], turns.sin(), turns.cos()), 1)

    def _conditions(
        self, t: Time, x: Tensor, context: Tensor | None
    ) -> tuple[Tensor | None, list[tuple[Tensor, Tensor]] | None]:
        """What is concatenated to x, (batch, n) or (n,), and the scale and shift of every layer; None for nothing."""
        features = None
        if self.time != "none":
            # as_tensor of a number copies it to the device without waiting for it.
            at = torch.as_tensor(t, dtype=x.dtype, device=x.device) if isinstance(t, Tensor) else x.new_full((), t)
            features = self.time_features(at.reshape(-1))
        joined, gating = self._sorted(features, context)
        film = None
        if self.gates is not None:
            by_row = any(len(part) != 1 for part in gating)
            condition = _side_by_side(gating, len(x) if by_row else 1)
            film = [gate(condition if by_row else condition[0]) for gate in self.gates]
        if not joined:
            return None, film
        shared = len(joined) == 1 and joined[0] is features and len(features) == 1  # a time alone, for all rows
        return (joined[0][0] if shared else _side_by_side(joined, len(x))), film

    def _sorted(self, features: Tensor | None, context: Tensor | None) -> tuple[list[Tensor], list[Tensor]]:
        """Time and context, of those there are, by how they enter: concatenated, or through the gates."""
        entries: list[tuple[str, Any]] = [(self.time, features), (self.conditioning, context)]
        return tuple([part for how, part in entries if how == kind and part is not None] for kind in CONDITIONINGS)  # type: ignore[return-value]


def _side_by_side(parts: Sequence[Tensor], n_rows: int) -> Tensor:
    return torch.cat([part.expand(n_rows, -1) for part in parts], 1)
