"""Sliced optimal transport on Triton: the implementations of the registered operators.

Triton itself is imported by the first launch. Nothing here waits for the device, so that a CUDA graph can capture it.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from .triton_rows import Problem, Side, SortedRows, solve

_COEFFICIENTS, _GRADIENT = 1, 2


def sliced_forward(
    x: Tensor,
    y: Tensor,
    projections: Tensor,
    x_weights: Tensor | None,
    y_weights: Tensor | None,
    p: float,
    root: bool,
    keep_x: int,
    keep_y: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """The mean of W_p^p over directions or its p-th root, and what the backward keeps of each cloud (see operators)."""
    sides = [
        Side(cloud if cloud.dim() == 3 else cloud.unsqueeze(0), _batched(weights, cloud.shape[:-1]), keep != 0)
        for cloud, weights, keep in ((x, x_weights, keep_x), (y, y_weights, keep_y))
    ]
    problem = Problem(sides[0], sides[1], projections, p)
    n_directions = projections.shape[1]
    costs = x.new_empty(problem.rows, dtype=torch.float64)
    kept = [_kept(side.points, n_directions, keep) for side, keep in zip(sides, (keep_x, keep_y), strict=True)]
    accumulated = [side for side, keep in zip(sides, (keep_x, keep_y), strict=True) if keep == _GRADIENT]
    row_bytes = sum(side.size for side in accumulated) * x.element_size()
    with torch.cuda.device_of(x):
        for chunk in problem.chunks(row_bytes):
            coefficients = [
                _coefficients(*arguments, chunk) for arguments in zip(sides, kept, (keep_x, keep_y), strict=True)
            ]
            solve(problem, chunk, costs[chunk], *coefficients)
            for gradient, keep, rows in zip(kept, (keep_x, keep_y), coefficients, strict=True):
                if keep == _GRADIENT and rows is not None:
                    _accumulate(gradient, rows, projections, chunk)
    value = costs.view(-1, n_directions).mean(-1)
    if root:
        value = torch.where(value == 0, 0.0, value.pow(1.0 / p))
    return value.to(x.dtype).reshape(x.shape[:-2]), kept[0], kept[1]


def wasserstein_1d_forward(
    x: Tensor,
    y: Tensor,
    x_weights: Tensor | None,
    y_weights: Tensor | None,
    p: float,
    keep_x: bool,
    keep_y: bool,
    keep_x_weights: bool,
    keep_y_weights: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """W_p^p of each row, and its derivatives by the points and by the raw weights."""
    sides = [
        Side(points.reshape(-1, points.shape[-1], 1), _batched(weights, points.shape), keep)
        for points, weights, keep in ((x, x_weights, keep_x), (y, y_weights, keep_y))
    ]
    problem = Problem(sides[0], sides[1], None, p)
    costs = x.new_empty(problem.rows, dtype=torch.float64)
    keeps = ((x, keep_x), (y, keep_y), (x, keep_x_weights), (y, keep_y_weights))
    kept = [x.new_empty(points.shape if keep else (0,)) for points, keep in keeps]
    flat = [out.view(-1, out.shape[-1]) if keep else None for out, (_, keep) in zip(kept, keeps, strict=True)]
    x_masses, y_masses = (cast(Tensor, side.weights) for side in sides)  # read only where their derivative is wanted
    row_bytes = sum(64 * points.shape[-1] for points, keep in keeps[2:] if keep)
    with torch.cuda.device_of(x):
        for chunk in problem.chunks(row_bytes):
            rows = [None if out is None else out[chunk] for out in flat]
            ranked = solve(problem, chunk, costs[chunk], *rows[:2])
            if ranked is None:
                continue
            # At a boundary that both sides share, x takes the lower partner and y the upper: one and the same coupling.
            if rows[2] is not None:
                rows[2].copy_(_weight_derivative(*ranked, x_masses[chunk], p, right=False))
            if rows[3] is not None:
                rows[3].copy_(_weight_derivative(*ranked[::-1], y_masses[chunk], p, right=True))
    return costs.to(x.dtype).reshape(x.shape[:-1]), kept[0], kept[1], kept[2], kept[3]


def _batched(weights: Tensor | None, shape: torch.Size) -> Tensor | None:
    """(items, n), without a copy where the items share their weights."""
    return None if weights is None else weights.expand(shape).reshape(-1, shape[-1])


def _kept(points: Tensor, n_directions: int, keep: int) -> Tensor:
    items, n, _ = points.shape
    if keep == _COEFFICIENTS:
        return points.new_empty(items, n_directions, n)
    # Accumulated into, and contiguous whatever the strides of the points are.
    return points.new_zeros(points.shape) if keep == _GRADIENT else points.new_empty(0)


def _coefficients(side: Side, kept: Tensor, keep: int, chunk: slice) -> Tensor | None:
    """Where the kernels write the coefficients of the chunk: the output itself, or a workspace."""
    if keep == _COEFFICIENTS:
        return kept.view(-1, side.size)[chunk]
    return side.points.new_empty(chunk.stop - chunk.start, side.size) if keep == _GRADIENT else None


def _accumulate(gradient: Tensor, coefficients: Tensor, projections: Tensor, chunk: slice) -> None:
    """gradient_i += (1/L) Σ_θ coefficient_{θ,i} θ over the directions of the chunk."""
    n_directions = projections.shape[1]
    items = slice(chunk.start // n_directions, (chunk.stop - 1) // n_directions + 1)
    part = gradient[items]
    rows = coefficients.view(len(part), -1, coefficients.shape[-1])
    first = chunk.start % n_directions
    directions = projections[:, first : first + rows.shape[1]].T.expand(len(part), -1, -1)
    part.baddbmm_(rows.transpose(1, 2), directions, alpha=1.0 / n_directions)


def _weight_derivative(own: SortedRows, other: SortedRows, weights: Tensor, p: float, right: bool) -> Tensor:
    """The derivative of each row's cost by the raw weights of ``own``, in the order of its points, float64.

    Moving mass from rank k to k + 1 changes the cost by |u_(k+1) − v|^p − |u_k − v|^p, v being the point of the other
    side that both ranks meet: the sums of these are the derivative by the normalised weights, up to a constant.
    """
    cumulative, order = cast(Tensor, own.cumulative), cast(Tensor, own.order)
    m = other.values.shape[1]
    if other.cumulative is None:
        edges = torch.arange(1, m + 1, dtype=torch.float64, device=weights.device) / m
        edges = edges.expand(other.values.shape).contiguous()
    else:
        edges = other.cumulative
    partner = torch.searchsorted(edges, cumulative[:, :-1].contiguous(), right=right).clamp_(max=m - 1)
    v, u = other.values.gather(-1, partner).double(), own.values.double()
    change = (u[:, 1:] - v).abs().pow(p) - (u[:, :-1] - v).abs().pow(p)
    potential = torch.cat([torch.zeros_like(u[:, :1]), change.cumsum(-1)], -1)
    mass = cumulative.diff(dim=-1, prepend=torch.zeros_like(cumulative[:, :1]))
    centred = potential - (mass * potential).sum(-1, keepdim=True)
    by_point = torch.empty_like(centred).scatter_(-1, order.long(), centred)
    poison = (own.poison + other.poison).unsqueeze(-1)
    return by_point / weights.double().sum(-1, keepdim=True) + poison
