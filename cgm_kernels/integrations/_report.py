"""How many calls of each routed function ran on our kernels, and why the others did not."""

from __future__ import annotations

import threading
from collections import Counter, deque
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


_MOST_WAITING = 4096
_lock = threading.Lock()
_functions: dict[str, None] = {}  # in the order of the rows
_calls: Counter[tuple[str, str | None]] = Counter()  # by function and reason
# Calls that are not in _calls yet. To append is atomic, and a lock would cost more than all else of a call passed on.
_waiting: deque[tuple[str, str | None]] = deque()


def enroll(function: str) -> None:
    """``function`` has a row in the report from now on."""
    with _lock:
        _functions.setdefault(function)


def count(function: str, reason: str | None) -> None:
    """One call of ``function`` on our kernels (no reason), or passed on for ``reason``."""
    _waiting.append((function, reason))
    if len(_waiting) >= _MOST_WAITING:
        with _lock:
            _take_in()


def _take_in() -> None:
    """Count those that wait, under the lock: nobody else makes them fewer."""
    _calls.update([_waiting.popleft() for _ in range(len(_waiting))])


def take(reset: bool) -> Report:
    with _lock:
        _take_in()
        rows = {function: Calls(function) for function in _functions}
        for (function, reason), number in _calls.most_common():
            if reason is None:
                rows[function].ours = number
            else:
                rows[function].passed_on += number
                rows[function].reasons[reason] = number
        if reset:
            _calls.clear()
    return Report(rows.values())
