"""What the measurements must reach: the lower bound of the interval counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import sliced_ot

Cell = dict[str, int]


@dataclass(frozen=True)
class Target:
    """Ours at least ``least`` times as fast as ``other``, in ``modes``, at the sizes where ``applies``."""

    name: str
    device: str
    modes: tuple[str, ...]
    other: str
    least: float
    applies: Callable[[Cell], bool]


def _headline(cell: Cell) -> bool:
    return cell == sliced_ot.HEADLINE


def _small_enough(cell: Cell) -> bool:
    return _headline(cell) or (cell["n"] <= 16_384 and cell["n"] >= 1_000 and cell["n_projections"] == 500)


TARGETS = {
    "sliced_ot": (
        Target("forward+backward, PyTorch", "cpu", ("forward_backward",), "eager", 5.0, _headline),
        Target("forward+backward, POT", "cpu", ("forward_backward",), "pot", 20.0, _headline),
        Target("forward, PyTorch", "cpu", ("forward",), "eager", 8.0, _headline),
        Target("never slower than PyTorch", "cpu", sliced_ot.MODES, "eager", 0.95, lambda cell: True),
        Target("on a GPU, PyTorch", "cuda", sliced_ot.MODES, "eager", 5.0, _small_enough),
        Target("never slower than PyTorch", "cuda", sliced_ot.MODES, "eager", 0.95, lambda cell: True),
    )
}


def check(result: dict[str, Any]) -> list[dict[str, Any]]:
    """One verdict per target that applies to a measured row: name, cell, mode, low, least, met."""
    verdicts = []
    kind = result["settings"]["device"].split(":")[0]
    for target in TARGETS[result["benchmark"]]:
        for row in result["rows"]:
            if target.device != kind or row["mode"] not in target.modes or not target.applies(row["cell"]):
                continue
            ratio = row["speedups"][sliced_ot.primary(row)].get(target.other)
            low = None if ratio is None else ratio["low"]
            verdict = {"target": target.name, "least": target.least, "cell": row["cell"], "mode": row["mode"]}
            verdicts.append(verdict | {"low": low, "met": low is not None and low >= target.least})
    return verdicts
