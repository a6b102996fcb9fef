"""How many calls of each routed function ran on our kernels, and why the others did not."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Calls:
    """The calls of one function: on our kernels, passed on to the library, and the reasons of the latter."""

    function: str
    ours: int = 0
    passed_on: int = 0
    reasons: dict[str, int] = field(default_factory=dict)


class Report(list[Calls]):
    """One :class:`Calls` per function; its text is a table."""

    def __str__(self) -> str:
        width = max([len(calls.function) for calls in self], default=8)
        lines = [f"{'function':<{width}}  {'ours':>7}  {'passed on':>9}  reasons"]
        for calls in self:
            reasons = ", ".join(f"{reason} ({count})" for reason, count in calls.reasons.items())
            lines.append(f"{calls.function:<{width}}  {calls.ours:>7}  {calls.passed_on:>9}  {reasons}".rstrip())
        return "\n".join(lines)


_lock = threading.Lock()
_ours: Counter[str] = Counter()
_reasons: dict[str, Counter[str]] = {}


def enroll(function: str) -> None:
    """``function`` has a row in the report from now on."""
    with _lock:
        _reasons.setdefault(function, Counter())


def count(function: str, reason: str | None) -> None:
    """One call of ``function`` on our kernels (no reason), or passed on for ``reason``."""
    with _lock:
        if reason is None:
            _ours[function] += 1
        else:
            _reasons[function][reason] += 1


def take(reset: bool) -> Report:
    with _lock:
        rows = Report(
            Calls(function, _ours[function], sum(reasons.values()), dict(reasons.most_common()))
            for function, reasons in _reasons.items()
        )
        if reset:
            _ours.clear()
            for reasons in _reasons.values():
                reasons.clear()
    return rows
