"""What a data set is: points, optional class labels, a fixed split, and the exact density where there is one."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .density import Density2D


@dataclass(frozen=True)
class Dataset:
    """``x`` is ``(n, *event)`` float32 with the training rows first; images are ``(n, 1, height, width)``.

    ``context`` holds int64 class labels ``(n,)`` that index ``class_names``, or is None. ``value_range`` is the range
    of the values: (0, 1) for images, the observed one for the rest. ``density`` is the exact law of a 2-D set.
    ``left_out`` holds the points ``(k, *event)`` of a class that was left out.
    """

    name: str
    x: Tensor
    n_train: int
    value_range: tuple[float, float]
    context: Tensor | None = None
    class_names: tuple[str, ...] | None = None
    density: Density2D | None = None
    left_out: Tensor | None = None

    def __post_init__(self) -> None:
        if self.x.dtype != torch.float32 or self.x.ndim < 2:
            raise ValueError(f"x must be float32 of shape (n, *event): got {self.x.dtype}, {tuple(self.x.shape)}")
        if not 0 < self.n_train <= len(self.x):
            raise ValueError(f"n_train must lie in 1..{len(self.x)}: got {self.n_train}")
        if self.context is not None and self.context.shape != (len(self.x),):
            raise ValueError(f"context must have shape ({len(self.x)},): got {tuple(self.context.shape)}")
        if (self.context is None) != (self.class_names is None):
            raise ValueError("class_names must be given with context, and only then")

    def __len__(self) -> int:
        return len(self.x)

    @property
    def event_shape(self) -> tuple[int, ...]:
        return tuple(self.x.shape[1:])

    @property
    def is_image(self) -> bool:
        return len(self.event_shape) == 3

    @property
    def n_classes(self) -> int:
        """The number of classes, 0 without labels."""
        return 0 if self.class_names is None else len(self.class_names)

    @property
    def train_x(self) -> Tensor:
        return self.x[: self.n_train]

    @property
    def test_x(self) -> Tensor:
        return self.x[self.n_train :]

    @property
    def train_context(self) -> Tensor | None:
        return None if self.context is None else self.context[: self.n_train]

    @property
    def test_context(self) -> Tensor | None:
        return None if self.context is None else self.context[self.n_train :]

    def __repr__(self) -> str:
        low, high = self.value_range
        parts = [
            f"name={self.name!r}",
            f"n={len(self)} ({self.n_train} train, {len(self) - self.n_train} test)",
            f"event_shape={self.event_shape}",
            f"value_range=({low:g}, {high:g})",
            f"n_classes={self.n_classes}",
            f"density={self.density!r}",
        ]
        return f"Dataset({', '.join(parts)})"


def without(data: Dataset, name: str | int) -> Dataset:
    """``data`` without the class called ``name``, whose points become ``left_out``; the others keep their codes."""
    if data.context is None or data.class_names is None or data.density is not None:
        raise ValueError(f"without_class needs the classes of real data, and {data.name} has none: got {name!r}")
    if str(name) not in data.class_names:
        raise ValueError(f"without_class must be one of {', '.join(data.class_names)}: got {name!r}")
    kept = data.context != data.class_names.index(str(name))
    n_train = int(kept[: data.n_train].sum())
    return replace(data, x=data.x[kept], n_train=n_train, context=data.context[kept], left_out=data.x[~kept])


def shuffled(x: Tensor, context: Tensor | None, n: int | None, seed: int) -> tuple[Tensor, Tensor | None]:
    """The rows in an order fixed by ``seed``, the first ``n`` of them if ``n`` is given."""
    if n is not None and n > len(x):
        raise ValueError(f"n must lie in 1..{len(x)}, the number of rows there are: got {n}")
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:n]
    return x[order], None if context is None else context[order]


def train_size(n: int, test_fraction: float) -> int:
    """``n`` less the rounded test share; at least one row must remain to train on."""
    if not 0.0 <= test_fraction < 1.0:
        raise ValueError(f"test_fraction must lie in [0, 1): got {test_fraction}")
    n_train = n - round(n * test_fraction)
    if n_train < 1:
        raise ValueError(f"test_fraction {test_fraction} of {n} rows leaves nothing to train on")
    return n_train


def observed_range(x: Tensor) -> tuple[float, float]:
    return float(x.min()), float(x.max())
