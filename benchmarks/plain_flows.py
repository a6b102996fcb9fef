"""Minimal PyTorch flows with the parameters and the numbers of ours: what one writes by hand, without our kernels."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BOUND = 2.0  # of log σ = bound · tanh(s / bound), as our flows have it
LOG_2PI = math.log(2.0 * math.pi)


def bounded(s: Tensor) -> Tensor:
    return BOUND * torch.tanh(s / BOUND)


def standard_normal(*parts: Tensor) -> Tensor:
    """log N(z; 0, 1) of points whose dimensions are dealt to ``parts``."""
    return sum((-0.5 * (part.square() + LOG_2PI)).sum(1) for part in parts)  # type: ignore[return-value]


class PlainFlow(nn.Module):
    """A flow of ``dim`` dimensions; ``push`` maps the latent to the data."""

    dim: int

    def log_prob(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def push(self, z: Tensor) -> Tensor:
        raise NotImplementedError

    def sample(self, n: int) -> Tensor:
        return self.push(torch.randn(n, self.dim, device=next(self.parameters()).device))


class PlainRealNVP(PlainFlow):
    """Affine couplings of the two halves in turn. The halves are never put together in between."""

    def __init__(self, ours: nn.Module, dim: int) -> None:
        super().__init__()
        self.dim, self.middle = dim, dim // 2
        self.nets = nn.ModuleList(_perceptron(layer.conditioner) for layer in ours.transform.layers)  # type: ignore

    def log_prob(self, x: Tensor) -> Tensor:
        a, b = x[:, : self.middle], x[:, self.middle :]
        log_det: Tensor | float = 0.0
        for index in reversed(range(len(self.nets))):
            passing, moved = (b, a) if index % 2 else (a, b)
            s, t = self.nets[index](passing).chunk(2, 1)
            s = bounded(s)
            moved = (moved - t) * torch.exp(-s)
            log_det = log_det - s.sum(1)
            a, b = (moved, passing) if index % 2 else (passing, moved)
        return standard_normal(a, b) + log_det

    def push(self, z: Tensor) -> Tensor:
        a, b = z[:, : self.middle], z[:, self.middle :]
        for index, net in enumerate(self.nets):
            passing, moved = (b, a) if index % 2 else (a, b)
            s, t = net(passing).chunk(2, 1)
            moved = torch.addcmul(t, moved, torch.exp(bounded(s)))
            a, b = (moved, passing) if index % 2 else (passing, moved)
        return torch.cat((a, b), 1)


class PlainMAF(PlainFlow):
    """Masked autoregressive layers; a sample runs each network once for every dimension."""

    def __init__(self, ours: nn.Module, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.nets = nn.ModuleList(MaskedPerceptron(layer.net.layers) for layer in ours.transform.layers)  # type: ignore

    def log_prob(self, x: Tensor) -> Tensor:
        log_det: Tensor | float = 0.0
        for net in reversed(self.nets):
            s, t = net(x).chunk(2, 1)
            s = bounded(s)
            x = (x - t) * torch.exp(-s)
            log_det = log_det - s.sum(1)
        return standard_normal(x) + log_det

    def push(self, z: Tensor) -> Tensor:
        for net in self.nets:
            x = torch.zeros_like(z)
            for _ in range(self.dim):
                s, t = net(x).chunk(2, 1)
                x = torch.addcmul(t, z, torch.exp(bounded(s)))
            z = x
        return z


class MaskedPerceptron(nn.Module):
    """Linear layers under masks with a ReLU between them, from layers that have a weight, a bias and a mask."""

    def __init__(self, layers: nn.ModuleList) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_linear(layer) for layer in layers)
        for index, layer in enumerate(layers):
            self.register_buffer(f"mask_{index}", layer.mask.to(layer.weight.dtype))  # type: ignore

    def forward(self, x: Tensor) -> Tensor:
        for index, layer in enumerate(self.layers):
            mask = getattr(self, f"mask_{index}")
            x = F.linear(torch.relu(x) if index else x, layer.weight * mask, layer.bias)  # type: ignore
        return x


PLAIN: dict[str, type[Any]] = {"RealNVP": PlainRealNVP, "MAF": PlainMAF}


def _linear(layer: nn.Module) -> nn.Linear:
    weight: Tensor = layer.weight  # type: ignore
    copy = nn.Linear(weight.shape[1], weight.shape[0])
    copy.load_state_dict({"weight": weight.detach(), "bias": layer.bias.detach()})  # type: ignore
    return copy


def _perceptron(conditioner: nn.Module) -> nn.Sequential:
    layers = [_linear(layer) for layer in (conditioner.input, *conditioner.layers)]  # type: ignore
    return nn.Sequential(layers[0], *(part for layer in layers[1:] for part in (nn.ReLU(), layer)))
