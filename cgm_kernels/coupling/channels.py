"""Actnorm: a coupling whose scale and shift vary along one dimension alone.

σ and t are then a handful of numbers, left to PyTorch; the kernels apply y = m·x + a, or (x − a)·m, and sum the
gradients of m and a over everything else.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._register import operator
from .checks import log_det_dtype
from .scales import KINDS, Scale, sigma_and_log


def affine(
    x: Tensor,
    log_scale: Tensor,
    shift: Tensor,
    channel: int,
    dtype: torch.dtype,
    scale: Scale,
    inverse: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """As reference.affine, for x (B, …) with parameters that vary along dimension ``channel`` alone."""
    wide = log_det_dtype(dtype)
    sigma, log_sigma = sigma_and_log(log_scale.reshape(-1).to(wide), scale)
    added = shift.reshape(-1).to(wide)
    if KINDS[scale.kind] == "gate":
        added = (1.0 - sigma) * added
    multiplier = sigma.reciprocal() if inverse else sigma
    before, after = math.prod(x.shape[1:channel]), math.prod(x.shape[channel + 1 :])
    count, shape = before * after, (len(x) * before, x.shape[channel], after)
    rows = x.to(dtype).reshape(shape)
    y = operator(backend, "channel_forward")(rows, multiplier, added, inverse)
    log_det = log_sigma.sum() * (-count if inverse else count)
    return y.reshape(x.shape), log_det.expand(x.shape[0]).clone()
