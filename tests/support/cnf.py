"""The continuous flows that tests go through."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from cgm_models.cnf import FFJORD
from cgm_models.cnf.field import VectorField

SMALL: dict[str, object] = {"hidden_features": (8, 8), "n_steps": 12}
TIGHT: dict[str, object] = {"rtol": 1e-9, "atol": 1e-9}

FFJORDS: dict[str, Callable[[], FFJORD]] = {
    "film": lambda: FFJORD(dim=3, **SMALL),
    "concat": lambda: FFJORD(dim=2, time="concat", activation="softplus", **SMALL),
    "still": lambda: FFJORD(dim=2, time="none", activation="silu", **SMALL),
    "context": lambda: FFJORD(dim=3, context_dim=2, **SMALL),
    "context-film": lambda: FFJORD(
        dim=2, context_dim=2, conditioning="film", time="concat", n_frequencies=2, hidden_features=(8, 8), n_steps=32
    ),
    "residual": lambda: FFJORD(dim=2, residual=True, activation="gelu", hidden_features=(8, 8, 8), n_steps=12),
    "kutta": lambda: FFJORD(dim=2, solver="rk4_38", activation="sin", **SMALL),
    "dopri5": lambda: FFJORD(dim=2, solver="dopri5", hidden_features=(8, 8), **TIGHT),
    "checkpoint": lambda: FFJORD(dim=2, gradient="checkpoint", **SMALL),
    "blocks": lambda: FFJORD(dim=2, n_blocks=2, actnorm=True, **SMALL),
    "levels": lambda: FFJORD((1, 2, 2), context_dim=2, n_levels=9, **SMALL),
}


def make(name: str, *, noise: float = 0.2, dtype: torch.dtype = torch.float64) -> FFJORD:
    """A flow away from the identity, in evaluation mode."""
    return moved(FFJORDS[name](), noise).to(dtype).eval()


def moved(module: FFJORD, noise: float = 0.2) -> FFJORD:
    """``module`` with normal numbers added to its parameters."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(noise * torch.randn(parameter.shape, generator=generator).to(parameter))
    return module


class LinearField(VectorField):
    """``dx/dt = A x + b``, whose solution, divergence and integrals are known."""

    def __init__(self, matrix: Tensor, offset: Tensor) -> None:
        super().__init__()
        self.matrix, self.offset = nn.Parameter(matrix), nn.Parameter(offset)

    def forward(self, t: object, x: Tensor, context: Tensor | None = None) -> Tensor:
        return x @ self.matrix.T + self.offset


class Reads(TorchDispatchMode):
    """Counts what waits for the device: numbers read back, and shapes that depend on values."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        waits = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique")
        name = function.overloadpacket.__name__
        if name.startswith(waits):
            self.seen.append(name)
        return function(*args, **(kwargs or {}))
