"""Points of N(0, I), independent or spread evenly."""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.quasirandom import SobolEngine

_BITS = SobolEngine.MAXBIT


def gaussian_points(n: int, dim: int, generator: Generator | None, like: Tensor, *, even: bool) -> Tensor:
    """``(n, dim)`` points of N(0, I) in the dtype and on the device of ``like``; see ``even_points`` for even ones."""
    if even and n and dim <= SobolEngine.MAXDIM:
        return even_points(n, dim, generator).to(like)
    device = like.device if generator is None else generator.device
    return torch.randn(n, dim, generator=generator, dtype=like.dtype, device=device).to(like.device)


def even_points(n: int, dim: int, generator: Generator | None = None) -> Tensor:
    """``(n, dim)`` scrambled Sobol points through the inverse distribution function of N(0, 1), in float64.

    Each of them is distributed as N(0, I) (on a grid of 2³⁰ levels), all together cover it more evenly than independent
    ones: their averages of smooth functions err by little more than 1/n instead of 1/√n. They are not independent.
    Owen, "Scrambled net variance for integrals of smooth functions", 1997.
    """
    device = "cpu" if generator is None else generator.device
    seed = int(torch.randint(2**62, (), generator=generator, device=device))
    levels = SobolEngine(dim, scramble=True, seed=seed).draw(n, dtype=torch.float64)
    return torch.special.ndtri(levels + 0.5 ** (_BITS + 1))  # the middle of each level: never 0 or 1
