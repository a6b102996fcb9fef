"""The additive coupling, in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from ..precision import outside_autocast
from . import checks, layout


@outside_autocast
def additive_coupling_event(
    x: Tensor, shift: Tensor, split: int | slice, log_det: Tensor | None = None, *, inverse: bool = False
) -> tuple[Tensor, Tensor]:
    """y, x with ``shift`` added to the channels that ``split`` chooses, and the log-determinant, 0 (Dinh et al. 2015).

    The arguments are as of ``affine_coupling_event``, with ``shift`` (B, k, …) for the k transformed channels; with
    ``inverse`` it is taken away. Every transform and order of derivatives is PyTorch's own.
    """
    dtype = checks.together(x=x, shift=shift)
    if x.dim() < 2:
        raise ValueError(f"x must be (B, C, ...): got shape {tuple(x.shape)}")
    moved = layout.transformed(split, x.shape[1])
    expected = (x.shape[0], len(moved), *x.shape[2:])
    if tuple(shift.shape) != expected:
        raise ValueError(
            f"shift must be {expected}, one for each transformed element of x of shape {tuple(x.shape)}: "
            f"got {tuple(shift.shape)}"
        )
    total = checks.running_total(x, log_det, dtype)
    if not moved:
        return x.to(dtype, copy=True), total
    place = (moved.start, moved[-1] + 1, moved.step)
    changed = torch.add(x[:, slice(*place)], shift, alpha=-1 if inverse else 1)
    return torch.slice_scatter(x.to(dtype), changed, 1, *place), total
