"""The headlines of every benchmark, as the tables between the README's markers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from . import report, targets
from .benchmark import Benchmark
from .machine import ROOT


def tables(benchmark: str, results: Path = report.RESULTS) -> str:
    """The headlines of every device that has a full run."""
    parts = []
    for path in sorted(results.glob(f"*/{benchmark}.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        where = path.parent.relative_to(ROOT) if path.is_relative_to(ROOT) else path.parent
        measured = report.benchmark_of(result)
        title = f"### {measured.title}"
        shown = result | {"rows": [row for row in result["rows"] if row["cell"] in measured.headlines]}
        more = f"Every size, times of all, and peak memory: [{benchmark}.md]({where.as_posix()}/{benchmark}.md)."
        note = measured.note
        parts += [title, report.provenance(shown), "\n".join(headlines(result)), *([note] if note else [])]
        parts += [goals(result), more]
    return "\n\n".join(parts)


def headlines(result: report.Result) -> list[str]:
    """A line for each headline and mode: the time of ours, and how many times faster it is than each other."""
    benchmark = report.benchmark_of(result)
    rows = [row for cell in benchmark.headlines for row in result["rows"] if row["cell"] == cell]
    names = [name for name in benchmark.peers if any(_ratio(benchmark, row, name) for row in rows)]
    heads = [benchmark.columns, "", "ours", *(benchmark.titles[name] for name in names)]
    heads += ["floor / ours"] if benchmark.floors else []
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for row in rows:
        own = report.milliseconds(row["contenders"][benchmark.primary(row)]["median"])
        cells = [benchmark.cell_title(row["cell"]), benchmark.modes[row["mode"]], own]
        ratios = [_ratio(benchmark, row, name) for name in names]
        cells += [report.speedup(ratio) if ratio else "–" for ratio in ratios]
        cells += [report.share(benchmark, row) or "–"] if benchmark.floors else []
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _ratio(benchmark: Benchmark, row: dict[str, Any], name: str) -> dict[str, Any] | None:
    ratio: dict[str, Any] | None = row["speedups"][benchmark.primary(row)].get(name)
    return ratio


def goals(result: report.Result) -> str:
    """Of every goal at how many sizes the lower end of the interval meets it, the lowest of these ends, and the
    misses."""
    said = []
    for row in targets.summary(result):
        missed = f" (missed: {'; '.join(row.missed)})" if row.missed else ""
        said.append(f"{row.name} ≥ {row.least:g}×: {row.met} of {row.sizes}, lowest {row.lowest}{missed}")
    return f"Goals: {'; '.join(said)}."


def insert(text: str, benchmark: str, table: str) -> str:
    """``text`` with ``table`` between the benchmark's markers; ``ValueError`` where they are not there once each."""
    begin, end = f"<!-- benchmark:{benchmark} -->", f"<!-- /benchmark:{benchmark} -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"the text must hold {begin} and then {end} once each")
    before, rest = text.split(begin)
    return f"{before}{begin}\n{table}\n{end}{rest.split(end)[1]}"
