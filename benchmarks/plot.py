"""Time against a size, both axes logarithmic, one panel a mode."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, NullLocator

from . import report
from .benchmark import Benchmark

STYLES = {
    "native": ("#2f6db3", "o", "-", 2.2),
    "triton": ("#1f9aa8", "v", "-", 2.0),
    "reference": ("#6b7280", "x", "-", 1.4),
    "eager": ("#d9622b", "s", "-", 1.4),
    "compile": ("#8d5fb0", "D", "-", 1.4),
}
OTHERS = [
    ("#3a9a5b", "^", "-", 1.4),
    ("#b5476b", "P", "-", 1.4),
    ("#a3802c", "*", "-", 1.4),
    ("#4c5fa8", "X", ":", 1.4),
]
FLOOR = ("#8a8a8a", None, "--", 1.4)
INK, GRID = "#222222", "#e4e4e4"
MOST_TICKS = 6  # sizes that the axis names, each its own tick


def draw(result: dict[str, Any], path: Path) -> Path | None:
    """Writes the plot of medians with their quartiles; None where fewer than two sizes are there to compare."""
    benchmark, rows = report.benchmark_of(result), report.curve_rows(result)
    if not rows:
        return None
    modes = [mode for mode in benchmark.modes if any(row["mode"] == mode for row in rows)]
    figure = Figure(figsize=(4.6 * len(modes) + 0.4, 4.3), dpi=150, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(modes), sharey=True, squeeze=False)[0]
    for one, mode in zip(axes, modes, strict=True):
        _panel(one, [row for row in rows if row["mode"] == mode], benchmark, benchmark.modes[mode])
    axes[0].set_ylabel("time a call (ms)")
    named = {label: handle for one in axes for handle, label in zip(*one.get_legend_handles_labels(), strict=True)}
    columns = min(len(named), 2 * len(modes))
    figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
    shared = {key: value for key, value in rows[0]["cell"].items() if key != benchmark.axis}
    title = f"{benchmark.title}, {benchmark.describe(shared)} — {result['machine']['device']}"
    figure.suptitle(textwrap.fill(title, 52 * len(modes)), fontsize=11, color=INK)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def _styles(benchmark: Benchmark) -> dict[str, tuple[str, str, str, float]]:
    others = iter(OTHERS * len(benchmark.titles))
    names = [name for name in benchmark.titles if name not in benchmark.floors]
    return {name: STYLES[name] if name in STYLES else next(others) for name in names}


def _panel(axes: Axes, rows: list[dict[str, Any]], benchmark: Benchmark, title: str) -> None:
    for name, (colour, marker, line, width) in _styles(benchmark).items():
        points = [(row["cell"][benchmark.axis], row["contenders"].get(name, {})) for row in rows]
        points = [(n, entry) for n, entry in points if "median" in entry]
        if not points:
            continue
        sizes = [n for n, _ in points]
        axes.plot(
            sizes,
            [entry["median"] * 1e3 for _, entry in points],
            color=colour,
            marker=marker,
            linestyle=line,
            linewidth=width,
            markersize=5,
            label=benchmark.titles[name],
            zorder=4 if name in benchmark.ours else 3,
        )
        low, high = ([entry["quartiles"][side] * 1e3 for _, entry in points] for side in (0, 1))
        axes.fill_between(sizes, low, high, color=colour, alpha=0.18, linewidth=0)
    floors = [(row["cell"][benchmark.axis], benchmark.floor_seconds(row)) for row in rows]
    floors = [(n, seconds * 1e3) for n, seconds in floors if seconds is not None]
    if floors:
        colour, _, line, width = FLOOR
        axes.plot(
            *zip(*floors, strict=True),
            color=colour,
            marker=".",
            linestyle=line,
            linewidth=width,
            label=benchmark.floor_title,
        )
    axes.set(xscale="log", yscale="log", xlabel=benchmark.axis_title)
    sizes = sorted({row["cell"][benchmark.axis] for row in rows})
    if len(sizes) <= MOST_TICKS:
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes], fontsize="medium" if len(sizes) < 5 else "small")
        axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.4)))
    axes.set_title(title, fontsize=10, color=INK)
    axes.grid(True, which="major", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
