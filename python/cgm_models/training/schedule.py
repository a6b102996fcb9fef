"""Learning-rate schedules: pure functions of the step, which leave nothing to save."""

from __future__ import annotations

import math

SCHEDULES = ("constant", "cosine", "one-cycle")
_RISE, _START, _END = 0.3, 1 / 25, 1 / 25e4  # the defaults of torch's OneCycleLR


def learning_rate_factor(schedule: str, step: int, max_steps: int, warmup_steps: int = 0) -> float:
    """What the learning rate is multiplied by in update ``step`` = 0, 1, ..., max_steps − 1.

    "constant" is 1 and "cosine" falls from 1 towards 0 by half a cosine, after a linear rise over ``warmup_steps``.
    "one-cycle" climbs from 1/25 to 1 by half a cosine, over ``warmup_steps`` or else three tenths of all steps, and
    falls to 1/250000 by another (Smith and Topin 2019, with the constants of ``torch.optim.lr_scheduler.OneCycleLR``).
    """
    if schedule == "one-cycle":
        top = (warmup_steps or _RISE * max_steps) - 1
        if step <= top:
            return _between(_START, 1.0, step / top if top > 0 else 1.0)
        return _between(1.0, _END, min(1.0, (step - top) / max(max_steps - 1 - top, 1e-9)))
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule == "cosine":
        return _between(1.0, 0.0, min(1.0, (step - warmup_steps) / max(1, max_steps - warmup_steps)))
    return 1.0


def _between(start: float, end: float, share: float) -> float:
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * share))
