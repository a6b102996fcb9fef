"""The sliced-Wasserstein flow of given particles, by the exact coupling of the two clouds."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from cgm_kernels import random_projections, sliced_displacement

from ..options import check_whole
from .options import check_step


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
    if x.ndim != 2:
        raise ValueError(f"x must have shape (n, d): got {tuple(x.shape)}")
    if target.ndim != 2 or target.shape[1] != x.shape[1]:
        raise ValueError(f"target must have shape (m, {x.shape[1]}): got {tuple(target.shape)}")
    check_step(step_size, regularization)
    check_whole("n_steps", n_steps, 0)
    if batch_size is not None:
        check_whole("batch_size", batch_size, 1)
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
