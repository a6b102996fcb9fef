"""Uniform noise of the same stream as everything else."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cgm_kernels import normal


def uniform(shape: int | Sequence[int], state: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    """Uniforms on (0, 1), the kernels' normals through their distribution function; the state advances by one."""
    return torch.special.ndtr(normal(shape, state=state, dtype=dtype))
