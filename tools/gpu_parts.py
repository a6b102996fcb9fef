"""The parts of a stage of `make gpu-check`: as many as its time allows, the rest when it is run again."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

Part = dict[str, Any]
"""What a part found, with "passed" and "summary"; "stopped" where its time was up before its end."""


def run_parts(
    names: Sequence[str], seconds: float, least: float, run_one: Callable[[str, float], Part], earlier: dict[str, Part]
) -> tuple[dict[str, Part], str]:
    """What all parts found, those of ``earlier`` not run again, and a summary of those that failed or are left.

    ``run_one(name, left)`` runs a part in at most ``left`` seconds; none begins with less than ``least``.
    """
    began, found = time.monotonic(), dict(earlier)
    for name in names:
        left = seconds - (time.monotonic() - began)
        if name in found or left < least:
            continue
        one = run_one(name, left)
        print(f"gpu-check: {name}: {'passed' if one['passed'] else 'FAILED'}: {one['summary']}", flush=True)
        found[name] = one
    left_over = [name for name in names if name not in found or found[name].get("stopped")]
    said = [f"{name}: {one['summary']}" for name, one in found.items() if not one["passed"]]
    return found, "; ".join([*said, *([f"not done: {', '.join(left_over)}; run again to go on"] if left_over else [])])


def finished(stage: dict[str, Any], commit: str | None) -> dict[str, Part]:
    """The parts that an earlier run of the stage took to their end, on the sources that ``commit`` names."""
    if commit is None or stage.get("commit") != commit:
        return {}
    return {name: one for name, one in stage.get("parts", {}).items() if not one.get("stopped")}
