"""Whether the measurements reach their targets: the lower bound of the interval counts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from . import registry
from .benchmark import Benchmark, Target


def check(result: dict[str, Any]) -> list[dict[str, Any]]:
    """One verdict per target that applies to a measured row: name, cell, mode, low, least, met, and by which of ours
    where the target says."""
    verdicts = []
    kind = result["settings"]["device"].split(":")[0]
    benchmark = registry.find(result["benchmark"])
    for target in benchmark.targets:
        for row in result["rows"]:
            if target.device != kind or row["mode"] not in target.modes or not target.applies(row["cell"]):
                continue
            mine, low = _bound(target, benchmark, row)
            verdict = {"target": target.name, "least": target.least, "cell": row["cell"], "mode": row["mode"]}
            verdict["mine"] = mine if target.mine else None
            verdicts.append(verdict | {"low": low, "met": low is not None and low >= target.least})
    return verdicts


def _bound(target: Target, benchmark: Benchmark, row: dict[str, Any]) -> tuple[str | None, float | None]:
    """The one of ours that a row is judged by, and its lower bound; None where it was not measured."""
    mine = target.mine or benchmark.primary(row)
    names = (mine,) if isinstance(mine, str) else mine
    measured = [name for name in names if target.other in row["speedups"].get(name, {})]
    if not measured:
        return None, None
    fastest = max(measured, key=lambda name: row["speedups"][name][target.other]["value"])
    return fastest, row["speedups"][fastest][target.other]["low"]


@dataclass(frozen=True)
class Summary:
    """A target at all of its sizes: how many there are and meet it, the lowest bound, and which miss it by how much."""

    name: str
    least: float
    sizes: int
    met: int
    lowest: str
    missed: list[str]


def summary(result: dict[str, Any]) -> Iterator[Summary]:
    grouped: dict[tuple[str, float], list[dict[str, Any]]] = {}
    benchmark = registry.find(result["benchmark"])
    for verdict in check(result):
        grouped.setdefault((verdict["target"], verdict["least"]), []).append(verdict)
    for (name, least), verdicts in grouped.items():
        bounds = [(verdict["low"], verdict["mine"]) for verdict in verdicts if verdict["low"] is not None]
        low, mine = min(bounds, default=(None, None), key=lambda bound: bound[0])
        lowest = _said(low) + (f", {benchmark.titles[mine]}" if mine else "")
        modes = {verdict["mode"] for verdict in verdicts}
        missed = [
            f"{benchmark.cell_title(one['cell'])}"
            + (f", {benchmark.modes[one['mode']]}" if len(modes) > 1 else "")
            + f": {_said(one['low'])}"
            for one in verdicts
            if not one["met"]
        ]
        yield Summary(name, least, len(verdicts), len(verdicts) - len(missed), lowest, missed)


def _said(low: float | None) -> str:
    return "not measured" if low is None else f"{low:.2f}"
