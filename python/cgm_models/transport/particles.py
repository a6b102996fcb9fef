"""The sliced-Wasserstein flow of given particles, by the exact coupling of the two clouds."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from cgm_kernels import random_projections, sliced_displacement


def particle_flow(
    x: Tensor,
    target: Tensor,
    *,
    n_steps: int,
    step_size: float,
    n_projections: int = 64,
    regularization: float = 0.0,
    orthogonal: bool = False,
    batch_size: int | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """Particles ``x`` (n, d) after ``n_steps`` of the flow towards ``target`` (m, d) (Liutkus et al. 2019).

        x ← x + h · mean_θ (T_θ(⟨x, θ⟩) − ⟨x, θ⟩) θ + √(2λh) z,

    h the ``step_size``, λ the ``regularization``, z standard normal, with fresh directions θ and, if ``batch_size`` is
    given, a fresh part of the target each step. Nothing is learned: for new samples without the data there is
    :class:`SlicedWassersteinFlow`.
    """
    if regularization < 0 or step_size <= 0:
        raise ValueError(f"need step_size > 0 and regularization >= 0: got {step_size} and {regularization}")
    noise = math.sqrt(2.0 * regularization * step_size)
    for _ in range(n_steps):
        directions = random_projections(
            x.shape[1], n_projections, orthogonal=orthogonal, generator=generator, dtype=x.dtype, device=x.device
        )
        part = target
        if batch_size is not None and batch_size < len(target):
            part = target[torch.randperm(len(target), generator=generator)[:batch_size].to(target.device)]
        x = x + step_size * sliced_displacement(x, part, projections=directions)
        if noise:
            x = x + noise * torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)
    return x
