"""What a training shows and writes on its way: the log, TensorBoard, the progress bar, pictures of samples."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .progress import progress_bar
from .run import RunDirectory

_REFRESH_SECONDS = 0.1


class Reporter:
    """Writes to ``run``, or nowhere without one; only the first process has one."""

    def __init__(self, run: RunDirectory | None, tensorboard: bool, progress: bool) -> None:
        self._run = run
        self._progress = progress
        self._tensorboard = tensorboard and run is not None
        self._writer: Any = None
        self._purge_step: int | None = None

    def go_on_from(self, step: int, log_bytes: int) -> None:
        """Cut off what an interrupted training wrote after its last checkpoint."""
        if self._run is None:
            return
        if self._run.log_path.is_file() and self._run.log_path.stat().st_size > log_bytes:
            os.truncate(self._run.log_path, log_bytes)
        self._purge_step = step + 1

    def log(self, record: dict[str, float | int | None]) -> None:
        """One line of the log, one point of every TensorBoard curve. Values that are not finite become null."""
        if self._run is None:
            return
        finite = {k: v if v is not None and math.isfinite(v) else None for k, v in record.items()}
        self._run.log(finite)
        if writer := self._open_tensorboard():
            for name, value in finite.items():
                if name not in ("step", "seconds") and value is not None:
                    writer.add_scalar(name, value, record["step"])

    def log_bytes(self) -> int:
        """The length of the log, which is on the disk from here on."""
        if self._run is None or not self._run.log_path.is_file():
            return 0
        with self._run.log_path.open("rb") as file:
            os.fsync(file.fileno())
            return file.seek(0, os.SEEK_END)

    def picture(self, samples: Tensor, step: int, value_range: tuple[float, float]) -> None:
        """``samples/step-00000500.png``."""
        if self._run is None:
            return
        path = self._run.samples_path / f"step-{step:08d}.png"
        draw(samples, path, value_range)
        if writer := self._open_tensorboard():
            from matplotlib.image import imread

            writer.add_image("samples", torch.from_numpy(imread(path)[..., :3]), step, dataformats="HWC")

    @contextmanager
    def progress(self, total: int, done: int) -> Iterator[Callable[[], None]]:
        """Hands out what to call after every step; ``show`` gives the bar something to say."""
        with progress_bar("train", total, done=done, show=self._progress) as advance:
            self._shown: dict[str, float] = {}
            pending, last = 0, time.perf_counter()

            def step() -> None:
                nonlocal pending, last
                pending += 1
                now = time.perf_counter()
                if now - last > _REFRESH_SECONDS:
                    advance(pending, **self._shown)
                    pending, last = 0, now

            yield step
            if pending:
                advance(pending, **self._shown)

    def show(self, **values: float) -> None:
        self._shown = values

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def _open_tensorboard(self) -> Any:
        if self._tensorboard and self._writer is None and self._run is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._run.tensorboard_path), purge_step=self._purge_step)
        return self._writer


def drawable(event_shape: tuple[int, ...]) -> bool:
    """Whether samples of this shape have a picture: points of the plane, and images."""
    return event_shape == (2,) or (len(event_shape) == 3 and event_shape[0] in (1, 3))


def draw(samples: Tensor, path: Path, value_range: tuple[float, float]) -> None:
    """A scatter plot of points of the plane, a grid of images."""
    from .. import plots

    if samples.ndim == 4:
        plots.sample_grid(samples, path, value_range=value_range)
    else:
        plots.scatter_2d(samples, path)
