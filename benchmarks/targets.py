"""Whether the measurements reach their targets: the lower bound of the interval counts."""

from __future__ import annotations

from typing import Any

from . import registry


def check(result: dict[str, Any]) -> list[dict[str, Any]]:
    """One verdict per target that applies to a measured row: name, cell, mode, low, least, met."""
    verdicts = []
    kind = result["settings"]["device"].split(":")[0]
    benchmark = registry.find(result["benchmark"])
    for target in benchmark.targets:
        for row in result["rows"]:
            if target.device != kind or row["mode"] not in target.modes or not target.applies(row["cell"]):
                continue
            mine = target.mine or benchmark.primary(row)
            ratio = row["speedups"].get(mine, {}).get(target.other)
            low = None if ratio is None else ratio["low"]
            verdict = {"target": target.name, "least": target.least, "cell": row["cell"], "mode": row["mode"]}
            verdicts.append(verdict | {"low": low, "met": low is not None and low >= target.least})
    return verdicts
