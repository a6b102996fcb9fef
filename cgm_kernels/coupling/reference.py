"""Affine couplings in plain PyTorch: differentiable to any order, and the oracle of the kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from .layout import Layout
from .scales import KINDS, Scale, sigma_and_log


def affine(
    x: Tensor, log_scale: Tensor, shift: Tensor, scale: Scale, event_dims: int, inverse: bool
) -> tuple[Tensor, Tensor]:
    """y = σx + t (or its inverse) and the log-determinant; log_scale and shift broadcast to x."""
    sigma, log_sigma = sigma_and_log(log_scale, scale)
    moved = (1.0 - sigma) * shift if KINDS[scale.kind] == "gate" else shift
    y = (x - moved) / sigma if inverse else x * sigma + moved
    log_det = (-log_sigma if inverse else log_sigma).expand(x.shape)
    return y, log_det.sum(list(range(-event_dims, 0))) if event_dims else log_det.clone()


def affine_event(
    x: Tensor, parameters: Tensor, log_det: Tensor | None, layout: Layout, scale: Scale, inverse: bool
) -> tuple[Tensor, Tensor]:
    """The channels that ``layout`` names are transformed, the others pass; the log-determinant adds to ``log_det``."""
    log_scale, shift = layout.split_parameters(parameters)
    part, own = affine(x[:, layout.channels], log_scale, shift, scale, x.dim() - 1, inverse)
    # Contiguous: slice_scatter keeps the strides of windows that overlap, and then writes over its own result.
    y = torch.slice_scatter(x.contiguous(), part, 1, layout.channels.start, layout.channels.stop, layout.step)
    return y, own if log_det is None else log_det + own
