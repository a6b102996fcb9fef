"""Sliced optimal transport in plain PyTorch: differentiable to any order, and the oracle of the kernels."""

from __future__ import annotations

import torch
from torch import Tensor


def wasserstein_1d(x: Tensor, y: Tensor, x_weights: Tensor | None, y_weights: Tensor | None, p: float) -> Tensor:
    """W_p^p = ∫₀¹ |Q_x(u) − Q_y(u)|^p du of every row; x (..., n), y (..., m), weights broadcastable to them."""
    x, y = _poisoned(x, y)
    x, x_order = x.sort(dim=-1)
    y, y_order = y.sort(dim=-1)
    if x_weights is None and y_weights is None and x.shape[-1] == y.shape[-1]:
        return _power(x - y, p).mean(-1)
    mass, i, j = _segments(_cumulative(x_weights, x_order), _cumulative(y_weights, y_order))
    i, j = i.expand(*x.shape[:-1], -1), j.expand(*x.shape[:-1], -1)
    return (mass.to(x.dtype) * _power(x.gather(-1, i) - y.gather(-1, j), p)).sum(-1)


def sliced_wasserstein(
    x: Tensor, y: Tensor, projections: Tensor, x_weights: Tensor | None, y_weights: Tensor | None, p: float, root: bool
) -> Tensor:
    """The mean of W_p^p over the columns of ``projections``, and its p-th root where ``root``."""
    x_weights, y_weights = (None if w is None else w.unsqueeze(-2) for w in (x_weights, y_weights))
    rows = wasserstein_1d(_project(x, projections), _project(y, projections), x_weights, y_weights, p)
    cost = rows.mean(-1)
    if not root:
        return cost
    # The derivative of c^(1/p) is infinite at 0; the inner where keeps that infinity out of the gradient.
    zero = cost == 0
    return torch.where(zero, 0.0, torch.where(zero, 1.0, cost).pow(1.0 / p))


def sliced_displacement(
    x: Tensor, y: Tensor, projections: Tensor, x_weights: Tensor | None, y_weights: Tensor | None
) -> Tensor:
    """The mean over directions of (T_θ(⟨x, θ⟩) − ⟨x, θ⟩) θ, T_θ the barycentric projection of the monotone coupling."""
    from_, to = _project(x, projections), _project(y, projections)
    from_, to = _poisoned(from_, to)
    weights = [None if w is None else w.unsqueeze(-2) for w in (x_weights, y_weights)]
    _, order = from_.sort(dim=-1)
    sorted_to, to_order = to.sort(dim=-1)
    cumulative = _cumulative(weights[0], order)
    mass, i, j = _segments(cumulative, _cumulative(weights[1], to_order))
    i, j = i.expand(*from_.shape[:-1], -1), j.expand(*from_.shape[:-1], -1)
    moved = mass.to(to.dtype) * sorted_to.gather(-1, j)
    total = torch.zeros_like(from_).scatter_add(-1, i, moved)
    own = cumulative.diff(dim=-1, prepend=torch.zeros_like(cumulative[..., :1])).to(to.dtype).expand_as(from_)
    heavy = own > 0  # a point without mass has no image: it stays
    image = torch.where(heavy, total / torch.where(heavy, own, 1.0), from_.gather(-1, order))
    step = torch.zeros_like(from_).scatter(-1, order, image - from_.gather(-1, order))
    return step.transpose(-1, -2) @ projections.T / projections.shape[1]


def _project(points: Tensor, projections: Tensor) -> Tensor:
    """(..., n, d) and (d, L) to contiguous rows (..., L, n)."""
    return (points @ projections).transpose(-1, -2).contiguous()


def _poisoned(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Rows with a NaN or an infinity in either cloud become all NaN, and so do their gradients."""
    finite = x.isfinite().all(-1, keepdim=True) & y.isfinite().all(-1, keepdim=True)
    mask = torch.where(finite, 1.0, torch.nan).to(x.dtype)
    return x * mask, y * mask


def _power(difference: Tensor, p: float) -> Tensor:
    if p == 2.0:
        return difference.square()
    return difference.abs() if p == 1.0 else difference.abs().pow(p)


def _cumulative(weights: Tensor | None, order: Tensor) -> Tensor:
    """Cumulative normalised weights (float64) in sorted order; uniform ones are the exactly rounded k/n."""
    n = order.shape[-1]
    if weights is None:
        return torch.arange(1, n + 1, dtype=torch.float64, device=order.device) / n
    wide = weights.double()
    valid = (wide >= 0).all(-1, keepdim=True) & wide.isfinite().all(-1, keepdim=True) & (wide > 0).any(-1, keepdim=True)
    wide = wide / wide.amax(-1, keepdim=True).detach() * torch.where(valid, 1.0, torch.nan)
    total = wide.expand(order.shape).gather(-1, order).cumsum(-1)
    return total / total[..., -1:]


def _segments(x_cumulative: Tensor, y_cumulative: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The pieces on which both quantile functions are constant: their mass and the sorted points i and j that meet."""
    batch = torch.broadcast_shapes(x_cumulative.shape[:-1], y_cumulative.shape[:-1])
    x_cumulative, y_cumulative = (c.expand(*batch, c.shape[-1]).contiguous() for c in (x_cumulative, y_cumulative))
    n, m = x_cumulative.shape[-1], y_cumulative.shape[-1]
    edges, order = torch.cat([x_cumulative, y_cumulative], -1).sort(dim=-1, stable=True)
    mass = edges.diff(dim=-1, prepend=torch.zeros_like(edges[..., :1]))
    # Partners by counting the edges passed, not by comparing values: a point without mass keeps its own, empty piece.
    is_x = (order < n).long()
    i = (is_x.cumsum(-1) - is_x).clamp_(max=n - 1)
    j = ((1 - is_x).cumsum(-1) - (1 - is_x)).clamp_(max=m - 1)
    return mass, i, j
