"""Loss and gradient norm of every step, watched for values that are not finite."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor


class NonFiniteError(RuntimeError):
    """A loss or a gradient was NaN or infinite; the training stopped."""


class NonFinite(Exception):
    """Inside the loop: what was not finite in which step (counted from 0)."""

    def __init__(self, step: int, what: str) -> None:
        super().__init__(what)
        self.step = step
        self.what = what


class Monitor(Protocol):
    """Means over the steps since the last ``restart``."""

    def observe(self, step: int, loss: Tensor, norm: Tensor) -> None:
        """Take note of a step, before the weights move."""

    def check(self) -> None:
        """Raise ``NonFinite`` if a step since the last check was not finite."""

    def check_here(self) -> None:
        """The same, as far as this process knows; the others need not take part."""

    def means(self) -> dict[str, float]:
        """The mean loss and gradient norm."""

    def restart(self, sums: list[float] | None = None) -> None:
        """Begin new means, or go on from the ``sums`` of a checkpoint."""

    def sums(self) -> list[float]: ...


class ImmediateMonitor:
    """Reads every value at once, which on the CPU costs nothing: a bad step never reaches the weights."""

    def __init__(self, norm_may_overflow: bool) -> None:
        self._norm_may_overflow = norm_may_overflow
        self.restart()

    def observe(self, step: int, loss: Tensor, norm: Tensor) -> None:
        value, length = loss.item(), norm.item()
        if not math.isfinite(value):
            raise NonFinite(step, f"the loss is {value}")
        if not math.isfinite(length) and not self._norm_may_overflow:
            raise NonFinite(step, f"the norm of the gradient is {length} (the loss is {value:.6g})")
        self._loss += value
        self._norm += length
        self._count += 1

    def check(self) -> None:
        """Nothing is pending."""

    check_here = check

    def means(self) -> dict[str, float]:
        count = max(1, self._count)
        return {"loss": self._loss / count, "grad_norm": self._norm / count}

    def restart(self, sums: list[float] | None = None) -> None:
        self._loss, self._norm, count = sums or (0.0, 0.0, 0)
        self._count = int(count)

    def sums(self) -> list[float]:
        return [self._loss, self._norm, self._count]


class DeferredMonitor:
    """Keeps the values on their device, and has all processes look at them together in ``check`` and ``means``.

    No step waits for the device. A bad step reaches the weights before it is seen, hence no checkpoint may be written
    before ``check``.
    """

    _FIELDS = ("loss", "norm", "count")

    def __init__(self, device: torch.device, norm_may_overflow: bool) -> None:
        self._device = device
        self._norm_may_overflow = norm_may_overflow
        self._first_bad_loss, self._first_bad_norm = (torch.tensor(math.inf, device=device) for _ in range(2))
        self.restart()

    @torch.no_grad()
    def observe(self, step: int, loss: Tensor, norm: Tensor) -> None:
        self._first_bad_loss = torch.where(loss.isfinite(), self._first_bad_loss, self._first_bad_loss.clamp_max(step))
        if not self._norm_may_overflow:
            bad = self._first_bad_norm
            self._first_bad_norm = torch.where(norm.isfinite(), bad, bad.clamp_max(step))
        self._loss += loss
        self._norm += norm
        self._count += 1

    def check(self) -> None:
        self._raise(_reduce(torch.stack((self._first_bad_loss, self._first_bad_norm)), "MIN"))

    def check_here(self) -> None:
        self._raise(torch.stack((self._first_bad_loss, self._first_bad_norm)))

    def _raise(self, first: Tensor) -> None:
        loss, norm = first.tolist()
        if math.isfinite(min(loss, norm)):
            what = "the loss" if loss <= norm else "the norm of the gradient"
            raise NonFinite(int(min(loss, norm)), f"{what} is not finite")

    def means(self) -> dict[str, float]:
        loss, norm, count = self.sums()
        return {"loss": loss / max(1, count), "grad_norm": norm / max(1, count)}

    def restart(self, sums: list[float] | None = None) -> None:
        loss, norm, count = sums or (0.0, 0.0, 0)
        self._loss, self._norm = (
            torch.tensor(float(v), device=self._device, dtype=torch.float64) for v in (loss, norm)
        )
        self._count = int(count)

    def sums(self) -> list[float]:
        loss, norm = _reduce(torch.stack((self._loss, self._norm)), "AVG").tolist()
        return [loss, norm, self._count]


def _reduce(values: Tensor, operation: str) -> Tensor:
    """The minimum or the mean over the processes."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return values
    values = values.clone()
    if operation == "MIN":
        torch.distributed.all_reduce(values, torch.distributed.ReduceOp.MIN)
        return values
    torch.distributed.all_reduce(values)  # gloo has no mean
    return values / torch.distributed.get_world_size()
