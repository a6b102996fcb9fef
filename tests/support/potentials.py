"""Cases of OT-Flow's potential, for every backend; the oracle is autograd's Hessian in float64, or the reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import cgm_kernels


@dataclass(frozen=True)
class Case:
    """The sizes of one problem; ``draw`` makes its tensors."""

    dim: int
    width: int
    layers: int = 2
    rows: int = 9
    rank: int = 2
    context: int = 0
    linear: bool = True
    time: str = "rows"  # "number", "scalar" or "rows"

    def __str__(self) -> str:
        return f"d{self.dim}-m{self.width}-M{self.layers}-B{self.rows}-r{self.rank}-c{self.context}-{self.time}"

    def draw(self, dtype: torch.dtype = torch.float64, device: str = "cpu", seed: int = 0) -> dict[str, Any]:
        """The arguments of ``potential_divergence`` by name."""
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int, scale: float = 1.0) -> Tensor:
            return (scale * torch.randn(shape, generator=generator, dtype=torch.float64)).to(device, dtype)

        inputs, width = self.dim + 1 + self.context, self.width
        shapes = [(width, inputs), *[(width, width)] * (self.layers - 1)]
        times = {"number": 0.3, "scalar": normal(), "rows": normal(self.rows)}
        return {
            "x": normal(self.rows, self.dim),
            "t": times[self.time],
            "weights": [normal(*shape, scale=shape[1] ** -0.5) for shape in shapes],
            "biases": [normal(width, scale=0.5) for _ in shapes],
            "output": normal(width),
            "quadratic": normal(self.rank, self.dim + 1, scale=0.5) if self.rank else None,
            "linear": normal(self.dim + 1) if self.linear else None,
            "context": normal(self.rows, self.context) if self.context else None,
        }


CASES = [
    *[Case(3, 5, layers) for layers in (1, 2, 3, 4)],
    Case(1, 1, rows=1, rank=0, linear=False, time="number"),
    Case(2, 32, rows=70, context=1, time="scalar"),
    Case(9, 4, 3, rank=0, context=2),  # fewer units than dimensions
    Case(11, 7, 2, linear=False, time="number"),
    Case(6, 4, 1, rank=3, context=2),
]
# Several tiles, and several blocks of directions, on the CPU.
LARGE_CASES = [Case(70, 70, 3, rows=65, rank=10), Case(20, 16, 2, rows=700, context=3), Case(80, 33, 2, rows=200)]


def leaves(arguments: dict[str, Any]) -> list[Tensor]:
    """The tensors of ``arguments``, each asked for its gradient."""
    values = [one for value in arguments.values() for one in (value if isinstance(value, list) else [value])]
    return [value.requires_grad_() for value in values if isinstance(value, Tensor)]


def cast(arguments: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    def one(value: Any) -> Any:
        if isinstance(value, list):
            return [one(item) for item in value]
        return value.detach().to(dtype, copy=True) if isinstance(value, Tensor) else value

    return {name: one(value) for name, value in arguments.items()}


def values(arguments: dict[str, Any], x: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """∇Φ (B, d + 1) and the Laplacian (B,) at time t, by differentiating the definition of Φ twice."""
    s = torch.cat([x, torch.full_like(x[:, :1], t)], 1)
    if not s.requires_grad:
        s.requires_grad_()
    inputs = s if arguments["context"] is None else torch.cat([s, arguments["context"].expand(len(x), -1)], 1)
    first, *others = zip(arguments["weights"], arguments["biases"], strict=True)
    u = torch.log(2.0 * torch.cosh(inputs @ first[0].mT + first[1]))
    for weight, bias in others:
        u = u + torch.log(2.0 * torch.cosh(u @ weight.mT + bias)) / len(others)
    phi = u @ arguments["output"]
    if arguments["quadratic"] is not None:
        phi = phi + 0.5 * (s @ arguments["quadratic"].mT).square().sum(1)
    if arguments["linear"] is not None:
        phi = phi + s @ arguments["linear"]
    (gradient,) = torch.autograd.grad(phi.sum(), s, create_graph=True)
    rows = [torch.autograd.grad(gradient[:, i].sum(), s, create_graph=True)[0][:, i] for i in range(x.shape[1])]
    return gradient, torch.stack(rows).sum(0)


def run(backend: str, arguments: dict[str, Any]) -> tuple[Tensor, Tensor]:
    with cgm_kernels.use_backend(backend):
        return cgm_kernels.potential_divergence(**arguments)


def results(backend: str, arguments: dict[str, Any]) -> list[Tensor]:
    """Gradient, Laplacian, and the gradients of a sum that tells every element apart, by every tensor."""
    inputs = leaves(arguments)
    gradient, laplacian = run(backend, arguments)
    count = gradient.numel() + laplacian.numel()
    weights = (torch.arange(count, device=gradient.device) % 7 - 2.5).to(gradient.dtype)
    flat = torch.cat([gradient.flatten(), laplacian])
    gradients = torch.autograd.grad((flat * weights).sum() + 0.1 * laplacian.square().sum(), inputs)
    return [gradient.detach(), laplacian.detach(), *gradients]


def drawn(case: Case, dtype: torch.dtype = torch.float64, device: str = "cpu") -> dict[str, Any]:
    """The arguments of ``potential_flow`` by name, but for the times."""
    arguments = case.draw(dtype, device)
    del arguments["t"]
    return arguments


def flow(
    backend: str, arguments: dict[str, Any], times: Any = (0.1, 0.3, 0.8), mass: float = 1.0, **options: Any
) -> cgm_kernels.PotentialFlow:
    with cgm_kernels.use_backend(backend):
        return cgm_kernels.potential_flow(**arguments, times=times, mass=mass, **options)


def gradients(results: Sequence[Tensor | None], arguments: dict[str, Any]) -> tuple[Tensor, ...]:
    """By every tensor, of a sum that tells all elements apart."""
    flat = torch.cat([one.flatten() for one in results if one is not None])
    weights = (torch.arange(len(flat), device=flat.device) % 7 - 2.5).to(flat.dtype)
    inputs = leaves(arguments)
    return torch.autograd.grad((flat * weights).sum() + 0.1 * flat.square().sum(), inputs, materialize_grads=True)
