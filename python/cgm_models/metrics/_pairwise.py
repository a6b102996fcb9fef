"""What the metrics share: checks of the point clouds, and pairwise distances a block of rows at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

_BLOCK_ELEMENTS = 1 << 22  # 32 MB of float64 a block, whatever the number of points
_NOISE = 1e-13


def flat_clouds(finite: bool = False, minimum: int = 1, **clouds: Tensor) -> list[Tensor]:
    """The named clouds ``(n, *event)`` as float64 ``(n, d)`` without gradient, checked to fit together.

    ``finite`` refuses NaN and infinity; ``minimum`` is the least number of points.
    """
    for name, cloud in clouds.items():
        if not isinstance(cloud, Tensor) or not cloud.is_floating_point():
            got = cloud.dtype if isinstance(cloud, Tensor) else type(cloud).__name__
            raise TypeError(f"{name} must be a floating-point tensor: got {got}")
        if cloud.ndim < 2 or cloud.shape[1:].numel() == 0:
            raise ValueError(f"{name} must have shape (n, *event): got {tuple(cloud.shape)}")
        if len(cloud) < minimum:
            raise ValueError(f"{name} must hold at least {minimum} points: got {len(cloud)}")
        if finite and not bool(cloud.isfinite().all()):
            raise ValueError(f"{name} holds NaN or infinite values, which have no place in an order of distances")
    for (first, a), (second, b) in pairwise(clouds.items()):
        if a.shape[1:].numel() != b.shape[1:].numel():
            shapes = f"{tuple(b.shape)} beside {tuple(a.shape)}"
            raise ValueError(f"{second} must have events of the size of {first}'s: got {shapes}")
        if a.device != b.device:
            raise ValueError(f"{second} must be on the device of {first}: got {b.device} beside {a.device}")
    return [cloud.detach().reshape(len(cloud), -1).double() for cloud in clouds.values()]


def row_blocks(n_rows: int, n_columns: int) -> Iterator[slice]:
    """Slices of the rows such that a block of an ``(n_rows, n_columns)`` matrix stays within the memory bound."""
    step = max(1, _BLOCK_ELEMENTS // max(1, n_columns))
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))


def squared_distance_blocks(x: Tensor, y: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """``|x_i - y_j|²`` by blocks of rows through a matrix product, for smooth functions of it.

    Centre both clouds alike first: the expanded square then loses about 1e-16 of the spread, not of the offset. What
    is below that noise is zero, so that coinciding points are at distance zero exactly.
    """
    x_square, y_square = x.square().sum(1), y.square().sum(1)
    for rows in row_blocks(len(x), len(y)):
        block = torch.addmm(y_square[None], x[rows], y.T, alpha=-2.0)
        block.add_(x_square[rows, None])
        yield rows, block.masked_fill_(block <= _NOISE * x_square[rows, None], 0.0)


def centred(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Both clouds less their common mean."""
    mean = (x.sum(0) + y.sum(0)) / (len(x) + len(y))
    return x - mean, y - mean


def refuse_overflow(x: Tensor, y: Tensor, first: str, second: str) -> None:
    """Refuses clouds so wide that their squared distances may leave float64: an order of infinities says nothing.

    ``|x - y|² <= 2 (|x|² + |y|²)``, so nothing overflows where four times the largest square does not.
    """
    largest = max(float(x.square().sum(1).max()), float(y.square().sum(1).max()))
    if not math.isfinite(4.0 * largest):
        raise ValueError(f"the squared distances between the points of {first} and {second} overflow float64")


def fill_diagonal(block: Tensor, rows: slice, value: float) -> None:
    """Sets the entries of a row block that lie on the diagonal of the whole square matrix."""
    index = torch.arange(rows.start, rows.stop, device=block.device)
    block[index - rows.start, index] = value


def nearest_distances(x: Tensor, y: Tensor) -> Tensor:
    """``min_j |x_i - y_j|``, ``(n,)``: the neighbour by matrix product, its distance from the difference.

    So a copy is at distance exactly zero.
    """
    a, b = centred(x, y)
    nearest = [block.argmin(1) for _, block in squared_distance_blocks(a, b)]
    return torch.linalg.vector_norm(x - y[torch.cat(nearest)], dim=1)


def check_estimator(estimator: str, x: Tensor, y: Tensor) -> None:
    """ "u" leaves the diagonal out and so needs two points on each side."""
    if estimator not in ("u", "v"):
        raise ValueError(f"estimator must be 'u' (unbiased) or 'v' (with the diagonal): got {estimator!r}")
    if estimator == "u" and min(len(x), len(y)) < 2:
        raise ValueError(f"estimator 'u' needs at least 2 points in x and y: got {len(x)} and {len(y)}")
