"""What the neural flow takes as data, contexts, times and numbers of samples, with errors that name the argument."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from cgm_kernels import checks

from ..inputs import context_rows, data_points, finite

_ROUNDING = 4 * torch.finfo(torch.float32).eps  # of a time, in units of the last one: sums of steps, tensors


def data_rows(
    x: Tensor, context: Tensor | None, event_shape: tuple[int, ...], context_dim: int, like: Tensor
) -> tuple[Tensor, Tensor]:
    """``x`` (n, *event) as (n, d) and its contexts as (n, context_dim), both finite, in the dtype of ``like``.

    There is at least one point. Without context its rows are empty.
    """
    flat = data_points(x, event_shape, like.dtype).to(like).reshape(len(x), math.prod(event_shape))
    rows = finite_context(context, len(x), context_dim, like)
    return flat, like.new_empty(len(x), 0) if rows is None else rows


def finite_context(context: Tensor | None, n: int, context_dim: int, like: Tensor) -> Tensor | None:
    """``context`` as (n, context_dim), labels as one-hot rows; None for a flow without context."""
    rows = context_rows(context, n, context_dim, like)
    return None if rows is None else finite("context", rows)


def flow_time(time: Any, end: float) -> float:
    """``time``, a number or a tensor of one in [0, end], as a float; rounding errors beyond the ends are cut off."""
    number = checks.number("time", time.item() if isinstance(time, Tensor) and not time.ndim else time)
    if not -_ROUNDING * end <= number <= (1.0 + _ROUNDING) * end:
        raise ValueError(f"time must lie in [0, {end:g}], the times of the flow: got {time!r}")
    return min(max(number, 0.0), end)
