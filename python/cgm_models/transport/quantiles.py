"""One-dimensional transport by tabulated quantile functions, many rows at once.

A table holds Q_j = F⁻¹(u_j) at the levels u_j = j/(Q − 1), the minimum and the maximum among them. A pair of tables
(a, b) is the monotone map T with T(a_j) = b_j, linear between the nodes; beyond the outermost ones it shifts,
T(v) = v + b_end − a_end. (With levels strictly inside (0, 1) the outer points would all be shifted, and outliers of the
source would stay outliers.)
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def quantile_table(values: Tensor, n_quantiles: int) -> Tensor:
    """(..., n) to (..., n_quantiles): quantiles at j/(Q − 1), linear between sorted values at (i + ½)/n."""
    ordered = _sorted(values)
    n = values.shape[-1]
    levels = torch.linspace(0.0, 1.0, n_quantiles, dtype=torch.float64, device=values.device)
    position = (levels * n - 0.5).clamp_(0, n - 1)
    lower = position.floor().long()
    weight = (position - lower).to(values.dtype)
    return torch.lerp(ordered[..., lower], ordered[..., (lower + 1).clamp_(max=n - 1)], weight)


def _sorted(values: Tensor) -> Tensor:
    """``values.sort().values``; on the CPU by NumPy, vectorised and without indices: ten times faster."""
    if values.device.type != "cpu":
        return values.sort(dim=-1).values
    return torch.from_numpy(np.sort(values.detach().contiguous().numpy(), axis=-1))


def merge_ties(source: Tensor, target: Tensor) -> Tensor:
    """``target`` averaged over the nodes where ``source`` repeats: there the map is the barycentre of the coupling.

    Without it an atom of the source would go to the lowest of the targets that belong to it.
    """
    tolerance = 8 * torch.finfo(source.dtype).eps * source.abs().amax(dim=-1, keepdim=True)
    new = source.diff(dim=-1) > tolerance
    if bool(new.all()):
        return target
    run = torch.nn.functional.pad(new.long().cumsum(dim=-1), (1, 0))
    zeros = torch.zeros(target.shape, dtype=torch.float64, device=target.device)
    total = zeros.scatter_add(-1, run, target.double())
    count = zeros.scatter_add(-1, run, torch.ones_like(zeros))
    return (total / count.clamp_min(1.0)).gather(-1, run).to(target.dtype)


def monotone_map(values: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """T(values), the tables (..., Q) row by row; values (..., n)."""
    right = torch.searchsorted(source, values).clamp_(1, source.shape[-1] - 1)
    left = right - 1
    start, end = source.gather(-1, left), source.gather(-1, right)
    image_start, image_end = target.gather(-1, left), target.gather(-1, right)
    gap = end - start
    # Clamped, the fraction ends at the outermost nodes; what is left of the value beyond them is added unchanged.
    fraction = torch.where(gap > 0, (values - start) / gap, 1.0).clamp_(0.0, 1.0)
    inside = torch.lerp(image_start, image_end, fraction)
    beyond = values - values.clamp(min=source[..., :1], max=source[..., -1:])
    return inside + beyond


def move(x: Tensor, directions: Tensor, source: Tensor, target: Tensor, step_size: float) -> Tensor:
    """x + (h/L) Σ_θ (T_θ(⟨x, θ⟩) − ⟨x, θ⟩) θ for x (n, d), directions (d, L) and tables (L, Q)."""
    along = (x @ directions).T.contiguous()
    shift = monotone_map(along, source, target).sub_(along)
    return torch.addmm(x, shift.T, directions.T, alpha=step_size / directions.shape[1])
