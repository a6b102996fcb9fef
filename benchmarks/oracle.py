"""The rule of the kernels: a contender's error is at most twice that of PyTorch eager, and a tiny floor."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .benchmark import Cell, relative_error

Method = Callable[..., Sequence[Tensor]]


def results(method: Method, inputs: Sequence[Tensor], cotangents: Sequence[Tensor] | None) -> list[Tensor]:
    """What ``method`` gives for the inputs, and with ``cotangents`` of its results the gradients of all inputs."""
    found = method(*inputs)
    if cotangents is None:
        return list(found)
    cotangents = [one.to(inputs[0].dtype) for one in cotangents]
    return [*(one.detach() for one in found), *torch.autograd.grad(found, inputs, cotangents)]


def floor_of(name: str) -> float:
    """For :meth:`Oracle.check`, where torch.compile takes long sums in another order than eager: it is further off."""
    return 1e-5 if name == "compile" else 1e-6


class Oracle:
    """The results of ``eager`` in float64; ``inputs`` require a gradient where there are ``cotangents``."""

    def __init__(
        self, cell: Cell, eager: Method, inputs: Sequence[Tensor], cotangents: Sequence[Tensor] | None
    ) -> None:
        self.cell, self.eager, self.inputs, self.cotangents = cell, eager, inputs, cotangents

    @functools.cached_property
    def _expected(self) -> list[tuple[Tensor, float]]:
        """Each result, and float32 eager's error in it."""
        exact = [one.detach().double().requires_grad_(one.requires_grad) for one in self.inputs]
        wanted, rough = (results(self.eager, inputs, self.cotangents) for inputs in (exact, self.inputs))
        return [(one, relative_error(other, one)) for one, other in zip(wanted, rough, strict=True)]

    def expect(self) -> None:
        """Compute the results now, as long as nothing is patched."""
        _ = self._expected

    def check(self, name: str, method: Method, floor: float = 1e-6) -> None:
        """AssertionError where the results of ``method`` are off by more than twice eager's error and ``floor``."""
        for found, (wanted, bound) in zip(results(method, self.inputs, self.cotangents), self._expected, strict=True):
            error = relative_error(found, wanted)
            if not (found.shape == wanted.shape and error <= 2 * bound + floor):
                raise AssertionError(f"{name} at {self.cell} is off by {error:.1e}, PyTorch eager by {bound:.1e}")
