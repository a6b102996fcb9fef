"""Training by a density that is known up to its normaliser: there are no data, a model learns from its own samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..model import GenerativeModel
from ..options import check_whole
from .batches import TrainingData

LogDensity = Callable[..., Tensor]


@dataclass(frozen=True)
class DensityData(TrainingData):
    """Rows without coordinates, each of which stands for a sample to draw, under the context of the row."""

    log_density: LogDensity | None = None

    @classmethod
    def of(cls, log_density: LogDensity, context: Tensor | None, batch_size: int, n_validation: int) -> DensityData:
        """Enough rows for a batch, and ``n_validation`` held-out ones; both go round the rows of ``context``."""
        if not callable(log_density):
            raise TypeError(f"log_density must be a callable: got {type(log_density).__name__}")
        n_validation = check_whole("n_validation", n_validation, 1)
        if context is None:
            return cls(_rows(batch_size), None, _rows(n_validation), log_density=log_density)
        if not isinstance(context, Tensor) or not context.ndim or not len(context):
            got = tuple(context.shape) if isinstance(context, Tensor) else type(context).__name__
            raise ValueError(f"context must be a Tensor of at least one row: got {got}")
        rounds = -(-batch_size // len(context))  # whole ones, so that every context counts the same
        given = torch.cat([context] * rounds)
        held_out = context[torch.arange(n_validation) % len(context)]
        return cls(_rows(len(given)), given, _rows(n_validation), held_out, log_density)

    value_range = (0.0, 1.0)
    """Of images, whose samples are all there is to draw."""

    def loss(self, model: Any, x: Tensor, context: Tensor | None) -> Tensor:
        def log_density(points: Tensor) -> Tensor:
            assert self.log_density is not None
            return self.log_density(points) if context is None else self.log_density(points, context)

        return model.reverse_kl(log_density, len(x), context)

    def first_points(self, model: GenerativeModel, x: Tensor, context: Tensor | None) -> Tensor:
        return model.sample(len(x), context)

    def described(self, rows: list[int]) -> str:
        return f"{len(rows)} samples of the model"


def _rows(n: int) -> Tensor:
    return torch.empty(n, 0)
