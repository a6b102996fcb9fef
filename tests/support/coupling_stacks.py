"""Stacks of couplings of one kind, their tensors and their gradients."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import cgm_kernels
from cgm_kernels import CouplingLayer
from tests.support.called import made_by


@dataclass(frozen=True)
class Case:
    """``split`` of every other layer; the layers between transform what it leaves."""

    size: int
    hidden: tuple[int, ...] = (9, 8)
    batch: int = 5
    n_layers: int = 3
    split: int | slice = 0
    conditioned: tuple[int, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)

    def splits(self) -> tuple[slice, slice]:
        first = self.split if isinstance(self.split, slice) else slice(self.split or self.size // 2, self.size)
        if (first.step or 1) == 2:
            return first, slice(1 - first.start, None, 2)
        return first, slice(0, first.start) if first.start else slice(first.stop, self.size)

    def draw(self, dtype: torch.dtype = torch.float64, device: str = "cpu") -> list[list[Tensor]]:
        """[x, log_det], then of each layer the weights, the biases and where it is conditioned the conditioning."""
        generator = torch.Generator().manual_seed(0)

        def normal(*shape: int, scale: float = 1.0) -> Tensor:
            drawn = scale * torch.randn(*shape, generator=generator, dtype=torch.float64)
            return drawn.to(device, dtype)

        found = [[normal(self.batch, self.size), normal(self.batch)]]
        for number in range(self.n_layers):
            moved = len(range(self.size)[self.splits()[number % 2]])
            widths = [self.size - moved, *self.hidden, 2 * moved]
            weights = [normal(b, a, scale=0.5 * a**-0.5) for a, b in itertools.pairwise(widths)]
            biases = [normal(b, scale=0.2) for b in widths[1:]]
            conditioning = [normal(self.batch, widths[1])] if number in self.conditioned else []
            found.append(weights + biases + conditioning)
        return found

    def layers(self, tensors: list[list[Tensor]]) -> list[CouplingLayer]:
        n = len(self.hidden) + 1
        return [
            CouplingLayer(
                own[:n], own[n : 2 * n], self.splits()[k % 2], conditioning=own[2 * n] if len(own) > 2 * n else None,
                **self.options,
            )
            for k, own in enumerate(tensors[1:])
        ]  # fmt: skip

    def differentiated(
        self, tensors: list[list[Tensor]], backend: str, dtype: torch.dtype | None = None, running: bool = True
    ) -> tuple[list[Tensor], str]:
        """y, log_det and the gradients by all tensors, and the name of the operation that made y."""
        leaves = [[t.detach().to(dtype or t.dtype).requires_grad_() for t in part] for part in tensors]
        x, log_det = leaves[0]
        with cgm_kernels.use_backend(backend):
            y, total = cgm_kernels.affine_coupling_stack(x, self.layers(leaves), log_det if running else None)
            weights = torch.linspace(-1, 2, y.numel(), dtype=y.dtype, device=y.device).reshape(y.shape)
            scalar = (y * weights).sum() + total.square().sum()
            flat = list(itertools.chain.from_iterable(leaves))
            grads = torch.autograd.grad(scalar, flat, allow_unused=not running, materialize_grads=not running)
        return [y.detach(), total.detach(), *grads], made_by(y)
