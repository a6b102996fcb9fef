"""Cases of sliced optimal transport, for every backend, and their oracle: the reference in float64."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

import cgm_kernels


@dataclass(frozen=True)
class Case:
    """Shapes and options of one problem; ``draw`` makes its tensors."""

    n: int
    m: int
    d: int = 3
    directions: int = 5
    batch: int | None = None
    p: float = 2.0
    weighted: str = ""  # "", "x", "xy", or "shared": one weight row for the whole batch

    def __str__(self) -> str:
        batch = "" if self.batch is None else f"B{self.batch}-"
        weighted = f"-w{self.weighted}" if self.weighted else ""
        return f"{batch}n{self.n}-m{self.m}-d{self.d}-L{self.directions}-p{self.p:g}{weighted}"

    def draw(self, dtype: torch.dtype, device: str, seed: int = 0) -> dict[str, Tensor | float | None]:
        generator = torch.Generator().manual_seed(seed)
        batch = () if self.batch is None else (self.batch,)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        def masses(*shape: int) -> Tensor:
            weights = torch.rand(*shape, generator=generator, dtype=torch.float64)
            weights[..., 1::3] = 0.0  # some points carry nothing; the first always carries something
            return weights + 0.0

        x, y = normal(*batch, self.n, self.d), 1.5 * normal(*batch, self.m, self.d) + 0.3
        directions = cgm_kernels.random_projections(self.d, self.directions, generator=generator, dtype=torch.float64)
        rows = () if self.weighted == "shared" else batch
        return {
            "x": x.to(device, dtype),
            "y": y.to(device, dtype),
            "projections": directions.to(device, dtype),
            "x_weights": masses(*rows, self.n).to(device) if self.weighted else None,
            "y_weights": masses(*rows, self.m).to(device) if self.weighted in ("xy", "shared") else None,
        }


CASES = [
    Case(1, 1),
    Case(1, 7, directions=1),
    Case(16, 16, d=1),
    Case(17, 17, p=1.0),
    Case(33, 33, p=3.0),
    Case(31, 50),
    Case(50, 31, p=1.0),
    Case(20, 30, p=2.5, batch=2),
    Case(40, 40, batch=3, directions=17),
    Case(40, 40, d=70, directions=2),
    Case(25, 25, weighted="xy"),
    Case(25, 40, weighted="x", p=1.0),
    Case(12, 9, weighted="xy", batch=3),
    Case(12, 9, weighted="shared", batch=3, p=3.0),
    Case(130, 130, directions=33, batch=2),
]

# Beyond what an interpreter can walk through in a test: the native kernels take every path of their sort.
LARGE_CASES = [
    Case(700, 700, directions=50),
    Case(1100, 900, directions=9),
    Case(5000, 5000, directions=3),
    Case(6000, 6000, directions=1, p=1.0),
    Case(3000, 3000, directions=4, weighted="xy"),
    Case(20000, 20000, d=2, directions=1),
]

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
"""Where the Triton kernels run."""


def clouds(
    n: int,
    m: int,
    d: int = 3,
    n_directions: int = 2,
    batch: tuple[int, ...] = (),
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """x, y and projections."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*batch, n, d, generator=generator, dtype=torch.float64)
    y = torch.randn(*batch, m, d, generator=generator, dtype=torch.float64) + 0.3
    projections = cgm_kernels.random_projections(d, n_directions, generator=generator, dtype=torch.float64)
    return x.to(DEVICE, dtype), y.to(DEVICE, dtype), projections.to(DEVICE, dtype)


def masses(shape: tuple[int, ...], seed: int = 1) -> Tensor:
    """Weights of which a third are zero."""
    weights = torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    weights[..., 1::3] = 0.0  # the first is positive
    return weights.to(DEVICE)
