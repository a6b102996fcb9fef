"""The data of a training, and which of its rows every step takes."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import torch
from torch import Tensor

from ..model import GenerativeModel
from .seeds import derived_seed


class Batch:
    """Points and their context. It is no tuple, so that Fabric, DDP and FSDP hand it on untouched: under mixed
    precision they would round the data to 16 bits."""

    __slots__ = ("context", "x")

    def __init__(self, x: Tensor, context: Tensor | None) -> None:
        self.x = x
        self.context = context


@dataclass(frozen=True)
class TrainingData:
    """Tensors with one row a point; the context and the held-out part may be missing."""

    x: Tensor
    context: Tensor | None = None
    validation_x: Tensor | None = None
    validation_context: Tensor | None = None

    def __post_init__(self) -> None:
        _check_points("train_x", self.x, "train_context", self.context)
        if self.validation_x is None:
            if self.validation_context is not None:
                raise ValueError("validation_context was given without validation_x")
            return
        _check_points("validation_x", self.validation_x, "validation_context", self.validation_context)
        if self.validation_x.shape[1:] != self.x.shape[1:]:
            expected, got = tuple(self.x.shape[1:]), tuple(self.validation_x.shape[1:])
            raise ValueError(f"validation_x must hold points of shape {expected}, as train_x: got {got}")
        if (self.validation_context is None) != (self.context is None):
            raise ValueError("validation_context must be given with train_context, and only then")

    def loss(self, model: GenerativeModel, x: Tensor, context: Tensor | None) -> Tensor:
        """What a step on these points minimises."""
        return model.loss(x, context)

    def first_points(self, model: GenerativeModel, x: Tensor, context: Tensor | None) -> Tensor:
        """What a model that sets itself by its first batch sees of it."""
        return x

    def described(self, rows: list[int]) -> str:
        """Which rows a batch held, in a few words."""
        return f"the training rows {', '.join(map(str, rows[:4]))}{', ...' if len(rows) > 4 else ''}"

    @property
    def value_range(self) -> tuple[float, float]:
        """The range of the training points, to draw samples in."""
        return float(self.x.min()), float(self.x.max())

    def fingerprint(self) -> str:
        """What tells these training points from others."""
        tensors = [self.x] if self.context is None else [self.x, self.context]
        sums = [zlib.crc32(t.detach().cpu().contiguous().numpy().tobytes()) for t in tensors]
        return f"{tuple(self.x.shape)} {self.x.dtype} " + " ".join(f"{value:08x}" for value in sums)


class Batches:
    """Batch k of the training: a pure function of (seed, k).

    Epoch e visits the rows in a random order fixed by (seed, e). The epochs follow one another without a seam, and
    step k takes the rows kB to (k+1)B of this sequence: every batch is full, every row is taken once an epoch. Process
    r of w takes the r-th of w nearly equal parts of the batch.
    """

    def __init__(
        self, data: TrainingData, batch_size: int, seed: int, device: torch.device, rank: int = 0, world: int = 1
    ) -> None:
        self.n = len(data.x)
        self.batch_size = min(batch_size, self.n)
        if self.batch_size < world:
            raise ValueError(f"batch_size must be at least the number of processes, {world}: got {self.batch_size}")
        self.seed = seed
        self.device = device
        self._x, self._context = _placed(data, device)
        begin, end = rank * self.batch_size // world, (rank + 1) * self.batch_size // world
        self._part = slice(begin, end)
        self.weight = (end - begin) * world / self.batch_size
        """By which the mean loss of this part counts in the mean over the processes."""
        self._orders: dict[int, Tensor] = {}

    def batch(self, step: int) -> Batch:
        """The part of this process, on its device."""
        rows = self.rows(step)[self._part]
        x = self._x[rows].to(self.device, non_blocking=True)
        return Batch(x, None if self._context is None else self._context[rows].to(self.device, non_blocking=True))

    def whole_batch(self, step: int) -> Batch:
        """The parts of all processes together."""
        rows = self.rows(step)
        x = self._x[rows].to(self.device)
        return Batch(x, None if self._context is None else self._context[rows].to(self.device))

    def rows(self, step: int) -> Tensor:
        """The rows of the training data that step ``step`` takes, over all processes."""
        epoch, first = divmod(step * self.batch_size, self.n)
        rows = self._order(epoch)[first : first + self.batch_size]
        missing = self.batch_size - len(rows)
        return torch.cat((rows, self._order(epoch + 1)[:missing])) if missing else rows

    def place(self, step: int) -> tuple[int, int]:
        """(epoch, batch of it), both counted from 0."""
        epoch, first = divmod(step * self.batch_size, self.n)
        return epoch, first // self.batch_size

    def _order(self, epoch: int) -> Tensor:
        if epoch not in self._orders:
            generator = torch.Generator().manual_seed(derived_seed(self.seed, "order", epoch))
            self._orders = {e: order for e, order in self._orders.items() if e == epoch - 1}
            self._orders[epoch] = torch.randperm(self.n, generator=generator).to(self._x.device)
        return self._orders[epoch]


def _placed(data: TrainingData, device: torch.device) -> tuple[Tensor, Tensor | None]:
    """The training data on the device if they take at most a quarter of what is free there, else where they are."""
    x, context = data.x.detach(), None if data.context is None else data.context.detach()
    if device.type == "cuda":
        needed = sum(t.numel() * t.element_size() for t in (x, context) if t is not None)
        if needed > torch.cuda.mem_get_info(device)[0] // 4:
            return x.cpu(), None if context is None else context.cpu()
    return x.to(device), None if context is None else context.to(device)


def _check_points(name: str, x: Tensor, context_name: str, context: Tensor | None) -> None:
    if not isinstance(x, Tensor) or not x.is_floating_point():
        got = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"{name} must be a floating-point Tensor: got {got}")
    if x.ndim < 2 or not len(x):
        raise ValueError(f"{name} must have shape (n, *event) with n at least 1: got {tuple(x.shape)}")
    if not bool(x.isfinite().all()):
        row = int((~x.isfinite().flatten(1).all(1)).nonzero()[0])
        raise ValueError(f"{name} must be finite: row {row} holds NaN or infinity")
    if context is None:
        return
    if not isinstance(context, Tensor):
        raise TypeError(f"{context_name} must be a Tensor: got {type(context).__name__}")
    if not context.ndim or len(context) != len(x):
        raise ValueError(f"{context_name} must have {len(x)} rows, as {name}: got shape {tuple(context.shape)}")
    if context.is_floating_point() and not bool(context.isfinite().all()):
        raise ValueError(f"{context_name} must be finite: it holds NaN or infinity")
