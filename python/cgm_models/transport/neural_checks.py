"""What the neural flow takes as data and as contexts, with errors that name the argument."""

from __future__ import annotations

from torch import Tensor

from .options import context_rows, flat_points


def data_rows(
    x: Tensor, context: Tensor | None, event_shape: tuple[int, ...], context_dim: int, like: Tensor
) -> tuple[Tensor, Tensor]:
    """``x`` (n, *event) as (n, d) and its contexts as (n, context_dim), both finite, in the dtype of ``like``.

    There is at least one point. Without context its rows are empty.
    """
    flat = flat_points(x, "x", event_shape)
    if not len(x):
        expected = ", ".join(map(str, event_shape))
        raise ValueError(f"x must have shape (n, {expected}) with n at least 1: got {tuple(x.shape)}")
    rows = finite_context(context, len(x), context_dim, like)
    return _finite("x", flat.to(like)), like.new_empty(len(x), 0) if rows is None else rows


def finite_context(context: Tensor | None, n: int, context_dim: int, like: Tensor) -> Tensor | None:
    """``context`` as (n, context_dim), labels as one-hot rows; None for a flow without context."""
    rows = context_rows(context, n, context_dim)
    return None if rows is None else _finite("context", rows.to(like))


def _finite(name: str, value: Tensor) -> Tensor:
    if not bool(value.isfinite().all()):
        raise ValueError(f"{name} must be finite: it holds NaN or infinity in {value.dtype}")
    return value
