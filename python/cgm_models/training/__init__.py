"""The trainer, and what every training shares: run directories, files written whole, progress."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .files import write_atomic
from .progress import progress_bar
from .run import RunDirectory

if TYPE_CHECKING:
    from .monitor import NonFiniteError
    from .outcome import TrainingResult
    from .trainer import Trainer

_NEEDS_TORCH = {"Trainer": "trainer", "TrainingResult": "outcome", "NonFiniteError": "monitor"}
__all__ = ["NonFiniteError", "RunDirectory", "Trainer", "TrainingResult", "progress_bar", "write_atomic"]


def __getattr__(name: str) -> Any:
    if name in _NEEDS_TORCH:
        return getattr(importlib.import_module(f"{__name__}.{_NEEDS_TORCH[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
