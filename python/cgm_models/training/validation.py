"""The held-out loss, and when it says to stop."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..model import GenerativeModel
from .batches import TrainingData
from .seeds import derived_seed


class EarlyStopping:
    """The lowest held-out loss so far, and how many validations in a row did not lower it by ``min_delta``."""

    def __init__(self, patience: int | None, min_delta: float = 0.0) -> None:
        self.patience = patience
        self.min_delta = min_delta
        self.best = math.inf
        self.best_step: int | None = None
        self._reference = math.inf
        self._without_progress = 0

    def observe(self, step: int, loss: float) -> bool:
        """Whether ``loss`` is the lowest so far. A value that is not finite never is."""
        if loss < self._reference - self.min_delta:
            self._reference, self._without_progress = loss, 0
        else:
            self._without_progress += 1
        if loss < self.best:
            self.best, self.best_step = loss, step
            return True
        return False

    @property
    def exhausted(self) -> bool:
        return self.patience is not None and self._without_progress >= self.patience

    def state(self) -> dict[str, Any]:
        return {
            "best": self.best if math.isfinite(self.best) else None,
            "best_step": self.best_step,
            "reference": self._reference if math.isfinite(self._reference) else None,
            "without_progress": self._without_progress,
        }

    def load(self, state: dict[str, Any]) -> None:
        self.best, self._reference = (math.inf if state[k] is None else state[k] for k in ("best", "reference"))
        self.best_step, self._without_progress = state["best_step"], state["without_progress"]


class HeldOutLoss:
    """The mean loss over the held-out points, on the same noise every time; each process takes its share of them."""

    def __init__(
        self, data: TrainingData, batch_size: int, seed: int, device: torch.device, rank: int, world: int
    ) -> None:
        if data.validation_x is None:
            raise ValueError("the held-out loss needs validation_x")
        rows = slice(rank, None, world)
        self._loss = data.loss
        self._x = data.validation_x.detach()[rows]
        self._context = None if data.validation_context is None else data.validation_context.detach()[rows]
        self._seed = derived_seed(seed, "validation", rank)
        self._device = device
        self._batch_size = batch_size

    @torch.no_grad()
    def __call__(self, model: GenerativeModel) -> Tensor:
        """(sum of the losses, number of points) of this process."""
        total = torch.zeros((), dtype=torch.float64, device=self._device)
        with torch.random.fork_rng(rng_devices(self._device)):
            torch.manual_seed(self._seed)
            for begin in range(0, len(self._x), self._batch_size):
                part = slice(begin, begin + self._batch_size)
                x = self._x[part].to(self._device)
                context = None if self._context is None else self._context[part].to(self._device)
                total += len(x) * self._loss_or_nan(model, x, context)
        return torch.stack((total, total.new_tensor(len(self._x))))

    def _loss_or_nan(self, model: GenerativeModel, x: Tensor, context: Tensor | None) -> Tensor:
        """Held-out points may lie where a model has no mass, and that stops no training."""
        try:
            return self._loss(model, x, context).double()
        except FloatingPointError:
            return torch.tensor(math.nan, dtype=torch.float64, device=x.device)


def rng_devices(device: torch.device) -> list[torch.device]:
    """The devices, beside the CPU, whose generators ``torch.random.fork_rng`` must keep."""
    return [device] if device.type == "cuda" else []
