"""Results as JSON and as markdown tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import registry, targets
from .benchmark import FAILED, Benchmark, Cell
from .machine import names_sources

Result = dict[str, Any]
RESULTS = Path(__file__).resolve().parent / "results"
_READING = "Medians of interleaved rounds; in brackets how many times faster ours is, with the 95% interval."


def write(result: Result, folder: Path) -> Path:
    """The JSON and the markdown of a result; a quick run never overwrites a full one."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stem(result)}.json"
    rows = ",\n".join(json.dumps(row) for row in result["rows"])
    head = json.dumps({key: value for key, value in result.items() if key != "rows"}, indent=1)
    whole = head[: head.rindex("}")].rstrip() + ',\n "rows": [\n' + rows + "\n]}\n"
    partial = path.with_suffix(".json.partial")
    partial.write_text(whole, encoding="utf-8")
    partial.replace(path)
    render(path)
    return path


def render(path: Path) -> None:
    """The markdown beside the JSON of a result."""
    result = json.loads(path.read_text(encoding="utf-8"))
    path.with_suffix(".md").write_text(markdown(result), encoding="utf-8")


def earlier(result: Result, folder: Path) -> Result:
    """The rows, and those of memory, that a run of the same commit, settings and device left in the folder."""
    path = folder / f"{stem(result)}.json"
    if not path.exists() or not names_sources(result["machine"]["commit"]):
        return {}
    stored = json.loads(path.read_text(encoding="utf-8"))
    alike = _alike(stored, result, "device", "torch", "threads", "commit")
    return {"rows": stored["rows"], "memory": stored["memory"]} if alike else {}


def source(result: Result) -> dict[str, str]:
    """The date and the commit of a run, of which rows carry those of their own if they were added later."""
    return {key: result["machine"][key] for key in ("date", "commit")}


def without(result: Result, folder: Path, cells: Sequence[Cell], modes: Sequence[str]) -> Result:
    """The run in the folder, less the cells and modes that are measured now; SystemExit where it is another run."""
    path = folder / f"{stem(result)}.json"
    stored = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    if stored is None or not _alike(stored, result, "device", "torch", "threads"):
        raise SystemExit(f"--add: {path} holds no run of these settings on this machine")
    rows = [row for row in stored["rows"] if not (row["cell"] in cells and row["mode"] in modes)]
    return dict(stored) | {"rows": rows}


def _alike(stored: Result, result: Result, *facts: str) -> bool:
    same = json.loads(json.dumps(result))
    return stored["settings"] == same["settings"] and all(
        stored["machine"][key] == same["machine"][key] for key in facts
    )


def stem(result: Result) -> str:
    return result["benchmark"] + ("_quick" if result["settings"]["quick"] else "")


def benchmark_of(result: Result) -> Benchmark:
    return registry.find(result["benchmark"])


def markdown(result: Result) -> str:
    """The whole report of a run."""
    parts = [f"# Benchmark of {result['benchmark']}", "", f"{provenance(result)} {_READING}"]
    note = benchmark_of(result).note
    for table in (headline_tables(result), [note] if note else [], memory_table(result)):
        parts += ["", *table] if table else []
    if curve_rows(result):
        parts += ["", f"![time against {benchmark_of(result).axis_title}]({stem(result)}.png)"]
    parts += ["", "## Every size", "", *grid_table(result)]
    parts += ["", "## Targets", "", *target_table(result)]
    return "\n".join(parts) + "\n"


def provenance(result: Result) -> str:
    """The machine, the versions, the date and the commit."""
    facts = result["machine"]
    commit = f", commit {facts['commit']}" if facts["commit"] else ""
    versions = {name: facts["libraries"].get(name) for name in benchmark_of(result).libraries}
    libraries = "".join(f", {name} {version}" for name, version in versions.items() if version)
    return (
        f"{facts['device']} (SIMD {facts['simd']}), torch {facts['torch']}{libraries}, float32, "
        f"{facts['date'][:10]}{commit}.{_added(result)}"
    )


def _added(result: Result) -> str:
    """Which cells were measured later, and of which commit."""
    benchmark, cells = benchmark_of(result), dict[str, list[str]]()
    for row in result["rows"]:
        if "source" in row:
            title, found = benchmark.cell_title(row["cell"]), row["source"]
            titles = cells.setdefault(f"{found['date'][:10]}, commit {found['commit']}", [])
            titles += [title] if title not in titles else []
    return "".join(f" Measured later ({when}): {'; '.join(titles)}." for when, titles in cells.items())


def headline_tables(result: Result) -> list[str]:
    """At each headline size one line a contender and one column a mode."""
    lines: list[str] = []
    for cell in benchmark_of(result).headlines:
        table = _headline_table(result, cell)
        lines += ["", *table] if lines and table else table
    return lines


def _headline_table(result: Result, cell: Cell) -> list[str]:
    benchmark = benchmark_of(result)
    rows = {row["mode"]: row for row in result["rows"] if row["cell"] == cell}
    if not rows:
        return []
    lines = [benchmark.describe(cell) + ":", "", "| | " + " | ".join(benchmark.modes[mode] for mode in rows) + " |"]
    lines.append("|---" * (len(rows) + 1) + "|")
    for name, title in benchmark.titles.items():
        if any(name in row["contenders"] for row in rows.values()):
            cells = [_headline_cell(benchmark, row, name) for row in rows.values()]
            lines.append(f"| {title} | " + " | ".join(cells) + " |")
    if benchmark.floors:
        lines.append("| floor / ours | " + " | ".join(share(benchmark, row) for row in rows.values()) + " |")
    return lines


def _headline_cell(benchmark: Benchmark, row: dict[str, Any], name: str) -> str:
    entry = row["contenders"].get(name, {"skipped": "not measured"})
    if "skipped" in entry:
        return _reason(benchmark, row, name, entry["skipped"])
    ratio = row["speedups"][benchmark.primary(row)].get(name)
    if ratio is None or name in benchmark.floors:
        return milliseconds(entry["median"])
    return f"{milliseconds(entry['median'])} ({speedup(ratio)}, {ratio['pairs']} pairs)"


def share(benchmark: Benchmark, row: dict[str, Any]) -> str:
    """Of the time of ours, what the floors take."""
    total = benchmark.floor_seconds(row)
    return "" if total is None else f"{total / row['contenders'][benchmark.primary(row)]['median']:.2f}"


def memory_table(result: Result) -> list[str]:
    if not result["memory"]:
        return []
    benchmark = benchmark_of(result)
    lines = ["Peak memory above inputs and outputs:", "", f"| {benchmark.columns} | mode | contender | MB |"]
    lines.append("|---|---|---|---|")
    for row in result["memory"]:
        size = f"{row['bytes'] / 1e6:.1f}" if "bytes" in row else row["skipped"]
        mode, title = benchmark.modes[row["mode"]], benchmark.titles[row["method"]]
        lines.append(f"| {benchmark.cell_title(row['cell'])} | {mode} | {title} | {size} |")
    return lines


def grid_table(result: Result) -> list[str]:
    """One line a size and mode: times, and how many times faster the first of ours is."""
    benchmark = benchmark_of(result)
    names = [*benchmark.ours, *benchmark.peers]
    used = {name for row in result["rows"] for name, entry in row["contenders"].items() if "median" in entry}
    chosen = {benchmark.primary(row) for row in result["rows"]}
    names = [name for name in names if name in benchmark.peers or (name in used and name not in chosen)]
    names = [name for name in names if any(name in row["contenders"] for row in result["rows"])]
    heads = [benchmark.columns, "mode", "ours", "pairs", *(benchmark.titles[name] for name in names)]
    heads += ["floor (floor / ours)"] if benchmark.floors else []
    heads.append("targets")
    verdicts = targets.check(result)
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for row in result["rows"]:
        own = milliseconds(row["contenders"][benchmark.primary(row)]["median"])
        cells = [benchmark.cell_title(row["cell"]), benchmark.modes[row["mode"]], own, str(row["rounds"])]
        cells += [_grid_cell(benchmark, row, name) for name in names]
        if benchmark.floors:
            total = benchmark.floor_seconds(row)
            cells.append("–" if total is None else f"{milliseconds(total)} ({share(benchmark, row)})")
        cells.append(_judged([one for one in verdicts if (one["cell"], one["mode"]) == (row["cell"], row["mode"])]))
        lines.append("| " + " | ".join(cells) + " |")
    return lines + _reasons(result)


def _judged(verdicts: list[dict[str, Any]]) -> str:
    """Which targets of a row are met and missed."""
    said = [f"{one['target']} ≥ {one['least']:g}×" for one in verdicts if not one["met"]]
    return f"**missed**: {'; '.join(said)}" if said else "met" if verdicts else "–"


def _grid_cell(benchmark: Benchmark, row: dict[str, Any], name: str) -> str:
    entry = row["contenders"].get(name, {})
    ratio = row["speedups"][benchmark.primary(row)].get(name)
    if "median" not in entry:
        return "–"
    return milliseconds(entry["median"]) + (f" ({speedup(ratio)})" if ratio else "")


def _reasons(result: Result) -> list[str]:
    """Why contenders are missing, once each."""
    benchmark = benchmark_of(result)
    found: dict[str, None] = {}
    for row in result["rows"]:
        for name, entry in row["contenders"].items():
            if "skipped" in entry:
                found[f"{benchmark.titles[name]}: {_reason(benchmark, row, name, entry['skipped'])}"] = None
    return ["", "Left out (–): " + "; ".join(found) + "."] if found else []


def _reason(benchmark: Benchmark, row: dict[str, Any], name: str, stored: str) -> str:
    """Why a contender is missing: in the benchmark's words of today, which may be better than when it was measured."""
    return benchmark.why_not(name, row["cell"], row["mode"], False) or stored


def failures(result: Result) -> list[str]:
    """Which of ours failed where, and how."""
    benchmark = benchmark_of(result)
    return [
        f"{benchmark.titles[name]} at {benchmark.cell_title(row['cell'])}, {benchmark.modes[row['mode']]}: {reason}"
        for row in result["rows"]
        for name in benchmark.ours
        if (reason := row["contenders"].get(name, {}).get("skipped", "")).startswith(FAILED)
    ]


def curve_rows(result: Result) -> list[dict[str, Any]]:
    """The rows of the plot: the cells that differ in the axis alone and have most sizes; none for a single size."""
    benchmark = benchmark_of(result)
    sizes: dict[str, set[int]] = {}
    for row in result["rows"]:
        sizes.setdefault(_group(row["cell"], benchmark.axis), set()).add(row["cell"][benchmark.axis])
    wanted = json.dumps(benchmark.curve, sort_keys=True)
    best = max(sizes, key=lambda group: (len(sizes[group]), group == wanted), default="")
    if len(sizes.get(best, ())) < 2:
        return []
    rows = [row for row in result["rows"] if _group(row["cell"], benchmark.axis) == best]
    return sorted(rows, key=lambda row: row["cell"][benchmark.axis])


def _group(cell: Cell, axis: str) -> str:
    return json.dumps({key: value for key, value in cell.items() if key != axis}, sort_keys=True)


def target_table(result: Result) -> list[str]:
    heads = ["| target | sizes | met | lowest bound | missed |", "|---|---|---|---|---|"]
    return heads + [
        f"| {one.name}: at least {one.least:g}× | {one.sizes} | {one.met} | {one.lowest} | {'; '.join(one.missed)} |"
        for one in targets.summary(result)
    ]


def milliseconds(seconds: float) -> str:
    value = seconds * 1e3
    return f"{value:.0f} ms" if value >= 100 else f"{value:.3g} ms" if value >= 0.1 else f"{value * 1e3:.3g} µs"


def speedup(ratio: dict[str, Any]) -> str:
    return f"{ratio['value']:.2f}× [{ratio['low']:.2f}, {ratio['high']:.2f}]"
