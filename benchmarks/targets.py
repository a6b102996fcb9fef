"""Whether the measurements reach their targets: the lower bound of the interval counts."""

from __future__ import annotations

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
