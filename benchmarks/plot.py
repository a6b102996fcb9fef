"""Time against the number of points, both axes logarithmic, one panel a mode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from . import report, sliced_ot

STYLES = {
    "native": ("#2f6db3", "o", "-", 2.2),
    "triton": ("#1f9aa8", "v", "-", 2.0),
    "reference": ("#6b7280", "x", "-", 1.4),
    "eager": ("#d9622b", "s", "-", 1.4),
    "compile": ("#8d5fb0", "D", "-", 1.4),
    "pot": ("#3a9a5b", "^", "-", 1.4),
}
FLOOR = ("#8a8a8a", None, "--", 1.4)
INK, GRID = "#222222", "#e4e4e4"


def draw(result: dict[str, Any], path: Path) -> Path:
    """Writes the plot: medians with their quartiles, at the dimension and number of directions with most sizes."""
    dim, directions = curve(result)
    modes = [mode for mode in sliced_ot.MODES if any(row["mode"] == mode for row in result["rows"])]
    figure = Figure(figsize=(4.6 * len(modes) + 0.4, 4.3), dpi=150, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(modes), sharey=True, squeeze=False)[0]
    for one, mode in zip(axes, modes, strict=True):
        rows = [row for row in result["rows"] if row["mode"] == mode and _on(row["cell"], dim, directions)]
        _panel(one, sorted(rows, key=lambda row: row["cell"]["n"]), report.MODE_TITLES[mode])
    axes[0].set_ylabel("time a call (ms)")
    handles, labels = axes[-1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=9)
    where = result["machine"]["device"]
    figure.suptitle(f"Sliced OT, d = {dim}, {directions} directions — {where}", fontsize=11, color=INK)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def curve(result: dict[str, Any]) -> tuple[int, int]:
    """(d, directions) measured at most numbers of points; the headline's where they tie."""
    sizes: dict[tuple[int, int], set[int]] = {}
    for row in result["rows"]:
        cell = row["cell"]
        sizes.setdefault((cell["d"], cell["n_projections"]), set()).add(cell["n"])
    headline = (sliced_ot.CURVE["d"], sliced_ot.CURVE["n_projections"])
    return max(sizes, key=lambda key: (len(sizes[key]), key == headline))


def _on(cell: dict[str, int], dim: int, directions: int) -> bool:
    return cell["d"] == dim and cell["n_projections"] == directions


def _panel(axes: Axes, rows: list[dict[str, Any]], title: str) -> None:
    for name, (colour, marker, line, width) in STYLES.items():
        points = [(row["cell"]["n"], row["contenders"].get(name, {})) for row in rows]
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
            label=sliced_ot.TITLES[name],
            zorder=4 if name in sliced_ot.OURS else 3,
        )
        quartiles = [[entry["quartiles"][side] * 1e3 for _, entry in points] for side in (0, 1)]
        axes.fill_between(sizes, *quartiles, color=colour, alpha=0.18, linewidth=0)
    floors = [(row["cell"]["n"], report.floor_seconds(row)) for row in rows]
    floors = [(n, seconds * 1e3) for n, seconds in floors if seconds is not None]
    if floors:
        colour, _, line, width = FLOOR
        axes.plot(
            *zip(*floors, strict=True),
            color=colour,
            marker=".",
            linestyle=line,
            linewidth=width,
            label="floor: sort + GEMM",
        )
    axes.set(xscale="log", yscale="log", xlabel="points in each cloud")
    axes.set_title(title, fontsize=10, color=INK)
    axes.grid(True, which="major", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
