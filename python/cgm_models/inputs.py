"""What the models' methods ask of points and contexts; an error names the argument, what it must be and what came."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor
from torch.nn.functional import one_hot

from .options import check_whole

if TYPE_CHECKING:
    from .model import GenerativeModel


def class_labels(context: Tensor, n: int, n_classes: int) -> Tensor:
    """The ``(n,)`` int64 labels that a class context stands for.

    ``context`` holds integer labels of shape () or (n,), or one-hot rows of shape (n_classes,) or (n, n_classes).
    """
    if not isinstance(context, Tensor):
        raise TypeError(f"context must be a Tensor: got {type(context).__name__}")
    if context.dtype == torch.bool or context.is_complex():
        raise ValueError(_class_error(context, n, n_classes))
    labels = context
    if context.is_floating_point() or (context.ndim and context.shape[-1] == n_classes and context.ndim == 2):
        if not _is_one_or_rows(context, n, (n_classes,)):
            raise ValueError(_class_error(context, n, n_classes))
        labels = context.argmax(-1)
        if not torch.equal(context, one_hot(labels, n_classes).to(context.dtype)):
            raise ValueError(f"context of shape {tuple(context.shape)} must be one-hot: one 1 in a row, else 0")
    if not _is_one_or_rows(labels, n, ()):
        raise ValueError(_class_error(context, n, n_classes))
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < n_classes:
        got = f"{int(labels.min())} to {int(labels.max())}"
        raise ValueError(f"context must hold class labels from 0 to {n_classes - 1}: got {got}")
    return labels.long().expand(n)


def context_rows(context: Tensor | None, n: int, context_dim: int, like: Tensor) -> Tensor | None:
    """``context`` as (n, context_dim) in the dtype of ``like``; class labels () or (n,) become one-hot rows.

    None stands for itself where the model has no context, and only there.
    """
    if not context_dim:
        if context is not None:
            raise ValueError("this model has no context: construct it with context_dim, or leave context out")
        return None
    expected = f"have shape ({context_dim},) or ({n}, {context_dim})"
    if context is None:
        raise ValueError(f"this model is conditional: context must {expected}: got None")
    if not isinstance(context, Tensor):
        raise TypeError(f"context must be a Tensor: got {type(context).__name__}")
    if not context.is_floating_point():
        return one_hot(class_labels(context, n, context_dim), context_dim).to(like)
    if not _is_one_or_rows(context, n, (context_dim,)):
        raise ValueError(f"context must {expected}: got {tuple(context.shape)}")
    return context.to(like).expand(n, context_dim)


def _is_one_or_rows(given: Tensor, n: int, shape: tuple[int, ...]) -> bool:
    """Whether the shape is (*shape) or (n, *shape); number by number, as Dynamo finds no symbol among tuples."""
    rows = given.dim() - len(shape)
    return rows in (0, 1) and given.shape[rows:] == shape and (rows == 0 or given.shape[0] == n)


def float_points(name: str, x: Tensor, event_shape: tuple[int, ...]) -> Tensor:
    """``x``, once it is a floating-point tensor (n, *event)."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise TypeError(f"{name} must be a floating-point Tensor: got {getattr(x, 'dtype', type(x).__name__)}")
    points_like(name, x, event_shape, x)
    return x


def points_like(name: str, x: Tensor, event_shape: tuple[int, ...], like: Tensor) -> None:
    """``x`` is (n, *event) in the dtype of ``like``, a tensor of the model."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a Tensor: got {type(x).__name__}")
    if not x.ndim or tuple(x.shape[1:]) != event_shape:
        raise ValueError(f"{name} must have shape (n, {_sizes(event_shape)}): got {tuple(x.shape)}")
    if x.dtype != like.dtype:
        raise TypeError(f"{name} must have the dtype of the model, {like.dtype}: got {x.dtype}")


def data_points(x: Tensor, event_shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
    """``x`` in the ``dtype``, once it is points (n, *event) to learn from: one at least, and finite there."""
    if not len(float_points("x", x, event_shape)):
        raise ValueError(f"x must have shape (n, {_sizes(event_shape)}) with n at least 1: got {tuple(x.shape)}")
    return finite("x", x.to(dtype or x.dtype))


def finite(name: str, value: Tensor) -> Tensor:
    if not bool(value.isfinite().all()):
        raise ValueError(f"{name} must be finite: it holds NaN or infinity in {value.dtype}")
    return value


def class_data(model: GenerativeModel, x: Tensor, context: Tensor | None) -> Tensor | None:
    """The labels (n,) of the data ``x`` (n, *event), float32 or float64; None for a model without classes."""
    if data_points(x, model.event_shape).dtype not in (torch.float32, torch.float64):
        raise TypeError(f"x must be float32 or float64, pass x.float(): got {x.dtype}")
    if (context is None) != (model.context_dim == 0):
        need = f"labels of {model.context_dim} classes" if model.context_dim else "None, as the model has no classes"
        raise ValueError(f"context must be {need}: got {'None' if context is None else tuple(context.shape)}")
    return None if context is None else class_labels(context, len(x), model.context_dim)


def fitted_labels(model: GenerativeModel, context: Tensor | None, n: int, counts: Tensor) -> Tensor | None:
    """The labels (n,) to draw from on the device of ``counts``, the examples of each class; None without classes."""
    if not model.context_dim:
        if context is not None:
            raise ValueError("this model has no classes: context must be None")
        return None
    if context is None:
        raise ValueError(f"this model has {model.context_dim} classes: context must say which")
    labels = class_labels(context, n, model.context_dim).to(counts.device)
    empty = [label for label in labels.unique().tolist() if not counts[label]]
    if empty:
        raise ValueError(f"context asks for the classes {empty}, which had no data")
    return labels


def drawn_labels(counts: Tensor, n: int, generator: Generator | None) -> Tensor:
    """``n`` labels on the CPU, each class as often as in the data, where it was seen ``counts`` times."""
    shares = counts.double().cpu()
    return torch.multinomial(shares, max(n, 1), replacement=True, generator=generator)[:n]  # refuses to draw none


def sample_size(n: Any) -> int:
    """``n``, a whole number of any type, as an int."""
    return check_whole("n", n, 0)


def _class_error(context: Tensor, n: int, n_classes: int) -> str:
    return (
        f"context must hold integer labels of shape () or ({n},), or one-hot rows of shape ({n_classes},) or "
        f"({n}, {n_classes}): got {context.dtype} of shape {tuple(context.shape)}"
    )


def _sizes(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))
