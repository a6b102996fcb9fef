"""Results as JSON, as markdown tables, and as the table between the README's markers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from . import sliced_ot, targets
from .machine import ROOT

Result = dict[str, Any]
RESULTS = Path(__file__).resolve().parent / "results"
MODE_TITLES = {"forward": "forward", "forward_backward": "forward + backward"}


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
    path.with_suffix(".md").write_text(markdown(result), encoding="utf-8")
    return path


def earlier_rows(result: Result, folder: Path) -> list[dict[str, Any]]:
    """The rows that a run of the same commit, settings and device left in the folder."""
    path = folder / f"{stem(result)}.json"
    if not path.exists():
        return []
    stored = json.loads(path.read_text(encoding="utf-8"))
    same = json.loads(json.dumps(result))
    alike = stored["settings"] == same["settings"] and all(
        stored["machine"][key] == same["machine"][key] for key in ("device", "torch", "threads", "commit")
    )
    return stored["rows"] if alike else []


def stem(result: Result) -> str:
    return result["benchmark"] + ("_quick" if result["settings"]["quick"] else "")


def markdown(result: Result) -> str:
    """The whole report of a run."""
    parts = [f"# Benchmark of {result['benchmark']}", "", machine_line(result)]
    for row_table in (headline_table(result), memory_table(result)):
        parts += [""] + row_table if row_table else []
    if len({row["cell"]["n"] for row in result["rows"]}) > 1:
        parts += ["", f"![time against the number of points]({stem(result)}.png)"]
    parts += ["", "## Every size", ""] + grid_table(result)
    parts += ["", "## Targets", ""] + target_table(result)
    return "\n".join(parts) + "\n"


def machine_line(result: Result) -> str:
    facts = result["machine"]
    commit = f", commit {facts['commit']}" if facts["commit"] else ""
    libraries = f"numpy {facts['libraries']['numpy']}, POT {facts['libraries']['POT']}"
    return (
        f"{facts['device']} (SIMD {facts['simd']}), torch {facts['torch']}, {libraries}, float32, "
        f"{facts['date'][:10]}{commit}. "
        f"Medians of interleaved rounds; in brackets how many times faster ours is, with the 95% interval."
    )


def headline_table(result: Result) -> list[str]:
    """One line a contender at the headline size, one column a mode."""
    rows = {row["mode"]: row for row in result["rows"] if row["cell"] == sliced_ot.HEADLINE}
    if not rows:
        return []
    cell = sliced_ot.HEADLINE
    lines = [f"n = {cell['n']:,}, d = {cell['d']}, {cell['n_projections']} directions:", ""]
    lines += ["| | " + " | ".join(MODE_TITLES[mode] for mode in rows) + " |", "|---" * (len(rows) + 1) + "|"]
    names = [name for name in sliced_ot.TITLES if any(name in row["contenders"] for row in rows.values())]
    for name in names:
        cells = [_headline_cell(row, name) for row in rows.values()]
        lines.append(f"| {sliced_ot.TITLES[name]} | " + " | ".join(cells) + " |")
    lines.append("| floor / ours | " + " | ".join(_share(row) for row in rows.values()) + " |")
    return lines


def _headline_cell(row: dict[str, Any], name: str) -> str:
    entry = row["contenders"].get(name, {"skipped": "not measured"})
    if "skipped" in entry:
        return entry["skipped"]
    ratio = row["speedups"][sliced_ot.primary(row)].get(name)
    if ratio is None or name.startswith("floor_"):
        return milliseconds(entry["median"])
    return f"{milliseconds(entry['median'])} ({speedup(ratio)}, {ratio['pairs']} pairs)"


def floor_seconds(row: dict[str, Any]) -> float | None:
    """The sort and the matrix products together."""
    parts = [row["contenders"].get(name, {}).get("median") for name in ("floor_sort", "floor_gemm")]
    return None if None in parts else sum(parts)


def _share(row: dict[str, Any]) -> str:
    total = floor_seconds(row)
    own = row["contenders"][sliced_ot.primary(row)]["median"]
    return "" if total is None else f"{total / own:.2f}"


def memory_table(result: Result) -> list[str]:
    if not result["memory"]:
        return []
    lines = [
        "Peak memory above inputs and outputs:",
        "",
        "| n, d, directions | mode | contender | MB |",
        "|---|---|---|---|",
    ]
    for row in result["memory"]:
        size = f"{row['bytes'] / 1e6:.1f}" if "bytes" in row else row["skipped"]
        title = sliced_ot.TITLES[row["method"]]
        lines.append(f"| {cell_title(row['cell'])} | {MODE_TITLES[row['mode']]} | {title} | {size} |")
    return lines


def grid_table(result: Result) -> list[str]:
    """One line a size and mode: times, and how many times faster ours is."""
    names = ("eager", "compile", "pot")
    lines = [
        "| n, d, directions | mode | ours | pairs | "
        + " | ".join(sliced_ot.TITLES[name] for name in names)
        + " | floor |"
    ]
    lines.append("|---" * (5 + len(names)) + "|")
    for row in result["rows"]:
        mine = sliced_ot.primary(row)
        cells = [cell_title(row["cell"]), MODE_TITLES[row["mode"]], milliseconds(row["contenders"][mine]["median"])]
        cells.append(str(row["rounds"]))
        for name in names:
            ratio, entry = row["speedups"][mine].get(name), row["contenders"][name]
            cells.append("–" if ratio is None else f"{milliseconds(entry['median'])} ({speedup(ratio)})")
        total = floor_seconds(row)
        lines.append("| " + " | ".join([*cells, "–" if total is None else milliseconds(total)]) + " |")
    return lines + _reasons(result)


def _reasons(result: Result) -> list[str]:
    """Why contenders are missing, once each."""
    found: dict[str, None] = {}
    for row in result["rows"]:
        for name, entry in row["contenders"].items():
            if "skipped" in entry:
                found[f"{sliced_ot.TITLES[name]}: {entry['skipped']}"] = None
    return ["", "Left out (–): " + "; ".join(found) + "."] if found else []


def target_table(result: Result) -> list[str]:
    lines = ["| target | sizes | met | lowest bound |", "|---|---|---|---|"]
    grouped: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for verdict in targets.check(result):
        grouped.setdefault((verdict["target"], verdict["least"]), []).append(verdict)
    for (name, least), verdicts in grouped.items():
        bounds = [verdict["low"] for verdict in verdicts if verdict["low"] is not None]
        met = sum(verdict["met"] for verdict in verdicts)
        lowest = f"{min(bounds):.2f}" if bounds else "not measured"
        lines.append(f"| {name}: at least {least:g}× | {len(verdicts)} | {met} | {lowest} |")
    return lines


def cell_title(cell: dict[str, int]) -> str:
    return f"{cell['n']:,}, {cell['d']}, {cell['n_projections']}"


def milliseconds(seconds: float) -> str:
    value = seconds * 1e3
    return f"{value:.0f} ms" if value >= 100 else f"{value:.3g} ms" if value >= 0.1 else f"{value * 1e3:.3g} µs"


def speedup(ratio: dict[str, Any]) -> str:
    return f"{ratio['value']:.2f}× [{ratio['low']:.2f}, {ratio['high']:.2f}]"


def readme_tables(benchmark: str, results: Path = RESULTS) -> str:
    """The headline of every device that has a full run."""
    parts = []
    for path in sorted(results.glob(f"*/{benchmark}.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        table, memory, verdicts = headline_table(result), memory_table(result), target_table(result)
        where = path.parent.relative_to(ROOT) if path.is_relative_to(ROOT) else path.parent
        more = f"Every size: [{benchmark}.md]({where.as_posix()}/{benchmark}.md)."
        parts.append("\n".join([machine_line(result), "", *table, "", *memory, "", *verdicts, "", more]))
    return "\n\n".join(parts)


def insert(text: str, benchmark: str, table: str) -> str:
    """``text`` with ``table`` between the benchmark's markers; ``ValueError`` where they are not there once each."""
    begin, end = f"<!-- benchmark:{benchmark} -->", f"<!-- /benchmark:{benchmark} -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"the text must hold {begin} and then {end} once each")
    before, rest = text.split(begin)
    return f"{before}{begin}\n{table}\n{end}{rest.split(end)[1]}"
