"""A minimal continuous flow with the parameters and the numbers of ours: PyTorch alone, or torchdiffeq's solver.

Both take steps of Kutta's 3/8 rule, which torchdiffeq calls rk4. The first carries tangents by hand through a loop of
steps, the second calls ``odeint`` with the divergence by a VJP: how one writes it, and how FFJORD's own code does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .divergence_peers import network, tangents, vjp
from .plain_flows import PlainFlow, standard_normal

Rates = Callable[[Tensor, tuple[Tensor, Tensor]], tuple[Tensor, Tensor]]


class PlainFFJORD(PlainFlow):
    """x(1) = z + ∫ v dt for v a tanh perceptron of (x, t); ``exact`` is whether the divergence is the trace."""

    divergence = staticmethod(tangents)

    def __init__(self, ours: nn.Module, dim: int) -> None:
        super().__init__()
        field: Any = ours.transform.layers[0].field  # type: ignore[union-attr, index]
        self.dim, self.exact = dim, bool(ours.exact)
        self.solver: Any = ours.transform.layers[0].solver  # type: ignore[union-attr, index]
        self.register_buffer("angles", field.angles.clone(), persistent=False)
        self.layers = nn.ParameterList(
            parameter.detach().clone() for layer in field.layers for parameter in (layer.weight, layer.bias)
        )

    def log_prob(self, x: Tensor) -> Tensor:
        probes = None if self.exact else torch.empty_like(x).bernoulli_(0.5).mul_(2).sub_(1)[None]

        def rates(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            return self.divergence(probes, state[0], *self._at(t))

        z, log_det = self.solve(rates, (x, x.new_zeros(len(x))), 1.0, 0.0)
        return standard_normal(z) + log_det

    def push(self, z: Tensor) -> Tensor:
        def rates(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            return network(state[0], self._at(t)), state[1]

        return self.solve(rates, (z, z.new_zeros(())), 0.0, 1.0)[0]

    def solve(self, rates: Rates, state: tuple[Tensor, Tensor], start: float, end: float) -> tuple[Tensor, Tensor]:
        h, like = (end - start) / self.solver.n_steps, state[0]
        # All at once and on the device: a number made a tensor in each stage would wait for a GPU.
        times = torch.linspace(start, end, 3 * self.solver.n_steps + 1, dtype=like.dtype, device=like.device).unbind()

        def moved(k: list[tuple[Tensor, Tensor]], *factors: float) -> tuple[Tensor, Tensor]:
            first, second = state
            for (a, b), factor in zip(k, factors, strict=True):
                first, second = torch.add(first, a, alpha=h * factor), torch.add(second, b, alpha=h * factor)
            return first, second

        for step in range(0, 3 * self.solver.n_steps, 3):
            k = [rates(times[step], state)]
            k.append(rates(times[step + 1], moved(k, 1 / 3)))
            k.append(rates(times[step + 2], moved(k, -1 / 3, 1.0)))
            k.append(rates(times[step + 3], moved(k, 1.0, -1.0, 1.0)))
            state = moved(k, 1 / 8, 3 / 8, 3 / 8, 1 / 8)
        return state

    def _at(self, t: Tensor) -> tuple[Tensor, ...]:
        """The layers at a time: its columns of the first weight are a bias."""
        weight, bias, *rest = self.layers
        bias = torch.addcmul(bias, weight[:, self.dim], t)
        if len(self.angles):
            turns = t * self.angles
            bias = torch.addmv(bias, weight[:, self.dim + 1 :], torch.cat((turns.sin(), turns.cos())))
        return weight[:, : self.dim], bias, *rest


class TorchdiffeqFFJORD(PlainFFJORD):
    """The same with ``torchdiffeq.odeint``."""

    divergence = staticmethod(vjp)

    def solve(self, rates: Rates, state: tuple[Tensor, Tensor], start: float, end: float) -> tuple[Tensor, Tensor]:
        from torchdiffeq import odeint

        times = torch.linspace(start, end, 2, dtype=state[0].dtype, device=state[0].device)
        if self.solver.adaptive:
            first, second = odeint(rates, state, times, rtol=self.solver.rtol, atol=self.solver.atol)
        else:
            options = {"step_size": 1.0 / self.solver.n_steps}
            first, second = odeint(rates, state, times, method="rk4", options=options)
        return first[-1], second[-1]
