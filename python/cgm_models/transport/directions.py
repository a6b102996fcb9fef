"""Directions for one step: spread over the half circle, or confined to the patches of an image."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Generator, Tensor

from cgm_kernels import random_projections


def planar_projections(n_projections: int, *, generator: Generator, dtype: torch.dtype) -> Tensor:
    """Unit columns (2, n_projections) at equal angles over half a turn, all turned by one random angle.

    Each direction is uniform on the circle; the mean over all of them of a smooth function of the angle, as the sliced
    costs of clouds are, errs far less than that over independent ones.
    """
    first = torch.rand((), generator=generator, dtype=torch.float64)
    angles = (torch.arange(n_projections, dtype=torch.float64) + first) * (math.pi / n_projections)
    return torch.stack((angles.cos(), angles.sin())).to(dtype)


def patch_projections(
    image_shape: tuple[int, int, int], patch: int, n_projections: int, *, generator: Generator, dtype: torch.dtype
) -> Tensor:
    """Orthonormal columns, each supported on one tile of the image: (c·h·w, n_projections), at most c·h·w of them.

    The image is cut into tiles of ``patch × patch`` pixels with a random offset (smaller ones at the border), every
    tile gets a random orthonormal basis, and tiles are taken in random order. Neighbouring pixels depend on each other
    the most, and that is invisible along a direction that mixes all pixels. The idea of locally connected projections:
    Du et al. 2023, "Nonparametric Generative Modeling with Conditional Sliced-Wasserstein Flows".
    """
    channels, height, width = image_shape
    pixels = torch.arange(channels * height * width).view(channels, height, width)
    tiles = [
        pixels[:, top:bottom, left:right].flatten()
        for top, bottom in _cuts(height, patch, generator)
        for left, right in _cuts(width, patch, generator)
    ]
    columns = torch.zeros(pixels.numel(), n_projections, dtype=dtype)
    filled = 0
    for index in torch.randperm(len(tiles), generator=generator).tolist():
        tile = tiles[index]
        take = min(len(tile), n_projections - filled)
        basis = random_projections(len(tile), len(tile), orthogonal=True, generator=generator, dtype=dtype)
        columns[tile, filled : filled + take] = basis[:, :take]
        filled += take
        if filled == n_projections:
            break
    return columns


def _cuts(length: int, patch: int, generator: Generator) -> list[tuple[int, int]]:
    offset = int(torch.randint(patch, (), generator=generator))
    edges = sorted({0, length, *range(offset, length, patch)})
    return list(itertools.pairwise(edges))


def default_patch_sizes(event_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Half the shorter side of an image, half of that, down to single pixels; none for other events."""
    if len(event_shape) != 3:
        return ()
    sizes = []
    size = min(event_shape[1:]) // 2
    while size >= 1:
        sizes.append(size)
        size //= 2
    return tuple(sizes)


def patch_size(step: int, n_steps: int, patch_sizes: tuple[int, ...], global_fraction: float) -> int:
    """The patch size of a step, 0 for the whole event: these first, then the sizes in turn, the last one last."""
    if not patch_sizes or step < round(n_steps * global_fraction):
        return 0
    return patch_sizes[(step - n_steps) % len(patch_sizes)]
