"""The trainer's options, checked."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..options import check_whole, is_number
from .devices import ACCELERATORS, PRECISIONS, STRATEGIES
from .schedule import SCHEDULES

if TYPE_CHECKING:
    from .trainer import Trainer

OPTIMIZER_NAMES = ("adam", "adamw", "sgd")
_CHOICES = {
    "optimizer": OPTIMIZER_NAMES,
    "schedule": SCHEDULES,
    "precision": PRECISIONS,
    "accelerator": ACCELERATORS,
    "strategy": STRATEGIES,
}
_AT_LEAST = {
    "max_steps": 1,
    "batch_size": 1,
    "warmup_steps": 0,
    "devices": 1,
    "seed": 0,
    "log_every": 1,
    "validate_every": 1,
    "checkpoint_every": 1,
    "sample_every": 1,
    "n_samples": 1,
    "patience": 1,
}
_MAY_BE_NONE = ("sample_every", "patience", "clip_norm", "ema_decay")
_RANGES: dict[str, tuple[float, float]] = {
    "lr": (0.0, math.inf),
    "weight_decay": (0.0, math.inf),
    "momentum": (0.0, 1.0),
    "clip_norm": (0.0, math.inf),
    "ema_decay": (0.0, 1.0),
    "min_delta": (0.0, math.inf),
}
_MAY_BE_ZERO = ("weight_decay", "momentum", "min_delta")


def check_options(trainer: Trainer) -> None:
    """Errors that name the option, what it must be and what came; whole numbers of other types become ints."""
    for name, known in _CHOICES.items():
        if getattr(trainer, name) not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}: got {getattr(trainer, name)!r}")
    for name, least in _AT_LEAST.items():
        value = getattr(trainer, name)
        if value is None and name in _MAY_BE_NONE:
            continue
        object.__setattr__(trainer, name, check_whole(name, value, least))  # the trainer is frozen
    for name, (low, high) in _RANGES.items():
        value = getattr(trainer, name)
        if value is None and name in _MAY_BE_NONE:
            continue
        if not is_number(value) or not (low < value < high or (value == low and name in _MAY_BE_ZERO)):
            interval = f"{'at least' if name in _MAY_BE_ZERO else 'above'} {low:g}"
            below = "" if math.isinf(high) else f" and below {high:g}"
            raise ValueError(f"{name} must be a number {interval}{below}: got {value!r}")
    betas = trainer.betas
    if len(betas) != 2 or not all(is_number(beta) and 0.0 <= beta < 1.0 for beta in betas):
        raise ValueError(f"betas must be two numbers from 0 to 1, 1 excluded: got {betas!r}")
    if trainer.warmup_steps > trainer.max_steps:
        raise ValueError(f"warmup_steps must be at most max_steps, {trainer.max_steps}: got {trainer.warmup_steps}")
