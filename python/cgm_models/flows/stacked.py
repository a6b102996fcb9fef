"""Flows of many layers of one kind over vectors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from ..options import check_whole, resolve_event_shape
from .flow import Flow
from .transform import Transform, on_vectors


class StackedFlow(Flow, abstract=True):
    """``n_layers`` of one kind of layer, which a subclass names; images are taken for vectors."""

    layer: ClassVar[Callable[[int, int], Transform]]
    """(dim, context_dim) -> one of them."""

    def __init__(
        self,
        event_shape: Sequence[int] | None = None,
        context_dim: int = 0,
        n_layers: int = 16,
        base: str = "normal",
        base_options: dict[str, Any] | None = None,
        n_levels: int | None = None,
        logit_alpha: float = 0.05,
        *,
        dim: int | None = None,
    ) -> None:
        shape = resolve_event_shape(event_shape, dim, context_dim)
        check_whole("n_layers", n_layers, 1)
        size = math.prod(shape)
        layers = on_vectors([type(self).layer(size, context_dim) for _ in range(n_layers)], shape)
        super().__init__(shape, context_dim, layers, base, base_options, n_levels, logit_alpha)
