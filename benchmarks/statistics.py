"""Medians, and the ratio of two interleaved series with its bootstrap interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

RESAMPLES = 4000


@dataclass(frozen=True)
class Ratio:
    """How many times faster ours is than another: the median over rounds of other / ours, and its 95% interval.

    ``low`` is what passes a target. ``of_medians`` is median(other) / median(ours), a check on the paired figure.
    """

    value: float
    low: float
    high: float
    pairs: int
    of_medians: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def paired_ratio(other: Sequence[float], ours: Sequence[float], resamples: int = RESAMPLES, seed: int = 0) -> Ratio:
    """The speed of ours relative to another from samples of the same rounds.

    Both samples of a round meet the same state of the machine, so their ratio is taken within the round; rounds are
    resampled with replacement (percentile bootstrap of the median).

    Raises:
        ValueError: for series of different lengths, empty ones, or times that are not positive.
    """
    numerator, denominator = np.asarray(other, dtype=np.float64), np.asarray(ours, dtype=np.float64)
    if numerator.shape != denominator.shape or numerator.ndim != 1 or numerator.size == 0:
        raise ValueError(
            f"other and ours must be equally long and not empty: got {numerator.size} and {denominator.size}"
        )
    if not (numerator > 0).all() or not (denominator > 0).all():
        raise ValueError("other and ours must be positive times")
    ratios = numerator / denominator
    draws = np.random.default_rng(seed).integers(0, ratios.size, size=(resamples, ratios.size))
    low, high = np.quantile(np.median(ratios[draws], axis=1), (0.025, 0.975))
    return Ratio(
        value=float(np.median(ratios)),
        low=float(low),
        high=float(high),
        pairs=int(ratios.size),
        of_medians=float(np.median(numerator) / np.median(denominator)),
    )


def spread(samples: Sequence[float]) -> tuple[float, float, float]:
    """The quartiles of a series: 25%, median, 75%."""
    low, middle, high = np.quantile(np.asarray(samples, dtype=np.float64), (0.25, 0.5, 0.75))
    return float(low), float(middle), float(high)
