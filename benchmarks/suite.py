"""One row: a size and a mode, every contender timed in interleaved rounds, ours compared with each other one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .statistics import paired_ratio, spread
from .timing import SAMPLE_SECONDS, Clock, Contender, Series, common_rounds, interleave, warm_up


@dataclass(frozen=True)
class Plan:
    """How many rounds a row takes.

    A contender that takes up to ``slow`` seconds a call has at least ``least`` rounds, and up to ``most`` while they
    fit into ``seconds``. A slower one has as many as fit into ``slow_seconds``, at least ``slow_least``.
    """

    least: int = 30
    most: int = 100
    seconds: float = 2.0
    slow: float = 1.0
    slow_seconds: float = 30.0
    slow_least: int = 7

    def rounds(self, seconds_a_call: float, full: bool = False) -> int:
        """Rounds for a contender; ``full`` keeps the least number however slow it is."""
        if seconds_a_call <= self.slow:
            return max(self.least, min(self.most, int(self.seconds / max(seconds_a_call, SAMPLE_SECONDS))))
        if full:
            return self.least
        return max(self.slow_least, min(self.least, int(self.slow_seconds / seconds_a_call)))


QUICK = Plan(least=9, most=20, seconds=0.2, slow=0.3, slow_seconds=1.5, slow_least=3)


def measure(
    contenders: Sequence[Contender], ours: Sequence[str], baseline: str, plan: Plan, clock: Clock, full: bool = False
) -> dict[str, Any]:
    """Times the contenders and compares each of ``ours`` with every other one.

    The rounds are those of the slower of ours and the baseline; others that are slower still take part in fewer.
    ``full`` keeps the least number of rounds for all of them, however slow.
    """
    present = [one for one in contenders if one.skipped is None]
    ours = [one.name for one in present if one.name in ours]
    warm = {one.name: warm_up(one, clock) for one in present}
    always = [name for name in (*ours, baseline) if name in warm]
    rounds = plan.rounds(max(warm[name][0] for name in always), full)
    for one in present:
        one.rounds = rounds if one.name in always else min(rounds, plan.rounds(warm[one.name][0], full))
    series = interleave(present, {name: calls for name, (_, calls) in warm.items()}, rounds, clock)
    described = {one.name: _describe(one, series.get(one.name)) for one in contenders}
    return {"rounds": rounds, "contenders": described, "speedups": compare(series, ours)}


def compare(series: dict[str, Series], ours: Sequence[str]) -> dict[str, dict[str, Any]]:
    """For each of ours, how many times faster it is than every contender that is not ours."""
    found: dict[str, dict[str, Any]] = {}
    for mine in ours:
        found[mine] = {}
        for other in series:
            if other not in ours:
                theirs, own = common_rounds(series[other], series[mine])
                found[mine][other] = paired_ratio(theirs, own).as_dict()
    return found


def _describe(one: Contender, series: Series | None) -> dict[str, Any]:
    if one.skipped is not None or series is None:
        return {"skipped": one.skipped}
    low, median, high = spread(series.seconds)
    return {
        "median": median,
        "quartiles": [low, high],
        "calls": series.calls,
        "rounds": series.rounds,
        "seconds": [float(f"{value:.5g}") for value in series.seconds],
    }
